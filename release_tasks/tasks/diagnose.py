"""The task ``release.diagnose``: every signal, its meaning, and the next command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from invoke import Context

from release_tasks.tasks.executor import stage
from release_tasks.tasks.flags import with_flags
from release_tasks.tasks.session import session

if TYPE_CHECKING:
    from release_tasks.report.screen import Screen
    from release_tasks.stages.diagnose.guide import Diagnosis
    from release_tasks.stages.diagnose.signals import Signals

__all__ = ["diagnose"]


@stage(
    help={
        "health_url": "Use this URL instead of release.health.url.",
        "reliability_url": "Use this URL instead of release.reliability.url.",
    }
)
def diagnose(
    ctx: Context, health_url: str | None = None, reliability_url: str | None = None, json: bool = False
) -> None:
    """Read every signal, report what to do and why; exit 1 when there is something to do."""
    with session(ctx, json) as current:
        from release_tasks.stages.diagnose.guide import diagnose_service
        from release_tasks.stages.diagnose.summary import summary

        settings = with_flags(current.settings, health_url=health_url, reliability_url=reliability_url)
        with current.progress() as emit:
            signals, diagnosis = diagnose_service(settings, emit)
        rows = summary(signals)
        current.answer(_document(signals, diagnosis, rows), lambda screen: _show(screen, diagnosis, rows))
        current.fail_unless(diagnosis.status == "healthy")


def _document(signals: Signals, diagnosis: Diagnosis, rows: list[tuple[str, str, str]]) -> dict[str, Any]:
    from release_tasks.core.codec import encode

    first = diagnosis.first
    return {
        "status": diagnosis.status,
        "verdict": first.key if first else None,
        "next": first.commands if first else [],
        "findings": [encode(finding) for finding in diagnosis.findings],
        "signals": {name: {"state": state, "detail": detail} for name, state, detail in rows},
        "reliability": encode(signals.reliability) if signals.reliability else None,
        "health": encode(signals.health) if signals.health else None,
        "healthRate": _rate(signals),
    }


def _rate(signals: Signals) -> dict[str, Any] | None:
    from release_tasks.core.codec import encode

    rate, baseline = signals.health_rate, signals.baseline
    return {**encode(rate), "baselineLatencyMs": baseline.latency_ms if baseline else None} if rate else None


def _show(screen: Screen, diagnosis: Diagnosis, rows: list[tuple[str, str, str]]) -> None:
    screen.table(("SIGNAL", "STATE", "DETAIL"), rows)
    screen.line()
    if not diagnosis.findings:
        screen.verdict("healthy", "Nothing to do.")
    for finding in diagnosis.findings:
        screen.verdict(finding.severity, finding.meaning)
        if not any(finding.detail in detail for _, _, detail in rows):
            screen.note(finding.detail)
        for command in finding.commands:
            screen.note(f"type: {command}")
