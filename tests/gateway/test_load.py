"""Approved senders while 2,000 slow clients are connected."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.gateway import RunningGateway
from tests.support.gateway_load import SECRETS, Load, approve_senders, quantile
from tests.support.processes import await_true

CLIENTS = 2000


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_NOFILE)[1] < CLIENTS + 200,
    reason=f"NOT TESTED: needs {CLIENTS + 200} open files",
)
def test_slow_clients_do_not_delay_approved_senders(
    start_shared: Callable[..., RunningGateway], tmp_path: Path
) -> None:
    """The p99 of their messages stays under a second, health answers, and memory and files do not grow.

    The whole minute is in tests/bench/bench_gateway.py.
    """
    gateway = start_shared(SECRETS, pairing=approve_senders(tmp_path / "credentials"))
    load = Load(int(gateway.url.rpartition(":")[2]), gateway.pid)
    is_undisturbed = load.get_precedence()
    try:
        load.send(1.0)  # every thread and buffer that the gateway needs exists afterwards
        files = load.open_files()
        with load.slow_clients(CLIENTS) as seen:
            load.wait_for_connections(CLIENTS * 3 // 4)
            memory = load.memory()
            measured = load.send(6.0)
            grown = load.memory() - memory
        await_true(lambda: load.open_files() <= files + 5, seconds=30)
    finally:
        if is_undisturbed:
            load.give_back_precedence()
    assert measured["wrongTotal"] == 0, measured["wrong"]
    assert seen["heldAtTheEnd"] > CLIENTS // 2, seen
    assert len(measured["health"]) >= 2
    assert grown < 25, f"{grown:.1f} MiB"
    # Another user than root measures the rest of the machine too.
    assert quantile(measured["messages"], 0.99) < (1.0 if is_undisturbed else 20.0), sorted(measured["messages"])[-20:]
    log = gateway.home.log_file.read_text()
    assert "Traceback" not in log and len(log) < 50_000, log[-5000:]
