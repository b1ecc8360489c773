"""Every task that is documented as changing nothing, run in this process as ``release-tasks`` runs it."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from pathlib import Path

from attrs import frozen

from release_tasks.core.version import __version__
from release_tasks.tasks.program import ReleaseProgram
from release_tasks.tasks.suite import suite

__all__ = ["LOOKS", "Answer", "look"]

# ``PAGE`` is a path outside of the project, and everything else is typed as it is here.
LOOKS = (
    "release.status",
    "release.diagnose",
    "release.report --output PAGE",
    "release.diff v1 v2",
    "release.verify",
    "release.audit",
    "release.rollback --plan",
    "pairing.list telegram",
    "pairing.list telegram --approved",
    "pairing.audit",
    "gateway.status",
    "--list",
    "--dry release.preflight",
    "--dry release.prepare",
    "--dry release.rollback",
    "--dry release.recover",
    "--dry release.watch --rollback",
    "--dry release.drill",
    "--dry release.extract --to PAGE",
    "--dry release.report",
    "--dry gate.run always",
    "--dry pairing.approve telegram ABCD2345",
    "--dry gateway.start",
)


@frozen
class Answer:
    """The exit code and the output of a command line."""

    line: str
    code: int
    text: str


def look(project: Path, lines: tuple[str, ...] = LOOKS) -> list[Answer]:
    """Run each command line in ``project``, and return the answers."""
    before, answers = os.getcwd(), []
    os.chdir(project)
    try:
        for line in lines:
            out, code = io.StringIO(), 0
            with (
                tempfile.TemporaryDirectory() as elsewhere,
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(out),
            ):
                words = line.replace("PAGE", f"{elsewhere}/page.html").split()
                try:
                    ReleaseProgram(suite(), __version__).run(["release-tasks", *words])
                except SystemExit as stop:
                    code = stop.code if isinstance(stop.code, int) else 1
            answers.append(Answer(line, code, out.getvalue()))
    finally:
        os.chdir(before)
    return answers
