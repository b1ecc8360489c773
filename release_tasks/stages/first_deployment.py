"""The first deployment (``release.prepare --first``): before it, neither the service nor its state exist."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable

from release_tasks.archive.pipeline import Pipeline
from release_tasks.config.endpoint import Question
from release_tasks.config.schema import Settings
from release_tasks.core.errors import UsageError
from release_tasks.core.records import Check, Manifest, PreflightReport, SnapshotMetadata
from release_tasks.core.typed import typed
from release_tasks.service.http import fetch
from release_tasks.service.request import request_for, shown_endpoint
from release_tasks.service.response import ProbeError

__all__ = [
    "find_running_service",
    "missing_assets",
    "notes_on_first_release",
    "notes_on_rollback_to_first",
    "require_first",
    "require_no_release",
    "suggest_first",
]

_ANSWERED = ("redirect", "tls")  # errors of a request that something has answered
_FROM_PROXY = (404, 502, 503, 504)  # what a proxy answers for a service that it does not know or cannot reach


def require_first(settings: Settings, pipeline: Pipeline) -> None:
    """Raise UsageError when a release exists already, or when the service answers: then it is not the first."""
    require_no_release(pipeline)
    if answer := find_running_service(settings):
        raise UsageError(
            f"--first: {answer}, so this is not the first deployment. Type: {typed('release.prepare')} (if another "
            "service answers there, set release.health.url to the URL of this one)"
        )


def require_no_release(pipeline: Pipeline) -> None:
    """Raise UsageError when a release was prepared, unless it was the first one and is rolled back."""
    firsts = []
    for file in pipeline.read_manifests():
        if file.manifest is None:
            raise UsageError(
                f"--first: the manifest of {file.release_id} cannot be read ({file.reason}), so it is unknown whether "
                f"this is the first deployment. Type: {typed('release.verify')}"
            )
        if file.manifest.status == "ready":
            if not file.manifest.first_deployment:
                raise _not_first(file.release_id, file.manifest.generated_at)
            firsts.append(file.manifest)
    names = {manifest.release_id for manifest in firsts}
    for snapshot in pipeline.catalogue.published()[0]:
        if snapshot.kind == "release" and snapshot.release_id not in names:
            raise _not_first(snapshot.release_id or snapshot.snapshot_id, snapshot.created_at)
    if firsts and not _is_rolled_back(pipeline, firsts[-1]):
        last = firsts[-1]
        words = ["--snapshot", last.snapshot.snapshot_id] if last.snapshot is not None else []
        raise UsageError(
            f"--first: release {last.release_id} was prepared with it already, on {last.generated_at}, and its "
            "snapshot has the state before the first deployment. If that deploy failed, deploy again; or go back with "
            f"{typed('release.rollback', *words)}, and --first is allowed again."
        )


def _not_first(release_id: str, when: str) -> UsageError:
    return UsageError(
        f"--first: release {release_id} was prepared already, on {when}, so this is not the first deployment. "
        f"Type: {typed('release.prepare')}"
    )


def _is_rolled_back(pipeline: Pipeline, release: Manifest) -> bool:
    """Return whether the state before ``release`` was restored last, and nothing was prepared since."""
    state = pipeline.known_state()
    if state is None or state.restored_snapshot_id is None or pipeline.was_prepared_since(state.lineage):
        return False
    return any(
        snapshot.snapshot_id == state.restored_snapshot_id and snapshot.release_id == release.release_id
        for snapshot in pipeline.catalogue.published()[0]
    )


def find_running_service(settings: Settings) -> str:
    """Return the start of a sentence that names where the service answers; empty when it does not answer anywhere.

    Sends one request for each question about its health. An answer that a proxy gives for a service that it cannot
    reach is none.
    """
    return next(filter(None, map(functools.partial(_find_answer, settings), settings.release.questions)), "")


def _find_answer(settings: Settings, question: Question) -> str:
    shown = shown_endpoint(question.url, question.request)
    by = f" (gate {question.gate})" if question.gate is not None else ""
    timeout = settings.release.health.timeout
    try:
        answer = fetch(request_for(question.url, question.request, timeout, expect=question.expect))
    except ProbeError as error:
        return f"something answers at {shown}{by}" if error.kind in _ANSWERED else ""
    is_proxy = answer.status in _FROM_PROXY and "json" not in answer.content_type
    return "" if is_proxy else f"the service answers at {shown}{by} with HTTP {answer.status}"


def notes_on_first_release(report: PreflightReport, absent: Iterable[str]) -> list[str]:
    """Return what the record of a first deployment says: what was not asked, and what does not exist yet."""
    notes = []
    if unasked := [check.id for check in report.checks if check.is_excused]:
        notes.append(f"First deployment: not asked, because the service is not deployed yet: {', '.join(unasked)}.")
    if keys := list(absent):
        notes.append(
            f"First deployment: recorded as absent: {', '.join(keys)}. A rollback to this release removes what the "
            "deploy creates there; its safety snapshot contains it."
        )
    return notes


def suggest_first(settings: Settings, pipeline: Pipeline, report: PreflightReport) -> list[str]:
    """Return the way out for a release that is blocked because its service or its state does not exist yet."""
    asked = [check for check in report.checks if "httpStatus" in check.diagnostics]
    unanswered = [check for check in asked if _has_no_answer(check)]
    is_absent = bool(unanswered or missing_assets(settings)) and len(unanswered) == len(asked)
    if not is_absent or any(
        file.manifest is None or file.manifest.status == "ready" for file in pipeline.read_manifests()
    ):
        return []
    if any(snapshot.kind == "release" for snapshot in pipeline.catalogue.published()[0]):
        return []
    if not asked and find_running_service(settings):  # no gate ran, because state does not exist
        return []
    command = typed("release.prepare", "--first")
    return [f"If this is the first deployment, so that service or state do not exist yet: {command}"]


def _has_no_answer(check: Check) -> bool:
    return check.status == "failed" and check.diagnostics["httpStatus"] is None


def missing_assets(settings: Settings) -> list[str]:
    """Return the keys of the required assets that do not exist."""
    return [key for key, asset in settings.release.assets.items() if asset.required and not os.path.lexists(asset.path)]


def notes_on_rollback_to_first(
    settings: Settings, pipeline: Pipeline, target: SnapshotMetadata, *, is_plan: bool = False
) -> list[str]:
    """Return what a rollback to the state before the first deployment does; empty for every other snapshot."""
    if not pipeline.is_before_first(target):
        return []
    absent = ", ".join(record.key for record in target.assets if not record.exists) or "nothing"
    would = "would start nothing and would not ask" if is_plan else "started nothing and did not ask"
    notes = [
        f"{target.snapshot_id} is the state before the first deployment, in which these do not exist: {absent}. The "
        f"rollback {would} health, because there was no service."
    ]
    if answer := find_running_service(settings):
        notes.append(f"Warning: {answer}. End it, or it may write its state again.")
    return notes
