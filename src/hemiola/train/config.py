"""Run configs: one YAML file a run, any key overridden as `section.key=value`, unknown keys refused."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from hemiola.errors import InputError

T = TypeVar("T")

KINDS = {int: "a whole number", bool: "true or false", str: "text"}


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
    """A frozen dataclass from a config section.

    Raises InputError for an unknown or missing key and for a value of another kind, by the key's name.
    """
    values = _section(values, section)
    # mypy cannot be told that a type variable stands for dataclasses only.
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
        reason = f"missing key {section}.{missing[0]}" if missing else f"bad values in section {section}"
        raise InputError(reason) from None


def sections(config: Mapping[str, Any], *names: str) -> list[Mapping[str, Any]]:
    """The named sections (empty where absent); any other section is refused."""
    unknown = sorted(set(config) - set(names))
    if unknown:
        raise InputError(f"unknown section {unknown[0]}: known are {', '.join(names)}")
    return [_section(config.get(name), name) for name in names]


def _section(values: Any, name: str) -> dict[str, Any]:
    if values is not None and not isinstance(values, Mapping):
        raise InputError(f"{name} must be a section of keys and values, not {values!r}")
    return dict(values or {})


def _required(each: dataclasses.Field) -> bool:
    return each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING


def _convert(value: Any, hint: Any, where: str) -> Any:
    """A value as YAML gives it -> one of the kind that the field wants; raises InputError that names `where`."""
    origin, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        known = [each for each in inner if each is not type(None)]
        return None if value is None else _convert(value, known[0], where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise InputError(f"{where} must be a list, not {value!r}")
        return tuple(_convert(each, inner[0], where) for each in value)
    if origin is float:
        return _number(value, where)
    if origin is Mapping and isinstance(value, Mapping) and inner[1] is float:
        return {key: _number(each, f"{where}.{key}") for key, each in value.items()}
    # A bool is an int to Python, and hardly ever what was meant.
    if origin in (int, bool, str) and (not isinstance(value, origin) or isinstance(value, bool) != (origin is bool)):
        raise InputError(f"{where} must be {KINDS[origin]}, not {value!r}")
    return value


def _number(value: Any, where: str) -> float:
    # YAML 1.1 reads 1e-4 as a string.
    try:
        if not isinstance(value, bool):
            return float(value)
    except (TypeError, ValueError):
        pass
    raise InputError(f"{where} must be a number, not {value!r}")


def _override(config: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *path, last = key.split(".")
    if not equals or not path:
        raise InputError(f"not an override: '{override}'; write section.key=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError(f"not an override: '{override}'; the value is not valid YAML") from None
    place = config
    for name in path:
        if place.get(name) is None:
            place[name] = {}
        place = place[name]
        if not isinstance(place, dict):
            raise InputError(f"not an override: '{override}'; {name} is not a section")
    place[last] = value
