"""One configuration file as it is written: the line of each key, the text of each value, and keys written twice."""

from __future__ import annotations

import functools
import json
import locale
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import invoke.util

from release_tasks.config.written import meaning_of
from release_tasks.core.errors import ConfigError
from release_tasks.tasks.sources.wording import describe_yaml_error

__all__ = ["SourceFile"]

# Invoke reads configuration files with the YAML library that it contains, which is PyYAML. Another library or version
# would read some texts as other values than Invoke does.
yaml: Any = invoke.util.yaml

_MERGE = "tag:yaml.org,2002:merge"
_MOST_VALUES = 100_000  # with aliases, a file of 1 KiB can stand for 10**9 values

Place = tuple[str, ...]  # the keys and indices from the top of the file to a value


class SourceFile:
    """The text of a YAML or JSON file that Invoke loads. ``name`` stands in messages."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name

    def checked(self) -> SourceFile:
        """Read every value of the file, and return it; raises ConfigError with one problem, OSError."""
        root = self.root
        if root is not None and not isinstance(root, yaml.MappingNode):
            found = "a list" if isinstance(root, yaml.SequenceNode) else "a single value"
            problem = f"expected keys such as `release:` at the top of the file, got {found}"
            raise self.error(root.start_mark.line, problem)
        if root is not None and self.path.suffix != ".json":
            try:
                yaml.load(self.text, Loader=yaml.SafeLoader)
            except yaml.MarkedYAMLError as error:
                raise self.error(*describe_yaml_error(error, self.text)) from error
            except ValueError as error:  # a date such as 2024-13-45
                raise self.error(*self._unreadable_value(error)) from error
        return self

    @functools.cached_property
    def text(self) -> str:
        """The text of the file; raises ConfigError, OSError."""
        data = self.path.read_bytes()
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise self.error(None, "the file is UTF-16: save it as UTF-8")
        for encoding in ("utf-8-sig", locale.getpreferredencoding(False)):
            try:
                return data.decode(encoding)
            except UnicodeDecodeError:
                line = data[: _first_undecodable(data)].count(b"\n")
        raise self.error(line, "a character that is not UTF-8: save the file as UTF-8")

    @functools.cached_property
    def root(self) -> Any:
        """The node at the top of the file, None for an empty file; raises ConfigError, OSError."""
        text = self.text
        if self.path.suffix == ".json":
            try:
                json.loads(text)
            except json.JSONDecodeError as error:
                raise self.error(error.lineno - 1, f"not valid JSON: {error.msg}") from error
            text = text.replace("\t", " ")  # between values, where YAML does not allow it; JSON text contains none
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            raise self.error(*describe_yaml_error(error, text)) from error
        except yaml.reader.ReaderError as error:
            line = text[: error.position].count("\n")
            raise self.error(line, f"a control character, {chr(error.character)!r}: remove it") from error
        except RecursionError as error:
            raise self.error(None, "its values are nested too deeply") from error
        self._require_finite(root)
        return root

    def error(self, line: int | None, problem: str) -> ConfigError:
        """Return the error for a problem on a line; ``line`` is counted from 0."""
        return ConfigError([f"{self.name}{'' if line is None else f':{line + 1}'}: {problem}"])

    def line_of(self, place: Place) -> int | None:
        """Return the line, from 1, of the deepest part of ``place`` that is in the file; None for none of it."""
        for depth in range(len(place), 0, -1):
            if place[:depth] in self._places:
                line: int = self._places[place[:depth]][0].start_mark.line + 1
                return line
        return None

    def text_of(self, place: Place) -> str | None:
        """Return the text of a value as it is written, without quotes; None for another value than a scalar."""
        node = self._places.get(place, (None, None))[1]
        return node.value if isinstance(node, yaml.ScalarNode) else None

    def problems(self, sections: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Yield dotted path and message of each key that is written twice or is no text, in ``sections`` and above."""
        if isinstance(self.root, yaml.MappingNode):
            yield from self._problems_in(self.root, (), set(sections), set())

    def _problems_in(
        self, node: Any, place: Place, sections: set[str] | None, seen: set[int]
    ) -> Iterator[tuple[str, str]]:
        """``sections``: descend only into these keys; None: into every key."""
        if id(node) in seen:  # an alias
            return
        seen.add(id(node))
        lines: dict[Any, int] = {}
        for key, value in _pairs(node):
            if isinstance(node, yaml.SequenceNode):
                yield from self._problems_in(value, (*place, str(key)), None, seen)
                continue
            name, line = _key_of(key), key.start_mark.line + 1
            written = key.value if isinstance(key, yaml.ScalarNode) else "this key"
            path = ".".join((*place, written))
            if key.tag == _MERGE:
                pass
            elif name in lines:
                where = "twice on this line" if lines[name] == line else f"also on line {lines[name]}"
                problem = f"this key is {where}, and only one of both counts: keep one"
                yield path, f"{self.name}:{line}: {path}: {problem}"
            elif not isinstance(name, str) and (place or written in (sections or ())):
                quoted = f'put it in quotes: "{written}"' if isinstance(key, yaml.ScalarNode) else "write a text"
                problem = f"expected a text as key; unquoted, {written} is {meaning_of(name)}: {quoted}"
                yield path, f"{self.name}:{line}: {path}: {problem}"
            lines.setdefault(name, line)
            if sections is None or name in sections:
                yield from self._problems_in(value, (*place, written), None, seen)

    @functools.cached_property
    def _places(self) -> dict[Place, tuple[Any, Any]]:
        """The nodes of the key and of the value at each place; for an item of a list, twice that of the item."""
        found: dict[Place, tuple[Any, Any]] = {}
        pending: list[tuple[Place, Any]] = [((), self.root)]
        while pending:
            above, node = pending.pop()
            for key, value in _merged_pairs(node):
                place = (*above, str(key) if isinstance(key, int) else str(_key_of(key)))
                found[place] = (value if isinstance(key, int) else key, value)
                pending.append((place, value))
        return found

    def _unreadable_value(self, error: ValueError) -> tuple[int | None, str]:
        """Return the line, from 0, of the scalar that cannot be converted, and a sentence."""
        for key, value in self._places.values():
            for node in (key, value):
                try:
                    if isinstance(node, yaml.ScalarNode):
                        yaml.constructor.SafeConstructor().construct_object(node)
                except ValueError:
                    return node.start_mark.line, f"{node.value} cannot be read ({error}): put it in quotes"
        return None, f"a value cannot be read: {error}"

    def _require_finite(self, root: Any) -> None:
        """Raise ConfigError when the aliases of the file stand for too many values, or for an endless value."""
        sizes: dict[int, int | None] = {}  # None: the value is being counted

        def size(node: Any) -> int:
            if id(node) not in sizes:
                sizes[id(node)] = None
                sizes[id(node)] = 1 + sum(size(value) for _, value in _pairs(node))
            count = sizes[id(node)]
            if count is None:
                raise self.error(node.start_mark.line, "an alias in this value refers to the value itself")
            if count > _MOST_VALUES:
                raise self.error(node.start_mark.line, "the aliases in this value stand for more than 100,000 values")
            return count

        if root is not None:
            size(root)


def _pairs(node: Any) -> Iterable[tuple[Any, Any]]:
    """Return key and value nodes of a mapping, index and value nodes of a list, nothing for a scalar."""
    if isinstance(node, yaml.MappingNode):
        pairs: Iterable[tuple[Any, Any]] = node.value
        return pairs
    return enumerate(node.value) if isinstance(node, yaml.SequenceNode) else ()


def _merged_pairs(node: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the pairs of ``node``, those of a merge key (``<<``) first, so that later pairs override them."""
    pairs = list(_pairs(node))
    for key, value in pairs:
        if not isinstance(key, int) and key.tag == _MERGE:
            for merged in reversed(value.value) if isinstance(value, yaml.SequenceNode) else (value,):
                yield from _merged_pairs(merged)
    yield from ((key, value) for key, value in pairs if isinstance(key, int) or key.tag != _MERGE)


def _key_of(node: Any) -> Any:
    """Return the value that Invoke gets for a key."""
    if not isinstance(node, yaml.ScalarNode):
        return None
    if node.tag == "tag:yaml.org,2002:str":
        return node.value
    try:
        return yaml.constructor.SafeConstructor().construct_object(node)
    except (yaml.YAMLError, ValueError):
        return node.value


def _first_undecodable(data: bytes) -> int:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start
    return len(data)
