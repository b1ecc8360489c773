"""Run the gates of a preflight and combine their results into one verdict."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import frozen

from release_tasks.archive.pipeline import Pipeline
from release_tasks.config.schema import GateConfig, Settings
from release_tasks.core.clock import awake, compact, milliseconds_since, timestamp
from release_tasks.core.durable import keep_out_of_git, make_new_directory
from release_tasks.core.errors import UsageError
from release_tasks.core.events import Emit, GateEnded, Noted, ignore, shielded
from release_tasks.core.ids import require_id
from release_tasks.core.options import did_you_mean
from release_tasks.core.records import Check, PreflightReport
from release_tasks.core.typed import typed
from release_tasks.stages.preflight.gates.base import GateContext, context_of
from release_tasks.stages.preflight.missing import CONFIGURATION, Missing, find_missing
from release_tasks.stages.preflight.schedule import run_gates

__all__ = ["PreflightRun", "run_preflight"]


@frozen(kw_only=True)
class PreflightRun:
    """One preflight: its report, and the flags and settings that it ran with."""

    release_id: str
    report: PreflightReport
    health_url: str | None
    only: tuple[str, ...]
    skip: tuple[str, ...]
    strict: bool
    log_directory: Path
    first: bool = False


def run_preflight(
    settings: Settings,
    *,
    release_id: str | None = None,
    log_directory: Path | None = None,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    first: bool = False,
    emit: Emit = ignore,
) -> PreflightRun:
    """Run the configured gates in parallel and return their results in configured order.

    ``report.passed`` is the verdict. When state or a program that the configuration names does not exist, no gate
    runs, and the check ``configuration`` comes first and says what is missing. ``only`` and ``skip`` are names of
    gates; excluded gates are reported as skipped and do not count. For the ``first`` deployment, gates that ask the
    service are skipped. The logs are in ``log_directory``, by default in a new folder that is named after
    ``release_id``. The start and the result of a gate are emitted in the calling thread, its progress in the gate's
    thread. Raises UsageError. KeyboardInterrupt and Interrupted stop every gate within 5 s and are re-raised.
    """
    gates = settings.release.gates
    release_id = require_id(release_id or f"preflight-{compact()}", "release id")
    selected = _selected(gates, only, skip)
    emit, pipeline = shielded(emit), Pipeline(settings.release.root)
    if log_directory is None:
        log_directory = pipeline.logs / release_id
        with contextlib.suppress(OSError):  # each gate reports that it has no log
            log_directory = make_new_directory(log_directory.parent, release_id)
            keep_out_of_git(pipeline.root)
    contexts = {name: context_of(settings, name, log_directory, emit=emit) for name in gates}
    started = awake.now()
    excused = {name for name in selected if first and contexts[name].kind.asks_service}
    selected = [name for name in selected if name not in excused]
    # A preflight that leaves gates out prepares no release: it may run where there is no state, as for a pull request.
    may_lack_assets = first or bool(skip)
    missing = [] if only else find_missing(settings, selected, may_lack_assets=may_lack_assets)
    configuration = _check_configuration(settings, [each for each in missing if not each.may_be_built], emit)
    if configuration is None:
        results = run_gates({name: contexts[name] for name in selected}, emit)
        if any(each.may_be_built for each in missing):
            configuration = _check_configuration(
                settings, find_missing(settings, selected, may_lack_assets=may_lack_assets), emit
            )
    else:
        results = {name: _not_run(contexts[name], configuration) for name in selected}
    results |= {
        name: _excused(contexts[name]) if name in excused else _excluded(contexts[name], name in skip)
        for name in gates
        if name not in selected
    }
    checks = [configuration] if configuration is not None else []
    checks += [results[name] for name in gates]
    # An excluded gate does not fail the preflight; prepare has its own rule for it.
    failed = [check.id for check in checks if check.blocks and not check.is_left_out]
    return PreflightRun(
        release_id=release_id,
        report=PreflightReport(
            passed=not failed, checks=checks, failed_checks=failed, duration_ms=milliseconds_since(started)
        ),
        health_url=settings.release.health.url,
        only=tuple(only),
        skip=tuple(skip),
        strict=settings.release.health.strict,
        log_directory=log_directory,
        first=first,
    )


def _selected(gates: Mapping[str, GateConfig], only: Sequence[str], skip: Sequence[str]) -> list[str]:
    """Return the gates to run; raises UsageError when a name is unknown or no gate remains."""
    if not gates:
        raise UsageError(
            "no gates are configured: add at least one under release.gates in invoke.yaml, "
            "such as build: {command: npm run build}"
        )
    for flag, names in (("--only", only), ("--skip", skip)):
        for name in names:
            if name not in gates:
                hint = did_you_mean(name, gates)
                raise UsageError(f"{flag}: unknown gate {name!r}{hint}; configured: {', '.join(gates)}")
    selected = [name for name in gates if name not in skip and (not only or name in only)]
    if not selected:
        raise UsageError("--only and --skip exclude every gate: remove a gate from --skip")
    return selected


def _check_configuration(settings: Settings, missing: Sequence[Missing], emit: Emit) -> Check | None:
    """Return the failed check of what the release needs and does not exist, None without such; note the rest."""
    for each in missing:
        if not each.needs:
            emit(Noted(f"{each}. The gates run all the same."))
    needed = [each for each in missing if each.needs]
    if not needed:
        return None
    now = timestamp()
    check = Check(
        id=CONFIGURATION if CONFIGURATION not in settings.release.gates else f"release-{CONFIGURATION}",
        subsystem=CONFIGURATION,
        status="failed",
        detail="; ".join(map(str, needed)),
        started_at=now,
        completed_at=now,
        diagnostics={"missing": [each.key for each in needed], "next": typed("release.preflight")},
    )
    emit(GateEnded(check))
    return check


def _not_run(context: GateContext, configuration: Check) -> Check:
    return Check(
        id=context.name,
        subsystem=context.subsystem,
        status="skipped",
        detail=f"not run: {configuration.id} failed",
        advisory=context.config.advisory,
        diagnostics={"next": configuration.diagnostics["next"]},
    )


def _excluded(context: GateContext, is_skipped: bool) -> Check:
    return Check(
        id=context.name,
        subsystem=context.subsystem,
        status="skipped",
        detail=f"excluded by {'--skip' if is_skipped else '--only'}",
        advisory=context.config.advisory,
        diagnostics={"leftOut": True},
    )


def _excused(context: GateContext) -> Check:
    return Check(
        id=context.name,
        subsystem=context.subsystem,
        status="skipped",
        detail="not asked: the service is not deployed yet (--first)",
        advisory=context.config.advisory,
        diagnostics={"leftOut": True, "firstDeployment": True},
    )
