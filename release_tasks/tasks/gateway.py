"""The collection ``gateway``: the embedded reference gateway, as a background process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from invoke import Context

from release_tasks.core.errors import StageFailed, UsageError
from release_tasks.core.process.python import module_line
from release_tasks.core.typed import typed
from release_tasks.tasks.executor import stage
from release_tasks.tasks.flags import number_flag
from release_tasks.tasks.listing import FilteredCollection
from release_tasks.tasks.session import Session, session

if TYPE_CHECKING:
    from release_tasks.gateway.process import GatewayStatus

__all__ = ["collection"]

_HELP = {
    "port": "Listen on this port instead of gateway.port; 0 takes any free port.",
    "root": "The folder of the gateway instead of gateway.root.",
}
_ROOT_HELP = {"root": _HELP["root"]}


@stage(help=_HELP)
def start(ctx: Context, port: str | None = None, root: str | None = None, json: bool = False) -> None:
    """Start the embedded gateway in the background, unless it is already running."""
    with session(ctx, json) as current:
        number = None if port is None else number_flag("port", port, 0)
        if _answer_if_dry(current, f"start the gateway in {_root(current, root)}"):
            return
        _show(current, _start(current, number, root))


@stage(help=_ROOT_HELP)
def stop(ctx: Context, root: str | None = None, json: bool = False) -> None:
    """Stop the embedded gateway and all processes that it started."""
    with session(ctx, json) as current:
        if _answer_if_dry(current, f"stop the gateway in {_root(current, root)}"):
            return
        _show(current, _stop(current, root))


@stage(help=_HELP)
def restart(ctx: Context, port: str | None = None, root: str | None = None, json: bool = False) -> None:
    """Stop the embedded gateway and start it again, on the same port unless another is given."""
    with session(ctx, json) as current:
        number = None if port is None else number_flag("port", port, 0)
        if _answer_if_dry(current, f"restart the gateway in {_root(current, root)}"):
            return
        before = _status(current, root)
        _stop(current, root)
        _show(current, _start(current, before.port if number is None else number, root))


@stage(help=_ROOT_HELP)
def status(ctx: Context, root: str | None = None, json: bool = False) -> None:
    """Show whether the embedded gateway runs, with its URL and health; exit 1 when it does not run."""
    with session(ctx, json) as current:
        found = _status(current, root)
        _show(current, found)
        current.fail_unless(found.running)


@stage(
    name="break",
    help={
        "what": "mcp, queue, identity, database, slow or flapping.",
        **_ROOT_HELP,
    },
)
def break_(ctx: Context, what: str, root: str | None = None, json: bool = False) -> None:
    """Break the embedded gateway on purpose, like a bad release; a rollback repairs it."""
    with session(ctx, json) as current:
        from release_tasks.gateway.breaking import FAULTS, break_gateway
        from release_tasks.gateway.paths import GatewayPaths

        if what not in FAULTS:
            raise UsageError(f"{what!r} is not a fault: use one of {', '.join(FAULTS)}.")
        if _answer_if_dry(current, f"break {what} of the gateway in {_root(current, root)}"):
            return
        with _gateway_errors():
            fault = break_gateway(GatewayPaths(_root(current, root)), what)
        current.answer(
            {"status": "broken", "what": what, "seen": fault.symptom},
            lambda screen: screen.verdict("broken", f"{what}: {fault.symptom}"),
        )


@contextlib.contextmanager
def _gateway_errors() -> Iterator[None]:
    from release_tasks.gateway.errors import GatewayError

    try:
        yield
    except GatewayError as error:
        raise StageFailed(error.message, error.output) from None


def _start(current: Session, port: int | None, root: str | None) -> GatewayStatus:
    from release_tasks.gateway.paths import GatewayPaths
    from release_tasks.gateway.process import start as start_gateway
    from release_tasks.pairing.store import Store

    settings, paths = current.settings, GatewayPaths(_root(current, root))
    Store(settings.pairing.credentials).require_own()
    with _gateway_errors():
        return start_gateway(
            paths,
            host=settings.gateway.host,
            port=settings.gateway.port if port is None else port,
            release_root=settings.release.root,
            pairing=settings.pairing,
            start_gate=_start_gate(current) if settings.release.assets else None,
            allow_remote=settings.gateway.allow_remote,
            project=settings.project,
        )


def _start_gate(current: Session) -> list[str]:
    """Return the command that runs before the gateway opens any file, like systemd's ExecStartPre.

    It recovers an interrupted rollback with the configuration of this command line.
    """
    from release_tasks.tasks.project import runtime_file

    recover = module_line("release_tasks.tasks.program")
    runtime = runtime_file(current.ctx)
    if runtime is not None:
        recover += ["-f", str(runtime)]
    return ["/bin/sh", "-c", 'cd "$0" && exec "$@"', str(current.settings.project), *recover, "release.recover"]


def _stop(current: Session, root: str | None) -> GatewayStatus:
    from release_tasks.gateway.paths import GatewayPaths
    from release_tasks.gateway.process import stop as stop_gateway

    with _gateway_errors():
        return stop_gateway(GatewayPaths(_root(current, root)))


def _status(current: Session, root: str | None) -> GatewayStatus:
    from release_tasks.gateway.paths import GatewayPaths
    from release_tasks.gateway.process import status as gateway_status

    return gateway_status(GatewayPaths(_root(current, root)))


def _root(current: Session, given: str | None) -> Path:
    return Path(given).absolute() if given else current.settings.gateway.root


def _answer_if_dry(current: Session, what: str) -> bool:
    if current.is_dry:
        current.answer({"status": "dry", "would": what}, lambda screen: screen.line(f"Would {what}."))
    return current.is_dry


def _show(current: Session, found: GatewayStatus) -> None:
    word = "running" if found.running else "stopped"
    current.answer(found, status=word, url=found.url)
    if not current.as_json:
        health = "" if found.health == "ok" else f", health {found.health}"
        where = f"{found.url} (pid {found.pid}{health})  " if found.running else ""
        current.screen.verdict(word, f"{where}{found.detail}")
        if not found.running:
            current.screen.note(f"Start it: {typed('gateway.start')}")


collection = FilteredCollection("gateway", lambda _, configured: "gateway" in configured.sections)
for _task in (start, stop, restart, status, break_):
    collection.add_task(_task)
