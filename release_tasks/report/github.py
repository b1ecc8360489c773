"""Output for GitHub Actions: groups, annotations, the summary of the step and its outputs.

The source is the task's JSON document. A file that cannot be written is reported in a note and changes no result.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from release_tasks.core.canonical import excerpt_line
from release_tasks.core.errors import StageFailed
from release_tasks.core.events import Event, GateEnded
from release_tasks.core.place import found
from release_tasks.core.printable import one_line, output_lines, visible_line
from release_tasks.core.records import Check
from release_tasks.core.runner import command, escape_commands
from release_tasks.core.streams import error_tolerant
from release_tasks.core.typed import typed
from release_tasks.core.units import show_seconds
from release_tasks.report.markdown import step_summary, title_of
from release_tasks.report.progress import PlainLines
from release_tasks.report.values import checks_of, list_of, tail_of

__all__ = ["GroupedLines", "annotation_lines", "outputs", "report_to_github"]

_MOST_ANNOTATIONS = 10  # of each kind for one step; the runner drops the others silently
_OUTPUT_BYTES = 256 << 10  # the end of a gate's log that a group shows
_SUMMARY_BYTES = 1 << 20  # for all tasks of one step together; the runner shows no summary that is larger


class GroupedLines(PlainLines):
    """Plain lines, and the output of each finished gate in a folded group."""

    def __call__(self, event: Event) -> None:
        """Write the line of one event, and the group of a finished gate."""
        super().__call__(event)
        if isinstance(event, GateEnded) and (lines := _output_of(event.check)):
            check = event.check
            title = f"gate {check.id}: {check.status} in {show_seconds(check.duration_ms / 1000)}"
            shown = [escape_commands(f"| {line}") for line in lines]
            with self._lock:
                _write(error_tolerant(sys.stderr), [command("group", one_line(title)), *shown, command("endgroup")])


def report_to_github(document: Mapping[str, Any], exit_code: int, stream: IO[str], environ: Mapping[str, str]) -> None:
    """Annotate the step on ``stream``, and append to the files for its summary and its outputs.

    Raises nothing when the stream drops what its reader refuses.
    """
    _write(stream, annotation_lines(document, exit_code))
    if summary := step_summary(document, exit_code):
        _append("GITHUB_STEP_SUMMARY", summary, environ, limit=_SUMMARY_BYTES)
    assignments = "".join(f"{name}={value}\n" for name, value in outputs(document, exit_code).items())
    _append("GITHUB_OUTPUT", assignments, environ)


def annotation_lines(document: Mapping[str, Any], exit_code: int) -> list[str]:
    """Return the commands that annotate the step: the verdict, each failed gate, and every other blocker."""
    errors = [_annotation("error", title_of(document), _reason_of(document))] if exit_code else []
    warnings: list[str] = []
    checks = checks_of(document)
    for check in checks:
        if check.get("status") == "failed":
            next_command = (check.get("diagnostics") or {}).get("next")
            kind, found = ("warning", warnings) if check.get("advisory") else ("error", errors)
            found.append(_annotation(kind, f"gate {check.get('id')}", str(check.get("detail")), next_command))
    if document.get("status") == "blocked":
        gates = tuple(f"{check.get('id')}: " for check in checks)
        others = [text for text in map(str, list_of(document, "diagnostics")) if not text.startswith(gates)]
        errors += [_annotation("error", "blocked", text) for text in others]
    return errors[:_MOST_ANNOTATIONS] + warnings[:_MOST_ANNOTATIONS]


def outputs(document: Mapping[str, Any], exit_code: int) -> dict[str, str]:
    """Return the outputs of the step by name, each on one printable line; only those that the document contains.

    A document has no secrets, and its ids are exact: the next step passes them on.
    """
    snapshot = document.get("snapshot")
    snapshot = snapshot if isinstance(snapshot, Mapping) else {}
    values = {
        "status": document.get("status"),
        "exit_code": exit_code,
        "chain": document.get("chain"),
        "failed_task": document.get("failedTask"),
        "release_id": document.get("releaseId"),
        "version": document.get("appVersion"),
        "snapshot_id": document.get("snapshotId") or snapshot.get("snapshotId"),
        "digest": document.get("digest") or snapshot.get("digest"),
        "manifest": document.get("manifestPath"),
        "safety_snapshot_id": document.get("safetySnapshotId"),
    }
    return {name: visible_line(str(value)) for name, value in values.items() if value is not None}


def _append(variable: str, text: str, environ: Mapping[str, str], limit: int | None = None) -> None:
    """Append to the file that a variable names, in one write; report a failure in a note on stderr."""
    path = environ.get(variable)
    if not path:
        _note(f"{variable} is not set, so nothing was written to it.")
        return
    data = text.encode("utf-8", "replace")
    try:
        with _opened_to_append(path) as fd:
            if limit is not None and os.fstat(fd).st_size + len(data) > limit:
                _note(f"{variable} is full ({limit} bytes), so nothing was added to it.")
                return
            while data:
                data = data[os.write(fd, data) :]
    except (OSError, ValueError, StageFailed) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).rstrip(".")
        _note(f"{variable} names {path}, which cannot be written: {reason}.")


@contextlib.contextmanager
def _opened_to_append(path: str) -> Iterator[int]:
    """Open the file, which the runner has created, and yield its descriptor. Raises OSError, ValueError, StageFailed.

    As root, no link of another user is followed, and the file must not be one of a third user: in the container of a
    job, the folder belongs to the user of the runner.
    """
    flags = os.O_WRONLY | os.O_APPEND
    if os.geteuid() == 0:
        with found(Path(path).absolute()) as place, place.opened(flags) as fd:
            place.require_writable(fd)
            yield fd
        return
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)  # opening a FIFO in its place must not wait
    try:
        yield fd
    finally:
        os.close(fd)


def _note(message: str) -> None:
    _write(error_tolerant(sys.stderr), [escape_commands(one_line(message))])


def _write(stream: IO[str], lines: list[str]) -> None:
    """Write whole lines in one write; a character that the encoding does not have becomes a question mark."""
    if not lines:
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    text = "".join(f"{line}\n" for line in lines).encode(encoding, "replace").decode(encoding)
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        raise
    except (OSError, ValueError):  # the disk is full, or the stream is closed
        return


def _annotation(kind: str, title: str, message: str, next_command: object = None) -> str:
    lines = [message, *([f"next: {next_command}"] if next_command else [])]
    return command(kind, "\n".join(excerpt_line(line, 1000) for line in lines), title=excerpt_line(title))


def _reason_of(document: Mapping[str, Any]) -> str:
    """Return the reason for a negative result from its document."""
    if isinstance(document.get("message"), str):
        return str(document["message"])
    for key in ("reasons", "diagnostics", "problems"):
        if found := list_of(document, key):
            return str(found[0])
    preflight = document.get("preflight")
    if failed := list_of(preflight if isinstance(preflight, Mapping) else document, "failedChecks"):
        return f"not passed: {', '.join(map(str, failed))}"
    for part in (*list_of(document, "snapshots"), *list_of(document, "attestations")):
        if isinstance(part, Mapping) and part.get("status") == "damaged":
            return f"{part.get('snapshotId') or part.get('releaseId')} is damaged: {typed('release.verify')}"
    return str(document.get("status") or document.get("detail") or "negative result")


def _output_of(check: Check) -> list[str]:
    """Return the output of a gate: the end of its log, or the lines in its result."""
    path = check.diagnostics.get("logPath")
    if isinstance(path, str):
        try:
            # A gate may have put a pipe in the place of its log.
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _OUTPUT_BYTES))
                lines = output_lines(file.read(_OUTPUT_BYTES))
                return lines if size <= _OUTPUT_BYTES else [f"[the end of {size} bytes]", *lines[1:]]
        except OSError:
            pass
    return list(map(one_line, tail_of(check.diagnostics)))
