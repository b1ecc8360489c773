"""How a release stands, in a word and a sentence, and what else whoever opens its page must know first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from release_tasks.archive.pipeline import ManifestFile, Pipeline
from release_tasks.core.lock import current_holder
from release_tasks.core.records import Manifest
from release_tasks.report.html.history import word_of
from release_tasks.report.html.notifications import text, texts
from release_tasks.report.html.page import Rollback, Verdict

__all__ = ["notices_of", "verdict_of"]

_MOST_REASONS = 20


def verdict_of(
    manifest: Manifest | None,
    reason: str,
    rollbacks: Sequence[Rollback],
    events: Sequence[dict[str, Any]],
    is_degraded: bool,
) -> Verdict:
    """Return the verdict on a release; ``reason`` is why its manifest cannot be read, ``events`` those about it."""
    word, tone = word_of(manifest, rollbacks, is_degraded=is_degraded)
    if manifest is None:
        told = "Its manifest cannot be read, so what was checked and captured is not known."
        return Verdict(word=word, tone=tone, sentence=told, reasons=[text(reason)])
    reasons = texts(manifest.diagnostics, _MOST_REASONS)
    if manifest.status == "blocked":
        failed = [check.id for check in manifest.preflight.checks if check.blocks]
        told = f"Not to be deployed: {_list(failed)} did not pass." if failed else "Not to be deployed."
        return Verdict(word=word, tone=tone, sentence=text(told), reasons=reasons)
    if word == "ready":
        return Verdict(word=word, tone=tone, sentence=_ready(manifest, events), reasons=reasons)
    watched = [event for event in events if event.get("event") == "watch.degraded"]
    reasons = (texts(watched[-1].get("reasons"), _MOST_REASONS) if watched else []) + reasons
    if word == "degraded":
        told = "The watch after the deploy found it degraded, and it was not taken back."
        return Verdict(word=word, tone=tone, sentence=told, reasons=reasons)
    return Verdict(word=word, tone=tone, sentence=_rolled_back(rollbacks), reasons=reasons)


def notices_of(pipeline: Pipeline, files: Sequence[ManifestFile], this: ManifestFile) -> list[str]:
    """Return what is going on around the release that may make this page out of date."""
    notices = []
    holder = current_holder(pipeline.root)
    if holder is not None:
        notices.append(f"Another run was at work when this page was made: {text(str(holder), 300)}.")
    elif pipeline.has_journal():
        notices.append("A rollback was interrupted in mid-swap. Before the service is started: inv release.recover")
    newest = next((f for f in reversed(files) if f.manifest is not None and f.manifest.status == "ready"), None)
    if newest is not None and newest.release_id != this.release_id and _is_newer(newest, this):
        notices.append(f"A newer release is ready: {newest.release_id}.")
    unreadable = [file.release_id for file in files if file.manifest is None and file.release_id != this.release_id]
    if unreadable:
        notices.append(f"The manifests of other releases cannot be read: {text(', '.join(unreadable), 300)}.")
    return notices


def _is_newer(newest: ManifestFile, this: ManifestFile) -> bool:
    return this.manifest is None or (newest.manifest is not None and newest.manifest.sequence > this.manifest.sequence)


def _ready(manifest: Manifest, events: Sequence[dict[str, Any]]) -> str:
    passed = sum(check.status == "passed" for check in manifest.preflight.checks)
    gates = f"{passed} of {len(manifest.preflight.checks)} gates passed"
    told = f"{gates}, and the state before the release was captured."
    watches = [event for event in events if event.get("event") == "watch.finished"]
    return f"{told} The watch after the deploy found it {text(watches[-1].get('status'), 40)}." if watches else told


def _rolled_back(rollbacks: Sequence[Rollback]) -> str:
    last = next(r for r in reversed(rollbacks) if r.took_effect or r.status == "in_progress")
    if last.status == "in_progress":
        return f"A rollback by {last.actor} began, and no end of it is recorded: inv release.recover"
    if last.status == "restored":
        got_well = ", and the service got well on it" if isinstance(last.health, dict) else ""
        return f"It was taken back by {last.actor}: the state before it is live{got_well}."
    return f"It was taken back by {last.actor}, and the service did not get well on the state before it."


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
