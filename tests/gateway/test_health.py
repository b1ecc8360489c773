"""Health reports each missing or damaged part by itself, and recovers with it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import RunningGateway
from tests.support.processes import await_true


def _parts_down(data: dict[str, Any]) -> set[str]:
    return {problem.partition(":")[0] for problem in data["problems"]}


def test_a_complete_gateway_is_ok(shared: RunningGateway) -> None:
    """Every key of the envelope is there with a real value."""
    await_true(lambda: shared.health()["mcpServers"][0]["state"] == "connected")
    answer = shared.get("/health")
    body = answer.json()
    assert answer.status_code == 200 and body["ok"] is True
    assert re.fullmatch(r"[0-9a-f]{32}", body["correlationId"]) and body["timestamp"].endswith("Z")
    data = body["data"]
    assert data["status"] == "ok" and data["problems"] == []
    assert data["uptimeSec"] > 0 and 5 < data["memoryUsageMb"] < 500
    assert data["heartbeat"]["running"] and data["dispatcher"]["running"]
    assert data["database"]["status"] == data["identity"]["status"] == "ok"
    assert data["database"]["journalMode"] == "wal"
    assert data["mcpServers"] == [
        {
            "id": "clock",
            "name": "clock",
            "state": "connected",
            "toolCount": 1,
            "detail": None,
            "health": {"circuit": "closed", "failureCount": 0, "remainingCooldownMs": 0},
        }
    ]


def test_live_and_ready(shared: RunningGateway) -> None:
    """Liveness and readiness have the predecessor's words."""
    assert shared.get("/health/live").json()["data"]["status"] == "alive"
    assert shared.get("/health/ready").json()["data"] == {"status": "ready"}


@pytest.mark.parametrize(
    ("part", "path", "content", "status"),
    [
        ("identity", "identity/identity.json", None, "missing"),
        ("identity", "identity/identity.json", b"{not json", "invalid"),
        ("identity", "identity/identity.json", b'{"id": "", "name": "x"}', "invalid"),
        ("identity", "identity/soul.md", None, "missing"),
        ("mcpConfig", "mcp-servers.json", None, "missing"),
        ("mcpConfig", "mcp-servers.json", b'{"mcpServers": ', "invalid"),
        ("mcpConfig", "mcp-servers.json", b'{"other": {}}', "invalid"),
        ("mcpConfig", "mcp-servers.json", b'{"mcpServers": {"a": {}}}', "invalid"),
        ("settings", "gateway.json", b"[]", "invalid"),
        ("settings", "gateway.json", None, "missing"),
    ],
)
def test_a_lost_or_damaged_file_degrades_its_part_alone(
    shared: RunningGateway, part: str, path: str, content: bytes | None, status: str
) -> None:
    """Health names this part only, and is ok again when the file is restored."""
    file = shared.home.root / path
    good = file.read_bytes()
    try:
        file.unlink()
        if content is not None:
            file.write_bytes(content)
        answer = shared.get("/health")
        data = answer.json()["data"]
        assert answer.status_code == 200 and data["status"] == "degraded"
        assert data[part]["status"] == status and data[part]["detail"]
        assert _parts_down(data) == {part}
    finally:
        file.write_bytes(good)
    assert shared.health()["status"] == "ok"


def test_a_removed_page_affects_the_page_alone(shared: RunningGateway) -> None:
    """Without the GUI only ``GET /`` fails, with a JSON answer."""
    aside = shared.home.gui.with_suffix(".aside")
    shared.home.gui.rename(aside)
    try:
        answer = shared.get("/")
        assert answer.status_code == 404 and answer.json()["ok"] is False
        assert shared.health()["status"] == "ok"
    finally:
        aside.rename(shared.home.gui)
    assert shared.get("/").status_code == 200


@pytest.mark.slow
def test_a_killed_dispatcher_is_not_restarted(gateway: RunningGateway) -> None:
    """Health names the worker, and messages are still accepted."""
    os.kill(gateway.health()["dispatcher"]["pid"], signal.SIGKILL)
    data = await_true(lambda: (data := gateway.health()) and data["problems"] and data)
    assert data["status"] == "degraded" and _parts_down(data) == {"dispatcher"}
    assert data["dispatcher"]["running"] is False and data["heartbeat"]["running"] is False
    assert "signal 9" in data["dispatcher"]["detail"]
    message = {"channel": "telegram", "to": "1", "text": "wait here"}
    assert gateway.post("/messages", json=message).status_code == 202
    assert gateway.health()["queue"]["queued"] == 1


def _drop_table(database: Path) -> None:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("DROP TABLE deliveries")


def _overwrite(database: Path) -> None:
    with database.open("r+b") as file:
        file.write(os.urandom(database.stat().st_size))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_drop_table, "no such table: deliveries"),
        (Path.unlink, "gateway.db is missing"),
        (_overwrite, "not a database|malformed|damaged|disk I/O error"),
    ],
)
def test_a_damaged_database_is_an_error_with_a_reason(
    shared: RunningGateway, tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    """Health and readiness answer 503 as JSON until a good database is restored."""
    good = tmp_path / "good.db"
    with (
        contextlib.closing(sqlite3.connect(shared.home.database)) as connection,
        contextlib.closing(sqlite3.connect(good)) as copy,
    ):
        connection.backup(copy)
        # After the checkpoint, SQLite reads the damaged page next.
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    damage(shared.home.database)
    answer = shared.get("/health")
    body = answer.json()
    assert answer.status_code == 503 and body["ok"] is False
    assert re.search(reason, body["error"]["message"]), body["error"]
    assert body["data"]["status"] == "failing" and body["data"]["database"]["status"] == "error"
    assert {"identity", "mcpConfig", "settings"}.isdisjoint(_parts_down(body["data"]))
    ready = shared.get("/health/ready")
    assert ready.status_code == 503 and ready.json()["status"] == "not_ready"
    assert re.search(reason, ready.json()["reason"])
    message = {"channel": "telegram", "to": "1", "text": "hello"}
    for answer in (shared.get("/reliability"), shared.post("/messages", json=message)):
        assert answer.status_code == 503 and answer.json()["ok"] is False
    assert shared.get("/health/live").status_code == 200
    for name in ("gateway.db-wal", "gateway.db-shm"):
        shared.home.database.with_name(name).unlink(missing_ok=True)
    os.replace(good, shared.home.database)
    assert shared.health()["status"] == "ok"
    assert shared.post("/messages", json=message).status_code == 202


@pytest.mark.slow
def test_damage_inside_a_page_is_found(gateway: RunningGateway) -> None:
    """A database with an intact header and damaged pages is not healthy."""
    for _ in range(20):
        gateway.post("/messages", json={"channel": "c", "to": "1", "text": "x" * 4000})
    with contextlib.closing(sqlite3.connect(gateway.home.database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        size = connection.execute("PRAGMA page_size").fetchone()[0]
        root = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_callbacks_1'"
        ).fetchone()[0]
    with gateway.home.database.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xff" * size)
    assert gateway.get("/health").status_code == 503
