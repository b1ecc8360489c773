"""The JSON document of a task as Markdown, for the summary of a CI step."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping
from typing import Any

from release_tasks.core.canonical import excerpt_line
from release_tasks.core.printable import one_line
from release_tasks.core.typed import typed
from release_tasks.core.units import show_seconds
from release_tasks.report.values import checks_of, list_of, tail_of

__all__ = ["step_summary", "title_of"]

_MOST_ROWS = 100
_FACTS = (
    ("version", "appVersion"),
    ("commit", "gitCommit"),
    ("snapshot", "snapshotId"),
    ("digest", "digest"),
    ("state before", "safetySnapshotId"),
    ("manifest", "manifestPath"),
)


def step_summary(document: Mapping[str, Any], exit_code: int) -> str:
    """Return the summary of a stage or of a failed task; empty for a task that only shows information."""
    if exit_code == 0 and _stage_of(document) is None:
        return ""
    return "\n".join(_lines(document, exit_code)) + "\n\n"


def title_of(document: Mapping[str, Any]) -> str:
    """Return the subject of a document and its status."""
    return f"{_stage_of(document) or 'release-tasks'}: {document.get('status') or 'done'}"


def _stage_of(document: Mapping[str, Any]) -> str | None:
    """Return the stage that wrote a document, identified by a key that only its documents have."""
    stages = {
        "chain": f"command line of {document.get('failedTask')}",
        "preflight": f"release {document.get('releaseId')}",
        "checks": "preflight",
        "restoredAssets": "rollback",
        "reasons": f"watch of {document.get('releaseId') or 'the service'}",
        "boot": "drill",
    }
    return next((stage for key, stage in stages.items() if key in document), None)


def _lines(document: Mapping[str, Any], exit_code: int) -> Iterator[str]:
    yield f"## {_text(title_of(document))}"
    yield ""
    if exit_code:
        yield f"Exit code {exit_code}."
        yield ""
    messages = [document["message"]] if isinstance(document.get("message"), str) else []
    messages += [text for key in ("reasons", "diagnostics", "problems") for text in list_of(document, key)]
    yield from (f"- {_text(message)}" for message in messages[:20])
    if messages:
        yield ""
    if checks := checks_of(document):
        yield from _gates(checks)
    snapshot = document.get("snapshot")
    values = {**(snapshot if isinstance(snapshot, Mapping) else {}), **{k: v for k, v in document.items() if v}}
    facts = [(label, values.get(key)) for label, key in _FACTS]
    facts += [(name, ", ".join(map(str, list_of(document, f"{name}Assets")))) for name in ("restored", "removed")]
    if any(value for _, value in facts):
        yield "| | |"
        yield "| --- | --- |"
        yield from (f"| {label} | {_text(value)} |" for label, value in facts if value)
        yield ""
    if document.get("status") == "ready" and (snapshot_id := values.get("snapshotId")) is not None:
        command = typed("release.rollback", "--snapshot", snapshot_id)
        yield f"To restore this snapshot: <code>{_text(command)}</code>"


def _gates(checks: list[Mapping[str, Any]]) -> Iterator[str]:
    yield "| gate | result | time | detail |"
    yield "| --- | --- | --- | --- |"
    failed = [check for check in checks if check.get("status") == "failed"]
    for check in checks[:_MOST_ROWS]:
        result = "advisory" if check.get("advisory") and check in failed else check.get("status")
        duration = check.get("durationMs")
        shown = show_seconds(duration / 1000) if isinstance(duration, int) else ""
        cells = (check.get("id"), result, shown, check.get("detail"))
        yield f"| {' | '.join(map(_text, cells))} |"
    yield ""
    if len(checks) > _MOST_ROWS:
        yield f"And {len(checks) - _MOST_ROWS} more."
        yield ""
    for check in failed[:20]:
        if tail := tail_of(check.get("diagnostics")):
            yield f"<details><summary>{_text(check.get('id'))}</summary>"
            yield ""  # without this line an empty line in the output would end the block
            text = "\n".join(one_line(line.expandtabs()) for line in tail)
            yield f"<pre>{html.escape(text[-2000:])}</pre>"
            yield ""
            yield "</details>"
            yield ""


def _text(value: Any) -> str:
    """Return untrusted text on one line, with every character escaped that has a meaning in Markdown or HTML.

    Sites look for names to notify (``@name``) in the finished page, where an escape is gone, but never inside code.
    """
    line = " ".join(excerpt_line(str(value), 300).split())
    escaped = re.sub(r"[!-/:-@\[-`{-~]", lambda found: f"&#{ord(found[0])};", line)
    return escaped.replace("&#64;", "<code>&#64;</code>")
