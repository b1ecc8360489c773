"""A gateway that is broken on purpose reports the fault, and restored files fix it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from release_tasks.gateway import process
from release_tasks.gateway.breaking import FAULTS, break_gateway
from release_tasks.gateway.errors import GatewayError
from release_tasks.gateway.paths import GatewayPaths
from tests.support.processes import await_true

pytestmark = pytest.mark.slow

SEEN: dict[str, Callable[[Any], bool]] = {
    "mcp": lambda gateway: "mcpServers.broken" in str(gateway.health()["problems"]),
    "queue": lambda gateway: gateway.get("/reliability").json()["data"]["queue"]["totalDeadLetters"] == 30,
    "identity": lambda gateway: "identity" in str(gateway.health()["problems"]),
    "database": lambda gateway: gateway.get("/health").status_code == 503,
    "slow": lambda gateway: gateway.get("/health").elapsed.total_seconds() > 1.9,
    "flapping": lambda gateway: {gateway.get("/health").status_code for _ in range(4)} == {200, 503},
}


def test_every_fault_has_a_case() -> None:
    """A new fault needs a case."""
    assert set(SEEN) == set(FAULTS)


@pytest.mark.parametrize("what", SEEN)
def test_a_running_gateway_reports_the_fault_until_its_files_are_restored(
    start_gateway: Callable[..., Any], tmp_path: Path, what: str
) -> None:
    """As after a rollback: the fault is stored nowhere but in the state."""
    gateway = start_gateway()
    await_true(lambda: gateway.health()["status"] == "ok")
    files = ("identity", "mcp-servers.json", "gateway.json")
    stored = tmp_path / "kept"
    shutil.copytree(
        gateway.home.root,
        stored,
        ignore=lambda _, names: [n for n in names if n not in {*files, "identity.json", "soul.md"}],
    )
    break_gateway(gateway.home, what)
    await_true(lambda: SEEN[what](gateway))
    if what in ("database", "queue"):  # their fix is the database
        return
    for name in files:
        target = gateway.home.root / name
        shutil.copytree(stored / name, target, dirs_exist_ok=True) if name == "identity" else shutil.copy(
            stored / name, target
        )
    await_true(lambda: gateway.health()["status"] == "ok" and not SEEN[what](gateway))


def test_a_busy_database_stays_damaged(start_gateway: Callable[..., Any]) -> None:
    """Its first page is in the WAL, which would otherwise replace the damaged page when the database is closed."""
    gateway = start_gateway()
    for number in range(40):
        gateway.post("/messages", json={"channel": "x", "to": "1", "text": f"message {number}"})
    break_gateway(gateway.home, "database")
    await_true(lambda: gateway.get("/health").status_code == 503)
    process.stop(gateway.home)
    assert gateway.home.database.read_bytes()[:16] == bytes(16)


def test_a_missing_file_cannot_be_broken(tmp_path: Path) -> None:
    """A folder without a gateway is left alone."""
    with pytest.raises(GatewayError, match=r"inv gateway\.start"):
        break_gateway(GatewayPaths(tmp_path / "none"), "mcp")
    assert not (tmp_path / "none").exists()
