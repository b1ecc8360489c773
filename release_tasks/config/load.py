"""Read Invoke's merged configuration into Settings; all mistakes are reported together."""

from __future__ import annotations

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

from release_tasks.assets.base import AssetConfig
from release_tasks.config import schema
from release_tasks.config.endpoint import KeyPath, Statuses, parse_key_path, parse_statuses
from release_tasks.config.kinds import flat_class, has_kinds, split
from release_tasks.core.codec import findings
from release_tasks.core.errors import ConfigError
from release_tasks.core.location import is_within, overlap, without_links
from release_tasks.core.options import Duration, Share, did_you_mean
from release_tasks.core.units import parse_boolean, parse_duration, parse_integer, parse_share

__all__ = ["defaults", "load_settings", "written_name"]

_PYTHON_KEYWORDS = {"for_": "for", "with_": "with"}
_project: ContextVar[Path] = ContextVar("project")  # base of relative paths during a load


def load_settings(
    raw: Mapping[str, Any],
    project: Path,
    source_of: Callable[[str], str] = lambda path: "invoke.yaml",
    *,
    kinds: schema.Kinds,
) -> schema.Settings:
    """Check the sections ``release``, ``pairing`` and ``gateway`` of ``raw`` and return them as Settings.

    ``source_of`` returns the name of the file or variable that set a dotted path. ``kinds`` are the available kinds of
    assets and gates. Raises ConfigError with one line for each mistake.
    """
    converter = _converter(kinds)
    sections: dict[str, Any] = {}
    problems: list[tuple[str, str]] = []
    token = _project.set(project)
    try:
        merged = {name: _merged(section, raw.get(name) or {}) for name, section in defaults().items()}
        for name, cls in schema.SECTIONS.items():
            try:
                sections[name] = converter.structure(merged[name], cls)
            except Exception as error:
                problems += [(_as_written(path), problem) for path, problem in findings(error, name)]
        problems += _contradictions(converter, merged)
    finally:
        _project.reset(token)
    if problems:
        raise ConfigError([f"{source_of(path)}: {path}: {problem}" for path, problem in problems])
    return schema.Settings(project=project, kinds=kinds, **sections)


def defaults() -> dict[str, Any]:
    """Return every key with its default value.

    Invoke accepts an environment override only for a key that it already knows.
    """
    return {name: _plain(cls()) for name, cls in schema.SECTIONS.items()}


def written_name(attribute: attrs.Attribute[Any]) -> str:
    """Return the key in invoke.yaml: ``for`` is a Python keyword, so the attrs field is called ``for_``."""
    return attribute.name.rstrip("_")


def _plain(instance: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for attribute in attrs.fields(type(instance)):
        value = getattr(instance, attribute.name)
        values[written_name(attribute)] = _plain(value) if attrs.has(type(value)) else value
    return values


def _merged(base: Any, overlay: Any) -> Any:
    if not isinstance(base, Mapping) or not isinstance(overlay, Mapping):
        return overlay
    return {**base, **{name: _merged(base.get(name), value) for name, value in overlay.items()}}


def _contradictions(converter: cattrs.Converter, merged: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Find mistakes between values: unknown or circular needs, nested paths.

    Every valid section is checked, even if another section has a mistake.
    """

    def part(name: str, kind: Any, section: str = "release") -> Any:
        try:
            return converter.structure(merged[section][name], kind)
        except Exception:
            return None  # reported already

    gates = part("gates", dict[str, schema.GateConfig]) or {}
    assets = part("assets", dict[str, AssetConfig]) or {}
    problems: list[tuple[str, str]] = []
    for name, gate in gates.items():
        for need in gate.needs:
            if need not in gates:
                problems.append((f"release.gates.{name}.needs", f"there is no gate {need!r}"))
            elif _depends_on(gates, need, name):
                problems.append((f"release.gates.{name}.needs", f"circular: {need!r} depends on {name!r}"))
    problems += _not_asked(part("health", schema.HealthConfig), gates)
    root = part("root", Path)
    others = {
        "pairing.credentials": part("credentials", Path, "pairing"),
        "gateway.root": part("root", Path, "gateway"),
    }
    return problems + _overlaps({key: asset.path for key, asset in assets.items()}, root, others)


def _not_asked(health: schema.HealthConfig | None, gates: Mapping[str, schema.GateConfig]) -> list[tuple[str, str]]:
    """Find names in ``release.health.also`` of which no gate can be asked about the health of the service."""
    problems = []
    for name in health.also if health is not None else ():
        if name not in gates:
            problems.append(f"there is no gate {name!r}{did_you_mean(name, gates)}")
        elif gates[name].question(name) is None:
            problems.append(f"{name!r} is not an http gate with a URL of its own")
    return [("release.health.also", problem) for problem in problems]


def _overlaps(
    assets: Mapping[str, Path], root: Path | None, others: Mapping[str, Path | None]
) -> list[tuple[str, str]]:
    """Find assets that contain one another or ``root``, and ``others`` in ``root``, by real path, device and inode.

    The last name of an asset is not followed: a capture refuses a link there, and a restore replaces it. The same holds
    for hard links, so a release that makes one does not prevent its own rollback.
    """
    problems: list[tuple[str, str]] = []
    places = [(f"release.assets.{key}", path, without_links(path, follows_last=False)) for key, path in assets.items()]
    if root is not None:
        places.append(("release.root", root, without_links(root)))
        inside = {name: path for name, path in others.items() if path is not None and is_within(path, root)}
        problems += [(name, f"{path} is inside release.root") for name, path in inside.items()]
    for index, (label, path, place) in enumerate(places):
        for other_label, other, other_place in places[:index]:
            if overlap(place, other_place):
                is_plain = path == other or path in other.parents or other in path.parents
                links = "" if is_plain else f" through a link or a mount: they are {place} and {other_place}"
                problems.append((label, f"{path} overlaps with {other_label}{links}"))
    return problems


def _as_written(path: str) -> str:
    return ".".join(_PYTHON_KEYWORDS.get(part, part) for part in path.split("."))


def _depends_on(gates: Mapping[str, schema.GateConfig], start: str, goal: str) -> bool:
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


@functools.cache  # cattrs generates a function for each class, which takes longer than reading a configuration
def _converter(kinds: schema.Kinds) -> cattrs.Converter:
    converter = cattrs.Converter(detailed_validation=True)

    def value_hook(cls: Any, parse: Callable[[Any], Any]) -> None:
        converter.register_structure_hook(cls, lambda value, _: parse(value))

    def container_hook(container: Any, factory: Any, expected: str) -> None:
        converter.register_structure_hook_factory(
            lambda cls: typing.get_origin(cls) is container,
            lambda cls: _container_hook(factory(cls, converter), container, expected),
        )

    value_hook(str, _text)
    value_hook(int, parse_integer)
    value_hook(bool, parse_boolean)
    value_hook(Duration, parse_duration)
    value_hook(Share, parse_share)
    value_hook(Statuses, parse_statuses)
    value_hook(KeyPath, parse_key_path)
    value_hook(Path, _absolute)
    container_hook(list, list_structure_factory, "a list such as [build]")
    container_hook(dict, mapping_structure_factory, "a mapping")
    converter.register_structure_hook_factory(attrs.has, functools.partial(_section_hook, converter, kinds))
    return converter


def _container_hook(inner: Any, container: type, expected: str) -> Any:
    def structure(value: Any, kind: Any) -> Any:
        if not isinstance(value, container):
            raise ValueError(f"expected {expected}, got {value!r}")
        return inner(value, kind)

    return structure


def _section_hook(converter: cattrs.Converter, kinds: schema.Kinds, cls: Any) -> Any:
    flat = flat_class(cls, kinds.of(cls)) if has_kinds(cls) else cls
    known = [written_name(a) for a in attrs.fields(flat)]
    renames: dict[str, Any] = {
        a.name: override(rename=written_name(a), struct_hook=_number_hook(a)) for a in attrs.fields(flat)
    }
    inner = make_dict_structure_fn(flat, converter, **renames)

    def structure(value: Any, _: Any) -> Any:
        if cls is schema.VersionConfig and isinstance(value, (str, int, float)) and not isinstance(value, bool):
            value = {"text": str(value)}  # YAML reads 1.0 as a number
        if not isinstance(value, Mapping):
            raise ValueError(f"expected a mapping, got {value!r}")
        # cattrs can forbid extra keys too, but then it does not build the object, whose validators find more mistakes.
        errors: list[Exception] = [_unknown_key(str(name), known, cls) for name in value if name not in known]
        try:
            result = inner({k: v for k, v in value.items() if k in known}, flat)
            result = result if flat is cls else split(result, cls, kinds.of(cls))
        except cattrs.ClassValidationError as error:
            errors += error.exceptions
        except ValueError as error:
            errors.append(error)
        if errors:
            raise cattrs.ClassValidationError(f"while reading {cls.__name__}", errors, cls)
        return result

    return structure


def _number_hook(attribute: attrs.Attribute[Any]) -> Any:
    minimum = attribute.metadata["least"]
    return (lambda value, _: parse_integer(value, minimum)) if minimum else None


def _unknown_key(name: str, known: list[str], cls: type) -> Exception:
    hint = did_you_mean(name, known) or f" (known: {', '.join(known)})"
    return ForbiddenExtraKeysError(f"unknown key{hint}", cls, {name})


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"expected text, got {value!r}")
    if "\x00" in str(value):
        raise ValueError("expected text without a NUL character")
    return str(value)


def _absolute(value: Any) -> Path:
    if not isinstance(value, (str, os.PathLike)) or not str(value).strip() or "\x00" in str(value):
        raise ValueError(f"expected a path, got {value!r}")
    return Path(os.path.normpath(_project.get() / Path(value).expanduser()))
