"""Each wait of the package, in a process that a test suspends: it ends well only if the time suspended does not count.

Run as ``python -m tests.support.long_waits NAME FOLDER URL``: prints ``ready``, reads a line, prints ``waiting``,
waits, and prints the result. What it waits for happens half a second after the file FOLDER/resumed exists; every wait
has LIMIT seconds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from release_tasks.assets.plugin_host.calls import KindCall, KindFailed, check_copy
from release_tasks.config.schema import Settings
from release_tasks.core.errors import LockHeld
from release_tasks.core.lock import run_lock
from release_tasks.gateway.errors import GatewayError
from release_tasks.gateway.paths import GatewayPaths
from release_tasks.gateway.process import start, stop
from release_tasks.service.http import fetch
from release_tasks.service.request import Request
from release_tasks.service.response import ProbeError
from release_tasks.service.wait import poll_health
from release_tasks.stages.notifications.notification import new_notification
from release_tasks.stages.notifications.sending import Notifications
from release_tasks.stages.preflight.engine import run_preflight
from release_tasks.stages.rollback.restart import start_detached
from release_tasks.stages.watch.watching import watch_release
from release_tasks.tasks.project import load_settings

__all__ = ["LIMIT", "WAITS"]

LIMIT = 6.0


def until_resumed(then: str = "true") -> str:
    """Return a shell command that ends half a second after the process is resumed."""
    return f"while [ ! -e resumed ]; do sleep 0.05; done; sleep 0.5; {then}"


def settings_of(folder: Path, **release: object) -> Settings:
    """Return a configuration in which nothing but ``release`` matters."""
    base = {"root": "pipeline", "app": {"name": "demo", "version": "1"}, "assets": {"state": {"file": "state.txt"}}}
    (folder / "state.txt").write_text("one")
    return load_settings({"release": {**base, **release}}, folder)


def health_config(url: str) -> dict[str, object]:
    return {"url": url, "timeout": "1s", "deadline": f"{LIMIT}s", "interval": "50ms", "passes": 1}


def wait_for_health(folder: Path, url: str) -> str:
    settings = settings_of(folder, health=health_config(url), gates={"build": {"command": "true"}})
    return poll_health(settings.release.health, passes=1).detail


def wait_for_an_answer(folder: Path, url: str) -> str:
    try:
        return f"status {fetch(Request(url=url.replace('/health', '/slow'), timeout=LIMIT)).text}"
    except ProbeError as error:
        return error.message


def wait_for_the_lock(folder: Path, url: str) -> str:
    try:
        with run_lock(folder / "pipeline", "waiting", LIMIT):
            return "status ok"
    except LockHeld as error:
        return error.message


def wait_for_gates(folder: Path, url: str) -> str:
    gates = {
        "build": {"command": until_resumed(), "timeout": f"{LIMIT}s"},
        "health": {"http": "health", "timeout": f"{LIMIT}s"},
        "page": {"http": url.replace("/health", "/slow"), "timeout": f"{LIMIT}s"},
    }
    health = health_config(url.replace("/health", "/starting"))
    report = run_preflight(settings_of(folder, health=health, gates=gates)).report
    return "status ok" if report.passed else "; ".join(check.detail for check in report.checks)


def wait_for_a_plugin(folder: Path, url: str) -> str:
    try:
        problems = check_copy(KindCall(plugin="custom", key="state", options={}, timeout=LIMIT), folder / "state.txt")
        return "status ok" if not problems else problems[0]
    except KindFailed as error:
        return error.message


def wait_for_the_restart_command(folder: Path, url: str) -> str:
    log = folder / "restart.log"
    restart = start_detached(until_resumed("exit 3"), project=folder, log=log, settle=LIMIT)
    return "status ok" if restart.exit_code == 3 else f"exit code {restart.exit_code}"


def wait_for_a_notification(folder: Path, url: str) -> str:
    notices = {"chat": {"command": until_resumed(), "when": ["prepared"], "timeout": f"{LIMIT}s", "retries": 0}}
    settings = settings_of(folder, notices=notices, gates={"build": {"command": "true"}})
    with Notifications(settings) as notifications:
        notifications.announce(
            lambda: new_notification(settings, "prepared", stage="test", status="ready", text="prepared", detail="")
        )
        (delivery,) = notifications.finish()
    return "status ok" if delivery.status == "sent" else delivery.detail


def wait_for_the_gateway(folder: Path, url: str) -> str:
    paths = GatewayPaths(folder / "gateway")
    gate = ["/bin/sh", "-c", f"cd {folder}; {until_resumed()}"]
    try:
        return f"status {start(paths, port=0, start_gate=gate, timeout=LIMIT).health}"
    except GatewayError as error:
        return error.message
    finally:
        stop(paths)


def watch(folder: Path, url: str) -> str:
    rules = {"for": f"{LIMIT}s", "interval": "400ms", "min_samples": 8, "error_rate": 0.0}
    health = {**health_config(url.replace("/health", "/fine")), "timeout": f"{LIMIT}s"}
    report = watch_release(settings_of(folder, health=health, watch=rules, gates={"build": {"command": "true"}}))
    return "status ok" if report.status == "healthy" else "; ".join(report.reasons)


WAITS: dict[str, Callable[[Path, str], str]] = {
    "health": wait_for_health,
    "request": wait_for_an_answer,
    "lock": wait_for_the_lock,
    "gates": wait_for_gates,
    "plugin": wait_for_a_plugin,
    "restart": wait_for_the_restart_command,
    "notification": wait_for_a_notification,
    "gateway": wait_for_the_gateway,
    "watch": watch,
}

if __name__ == "__main__":
    import requests  # noqa: F401  # slow to import, and no part of a wait

    wait = WAITS[sys.argv[1]]
    print("ready", flush=True)
    sys.stdin.readline()
    print("waiting", flush=True)
    print(wait(Path(sys.argv[2]), sys.argv[3]), flush=True)
