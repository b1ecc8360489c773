"""What an asset kind of another package is: how a consistent copy is taken, and how one is known to be sound.

Where copies lie, how they are proved and how they are put back is the suite's own: it does the same as for a file or a
folder of its own, and never needs the plugin for it.
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

    ``key`` is the asset's name, ``options`` what invoke.yaml says under ``with``. ``cancelled`` is set when the
    call was given up: end within half a second of that. ``report(done, total)`` says how many bytes are copied; it may
    be called as often as one likes, and need not be.
    """

    key: str = "asset"
    options: Mapping[str, Any] = field(factory=dict)
    cancelled: threading.Event = field(factory=threading.Event)
    report: Callable[[int, int], None] = lambda done, total: None


class AssetKind(Protocol):
    """A module, an object, or a class that takes no arguments. It runs in a process of its own for each call.

    What it raises fails the call; a PluginError is shown as it is.

    A kind may also have ``restore(copy, live, context)``, which brings ``live`` to the state of ``copy`` while its
    service has it open. It is called where invoke.yaml says ``restore: true``, and may be ended at any moment. What it
    leaves is compared with the snapshot, byte for byte, and written from there where it differs: no rollback needs it.
    """

    @property
    def form(self) -> Form:
        """What an asset of this kind is on disk, live and copied."""

    def capture(self, source: Path, copy: Path, context: AssetContext) -> None:
        """Write to ``copy``, which does not exist yet, what is to take the place of ``source`` one day.

        ``source`` exists, in the right form, and its service is running. Nothing but ``copy`` may be written. Equal
        state should give equal bytes.
        """

    def check(self, copy: Path, context: AssetContext) -> Sequence[str]:
        """Return what is wrong with a copy, a sentence each; nothing when it is sound. Nothing may be written."""
