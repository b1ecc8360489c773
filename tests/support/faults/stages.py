"""The stages as the driver calls them: the public functions, on a scratch project."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from release_tasks.archive import capture
from release_tasks.archive.pipeline import Pipeline
from release_tasks.assets.sqlite import child, page_capture
from release_tasks.assets.sqlite import database as sqlite
from release_tasks.assets.sqlite.pages import capture as pages
from release_tasks.assets.sqlite.reader import ContentReader
from release_tasks.assets.sqlite.system_calls import one_thread
from release_tasks.config.schema import PairingConfig, Settings
from release_tasks.core.errors import StageError, describe_error
from release_tasks.core.events import Emit, ignore
from release_tasks.core.records import Check, PreflightReport, PreparedRelease
from release_tasks.pairing.channels import Channel
from release_tasks.pairing.policy import Pairing
from release_tasks.stages.diagnose.guide import diagnose_service
from release_tasks.stages.drill.engine import run_drill
from release_tasks.stages.preflight.engine import PreflightRun
from release_tasks.stages.prepare import prepare_release
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.stages.rollback.plan import plan_rollback
from release_tasks.stages.rollback.recovery import recover
from release_tasks.tasks.flags import with_flags
from release_tasks.tasks.project import load_settings
from tests.support.faults.replace import replace

__all__ = ["STAGES", "answer_here", "make_serial", "passed_preflight", "prepare"]

P = ParamSpec("P")
R = TypeVar("R")


def passed_preflight() -> PreflightReport:
    """Return the report of a preflight whose one gate passed."""
    moment = "2026-01-01T00:00:00.000Z"
    check = Check(
        id="always",
        subsystem="always",
        status="passed",
        detail="exit 0",
        started_at=moment,
        completed_at=moment,
        duration_ms=1,
    )
    return PreflightReport(passed=True, checks=[check], failed_checks=[])


def prepare(settings: Settings, report: PreflightReport, release_id: str, emit: Emit = ignore) -> PreparedRelease:
    """Prepare a release on the report of gates that ran before."""
    run = PreflightRun(
        release_id=release_id,
        report=report,
        health_url=settings.release.health.url,
        only=(),
        skip=(),
        strict=settings.release.health.strict,
        log_directory=settings.release.root / "logs" / release_id,
    )
    return prepare_release(settings, preflight=run, emit=emit)


def _rollback(raw: dict[str, Any], folder: Path, **flags: Any) -> str:
    return rollback(load_settings({"release": raw}, folder), RollbackRequest(**flags)).status


def _recover(raw: dict[str, Any], folder: Path) -> str:
    return recover(load_settings({"release": raw}, folder)).status


def _prepare(raw: dict[str, Any], folder: Path, release_id: str, retention: int = 2) -> str:
    settings = with_flags(load_settings({"release": raw}, folder), retention=retention)
    return prepare(settings, passed_preflight(), release_id).status


def _said(raw: dict[str, Any], folder: Path, of: str, **options: Any) -> dict[str, Any]:
    """Run a stage as a command does; return its status and what it said. An error that is no sentence is raised."""
    try:
        settings = load_settings({"release": raw}, folder)
        status, said = _SAYING[of](settings, **options)
    except (StageError, OSError) as error:
        status, said = "refused", [describe_error(error)]
    return {"status": status, "said": said}


def _say_prepare(settings: Settings, release_id: str) -> tuple[str, list[str]]:
    prepared = prepare(settings, passed_preflight(), release_id)
    return prepared.status, prepared.diagnostics


def _say_rollback(settings: Settings, **flags: Any) -> tuple[str, list[str]]:
    outcome = rollback(settings, RollbackRequest(**flags))
    return outcome.status, outcome.diagnostics


def _say_recover(settings: Settings) -> tuple[str, list[str]]:
    report = recover(settings)
    return report.status, [report.detail]


def _say_plan(settings: Settings, **options: Any) -> tuple[str, list[str]]:
    return "planned", [str(plan_rollback(settings, **options))]


def _say_diagnosis(settings: Settings) -> tuple[str, list[str]]:
    return "diagnosed", [str(diagnose_service(settings)[1])]


def _say_drill(settings: Settings, **options: Any) -> tuple[str, list[str]]:
    outcome = run_drill(settings, **options)
    return outcome.status, [str(outcome)]


def _say_careless(settings: Settings, path: str) -> tuple[str, list[str]]:
    """Do what no stage may do as root: look at a path of another user, and use it later."""
    file = settings.project / path
    if not file.is_symlink():
        file.write_text("{}")
        os.chown(file, file.parent.stat().st_uid, -1)
    return "restored", []


# The stages that say what they found.
_SAYING: dict[str, Callable[..., tuple[str, list[str]]]] = {
    "prepare": _say_prepare,
    "rollback": _say_rollback,
    "recover": _say_recover,
    "plan": _say_plan,
    "diagnose": _say_diagnosis,
    "drill": _say_drill,
    "careless": _say_careless,
}


def _append(raw: dict[str, Any], folder: Path) -> int:
    settings = load_settings({"release": raw}, folder)
    return Pipeline(settings.release.root).audit.append("test", status="ok", detail="one more").seq


def _pairing(_: dict[str, Any], folder: Path, change: str, argument: str) -> None:
    getattr(Pairing(PairingConfig(credentials=folder)), change)(Channel.TELEGRAM, argument)


STAGES: dict[str, Callable[..., Any]] = {
    "rollback": _rollback,
    "recover": _recover,
    "prepare": _prepare,
    "append": _append,
    "pairing": _pairing,
    "said": _said,
}


class _InlineExecutor:
    """An executor that runs each function when it is submitted, so that the order of system calls is fixed."""

    def __init__(self, _: int) -> None:
        pass

    def __enter__(self) -> _InlineExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, work: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> Future[R]:
        done: Future[R] = Future()
        try:
            done.set_result(work(*arguments, **named))
        except BaseException as error:
            done.set_exception(error)
        return done


def make_serial() -> None:
    """Run captures and checks in the calling thread: strace counts the calls of each thread and process separately."""
    replace(capture, "thread_pool", _InlineExecutor)
    for module in (sqlite, page_capture, pages):
        replace(module, "thread_pool", _InlineExecutor)
    replace(ContentReader, "_answer", answer_here)


def answer_here(_: ContentReader, request: dict[str, Any], shown: Path, seconds: int) -> bytes:
    """Read a database in this process: its start-up would be most of the time of a run under strace."""
    options = {name: value for name, value in request.items() if name not in ("action", "cpu", "memory")}
    with one_thread():
        return json.dumps(child.answer(request["action"], options)).encode() + b"\n"
