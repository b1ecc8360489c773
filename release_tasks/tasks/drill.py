"""The task ``release.drill``: the rollback, rehearsed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from invoke import Context

from release_tasks.errors import UsageError
from release_tasks.executor import stage
from release_tasks.tasks.session import Session, session, text_flag

if TYPE_CHECKING:
    from release_tasks.config.schema import Settings
    from release_tasks.drill.boot import Service
    from release_tasks.drill.engine import DrillRequest

__all__ = ["drill"]

_GATEWAY = "the embedded gateway"


@stage(
    help={
        "snapshot": "The snapshot to rehearse; the newest release snapshot when left out.",
        "boot": "Also start the service on what was restored, on a free port, and ask its health.",
        "scratch": "Make the scratch folder in this one instead of the pipeline folder's drills/.",
        "json": "Print exactly one JSON document on stdout.",
    }
)
def drill(
    ctx: Context, snapshot: str | None = None, boot: bool = False, scratch: str | None = None, json: bool = False
) -> None:
    """Rehearse a rollback in a scratch copy, nothing live touched; exit 1 when the snapshot is not restorable."""
    with session(ctx, json) as current:
        from release_tasks.drill.engine import DrillRequest
        from release_tasks.drill.engine import drill as rehearse
        from release_tasks.report.drill import show_drill
        from release_tasks.storage.codec import encode

        folder = text_flag("scratch", scratch)
        request = DrillRequest(
            snapshot_id=text_flag("snapshot", snapshot),
            scratch=_folder(folder) if folder else None,
            service=_service(current.settings) if boot else None,
        )
        if current.is_dry:
            _show_dry(current, request)
            return
        with current.progress() as emit:
            outcome = rehearse(current.settings, request, emit)
        document = encode(outcome)
        current.document(document)
        if not current.as_json:
            show_drill(current.screen, document)
        current.fail_unless(outcome.status == "passed")


def _folder(typed: str) -> Path:
    try:
        return Path(typed).expanduser().absolute()
    except RuntimeError as error:  # ~ of somebody who is not known
        raise UsageError(f"--scratch: {typed!r} is no folder: {error}") from None


def _service(settings: Settings) -> Service:
    """Return what ``--boot`` starts: the configured command, else the embedded gateway if its database is an asset."""
    from release_tasks.drill.boot import Service
    from release_tasks.environment import tool_environment
    from release_tasks.gateway.home import GatewayHome
    from release_tasks.gateway.secrets import child_environment

    config = settings.release.drill
    if config.command is not None:
        line = ["/bin/sh", "-c", config.command]
        return Service(
            shown=config.command,
            arguments=lambda _, port: line,
            health=config.health,
            timeout=config.timeout,
            environment=tool_environment(),
        )
    database = GatewayHome(settings.gateway.root).database
    if not any(asset.kind == "sqlite" and asset.path == database for asset in settings.release.assets.values()):
        raise UsageError(
            "--boot: nothing says how to start the service on restored state. Set release.drill.command (and "
            "release.drill.health), or leave --boot out."
        )
    if any(importlib.util.find_spec(name) is None for name in ("starlette", "uvicorn")):
        raise UsageError("--boot: the embedded gateway needs the extra: pip install 'release-tasks[gateway]'")
    return Service(
        shown=_GATEWAY,
        arguments=_gateway_line,
        health="http://127.0.0.1:{port}/health",
        timeout=config.timeout,
        environment=child_environment(),
    )


def _gateway_line(scratch: Settings, port: int) -> list[str]:
    line = [sys.executable, "-m", "release_tasks.gateway", "--root", str(scratch.gateway.root), "--port", str(port)]
    # Messages that waited in the snapshot went out long ago, or will from the live queue.
    return [*line, "--credentials", str(scratch.pairing.credentials), "--rehearsal"]


def _show_dry(current: Session, request: DrillRequest) -> None:
    from release_tasks.drill.engine import find_snapshot
    from release_tasks.drill.scratch import require_safe_parent
    from release_tasks.pipeline import Pipeline

    parent = require_safe_parent(current.settings, request.scratch)
    found = find_snapshot(Pipeline(current.settings.release.root).catalogue, request.snapshot_id)
    size = sum(asset.size for asset in found.assets)
    started = request.service.shown if request.service else None
    current.document(
        {"status": "dry", "snapshotId": found.snapshot_id, "size": size, "scratch": str(parent), "boot": started}
    )
    if not current.as_json:
        current.screen.line(f"Would restore {found.snapshot_id} ({size} bytes) into a new folder below {parent},")
        current.screen.line(f"compare it{f', start {started} on it' if started else ''} and remove the folder again.")
