"""A task's JSON document as a page of Markdown, for the summary of a step in CI."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping
from typing import Any

from release_tasks.core.canonical import excerpt
from release_tasks.core.printable import printable

__all__ = ["step_summary", "title_of"]

_MOST_ROWS = 100
_MOST_SENTENCES = 20
_MOST_OUTPUTS = 20
_CELL = 300
_TAIL = 2000
_FACTS = (
    ("version", "appVersion"),
    ("commit", "gitCommit"),
    ("snapshot", "snapshotId"),
    ("digest", "digest"),
    ("state before", "safetySnapshotId"),
    ("manifest", "manifestPath"),
)
# A document with one of these is of a stage; others end up in the summary only when they are bad news.
_STAGES = ("preflight", "checks", "restoredAssets", "reasons", "boot")


def step_summary(document: Mapping[str, Any], exit_code: int) -> str:
    """Return the page of a stage, or of whatever failed; empty for a task that only shows something."""
    if exit_code == 0 and not any(key in document for key in _STAGES):
        return ""
    return "\n".join(_lines(document, exit_code)) + "\n\n"


def title_of(document: Mapping[str, Any]) -> str:
    """Return in a few words what a document is about, and its status."""
    status = str(document.get("status") or "done")
    if "preflight" in document:
        return f"release {document.get('releaseId')}: {status}"
    if "checks" in document:
        return f"preflight: {status}"
    if "restoredAssets" in document:
        return f"rollback: {status}"
    if "reasons" in document:
        return f"watch of {document.get('releaseId') or 'the service'}: {status}"
    if "boot" in document:
        return f"drill: {status}"
    return f"release-tasks: {status}"


def _lines(document: Mapping[str, Any], exit_code: int) -> Iterator[str]:
    yield f"## {_text(title_of(document))}"
    yield ""
    if exit_code:
        yield f"Exit code {exit_code}."
        yield ""
    sentences = [document["message"]] if isinstance(document.get("message"), str) else []
    sentences += [text for key in ("reasons", "diagnostics", "problems") for text in _list(document.get(key))]
    yield from (f"- {_text(str(sentence))}" for sentence in sentences[:_MOST_SENTENCES])
    if sentences:
        yield ""
    inner = document.get("preflight")
    checks = [c for c in _list((inner if isinstance(inner, Mapping) else document).get("checks")) if _is_object(c)]
    yield from _gates(checks)
    yield from _facts(document)
    snapshot = _fact(document, "snapshotId")
    if snapshot is not None and document.get("status") == "ready":
        yield f"To go back to it: <code>{_text(f'inv release.rollback --snapshot {snapshot}')}</code>"


def _gates(checks: list[Mapping[str, Any]]) -> Iterator[str]:
    if not checks:
        return
    yield "| gate | result | time | detail |"
    yield "| --- | --- | --- | --- |"
    for check in checks[:_MOST_ROWS]:
        result = "advisory" if check.get("advisory") and check.get("status") == "failed" else check.get("status")
        seconds = check.get("durationMs")
        time = f"{seconds / 1000:.1f} s" if isinstance(seconds, int) else ""
        cells = (check.get("id"), result, time, check.get("detail"))
        yield f"| {' | '.join(_text(str(cell)) for cell in cells)} |"
    yield ""
    if len(checks) > _MOST_ROWS:
        yield f"And {len(checks) - _MOST_ROWS} more."
        yield ""
    for check in [check for check in checks if check.get("status") == "failed"][:_MOST_OUTPUTS]:
        yield from _output(check)


def _output(check: Mapping[str, Any]) -> Iterator[str]:
    """Fold away what a failed gate printed last."""
    found = check.get("diagnostics")
    diagnostics: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    tail = _list(diagnostics.get("outputTail") or diagnostics.get("bodyTail"))
    if not tail:
        return
    text = printable("\n".join(map(str, tail)))[-_TAIL:]
    yield f"<details><summary>{_text(str(check.get('id')))}</summary>"
    yield ""  # without this line the block would end at the first empty line of the output
    yield f"<pre>{html.escape(text)}</pre>"
    yield ""
    yield "</details>"
    yield ""


def _facts(document: Mapping[str, Any]) -> Iterator[str]:
    facts = [(label, _fact(document, key)) for label, key in _FACTS]
    facts += [(name, ", ".join(map(str, _list(document.get(f"{name}Assets"))))) for name in ("restored", "removed")]
    known = [(label, value) for label, value in facts if value]
    if not known:
        return
    yield "| | |"
    yield "| --- | --- |"
    yield from (f"| {label} | {_text(str(value))} |" for label, value in known)
    yield ""


def _fact(document: Mapping[str, Any], key: str) -> Any:
    snapshot = document.get("snapshot")
    return document.get(key) or (snapshot.get(key) if isinstance(snapshot, Mapping) else None)


def _text(text: str) -> str:
    """Return text of others on one line, with everything spelled by number that Markdown or HTML gives a meaning."""
    line = " ".join(excerpt(printable(text), _CELL).split())
    return re.sub(r"[!-/:-@\[-`{-~]", lambda found: f"&#{ord(found[0])};", line)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_object(value: Any) -> bool:
    return isinstance(value, Mapping)
