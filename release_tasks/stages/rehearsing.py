"""Stage 3 without its consequences: the rollback, rehearsed in a scratch copy."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from release_tasks.config.gateway import child_environment
from release_tasks.config.schema import Settings
from release_tasks.core.environment import tool_environment
from release_tasks.core.errors import UsageError
from release_tasks.core.events import Emit, ignore
from release_tasks.stages.drill.boot import Service
from release_tasks.stages.drill.engine import DrillRequest, drill
from release_tasks.stages.drill.outcome import DrillOutcome

__all__ = ["drill_request", "run_drill"]

_GATEWAY = "the embedded gateway"


def run_drill(
    settings: Settings,
    snapshot_id: str | None = None,
    *,
    boot: bool = False,
    scratch: Path | None = None,
    emit: Emit = ignore,
) -> DrillOutcome:
    """Rehearse a rollback, to the newest release snapshot unless one is named, with nothing live touched.

    With ``boot`` the service is started on what was restored, as ``release.drill`` says. The scratch folder is made in
    ``scratch`` instead of the pipeline folder. ``status`` of the outcome is ``passed`` or ``failed``. Raises UsageError
    for a snapshot that does not exist, a folder that is part of the state, and a service that cannot be started.
    """
    return drill(settings, drill_request(settings, snapshot_id, boot=boot, scratch=scratch), emit)


def drill_request(
    settings: Settings, snapshot_id: str | None = None, *, boot: bool = False, scratch: Path | None = None
) -> DrillRequest:
    """Return what is to be rehearsed; raises UsageError where nothing says how the service is started."""
    return DrillRequest(snapshot_id=snapshot_id, scratch=scratch, service=_service(settings) if boot else None)


def _service(settings: Settings) -> Service:
    """Return what ``--boot`` starts: the configured command, else the embedded gateway if its database is an asset."""
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
    if not any(asset.path == settings.gateway.database for asset in settings.release.assets.values()):
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
