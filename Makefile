# Two commands are all a newcomer needs: `make demo` and `make test`. Everything lives in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt
PROMPT ?= slow piano in A minor with soft drums, 80 bpm
SECONDS ?= 8

.PHONY: help demo test check fix bench wheel clean

help:
	@echo "make demo    install into .venv and make music from a prompt (PROMPT=..., SECONDS=...)"
	@echo "make test    install what tests need and run all of them"
	@echo "make check   lint, format and types     make fix    mend what can be mended"
	@echo "make bench   measure against transformers     make wheel   build the package"

# A stamp is older than what it was made from when something has to be installed again.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Hemiola needs Python 3.11 or newer: make PYTHON=python3.x ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) -e '.[torch,mlx,fast,train,tensorboard,inspect]' --group dev
	@touch $@

demo: $(VENV)/.installed
	mkdir -p out
	$(BIN)/hemiola generate "$(PROMPT)" --seconds $(SECONDS) -o out/demo.wav --force

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses=8

check: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

fix: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(VENV)/.installed-dev
	$(BIN)/hemiola bench generate --size small
	$(BIN)/hemiola bench codec
	$(BIN)/hemiola bench train

wheel: $(VENV)/.installed-dev
	$(BIN)/pip wheel --quiet --no-deps -w dist .

clean:
	rm -rf $(VENV) out dist
