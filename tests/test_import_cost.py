"""What is loaded when nothing heavy is asked for."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {
    "matplotlib",
    "pyloudnorm",
    "torch",
    "mlx",
    "lightning",
    "transformers",
    "scipy",
    "numpy",
    "soundfile",
    "tokenizers",
    "huggingface_hub",
}


def loaded(code: str) -> set[str]:
    """Top-level packages that are loaded after running `code` in a fresh interpreter."""
    report = "import json, sys; print(); print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("code", ["import hemiola", "import hemiola; dir(hemiola); hemiola.Timebase(3, 2).frames(5)"])
def test_the_package_loads_the_standard_library_only(code: str) -> None:
    assert loaded(code) - loaded("") <= {"hemiola", *sys.stdlib_module_names}


@pytest.mark.parametrize(
    "words", ["--help", "--version", "generate --help", "models list --help", "train --help", "inspect --help"]
)
def test_help_loads_nothing_heavy(words: str) -> None:
    code = f"from hemiola.cli import main\ntry: main({words.split()!r})\nexcept SystemExit as end: assert not end.code"
    assert not loaded(code) & {*HEAVY, "rich", "yaml"}


@pytest.mark.parametrize("module", ["generation", "codec.model", "musicgen.model", "cli.records", "cli.naming"])
def test_framework_free_files_load_no_framework(module: str) -> None:
    unwanted = HEAVY - {"numpy", "soundfile"}
    assert not loaded(f"import hemiola.{module}") & unwanted


def test_a_bundled_model_is_found_without_the_hub() -> None:
    code = "from hemiola.weights import hub\ntry: hub.locate('sketch')\nexcept hub.WeightsError: pass"
    assert "huggingface_hub" not in loaded(code)
