"""Read Invoke's merged configuration into Settings; all mistakes are reported together."""

from __future__ import annotations

import difflib
import functools
import os
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from release_tasks.config.keys import sections_with_key, written_name
from release_tasks.config.kinds import flat_class, has_kinds, split
from release_tasks.config.written import AsWritten, exact_number, meaning_of, plain, shown
from release_tasks.core.codec import findings
from release_tasks.core.errors import ConfigError
from release_tasks.core.location import is_within, overlaps, without_links
from release_tasks.core.options import Duration, Share, Size, Switch, did_you_mean
from release_tasks.core.redact import Redactor, declare_secrets
from release_tasks.core.units import (
    parse_boolean,
    parse_duration,
    parse_integer,
    parse_share,
    parse_size,
    parse_switch,
)

__all__ = ["defaults", "load_settings", "misplaced_sections"]

_PYTHON_KEYWORDS = {"for_": "for", "with_": "with"}
_MOST_SECTIONS = 3
_LONGEST_WORD = 16  # characters of a name without an underscore
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SHELL_VARIABLE = re.compile(r"\$\w+|\$\{\w+\}", re.ASCII)
_project: ContextVar[Path] = ContextVar("project")  # base of relative paths during a load


def load_settings(
    raw: Mapping[str, Any],
    project: Path,
    source_of: Callable[[str], str] = lambda path: "invoke.yaml",
    *,
    kinds: schema.Kinds,
    found: Sequence[tuple[str, str]] = (),
) -> schema.Settings:
    """Check the sections ``release``, ``pairing`` and ``gateway`` of ``raw`` and return them as Settings.

    ``source_of`` returns the name of the file or variable that set a dotted path. ``kinds`` are the available kinds of
    assets and gates. ``found`` are mistakes that are known already: dotted path and complete message. Raises
    ConfigError with one line for each mistake.
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
    known = {path for path, _ in found}
    lines = [message for _, message in found]
    lines += [
        f"{source_of(_place(path, problem))}: {path}: {problem}" for path, problem in problems if path not in known
    ]
    if lines:
        raise ConfigError(lines)
    settings = schema.Settings(project=project, kinds=kinds, **sections)
    declare_secrets(settings.release.secret_variables)
    return settings


def defaults() -> dict[str, Any]:
    """Return every key with its default value.

    Invoke accepts an environment override only for a key that it already knows.
    """
    return {name: _plain(cls()) for name, cls in schema.SECTIONS.items()}


def misplaced_sections(tree: Mapping[str, Any], kinds: schema.Kinds) -> Iterator[tuple[str, str]]:
    """Yield path and problem of each section at the top of ``tree`` whose name or whose place is wrong.

    Other packages have sections too. A section is misplaced only when its keys are those of this package, and the
    section that it stands for is missing.
    """
    known = {name: {written_name(a) for a in attrs.fields(cls)} for name, cls in schema.SECTIONS.items()}
    known["tasks"] = {"executor_class"}
    for name, value in tree.items():
        if name in known or not isinstance(value, Mapping) or not value:
            continue
        meant = _similar_key(name, known, likeness=0.7)
        is_empty = not tree.get(meant or "") or (meant == "tasks" and not tree["tasks"].get("executor_class"))
        if meant is not None and is_empty and known[meant] & set(value):
            yield name, f"unknown section (did you mean {meant!r}?)"
        for section, of_kind in (("gates", kinds.gates), ("assets", kinds.assets)):
            names = {kind.name for kind in of_kind}
            if name == section and all(isinstance(each, Mapping) and names & set(each) for each in value.values()):
                yield name, f"unknown section: indent it below release, as release.{name}"


def _plain(instance: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for attribute in attrs.fields(type(instance)):
        value = getattr(instance, attribute.name)
        values[written_name(attribute)] = _plain(value) if attrs.has(type(value)) else value
    return values


def _merged(base: Any, overlay: Any) -> Any:
    if isinstance(base, Mapping) and overlay is None:
        return base  # a section whose keys are commented out
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
                hint = did_you_mean(need, gates)
                problems.append((f"release.gates.{name}.needs", f"there is no gate {need!r}{hint}"))
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
    for index, earlier in overlaps(place for _, _, place in places):
        (label, path, place), (other_label, other, other_place) = places[index], places[earlier]
        is_plain = path == other or path in other.parents or other in path.parents
        links = "" if is_plain else f" through a link or a mount: they are {place} and {other_place}"
        problems.append((label, f"{path} overlaps with {other_label}{links}"))
    return problems


def _as_written(path: str) -> str:
    return ".".join(_PYTHON_KEYWORDS.get(part, part) for part in path.split("."))


def _place(path: str, problem: str) -> str:
    """Return the path of the key that ``problem`` is about: a validator of a section begins with its key."""
    key = re.match(r"(\w+): ", problem)
    return path if key is None else f"{path}.{key[1]}"


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
    value_hook(int, lambda value: parse_integer(exact_number(value)))
    value_hook(bool, lambda value: parse_boolean(plain(value)))
    value_hook(Duration, lambda value: parse_duration(exact_number(value)))
    value_hook(Share, lambda value: parse_share(exact_number(value)))
    value_hook(Size, lambda value: parse_size(exact_number(value)))
    value_hook(Switch, lambda value: parse_switch(plain(value)))
    value_hook(Statuses, lambda value: parse_statuses(exact_number(value)))
    value_hook(KeyPath, lambda value: parse_key_path(exact_number(value)))
    value_hook(Path, _absolute)
    converter.register_structure_hook_func(lambda cls: cls is Any, lambda value, _: plain(value))
    container_hook(list, list_structure_factory, "a list such as [build]")
    container_hook(dict, mapping_structure_factory, "a mapping")
    converter.register_structure_hook_factory(attrs.has, functools.partial(_section_hook, converter, kinds))
    return converter


def _container_hook(inner: Any, container: type, expected: str) -> Any:
    def structure(value: Any, kind: Any) -> Any:
        if isinstance(value, list) and container is dict:
            raise ValueError(f"expected a mapping, got {shown(value)}: write NAME: without `-`")
        if not isinstance(value, container):
            raise ValueError(f"expected {expected}, got {shown(value)}")
        return inner(value, kind)

    return structure


def _section_hook(converter: cattrs.Converter, kinds: schema.Kinds, cls: Any) -> Any:
    flat = flat_class(cls, kinds.of(cls)) if has_kinds(cls) else cls
    known = [written_name(a) for a in attrs.fields(flat)]
    renames: dict[str, Any] = {
        a.name: override(rename=written_name(a), struct_hook=_attribute_hook(a)) for a in attrs.fields(flat)
    }
    inner = make_dict_structure_fn(flat, converter, **renames)
    names = [kind.name for kind in kinds.of(cls)] if has_kinds(cls) else []
    expected = f"one of {', '.join(names)}" if names else "keys"

    def structure(value: Any, _: Any) -> Any:
        if cls is schema.VersionConfig and not (value is None or isinstance(value, (Mapping, list))):
            value = {"text": _text(value)}
        if not isinstance(value, Mapping):
            raise ValueError(f"expected a mapping with {expected}, got {shown(value)}")
        # cattrs can forbid extra keys too, but then it does not build the object, whose validators find more mistakes.
        errors: list[Exception] = [
            ForbiddenExtraKeysError(f"unknown key{_hint_on(str(name), value[name], known, kinds)}", cls, {str(name)})
            for name in value
            if name not in known
        ]
        check = getattr(cls, "check_written", None)
        try:
            if check is not None:
                check(value)
            result = inner({k: v for k, v in value.items() if k in known}, flat)
            if any(name not in known and _similar_key(name, names) for name in value):
                raise cattrs.ClassValidationError("a misspelt kind", errors, cls)  # not also a missing one
            result = result if flat is cls else split(result, cls, kinds.of(cls))
        except cattrs.ClassValidationError as error:
            errors += [each for each in error.exceptions if each not in errors]
        except ValueError as error:
            errors.append(error)
        if errors:
            raise cattrs.ClassValidationError(f"while reading {cls.__name__}", errors, cls)
        return result

    return structure


def _attribute_hook(attribute: attrs.Attribute[Any]) -> Any:
    minimum = attribute.metadata["least"]
    if minimum:
        return lambda value, _: parse_integer(exact_number(value), minimum)
    if attribute.name.endswith("_env"):
        return lambda value, _: None if value is None else _variable_name(value)
    return None


def _hint_on(name: str, value: Any, known: list[str], kinds: schema.Kinds) -> str:
    """Return what the author of an unknown key may have meant, in brackets."""
    if similar := _similar_key(name, known):
        return f" (did you mean {similar!r}?)"
    if isinstance(value, Mapping):
        for section, of_kind in (("gates", kinds.gates), ("assets", kinds.assets)):
            if any(kind.name in value for kind in of_kind) and section in known:
                return f" (indent it below {section}, if it is one of the {section})"
    if sections := sections_with_key(name, kinds):
        return f" (it is a key of {' and of '.join(sections[:_MOST_SECTIONS])}: check the indentation)"
    return f" (known: {', '.join(known)})"


def _similar_key(name: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """Return the key that ``name`` stands for: in another spelling such as ``hmacSecretEnv``, or with an error."""
    spelling = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[- ]", "_", name.strip()).lower()
    matches = difflib.get_close_matches(spelling, known, n=1, cutoff=likeness)
    return matches[0] if matches else None


def _text(value: Any, expected: str = "text") -> str:
    if isinstance(value, AsWritten):
        meaning = meaning_of(value.value)
        raise ValueError(f'expected {expected}; unquoted, {value.text} is {meaning}: put it in quotes: "{value.text}"')
    if isinstance(value, (bool, int, float)):
        raise ValueError(f"expected {expected}, got {meaning_of(value)}: put it in quotes")
    if not isinstance(value, str):
        raise ValueError(f"expected {expected}, got {shown(value)}")
    if "\x00" in value:
        raise ValueError(f"expected {expected} without a NUL character")
    return value


def _variable_name(value: Any) -> str:
    name = _text(value, "the name of an environment variable")
    if name.startswith("$"):
        raise ValueError(f"expected the name of an environment variable, got {name!r}: write it without $ and braces")
    if not _VARIABLE.fullmatch(name) or _looks_secret(name):
        raise ValueError(
            "expected the name of an environment variable such as API_SECRET, got a text that may be the secret "
            "itself: set the variable to it, and write its name here"
        )
    return name


def _looks_secret(text: str) -> bool:
    is_random = len(text) >= _LONGEST_WORD and "_" not in text and not text.isupper() and re.search(r"\d", text)
    return bool(is_random) or Redactor().redact_text(text) != text


def _absolute(value: Any) -> Path:
    text = os.fspath(value) if isinstance(value, os.PathLike) else _text(value, "a path")
    if not text.strip():
        raise ValueError(f"expected a path, got {text!r}")
    try:
        path = Path(os.path.normpath(_project.get() / Path(text).expanduser()))
    except RuntimeError:
        raise ValueError(f"expected a path, got {text!r}: there is no such user") from None
    if (variable := _SHELL_VARIABLE.search(text)) and not os.path.lexists(path):
        raise ValueError(f"expected a path, got {text!r}: variables such as {variable[0]} are not replaced in a path")
    return path
