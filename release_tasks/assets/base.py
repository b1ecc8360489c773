"""A piece of state, as invoke.yaml names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attrs import Factory, evolve, frozen

from release_tasks.core.options import Duration, exactly_one, option, valid_options

__all__ = ["ASSET_KINDS", "AssetConfig"]

ASSET_KINDS = ("sqlite", "directory", "file", "python")


@frozen(kw_only=True)
class AssetConfig:
    """A piece of state that is captured and restored; exactly one kind."""

    sqlite: Path | None = option("kind: a SQLite database, captured while it is in use")
    directory: Path | None = option("kind: a folder with everything in it")
    file: Path | None = option("kind: one file")
    python: str | None = option(
        "kind: state that another package captures, from the entry point group `release_tasks.assets`"
    )
    path_: Path | None = option("for python: where the state lives, a file or a folder")
    with_: dict[str, Any] = option("for python: options of its own", Factory(dict), validator=valid_options)
    timeout: Duration | None = option("for python: how long its capture may take, and its check; 1m when left out")
    required: bool = option("when missing, the release is blocked", True)

    def __attrs_post_init__(self) -> None:
        exactly_one(self, ASSET_KINDS)
        if (self.path_ is None) != (self.python is None):
            raise ValueError("path: goes with python, and python with path")
        if self.python is None and (self.with_ or self.timeout is not None):
            raise ValueError(f"{'with' if self.with_ else 'timeout'}: goes with python only")

    @property
    def kind(self) -> str:
        """One of ASSET_KINDS."""
        return next(kind for kind in ASSET_KINDS if getattr(self, kind) is not None)

    @property
    def path(self) -> Path:
        """Where the asset lives, absolute."""
        path: Path = getattr(self, self._place)
        return path

    @property
    def _place(self) -> str:
        return self.kind if self.python is None else "path_"

    def at(self, path: Path) -> AssetConfig:
        """Return the same asset in another place."""
        place: dict[str, Any] = {self._place: path}
        return evolve(self, **place)

    def takes(self, kind: str) -> bool:
        """Say whether a record of this kind can be restored to it; a plugin's are recorded as files and folders."""
        return kind == self.kind or (self.python is not None and kind != "sqlite")
