"""An installed distribution that provides the asset kind ``custom``, written by a test."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Protocol

__all__ = ["InstallKind", "install_kind_in"]


class InstallKind(Protocol):
    """The fixture ``install_kind``: install the kind with these function bodies, or change it with a second call."""

    def __call__(
        self,
        capture: str = "open(copy, 'wb').write(open(source, 'rb').read())",
        check: str = "return []",
        form: str = "file",
        before: str = "",
        value: str = "custom_kind",
        restore: str = "",
    ) -> None: ...


def install_kind_in(site: Path) -> InstallKind:
    """Return the function that writes the distribution into ``site``, a folder on ``sys.path``."""
    info = site / "custom_kind-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: custom-kind\nVersion: 1.0\n")

    def install(
        capture: str = "open(copy, 'wb').write(open(source, 'rb').read())",
        check: str = "return []",
        form: str = "file",
        before: str = "",
        value: str = "custom_kind",
        restore: str = "",
    ) -> None:
        (info / "entry_points.txt").write_text(f"[release_tasks.assets]\ncustom = {value}\n")
        source = "import ctypes, os, shutil, socket, subprocess, sys, threading, time\n"
        source += f"from release_tasks.plugins import PluginError\n{before}\nform = {form!r}\n"
        source += "def capture(source, copy, context):\n" + textwrap.indent(capture, "    ")
        source += "\ndef check(copy, context):\n" + textwrap.indent(check, "    ") + "\n"
        if restore:
            source += "def restore(copy, live, context):\n" + textwrap.indent(restore, "    ") + "\n"
        (site / "custom_kind.py").write_text(source)

    return install
