"""From Invoke's merged configuration to checked Settings, or every mistake at once."""

from __future__ import annotations

import difflib
import functools
import os
import typing
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import attrs
import cattrs
from cattrs.cols import list_structure_factory, mapping_structure_factory
from cattrs.errors import ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn, override

from release_tasks.assets import base
from release_tasks.assets.kinds import ASSET_KINDS
from release_tasks.config import schema
from release_tasks.config.gateway import GatewayConfig
from release_tasks.core import options
from release_tasks.core.codec import findings
from release_tasks.core.errors import ConfigError
from release_tasks.core.units import parse_boolean, parse_duration, parse_integer, parse_share

__all__ = ["defaults", "load_settings", "written_name"]

_SECTIONS = {
    "release": schema.ReleaseConfig,
    "pairing": schema.PairingConfig,
    "gateway": GatewayConfig,
}
_AT_LEAST_ONE = {
    "passes", "passes_after_restore", "retention", "failures", "window", "min_samples", "latency_factor",
}  # fmt: skip
_WORDS_OF_PYTHON = {"for_": "for", "path_": "path", "with_": "with"}
_project: ContextVar[Path] = ContextVar("project")  # what the paths of the load under way are relative to


def load_settings(
    raw: Mapping[str, Any], project: Path, source_of: Callable[[str], str] = lambda path: "invoke.yaml"
) -> schema.Settings:
    """Check the sections ``release``, ``pairing`` and ``gateway`` of ``raw`` and return them as Settings.

    ``source_of`` names where a dotted path was written. Raises ConfigError with one line per mistake.
    """
    token = _project.set(project)
    try:
        sections, problems = _read(raw)
    finally:
        _project.reset(token)
    if problems:
        raise ConfigError([f"{source_of(path)}: {path}: {what}" for path, what in problems])
    return schema.Settings(project=project, **sections)


def _read(raw: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    problems: list[tuple[str, str]] = []
    sections: dict[str, Any] = {}
    for name, cls in _SECTIONS.items():
        try:
            sections[name] = _converter().structure(_merged(_plain(cls()), raw.get(name) or {}), cls)
        except Exception as error:
            problems += [(_as_written(path), what) for path, what in findings(error, name)]
    return sections, problems + _contradictions(raw.get("release"))


def defaults() -> dict[str, Any]:
    """Return every key with its default, as plain values.

    Invoke takes environment overrides only for keys that it already knows.
    """
    return {name: _plain(cls()) for name, cls in _SECTIONS.items()}


def written_name(attribute: attrs.Attribute[Any]) -> str:
    """Return a key as invoke.yaml spells it: ``for`` is a word of Python, so its field ends in an underscore."""
    return attribute.name.rstrip("_")


def _plain(instance: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for attribute in attrs.fields(type(instance)):
        value = getattr(instance, attribute.name)
        values[written_name(attribute)] = _plain(value) if attrs.has(type(value)) else value
    return values


def _merged(base: Any, over: Any) -> Any:
    if not isinstance(base, Mapping) or not isinstance(over, Mapping):
        return over
    return {**base, **{name: _merged(base.get(name), value) for name, value in over.items()}}


def _contradictions(release: Any) -> list[tuple[str, str]]:
    """What single values cannot show: unknown or circular needs, assets that lie in one another.

    Looks at every part that is right by itself, so that a mistake elsewhere hides nothing.
    """
    gates = _part(release, "gates", dict[str, schema.GateConfig]) or {}
    assets = _part(release, "assets", dict[str, base.AssetConfig]) or {}
    root = _part(release, "root", Path)
    problems: list[tuple[str, str]] = []
    for name, gate in gates.items():
        for need in gate.needs:
            if need not in gates:
                problems.append((f"release.gates.{name}.needs", f"no gate is called {need!r}"))
            elif _leads_back(gates, need, name):
                problems.append((f"release.gates.{name}.needs", f"{need!r} needs {name!r} in turn"))
    places = [(f"release.assets.{key}", asset.path) for key, asset in assets.items()]
    places += [("release.root", root)] if root else []
    for index, (label, path) in enumerate(places):
        for other_label, other in places[:index]:
            if path == other or path in other.parents or other in path.parents:
                problems.append((label, f"{path} and {other_label} lie in one another"))
    return problems


def _part(release: Any, name: str, kind: Any) -> Any:
    merged = _merged(_plain(schema.ReleaseConfig()), release or {})
    try:
        return _converter().structure(merged[name], kind)
    except Exception:
        return None  # reported already


def _as_written(path: str) -> str:
    return ".".join(_WORDS_OF_PYTHON.get(part, part) for part in path.split("."))


def _leads_back(gates: Mapping[str, schema.GateConfig], start: str, goal: str) -> bool:
    seen: set[str] = set()
    pending = [start]
    while pending:
        name = pending.pop()
        if name == goal:
            return True
        if name not in seen and name in gates:
            seen.add(name)
            pending += gates[name].needs
    return False


@functools.cache  # it writes a function for each class, which takes longer than reading a configuration
def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(detailed_validation=True, forbid_extra_keys=True)
    converter.register_structure_hook(str, _text)
    converter.register_structure_hook(int, lambda value, _: parse_integer(value))
    converter.register_structure_hook(bool, lambda value, _: parse_boolean(value))
    converter.register_structure_hook_func(_is_duration, lambda value, _: parse_duration(value))
    converter.register_structure_hook_func(_is_share, lambda value, _: parse_share(value))
    converter.register_structure_hook(Path, lambda value, _: _absolute(value))
    converter.register_structure_hook_func(_is_optional, lambda value, cls: _optional(converter, value, cls))
    converter.register_structure_hook_factory(_is_list, functools.partial(_list_hook, converter))
    converter.register_structure_hook_factory(_is_mapping, functools.partial(_mapping_hook, converter))
    converter.register_structure_hook_factory(attrs.has, lambda cls: _structure_class(converter, cls))
    converter.register_structure_hook(base.AssetConfig, lambda value, _: _structure_asset(converter, value))
    return converter


def _is_duration(cls: Any) -> bool:
    return cls is options.Duration


def _is_share(cls: Any) -> bool:
    return cls is options.Share


def _is_mapping(cls: Any) -> bool:
    return typing.get_origin(cls) is dict


def _is_list(cls: Any) -> bool:
    return typing.get_origin(cls) is list


def _is_optional(cls: Any) -> bool:
    arguments = typing.get_args(cls)
    return len(arguments) == 2 and type(None) in arguments


def _optional(converter: cattrs.Converter, value: Any, cls: Any) -> Any:
    if value is None:
        return None
    (inner,) = (argument for argument in typing.get_args(cls) if argument is not type(None))
    return converter.structure(value, inner)


def _structure_container(inner: Any, container: type, expected: str) -> Any:
    def structure(value: Any, kind: Any) -> Any:
        if not isinstance(value, container):
            raise ValueError(f"expected {expected}, got {value!r}")
        return inner(value, kind)

    return structure


def _list_hook(converter: cattrs.Converter, cls: Any) -> Any:
    return _structure_container(list_structure_factory(cls, converter), list, "a list such as [build]")


def _mapping_hook(converter: cattrs.Converter, cls: Any) -> Any:
    return _structure_container(mapping_structure_factory(cls, converter), dict, "a mapping of names")


def _structure_class(converter: cattrs.Converter, cls: Any) -> Any:
    fields = attrs.fields(cls)
    known = [written_name(attribute) for attribute in fields]
    renames: dict[str, Any] = {a.name: override(rename=written_name(a)) for a in fields}
    for attribute in fields:
        if attribute.name in _AT_LEAST_ONE:
            renames[attribute.name] = override(struct_hook=lambda value, _: parse_integer(value, 1))
    inner = make_dict_structure_fn(cls, converter, _cattrs_forbid_extra_keys=False, **renames)

    def structure(value: Any, kind: Any) -> Any:
        if kind is schema.VersionConfig and isinstance(value, (str, int, float)) and not isinstance(value, bool):
            value = {"text": str(value)}  # YAML reads 1.0 as a number
        if not isinstance(value, Mapping):
            raise ValueError(f"expected a mapping of keys, got {value!r}")
        errors: list[Exception] = []
        for extra in (name for name in value if name not in known):
            errors.append(_unknown_key(str(extra), known, cls))
        try:
            result = inner({k: v for k, v in value.items() if k in known}, kind)
        except cattrs.ClassValidationError as error:
            errors += error.exceptions
        except ValueError as error:
            errors.append(error)
        if errors:
            raise cattrs.ClassValidationError(f"while reading {cls.__name__}", errors, cls)
        return result

    return structure


def _structure_asset(converter: cattrs.Converter, value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise ValueError(f"expected a mapping of keys, got {value!r}")
    own = ["path", "with", "timeout", "restore"]
    known = [*ASSET_KINDS, *own, "required"]
    errors: list[Exception] = [_unknown_key(str(name), known, base.AssetConfig) for name in value if name not in known]
    given = [name for name in ASSET_KINDS if value.get(name) is not None]
    path_error = ValueError("path: goes with python, and python with path")
    if len(given) != 1:
        got = " and ".join(given) if given else "none"
        errors.append(ValueError(f"expected exactly one of {', '.join(ASSET_KINDS)}; got {got}"))
    elif given != ["python"]:
        for name in own:
            if value.get(name):
                errors.append(path_error if name == "path" else ValueError(f"{name}: goes with python only"))
    elif value.get("path") is None:
        errors.append(path_error)
    if errors:
        raise cattrs.ClassValidationError("while reading AssetConfig", errors, base.AssetConfig)
    kind = ASSET_KINDS[given[0]]
    options: Any = converter.structure(
        {k: v for k, v in value.items() if k != "required" and v is not None}, kind.options
    )
    return base.AssetConfig(kind=kind, options=options, required=parse_boolean(value.get("required", True)))


def _unknown_key(name: str, known: list[str], cls: type) -> Exception:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else f" (known: {', '.join(known)})"
    return ForbiddenExtraKeysError(f"unknown key{hint}", cls, {name})


def _text(value: Any, _: type) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"expected text, got {value!r}")
    if "\x00" in str(value):
        raise ValueError("expected text without a NUL character")
    return str(value)


def _absolute(value: Any) -> Path:
    if not isinstance(value, (str, os.PathLike)) or not str(value).strip() or "\x00" in str(value):
        raise ValueError(f"expected a path, got {value!r}")
    return Path(os.path.normpath(_project.get() / Path(value).expanduser()))
