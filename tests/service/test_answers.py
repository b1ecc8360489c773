"""What each form of a health answer says: every known word is read, the worst decides, and all else is unknown."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from release_tasks.service.health import HealthReading, read_health
from release_tasks.service.response import HttpResponse


def response(body: bytes, status: int = 200) -> HttpResponse:
    """Return a response as fetch returns it."""
    return HttpResponse(
        status=status, content_type="", body=body, is_truncated=False, elapsed_ms=1, url="http://127.0.0.1/health"
    )


def read(body: Any, status: int = 200) -> HealthReading:
    """Return the reading of a body: bytes as they are, every other value as JSON."""
    return read_health(response(body if isinstance(body, bytes) else json.dumps(body).encode(), status))


OK: list[Any] = [
    b"ok",
    b"OK\n",
    b"Ok.",
    b"Healthy",
    b"pong",
    b"UP",
    b"true",
    b"True",
    b"imok",
    b"ready",
    b"\xef\xbb\xbfok",
    b"Prometheus Server is Healthy.\n",
    b"Ollama is running",
    b"healthz check passed",
    "all shards are ready",
    {"ishealthy": "YES"},
    True,
    "OK",
    {"ok": True},
    {"ok": 1},
    {"ok": True, "data": {}},
    {"ok": True, "data": {"status": "ok"}},
    {"ok": True, "data": {"status": "alive"}},
    {"ok": True, "data": {"status": "ready"}},
    {"ok": True, "data": [{"status": "ok"}]},
    {"ok": True, "status": "live"},
    {"ok": "true", "status": "ok"},
    {"healthy": True},
    {"healthy": True, "state": "leader"},
    {"status": "ok", "data": {"state": "leader"}},
    {"healthy": True, "data": {"state": "leader"}},
    {"isHealthy": True},
    {"ready": True},
    {"alive": True},
    {"running": True},
    {"success": True},
    {"health": "true"},
    {"health": "GREEN"},
    {"status": True},
    {"status": 200, "message": "fine"},
    {"status": "200 OK"},
    {"status": "pass"},
    {"status": "passing"},
    {"status": "PASS"},
    {"status": "UP"},
    {"Status": "Healthy"},
    {"status": "healthy"},
    {"status": "success"},
    {"status": "success", "data": None},
    {"status": "SERVING"},
    {"status": "green"},
    {"status": "operational"},
    {"status": {"overall": {"level": "available"}}},
    {"health": {"status": "UP"}},
    {"overall_status": "ok"},
    {"message": "pong"},
    {"res": "pong"},
    {"code": 0, "msg": "success"},
    {"code": 0, "data": "pong", "msg": ""},
    {"errcode": 0, "errmsg": "ok"},
    {"code": "SUCCESS", "data": None},
    {"status": {"code": 200, "message": "OK"}},
    {"status": "HEALTH_OK", "checks": {}},
    {"status": "Server available", "upSince": "2026-01-01T00:00:00Z"},
    {"status": "STARTED"},
    {"apiStatus": "ok", "version": "1"},
    {"healthcheck": "ok", "version": "1"},
    b"STATUS OK",
    b"all good",
    {"code": 200, "message": "API is healthy.", "data": {"canBackup": False}},
    {"database": "ok", "version": "1.2"},
    {"metadatabase": {"status": "healthy"}, "scheduler": {"status": "healthy"}, "triggerer": {"status": None}},
    {"client": {"ok": True, "message": "ok"}, "server": {"ok": True, "message": "ok"}},
    [{"Status": "passing"}, {"Status": "passing"}],
    {"router": {"state": "HEALTHY"}, "services": [{"service_id": "x", "state": "HEALTHY"}]},
]
DEGRADED: list[Any] = [
    b"Degraded",
    b"WARN: inconsistent objects in schema",
    [{"name": "a", "status": "PARTIALLY_UP"}],
    b"degraded",
    "warning",
    {"status": "degraded"},
    {"status": "warn"},
    {"status": "yellow"},
    {"ok": True, "data": {"status": "degraded"}},
    {"status": "success", "data": {"status": "degraded"}},
    {"status": "ok", "degraded": True},
    # Parts that are not ok although the answer says ok.
    {"status": "ok", "checks": {"db": "down"}},
    {"status": "ok", "checks": {"db": False, "redis": True}},
    {"status": "ok", "checks": [{"name": "db", "status": "fail"}]},
    {"status": "ok", "checks": [{"name": "db", "healthy": False}]},
    {"status": "ok", "checks": {"db:time": [{"status": "warn"}, {"status": "pass"}]}},
    {"status": "UP", "components": {"db": {"status": "DOWN"}}},
    {"status": "UP", "components": {"db": {"status": "UP", "components": {"replica": {"status": "DOWN"}}}}},
    {"status": "UP", "details": {"db": {"status": "OUT_OF_SERVICE"}}},
    {"status": "ok", "details": {"db": {"status": "down"}}},
    {"status": "ok", "details": {"db": "unhealthy"}},
    {"status": "ok", "details": {"db": False, "redis": True}},
    {"status": "Healthy", "entries": {"sql": {"status": "Unhealthy", "data": {}}}},
    {"status": "Healthy", "results": {"sql": {"status": "Degraded"}}},
    {"status": "ok", "services": {"db": "unavailable"}},
    {"status": "ok", "services": ["ok", {"name": "mail", "status": "failed"}]},
    {"status": "ok", "dependencies": {"redis": {"ok": False}}},
    {"status": "ok", "dependencies": [{"id": "redis", "up": False}]},
    {"status": "ok", "database": "disconnected"},
    {"status": "ok", "database": {"status": "error"}},
    {"status": "OK", "database_status": "UNHEALTHY"},
    {"status": "ok", "db": False},
    {"status": "ok", "checks": ["ok", "fail"]},
    {"status": "ok", "checks": [True, False]},
    {"status": "ok", "dependencies": {"redis": {"connected": False}}},
    {"status": "ok", "redis": "timeout"},
    {"status": "HEALTH_WARN"},
    {"status": "ok", "db_connected": False},
    {"status": "ok", "databaseHealthy": False},
    {"ok": True, "data": {"status": "ok", "mcpServers": [{"id": "a", "state": "error"}]}},
    {"status": "ok", "data": {"services": {"db": {"health": {"status": "red"}}}}},
    {"status": "ok", "services": {"api": {"status": 503}}},
]
FAILED: list[Any] = [
    b"false",
    b"unhealthy",
    b"Service Unavailable",
    {"status": "HEALTH_ERR"},
    {"api_status": "down", "version": "1"},
    b"not ok",
    b"NOT_SERVING",
    b"Prometheus Server is not ready",
    b"The database is down",
    b"readyz check failed",
    False,
    "unhealthy",
    {"ok": False},
    {"ok": False, "data": {"status": "ok"}},
    {"ok": 0},
    {"healthy": False},
    {"healthy": "false"},
    {"status": "ok", "healthy": False},
    {"ready": False, "status": "ok"},
    {"success": False},
    {"error": True},
    {"status": False},
    {"status": "error", "data": {"status": "ok"}},
    {"status": "ok", "data": {"status": "error"}},
    {"status": "ok", "data": {"healthy": False}},
    {"status": "ok", "health": {"status": "DOWN"}},
    {"status": "not ok"},
    {"status": "not_ready"},
    {"status": "NOT_SERVING"},
    {"status": "OUT_OF_SERVICE"},
    {"status": "fail"},
    {"status": "DOWN"},
    {"status": "critical"},
    {"status": "red"},
    {"status": "unhealthy"},
    {"status": 500, "error": "Internal Server Error"},
    {"status": "503 Service Unavailable"},
    {"statusCode": 503},
    {"status": {"overall": {"level": "critical"}}},
    {"health": "false", "reason": "ALARM NOSPACE"},
    {"message": "unhealthy"},
    # Without a word of its own, the parts decide.
    {"metadatabase": {"status": "healthy"}, "scheduler": {"status": "unhealthy"}},
    {"checks": {"db": "ok", "redis": "down"}},
    [{"Status": "passing"}, {"Status": "critical"}],
    {"database": "failing", "version": "1.2"},
]
UNKNOWN: list[Any] = [
    b"",
    b" \n",
    b"{",
    b"\xff\xfe",
    b"<!doctype html><title>Sign in</title>",
    b"<h1>OK</h1>",
    b"<html><body>healthy</body></html>",
    b"Welcome to nginx!",
    b"nothing here is ok",
    b"none are ready",
    b"3 of 5 shards are ready",
    b"everything except the database is ok",
    b"ERROR: none",
    b"WARN: 0",
    b"OK: but slow",
    b"error: see the log",
    b"no check passed",
    b"None of them is alive",
    b"ok: false",
    b"ok but slow",
    b"maintenance",
    b"starting",
    b"0",
    b"1",
    b"200",
    b"null",
    b"[]",
    b"{}",
    b"[1, 2]",
    b'["ok"]',
    b"[" * 100_000,
    b'{"status":' + b"9" * 10_000 + b"}",
    "starting",
    {"status": "starting"},
    {"status": "maintenance"},
    {"status": "0"},
    {"status": 0},
    {"status": 1},
    {"status": None},
    {"status": []},
    {"status": ["ok"]},
    {"status": "UNKNOWN"},
    {"status": "splendid"},
    {"ok": True, "data": {"status": "splendid"}},
    {"ok": True, "status": "starting"},
    {"ok": True, "state": "starting"},
    {"status": "success", "data": {"state": "maintenance"}},
    {"status": "maintenance", "database": "ok"},
    {"status": "starting", "checks": {"db": "ok"}},
    {"state": "starting", "database": "ok"},
    {"starting": True, "uptime": "1s"},
    {"success": True, "data": {"status": "maintenance"}},
    {"ok": "perhaps"},
    {"running": False},
    {"degraded": False},
    {"error": None},
    {"error": "the database is gone"},
    {"hello": 1},
    {"uptime": 1, "time": "03:00"},
    {"version": "1.2", "name": "service"},
    {"database": {"name": "main"}},
    {"initialized": True, "sealed": False, "standby": False},
    {"starting": False, "uptime": "1d"},
    {"log_level": "error", "mode": "down"},
    # A key that is there twice: which one counts is unknown.
    b'{"status":"ok","status":"error"}',
    b'{"status":"ok","checks":{"db":"down","db":"ok"}}',
]
# Answers that say ok, with values next to it that are no illness.
STILL_OK: list[Any] = [
    {"ok": True, "data": {"status": "ok", "heartbeat": {"running": False}}},
    {"ok": True, "data": {"status": "ok", "dispatcher": {"running": False, "pid": None}}},
    {"status": "ok", "heartbeat": {"running": False, "active": False}},
    {"status": "ok", "running": False},
    {"status": "ok", "heartbeat": "not running", "dispatcher": {"status": "not running"}},
    {"status": "ok", "services": {"worker": "Not active"}},
    {"status": "ok", "services": ["auth", "billing"]},
    {"status": "ok", "checks": {"worker": {"running": False}}},
    {"status": "ok", "services": {"worker": "idle", "queue": "paused"}},
    {"status": "ok", "services": {"worker": {"status": "sleeping"}}},
    {"status": "ok", "components": {"db": {"status": "UNKNOWN"}, "x": {"status": "splendid"}}},
    {"ok": True, "data": {"status": "ok", "mcpServers": [{"id": "a", "state": "disconnected"}]}},
    {"status": "ok", "debug": False, "maintenance": False, "readOnly": False},
    {"status": "ok", "error": None, "errors": [], "failed": False},
    {"status": "ok", "details": {"encrypted": False, "version": "1.2"}},
    {"status": "ok", "details": {"maintenance": False}},
    {"status": "ok", "checks": {"maintenance": False, "degraded": False}},
    {"status": "ok", "log_level": "error", "environment": "red", "mode": "offline", "theme": "red"},
    {"status": "ok", "lastBackup": {"status": "failed"}, "last_result": "failed"},
    {"status": "ok", "queue": {"recentRecords": [{"status": "failed"}]}},
    {"status": "ok", "jobs": [{"status": "failed"}], "history": {"yesterday": {"status": "down"}}},
    {"status": "ok", "message": "The old cluster is down"},
    {"status": "ok", "checks": {"failures": 0, "errors": 0}},
    {"status": "ok", "components": {"disk": {"status": "UP", "details": {"exists": False, "free": 0}}}},
    {"status": "ok", "tls": "no", "deployment": "red"},
    {"status": "UP", "groups": ["liveness", "readiness"]},
    {"responseHeader": {"status": 0, "QTime": 1}, "status": "OK"},
]


@pytest.mark.parametrize(
    ("bodies", "status"),
    [(OK, "ok"), (STILL_OK, "ok"), (DEGRADED, "degraded"), (FAILED, "failed"), (UNKNOWN, "unknown")],
)
def test_every_form_has_its_status(bodies: list[Any], status: str) -> None:
    """Each word of the field is known; a page, an unfamiliar word and a busy signal are not an illness."""
    wrong = {str(body)[:100]: reading for body in bodies if (reading := read(body)).status != status}
    assert not wrong


def test_each_bad_part_is_named() -> None:
    """An answer that says ok and is degraded names the part."""
    for reading in map(read, DEGRADED):
        assert reading.parts or reading.stated == "degraded", reading
        assert all(part in reading.detail for part in reading.parts)


def test_an_http_error_is_a_failure_with_any_body() -> None:
    """Also one that cannot be read."""
    for body in OK + STILL_OK + DEGRADED + UNKNOWN:
        assert read(body, 503).status == "failed", body


def test_no_content_is_healthy_by_its_meaning() -> None:
    """HTTP 204 has no body, and says that the request succeeded; an empty body of HTTP 200 says nothing."""
    assert (read(b"", 204).status, read(b"", 204).detail) == ("ok", "HTTP 204")
    assert read(b"", 200).status == "unknown"


def test_a_repeated_key_is_named() -> None:
    """The answer is not guessed at."""
    reading = read(b'{"status":"ok","data":{"status":"ok","status":"error"}}')
    assert reading.status == "unknown"
    assert "the key 'status' is there twice" in reading.detail


def test_an_unknown_answer_says_what_came_and_what_to_set() -> None:
    """With the known forms, in one sentence."""
    detail = read({"status": "splendid"}).detail
    assert "HTTP 200 with a JSON object (status: splendid)" in detail
    assert len(detail) < 250
    assert '{"status": "ok"}' in detail and "release.health.expect" in detail


def test_a_truncated_answer_is_unknown() -> None:
    """An answer over the size limit is not parsed."""
    reading = read_health(attrs.evolve(response(b"ok" * 1024), is_truncated=True))
    assert reading.status == "unknown"
    assert "larger than 2 KiB" in reading.detail


def test_unhealthy_parts_are_named() -> None:
    """A status of ok with unhealthy parts is degraded, and each part is named."""
    data = {
        "status": "ok",
        "heartbeat": {"running": False},
        "dispatcher": {"running": True},
        "identity": {"status": "missing"},
        "mcpConfig": {"status": "ok"},
        "mcpServers": [
            {"id": "a", "state": "connected", "health": {"circuit": "closed"}},
            {"id": "b", "state": "error", "health": {"circuit": "open"}},
            {"id": "c", "state": "connected", "health": {"circuit": "half-open"}},
            {"name": "d", "state": "error"},
        ],
        "problems": ["identity: soul.md is missing", "the disk is nearly full"],
    }
    reading = read({"ok": True, "data": data})
    assert (reading.status, reading.stated) == ("degraded", "ok")
    assert reading.parts == [
        "identity: soul.md is missing",
        "mcpServers.b: state error",
        "mcpServers.c: circuit half-open",
        "mcpServers.d: state error",
        "the disk is nearly full",
    ]
    assert all(part in reading.detail for part in reading.parts)


def test_parts_have_their_path_and_reason() -> None:
    """This holds for the parts of health+json and of UP/DOWN endpoints, to any depth."""
    checks = {"db:time": [{"status": "warn"}, {"status": "pass"}]}
    reading = read({"status": "pass", "checks": checks})
    assert (reading.detail, reading.parts) == ("status pass: checks.db:time: warn", ["checks.db:time: warn"])
    replica = {"status": "DOWN", "details": {"error": "no route to host"}}
    database = {"status": "UP", "components": {"replica": replica}}
    assert read({"status": "UP", "components": {"db": database}}).parts == [
        "components.db.components.replica: DOWN (no route to host)"
    ]
    sql = {"status": "Unhealthy", "description": "no such table", "data": {}}
    assert read({"status": "Unhealthy", "entries": {"sql": sql}}).parts == ["entries.sql: Unhealthy (no such table)"]


def test_terminal_controls_in_an_answer_are_escaped() -> None:
    """An answer cannot write control sequences to the terminal."""
    assert read({"ok": False, "error": {"message": "\x1b[2Jgone\n\u2028!"}}).detail == (
        r"ok: false (\x1b[2Jgone\n\u2028!)"
    )
    assert "\x1b" not in read(b"\x1b[2J<html>").detail


_KEYS = ["ok", "data", "status", "mcpServers", "health", "circuit", "heartbeat", "running"]
_KEYS += ["problems", "checks", "components", "error", "message", "identity", "id", "state", "details", "code"]
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(_KEYS) | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(_JSON)
def test_any_json_has_a_status(value: object) -> None:
    """Lists instead of maps, and any other form, have a status."""
    reading = read(value)
    assert reading.status in ("ok", "degraded", "failed", "unknown")
    assert all(isinstance(text, str) and text.isprintable() for text in [reading.detail, *reading.parts])


@given(st.binary(max_size=200), st.integers(100, 599))
def test_any_bytes_have_a_status(body: bytes, status: int) -> None:
    """Any bytes with any HTTP status have a status."""
    assert read(body, status).status in ("ok", "degraded", "failed", "unknown")


_WORDS = st.sampled_from(["ok", "healthy", "UP", True, "degraded", "warn", "error", "DOWN", False, "splendid", None, 7])
_NAMES = st.sampled_from(["db", "redis", "checks", "components", "details", "data", "services", "status", "ok"])
_RANK = {"ok": 0, "unknown": 1, "degraded": 2, "failed": 3}


@given(st.dictionaries(_NAMES, _WORDS | st.dictionaries(_NAMES, _WORDS, max_size=3), max_size=4))
def test_a_bad_part_never_makes_an_answer_better(body: dict[str, Any]) -> None:
    """The worst word decides."""
    before = read({"status": "ok", **body}).status
    after = read({"status": "ok", **body, "components": {"one": {"status": "DOWN"}}}).status
    if "components" not in body and before != "unknown":
        assert _RANK[after] >= max(_RANK[before], _RANK["degraded"])
