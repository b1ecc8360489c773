"""The collection ``gate``: one gate alone, to check a fix."""

from __future__ import annotations

from invoke import Context

from release_tasks.core.errors import UsageError
from release_tasks.tasks.executor import StageTask, stage
from release_tasks.tasks.flags import with_flags
from release_tasks.tasks.listing import Configured, FilteredCollection
from release_tasks.tasks.release import answer_preflight, run_gates
from release_tasks.tasks.session import session

__all__ = ["collection"]

_INTERFACES = ("gui", "dispatcher", "mcp-config")


def _gate_task(name: str, summary: str) -> StageTask:
    def body(ctx: Context, json: bool = False) -> None:
        _run(ctx, [name], json)

    body.__doc__ = summary
    body.__name__ = name.replace("-", "_")
    return stage(name=name)(body)


@stage(
    name="api-health",
    help={
        "health_url": "Use this URL instead of release.health.url.",
        "strict": "Fail for a degraded service.",
    },
)
def api_health(ctx: Context, health_url: str | None = None, strict: bool = False, json: bool = False) -> None:
    """Run the gate api-health alone."""
    _run(ctx, ["api-health"], json, health_url, strict)


@stage()
def interfaces(ctx: Context, json: bool = False) -> None:
    """Run the interface readiness gates alone: gui, dispatcher, mcp-config."""
    _run(ctx, list(_INTERFACES), json)


@stage(help={"name": "The name of the gate in release.gates."})
def run(ctx: Context, name: str, json: bool = False) -> None:
    """Run one gate alone, by its name."""
    _run(ctx, [name], json)


def _run(ctx: Context, names: list[str], as_json: bool, health_url: str | None = None, strict: bool = False) -> None:
    with session(ctx, as_json) as current:
        from attrs import evolve

        from release_tasks.core.clock import compact

        if current.is_dry:
            current.answer({"status": "dry", "gates": names})
            current.screen.line(f"Would run the gates: {', '.join(names)}")
            return
        current.settings = with_flags(current.settings, health_url=health_url, strict=strict or None)
        for name in names:
            if name not in current.settings.release.gates:
                known = ", ".join(current.settings.release.gates) or "none"
                raise UsageError(f"unknown gate {name!r}; release.gates has: {known}")
        run = run_gates(current, f"gate-{compact()}", names)
        ran = [check for check in run.report.checks if not check.is_left_out]
        answer_preflight(current, evolve(run, report=evolve(run.report, checks=ran)))


def _is_listed(name: str, configured: Configured) -> bool:
    needed = {"run": (), "interfaces": _INTERFACES}.get(name, (name,))
    return set(needed) <= configured.gates


collection = FilteredCollection("gate", _is_listed)
for _task in (
    _gate_task("build", "Run the gate build alone."),
    _gate_task("tests", "Run the gate tests alone."),
    api_health,
    interfaces,
    run,
):
    collection.add_task(_task)
