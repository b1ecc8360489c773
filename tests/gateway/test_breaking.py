"""A gateway that is broken on purpose shows it, and its files put back mend it."""

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

pytestmark = pytest.mark.slow

SEEN: dict[str, Callable[[Any], bool]] = {
    "mcp": lambda gateway: "mcpServers.broken" in str(gateway.health()["problems"]),
    "queue": lambda gateway: gateway.get("/reliability").json()["data"]["queue"]["totalDeadLetters"] == 30,
    "identity": lambda gateway: "identity" in str(gateway.health()["problems"]),
    "database": lambda gateway: gateway.get("/health").status_code == 503,
    "slow": lambda gateway: gateway.get("/health").elapsed.total_seconds() > 1.9,
    "flapping": lambda gateway: {gateway.get("/health").status_code for _ in range(4)} == {200, 503},
}


def test_every_fault_is_tried_here() -> None:
    """A new one needs a look at what it does."""
    assert set(SEEN) == set(FAULTS)


@pytest.mark.parametrize("what", SEEN)
def test_a_running_gateway_shows_the_fault_until_its_files_are_back(
    start_gateway: Callable[..., Any], tmp_path: Path, wait_for: Callable[..., Any], what: str
) -> None:
    """As after a rollback: nothing of it is kept anywhere but in the state."""
    gateway = start_gateway()
    wait_for(lambda: gateway.health()["status"] == "ok")
    files = ("identity", "mcp-servers.json", "gateway.json")
    kept = tmp_path / "kept"
    shutil.copytree(
        gateway.home.root,
        kept,
        ignore=lambda _, names: [n for n in names if n not in {*files, "identity.json", "soul.md"}],
    )
    break_gateway(gateway.home, what)
    wait_for(lambda: SEEN[what](gateway))
    if what in ("database", "queue"):  # their way back is the database's
        return
    for name in files:
        target = gateway.home.root / name
        shutil.copytree(kept / name, target, dirs_exist_ok=True) if name == "identity" else shutil.copy(
            kept / name, target
        )
    wait_for(lambda: gateway.health()["status"] == "ok" and not SEEN[what](gateway))


def test_a_busy_database_breaks_for_good(start_gateway: Callable[..., Any], wait_for: Callable[..., Any]) -> None:
    """With its first page in the WAL, which would stand in for what is overwritten and mend it when it is closed."""
    gateway = start_gateway()
    for number in range(40):
        gateway.post("/messages", json={"channel": "x", "to": "1", "text": f"message {number}"})
    break_gateway(gateway.home, "database")
    wait_for(lambda: gateway.get("/health").status_code == 503)
    process.stop(gateway.home)
    assert gateway.home.database.read_bytes()[:16] == bytes(16)


def test_what_is_not_there_cannot_be_broken(tmp_path: Path) -> None:
    """A home that nobody laid out yet is left alone."""
    with pytest.raises(GatewayError, match=r"inv gateway\.start"):
        break_gateway(GatewayPaths(tmp_path / "none"), "mcp")
    assert not (tmp_path / "none").exists()
