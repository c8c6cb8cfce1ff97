"""The tree that the docstring draws is the tree that there is."""

from __future__ import annotations

import inspect
import re

import pytest

from hemiola import errors

KINDS = {name: kind for name, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__}


def drawn() -> dict[str, tuple[str | None, int]]:
    """Name -> (parent, exit code), read off the drawing: four columns deeper is one generation younger."""
    found: dict[str, tuple[str | None, int]] = {}
    line_of_descent: list[str] = []
    for match in re.finditer(r"^    ([ │├└─]*)(\w+Error) +(?:exit code )?(\d)", errors.__doc__ or "", re.MULTILINE):
        generation = len(match[1]) // 4
        line_of_descent[generation:] = [match[2]]
        found[match[2]] = (line_of_descent[generation - 1] if generation else None, int(match[3]))
    return found


def test_every_error_is_drawn_where_it_stands() -> None:
    assert drawn() == {
        name: (kind.__base__.__name__ if name != "HemiolaError" else None, kind.exit_code)
        for name, kind in KINDS.items()
    }
    assert len(KINDS) == 7


@pytest.mark.parametrize("kind", KINDS.values())
def test_one_root_catches_all_and_no_code_means_success(kind: type[errors.HemiolaError]) -> None:
    with pytest.raises(errors.HemiolaError, match="why"):
        raise kind("why")
    assert kind.exit_code not in (0, 130)


def test_a_wrong_input_is_a_value_error_for_those_who_never_heard_of_this_package() -> None:
    assert issubclass(errors.AudioError, ValueError)
    assert issubclass(errors.OutputError, ValueError)
    assert not issubclass(errors.WeightsError, ValueError)
