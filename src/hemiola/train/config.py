"""Run configs: one YAML file a run, any key overridden as `section.key=value`, unknown keys refused."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from hemiola.errors import InputError

T = TypeVar("T")


def read(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The YAML file at `path` with overrides such as `run.steps=100` applied."""
    try:
        config = yaml.safe_load(Path(path).read_text("utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the config {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict):
        raise InputError(f"{path} holds no config: expected sections such as run, data and model")
    for override in overrides:
        _override(config, override)
    return config


def build(cls: type[T], values: Mapping[str, Any] | None, section: str) -> T:
    """A frozen dataclass from a config section; an unknown or missing key raises InputError that lists the known ones."""
    values = dict(values or {})
    fields = {each.name: each for each in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise InputError(f"unknown key {section}.{unknown[0]}: known are {', '.join(fields)}")
    hints = typing.get_type_hints(cls)
    converted = {name: _convert(value, hints[name], f"{section}.{name}") for name, value in values.items()}
    try:
        return cls(**converted)
    except TypeError:
        missing = [name for name, each in fields.items() if _required(each) and name not in values]
        raise InputError(f"missing key {section}.{missing[0]}" if missing else f"bad values in section {section}") from None


def sections(config: Mapping[str, Any], *names: str) -> list[Mapping[str, Any]]:
    """The named sections (empty where absent); any other section is refused."""
    unknown = sorted(set(config) - set(names))
    if unknown:
        raise InputError(f"unknown section {unknown[0]}: known are {', '.join(names)}")
    return [config.get(name) or {} for name in names]


def _required(each: dataclasses.Field) -> bool:
    return each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING


def _convert(value: Any, hint: Any, where: str) -> Any:
    origin = typing.get_origin(hint) or hint
    if origin is tuple and isinstance(value, list):
        return tuple(value)
    if origin is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        # YAML 1.1 reads 1e-4 as a string.
        try:
            return float(value)
        except ValueError:
            raise InputError(f"{where} must be a number, not {value!r}") from None
    if origin in (int, bool, str) and (not isinstance(value, origin) or (origin is int and isinstance(value, bool))):
        raise InputError(f"{where} must be {origin.__name__}, not {value!r}")
    return value


def _override(config: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *path, last = key.split(".")
    if not equals or not path:
        raise InputError(f"not an override: '{override}'; write section.key=value")
    place = config
    for name in path:
        place = place.setdefault(name, {})
        if not isinstance(place, dict):
            raise InputError(f"not an override: '{override}'; {name} is not a section")
    place[last] = yaml.safe_load(text)
