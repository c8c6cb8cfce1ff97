"""The names that the package promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import hemiola

NAMES = {"Audio", "Blend", "EncodecModel", "HemiolaError", "MusicGen", "Request", "Timebase", "__version__", "generate"}


def test_all_names_are_there_and_no_others() -> None:
    assert set(hemiola.__all__) == NAMES
    assert set(dir(hemiola)) >= NAMES
    for name in NAMES:
        assert getattr(hemiola, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'hemiola' has no attribute 'Musicgen'"):
        hemiola.Musicgen


@pytest.mark.parametrize(
    "first",
    [
        "",
        "import hemiola.generation",
        "import hemiola.cli.generate",
        "from hemiola import generate",
        "from hemiola import *",
    ],
)
def test_generate_is_a_function_whatever_was_imported_first(first: str) -> None:
    code = f"{first}\nimport hemiola\nassert type(hemiola.generate).__name__ == 'function'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_module_stands_in_the_place_of_a_name() -> None:
    modules = {path.stem for path in Path(hemiola.__file__).parent.iterdir()}
    assert not modules & set(hemiola.__all__)
