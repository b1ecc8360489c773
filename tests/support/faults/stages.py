"""The stages as the driver calls them: the public functions, on a scratch project."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from release_tasks.archive import capture
from release_tasks.archive.pipeline import Pipeline
from release_tasks.assets.sqlite import database as sqlite
from release_tasks.config.schema import PairingConfig, Settings
from release_tasks.core.events import Emit, ignore
from release_tasks.core.records import Check, PreflightReport, PreparedRelease
from release_tasks.pairing.channels import Channel
from release_tasks.pairing.policy import Pairing
from release_tasks.stages.preflight.engine import PreflightRun
from release_tasks.stages.prepare import prepare_release
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.stages.rollback.recovery import recover
from release_tasks.tasks.flags import with_flags
from release_tasks.tasks.project import load_settings
from tests.support.faults.replace import replace

__all__ = ["STAGES", "make_serial", "passed_preflight", "prepare"]

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
    """Run captures in the calling thread, because strace counts the calls of each thread separately."""
    replace(capture, "thread_pool", _InlineExecutor)
    replace(sqlite, "thread_pool", _InlineExecutor)
