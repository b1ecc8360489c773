"""The protocol of a plugin's asset kind: it makes a consistent copy of its state, and it checks a copy.

This package stores, verifies and restores the copies as it does for files and folders, without the plugin.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from attrs import field, frozen

__all__ = ["AssetContext", "AssetKind", "Form"]

Form = Literal["file", "directory"]


@frozen(kw_only=True)
class AssetContext:
    """One call of an asset kind.

    ``key`` is the asset's name, ``options`` the value of ``with`` in invoke.yaml. ``cancelled`` is set when the call is
    cancelled: return within half a second then. ``report(done, total)`` reports how many bytes are copied; it may be
    called often or never.
    """

    key: str = "asset"
    options: Mapping[str, Any] = field(factory=dict)
    cancelled: threading.Event = field(factory=threading.Event)
    report: Callable[[int, int], None] = lambda done, total: None


class AssetKind(Protocol):
    """A module, an object, or a class without constructor arguments. Each call runs in a process of its own.

    An exception makes the call fail; the message of a PluginError is shown unchanged.

    A kind may also have ``restore(copy, live, context)``, which changes ``live`` to the state of ``copy`` while the
    service has it open. It is called when invoke.yaml has ``restore: true``, and may be killed at any time. Afterwards
    ``live`` is compared with the snapshot, byte for byte, and overwritten from the snapshot when it differs.
    """

    @property
    def form(self) -> Form:
        """Whether an asset of this kind, and its copy, is a file or a directory."""

    def capture(self, source: Path, copy: Path, context: AssetContext) -> None:
        """Write a copy of ``source`` to ``copy``, which does not exist yet. A rollback restores the copy to ``source``.

        ``source`` exists and has the right form; its service is running. Write only to ``copy``. Equal state should
        give equal bytes.
        """

    def check(self, copy: Path, context: AssetContext) -> Sequence[str]:
        """Return the problems of a copy, one message each; no messages when it is intact. Do not write anything."""
