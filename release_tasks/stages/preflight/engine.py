"""Stage 1: every gate runs, every result is kept, and one verdict comes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import frozen

from release_tasks.config.schema import GateConfig, Settings
from release_tasks.core.clock import compact
from release_tasks.core.errors import UsageError
from release_tasks.core.events import Emit, ignore, shielded
from release_tasks.core.ids import require_id
from release_tasks.core.options import did_you_mean
from release_tasks.core.records import Check, PreflightReport
from release_tasks.stages.preflight.gates.base import GateContext, context_of
from release_tasks.stages.preflight.schedule import run_gates

__all__ = ["PreflightRun", "run_preflight"]


@frozen(kw_only=True)
class PreflightRun:
    """One preflight: its report, and what it ran with; health endpoint and strictness as the settings had them."""

    release_id: str
    report: PreflightReport
    health_url: str | None
    only: tuple[str, ...]
    skip: tuple[str, ...]
    strict: bool
    log_directory: Path


def run_preflight(
    settings: Settings,
    *,
    release_id: str | None = None,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    emit: Emit = ignore,
) -> PreflightRun:
    """Run the configured gates side by side and return their results in configured order.

    ``report.passed`` is the verdict. ``only`` and ``skip`` name gates; those left out are reported as skipped and do
    not count. Logs go by ``release_id``. That a gate begins or ends is told in the calling thread, what happens in
    between in the gate's own. Raises UsageError; KeyboardInterrupt and Interrupted stop every gate within 2 s and are
    re-raised.
    """
    gates = settings.release.gates
    release_id = require_id(release_id or f"preflight-{compact()}", "release id")
    chosen = _chosen(gates, only, skip)
    emit = shielded(emit)
    log_directory = settings.release.root / "logs" / release_id
    contexts = {name: context_of(settings, name, log_directory, emit=emit) for name in gates}
    results = run_gates({name: contexts[name] for name in chosen}, emit)
    results |= {name: _left_out(contexts[name], name in skip) for name in gates if name not in chosen}
    checks = [results[name] for name in gates]
    # What was left out on purpose is no failure of preflight; prepare judges that for itself.
    failed = [check.id for check in checks if check.blocks and not check.is_left_out]
    return PreflightRun(
        release_id=release_id,
        report=PreflightReport(passed=not failed, checks=checks, failed_checks=failed),
        health_url=settings.release.health.url,
        only=tuple(only),
        skip=tuple(skip),
        strict=settings.release.health.strict,
        log_directory=log_directory,
    )


def _chosen(gates: Mapping[str, GateConfig], only: Sequence[str], skip: Sequence[str]) -> list[str]:
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
                raise UsageError(f"{flag}: no gate is called {name!r}{hint}; configured: {', '.join(gates)}")
    chosen = [name for name in gates if name not in skip and (not only or name in only)]
    if not chosen:
        raise UsageError("--only and --skip leave no gate to run: name fewer gates in --skip")
    return chosen


def _left_out(context: GateContext, is_skipped: bool) -> Check:
    return Check(
        id=context.name,
        subsystem=context.subsystem,
        status="skipped",
        detail=f"left out by {'--skip' if is_skipped else '--only'}",
        advisory=context.config.advisory,
        diagnostics={"leftOut": True},
    )
