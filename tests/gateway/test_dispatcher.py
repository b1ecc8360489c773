"""The queue delivers, tries again, gives up in the open, and survives restores and crashes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from release_tasks.gateway import process
from release_tasks.gateway.connection import open_existing
from release_tasks.gateway.store import MessageStore, create_database
from tests.support.gateway import RunningGateway


@pytest.fixture
def settled(shared: RunningGateway) -> Iterator[Any]:
    """The shared gateway, whose settings are put back after."""
    settings = shared.home.settings.read_bytes()
    yield shared
    shared.home.settings.write_bytes(settings)


def _send(gateway: RunningGateway, text: str) -> str:
    answer = gateway.post("/messages", json={"channel": "telegram", "to": "1", "text": text})
    assert answer.status_code == 202
    return str(answer.json()["data"]["id"])


def _states(gateway: RunningGateway) -> dict[str, str]:
    listed = gateway.get("/messages", params={"limit": "500"}).json()["data"]["messages"]
    return {message["id"]: message["state"] for message in listed}


def _deliver_to(gateway: RunningGateway, url: str | None, attempts: int = 3) -> None:
    settings = json.loads(gateway.home.settings.read_text())
    settings["delivery"] = {"url": url, "timeoutSeconds": 2}
    settings["dispatcher"] = {"pollSeconds": 0.05, "maxAttempts": attempts, "backoffSeconds": 0.02}
    gateway.home.settings.write_text(json.dumps(settings))


def _outbox(gateway: RunningGateway) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gateway.home.outbox.read_text().splitlines()]


def test_messages_reach_the_outbox_in_order(shared: RunningGateway, wait_for: Callable[..., Any]) -> None:
    """Each message is in the outbox once, in the order it came, and is marked sent."""
    ids = [_send(shared, f"text {number}") for number in range(10)]
    wait_for(lambda: {_states(shared)[message] for message in ids} == {"sent"})
    lines = [line for line in _outbox(shared) if line["id"] in ids]
    assert [line["id"] for line in lines] == ids
    assert lines[3]["text"] == "text 3" and lines[3]["channel"] == "telegram"
    assert shared.get("/reliability").json()["data"]["queue"]["totalSent"] >= 10


def test_failing_target_ends_in_a_dead_letter(
    settled: RunningGateway, httpserver: HTTPServer, wait_for: Callable[..., Any]
) -> None:
    """After the configured attempts, not before, the message is dead and the next one goes on."""
    attempts: list[int] = []

    def refuse(request: Request) -> Response:
        attempts.append(request.get_json()["attempt"])
        return Response(status=500)

    httpserver.expect_request("/deliver", method="POST").respond_with_handler(refuse)
    _deliver_to(settled, httpserver.url_for("/deliver"))
    lost = _send(settled, "nobody takes this")
    wait_for(lambda: _states(settled)[lost] == "dead")
    assert attempts == [1, 2, 3]
    queue = settled.get("/reliability").json()["data"]["queue"]
    assert queue["totalDeadLetters"] == 1 and queue["totalFailed"] == 0
    _deliver_to(settled, None)
    taken = _send(settled, "but this")
    wait_for(lambda: _states(settled)[taken] == "sent")
    assert _states(settled)[lost] == "dead"


def test_delivery_is_tried_again_until_it_succeeds(
    settled: RunningGateway, httpserver: HTTPServer, wait_for: Callable[..., Any]
) -> None:
    """A target that fails once gets the message again, under the same key."""
    keys: list[str] = []

    def recover(request: Request) -> Response:
        keys.append(request.headers["Idempotency-Key"])
        return Response(status=503 if len(keys) == 1 else 200)

    httpserver.expect_request("/deliver", method="POST").respond_with_handler(recover)
    _deliver_to(settled, httpserver.url_for("/deliver"))
    message = _send(settled, "patience")
    wait_for(lambda: _states(settled)[message] == "sent")
    assert keys == [message, message]


@pytest.mark.slow
def test_unreadable_settings_hold_delivery_back(settled: RunningGateway, wait_for: Callable[..., Any]) -> None:
    """Nothing goes to the default target while the configured one cannot be read."""
    good = settled.home.settings.read_bytes()
    settled.home.settings.write_bytes(b"{")
    message = _send(settled, "hold")
    detail = wait_for(lambda: settled.health()["dispatcher"]["detail"])
    assert "not valid JSON" in detail and _states(settled)[message] == "queued"
    settled.home.settings.write_bytes(good)
    wait_for(lambda: _states(settled)[message] == "sent")


@pytest.mark.slow
def test_row_of_a_dead_worker_is_delivered_after_a_restart(
    start_gateway: Callable[..., Any], wait_for: Callable[..., Any]
) -> None:
    """What was being dispatched when the gateway was killed is queued again by the next."""
    gateway = start_gateway()
    os.kill(gateway.health()["dispatcher"]["pid"], signal.SIGKILL)
    message = _send(gateway, "stuck")
    process.stop(gateway.home)
    with contextlib.closing(sqlite3.connect(gateway.home.database)) as connection, connection:
        connection.execute("UPDATE deliveries SET state = 'dispatching', claimed_by = 'gone'")
    gateway = start_gateway()
    wait_for(lambda: _states(gateway)[message] == "sent")
    delivered = [json.loads(line)["id"] for line in gateway.home.outbox.read_text().splitlines()]
    assert delivered.count(message) == 1


def test_torn_outbox_line_spoils_no_other(settled: RunningGateway, wait_for: Callable[..., Any]) -> None:
    """A line that a crash cut short is kept apart from the next message."""
    wait_for(lambda: settled.health()["queue"]["dispatching"] == 0)
    with settled.home.outbox.open("a") as outbox:
        outbox.write('{"id": "msg_to')
    message = _send(settled, "whole")
    wait_for(lambda: _states(settled)[message] == "sent")
    torn, whole = settled.home.outbox.read_text().splitlines()[-2:]
    settled.home.outbox.write_text("")
    assert torn == '{"id": "msg_to' and json.loads(whole)["id"] == message


def _copy(source: Path, target: Path) -> None:
    with (
        contextlib.closing(sqlite3.connect(source)) as old,
        contextlib.closing(sqlite3.connect(target)) as new,
    ):
        old.backup(new)


@pytest.mark.slow
def test_restore_through_sqlite_is_seen_by_the_running_service(
    start_gateway: Callable[..., Any], tmp_path: Path, wait_for: Callable[..., Any]
) -> None:
    """Open connections read the restored rows at once, and what they write next is kept."""
    gateway = start_gateway()
    kept = _send(gateway, "before the snapshot")
    wait_for(lambda: _states(gateway)[kept] == "sent")
    _copy(gateway.home.database, tmp_path / "snapshot.db")
    dropped = _send(gateway, "after the snapshot")
    wait_for(lambda: _states(gateway)[dropped] == "sent")
    _copy(tmp_path / "snapshot.db", gateway.home.database)
    assert _states(gateway) == {kept: "sent"}
    later = _send(gateway, "after the restore")
    wait_for(lambda: _states(gateway).get(later) == "sent")
    process.stop(gateway.home)
    gateway = start_gateway()
    assert _states(gateway) == {kept: "sent", later: "sent"}


def test_file_swapped_under_the_service_is_followed(
    gateway: RunningGateway, tmp_path: Path, wait_for: Callable[..., Any]
) -> None:
    """A database put in place by rename is read and written, never the old file behind it."""
    kept = _send(gateway, "in both")
    wait_for(lambda: _states(gateway)[kept] == "sent")
    _copy(gateway.home.database, tmp_path / "other.db")
    _send(gateway, "in the old file alone")
    for name in ("gateway.db-wal", "gateway.db-shm"):
        gateway.home.database.with_name(name).unlink()
    os.replace(tmp_path / "other.db", gateway.home.database)
    assert _states(gateway) == {kept: "sent"}
    later = _send(gateway, "in the new file")
    wait_for(lambda: _states(gateway).get(later) == "sent")
    assert gateway.health()["status"] == "ok"
    with contextlib.closing(sqlite3.connect(gateway.home.database)) as connection:
        assert connection.execute("SELECT count(*) FROM messages").fetchone() == (2,)


def test_health_answers_while_a_writer_holds_the_lock(settled: RunningGateway) -> None:
    """A long write transaction, as a restore is, stops neither health nor reading."""
    with contextlib.closing(open_existing(settled.home.database, busy_ms=0, read_only=False)) as db:
        db.execute("BEGIN IMMEDIATE")
        assert settled.get("/health").elapsed.total_seconds() < 1
        assert settled.get("/reliability").status_code == 200
        db.execute("ROLLBACK")


@pytest.fixture
def store(tmp_path: Path) -> Any:
    """A store on a database of its own."""
    create_database(tmp_path / "store.db")
    store = MessageStore(tmp_path / "store.db")
    yield store
    assert store.close()


def test_claimed_row_is_taken_once(store: MessageStore) -> None:
    """A claim moves the row, counts the attempt, and a settled row is not claimed again."""
    store.add_message("telegram", "1", "hello")
    claimed = store.claim("worker")
    assert claimed is not None and claimed.attempt == 1
    assert store.delivery_totals()["dispatching"] == 1
    assert store.record_result(claimed, "worker", "sent")
    assert store.claim("worker") is None


def test_settling_a_claim_that_a_restore_took_away_changes_nothing(store: MessageStore) -> None:
    """Another worker's claim, or another message under the same number, is left alone."""
    store.add_message("telegram", "1", "hello")
    claimed = store.claim("worker")
    assert claimed is not None
    assert not store.record_result(claimed, "another", "sent")
    assert store.delivery_totals()["dispatching"] == 1


def test_failed_row_waits_for_its_pause(store: MessageStore) -> None:
    """A failed delivery is not due before its pause is over, and holds no other up."""
    store.add_message("telegram", "1", "first")
    claimed = store.claim("worker")
    assert claimed is not None
    store.record_result(claimed, "worker", "failed", error="no", pause=60)
    assert store.claim("worker") is None
    store.add_message("telegram", "1", "second")
    following = store.claim("worker")
    assert following is not None and following.text == "second"
    assert store.delivery_totals()["failed"] == 1


def test_health_answers_while_many_writers_wait(shared: RunningGateway) -> None:
    """Requests that wait for a restore's lock take no thread that health needs."""
    with (
        ThreadPoolExecutor(60) as pool,
        contextlib.closing(open_existing(shared.home.database, busy_ms=0, read_only=False)) as database,
    ):
        database.execute("BEGIN IMMEDIATE")
        waiting = [pool.submit(_send, shared, "wait") for _ in range(60)]
        try:
            for _ in range(10):
                assert shared.get("/health").elapsed.total_seconds() < 2
            assert not any(answer.done() for answer in waiting)
        finally:
            database.execute("ROLLBACK")
        assert len({answer.result() for answer in waiting}) == 60
