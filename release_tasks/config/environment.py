"""Values from environment variables: ``INVOKE_RELEASE_GATES_BUILD_TIMEOUT`` sets ``release.gates.build.timeout``."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from release_tasks.config.keys import key_places
from release_tasks.config.schema import SECTIONS, Kinds
from release_tasks.core.options import did_you_mean

__all__ = ["Overrides"]

_PREFIX = "INVOKE_"


class Overrides:
    """The variables in ``environ`` that set keys of this package.

    Every key of the schema can be set, also one that no file has. Its variable has the prefix ``INVOKE_``, capital
    letters, and ``_`` in place of every other character. ``foreign`` are the sections of other packages: a variable of
    ``release_notes.title`` is theirs. ``problems`` contains path and message of each variable that sets no key.
    """

    def __init__(self, environ: Mapping[str, str], kinds: Kinds, foreign: Iterable[str] = ()) -> None:
        self.problems: list[tuple[str, str]] = []
        self._kinds = kinds
        self._set_by: dict[str, str] = {}
        theirs = tuple(f"{_normal(name)}_" for name in foreign)
        self._given = {
            name: value
            for name, value in environ.items()
            if name.startswith(tuple(f"{_PREFIX}{section.upper()}_" for section in SECTIONS))
            and not _normal(name.removeprefix(_PREFIX)).startswith(theirs)
        }

    def apply(self, raw: dict[str, Any]) -> None:
        """Write the values into ``raw``, as text: the loader knows the type of each key, unlike Invoke."""
        if not self._given:
            return
        known = defaultdict(list)
        for place, is_list in key_places(self._kinds, raw):
            known[_normal("_".join(place))].append((place, is_list))
        for name, value in self._given.items():
            found = known.get(_normal(name.removeprefix(_PREFIX)), [])
            path = ".".join(found[0][0]) if found else ""
            if not found:
                hint = did_you_mean(name, [_PREFIX + each for each in known])
                self._refuse(name, "", f"there is no such key in the configuration{hint}")
            elif len(found) > 1:
                self._refuse(name, path, f"it may mean {' or '.join('.'.join(place) for place, _ in found)}")
            elif found[0][1]:
                self._refuse(name, path, f"{path} is a list: write it in invoke.yaml, or in a file for inv -f")
            elif path in self._set_by:
                self._refuse(name, path, f"{path} is also set by {self._set_by[path]}: keep one of both")
            else:
                self._set_by[path] = name
                _write(raw, found[0][0], value)

    def name_of(self, path: str) -> str | None:
        """Return the variable that sets a dotted path, or None."""
        return f"environment variable {self._set_by[path]}" if path in self._set_by else None

    def _refuse(self, name: str, path: str, problem: str) -> None:
        self.problems.append((path, f"environment variable {name}: {problem}"))


def _write(raw: dict[str, Any], place: tuple[str, ...], value: str) -> None:
    for part in place[:-1]:
        if not isinstance(raw.get(part), dict):
            raw[part] = {}
        raw = raw[part]
    raw[place[-1]] = value


def _normal(name: str) -> str:
    return re.sub(r"[^A-Z0-9]", "_", name.upper())
