"""A real gateway in a scratch folder, and a function that waits for a condition."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from psutil import Process

from release_tasks.core.process.find import is_running
from release_tasks.gateway import process
from release_tasks.gateway.paths import GatewayPaths
from tests.support.gateway import RunningGateway

SECRETS = (
    "API_SECRET",
    "TELEGRAM_WEBHOOK_SECRET",
    "TELEGRAM_BOT_TOKEN",
    "WHATSAPP_APP_SECRET",
    "WHATSAPP_VERIFY_TOKEN",
    "WHATSAPP_ACCESS_TOKEN",
)


@pytest.fixture(autouse=True)
def no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the developer's own secrets: they change what the gateway serves."""
    for name in SECRETS:
        monkeypatch.delenv(name, raising=False)


def _start(root: Path, **options: Any) -> RunningGateway:
    home = GatewayPaths(root)
    status = process.start(home, port=0, **options)
    assert status.url is not None and status.pid is not None
    return RunningGateway(home, status.url, status.pid, Process(status.pid))


@pytest.fixture
def start_gateway(tmp_path: Path) -> Iterator[Callable[..., RunningGateway]]:
    """Return a function that starts a gateway below ``tmp_path``; the fixture stops all of them."""
    started: list[RunningGateway] = []

    def start(root: Path | None = None, **options: Any) -> RunningGateway:
        root = root or tmp_path / "gateway"
        started.append(_start(root, **options))
        return started[-1]

    yield start
    for running in started:
        process.stop(running.home)
        # The test may have removed the pid file: no failing test may leave a process running.
        with contextlib.suppress(ProcessLookupError):
            if is_running(running.process):
                os.kill(running.pid, signal.SIGKILL)


@pytest.fixture
def gateway(start_gateway: Callable[..., RunningGateway]) -> RunningGateway:
    """Return a gateway for one test, which may damage it."""
    return start_gateway()


@pytest.fixture(scope="module")
def start_shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., RunningGateway]]:
    """Return a function that starts a gateway for a whole module, with ``variables`` in its environment."""
    assert "API_SECRET" not in os.environ
    started: list[RunningGateway] = []

    def start(variables: dict[str, str] | None = None, **options: Any) -> RunningGateway:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (variables or {}).items():
                patch.setenv(name, value)
            started.append(_start(tmp_path_factory.mktemp("shared") / "gateway", **options))
        return started[-1]

    yield start
    for running in started:
        process.stop(running.home)


@pytest.fixture(scope="module")
def shared(start_shared: Callable[..., RunningGateway]) -> RunningGateway:
    """Return a gateway for the tests of a module that change nothing."""
    return start_shared()
