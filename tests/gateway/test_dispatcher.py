"""The queue delivers, retries, reports dead letters, and survives restores and crashes."""

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
from tests.support.processes import await_true


@pytest.fixture
def restored_settings(shared: RunningGateway) -> Iterator[Any]:
    """Return the shared gateway; its settings are restored after the test."""
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


@pytest.mark.slow
def test_messages_reach_the_outbox_in_order(shared: RunningGateway) -> None:
    """Each message is in the outbox once, in order, and is marked sent."""
    ids = [_send(shared, f"text {number}") for number in range(10)]
    await_true(lambda: {_states(shared)[message] for message in ids} == {"sent"})
    lines = [line for line in _outbox(shared) if line["id"] in ids]
    assert [line["id"] for line in lines] == ids
    assert lines[3]["text"] == "text 3" and lines[3]["channel"] == "telegram"
    assert shared.get("/reliability").json()["data"]["queue"]["totalSent"] >= 10


def test_a_failing_target_ends_in_a_dead_letter(restored_settings: RunningGateway, httpserver: HTTPServer) -> None:
    """After the configured attempts the message is dead, and the next one is delivered."""
    attempts: list[int] = []

    def refuse(request: Request) -> Response:
        attempts.append(request.get_json()["attempt"])
        return Response(status=500)

    httpserver.expect_request("/deliver", method="POST").respond_with_handler(refuse)
    _deliver_to(restored_settings, httpserver.url_for("/deliver"))
    lost = _send(restored_settings, "undeliverable")
    await_true(lambda: _states(restored_settings)[lost] == "dead")
    assert attempts == [1, 2, 3]
    queue = restored_settings.get("/reliability").json()["data"]["queue"]
    assert queue["totalDeadLetters"] == 1 and queue["totalFailed"] == 0
    _deliver_to(restored_settings, None)
    taken = _send(restored_settings, "but this")
    await_true(lambda: _states(restored_settings)[taken] == "sent")
    assert _states(restored_settings)[lost] == "dead"


def test_delivery_is_retried_until_it_succeeds(restored_settings: RunningGateway, httpserver: HTTPServer) -> None:
    """A target that fails once gets the message again with the same key."""
    keys: list[str] = []

    def recover(request: Request) -> Response:
        keys.append(request.headers["Idempotency-Key"])
        return Response(status=503 if len(keys) == 1 else 200)

    httpserver.expect_request("/deliver", method="POST").respond_with_handler(recover)
    _deliver_to(restored_settings, httpserver.url_for("/deliver"))
    message = _send(restored_settings, "retried")
    await_true(lambda: _states(restored_settings)[message] == "sent")
    assert keys == [message, message]


@pytest.mark.slow
def test_unreadable_settings_pause_delivery(restored_settings: RunningGateway) -> None:
    """No message goes to the default target while the configured one cannot be read."""
    good = restored_settings.home.settings.read_bytes()
    restored_settings.home.settings.write_bytes(b"{")
    message = _send(restored_settings, "hold")
    detail = await_true(lambda: restored_settings.health()["dispatcher"]["detail"])
    assert "not valid JSON" in detail and _states(restored_settings)[message] == "queued"
    restored_settings.home.settings.write_bytes(good)
    await_true(lambda: _states(restored_settings)[message] == "sent")


@pytest.mark.slow
def test_a_message_of_a_killed_worker_is_delivered_after_a_restart(start_gateway: Callable[..., Any]) -> None:
    """The next gateway queues a message again whose dispatch was interrupted by a kill."""
    gateway = start_gateway()
    os.kill(gateway.health()["dispatcher"]["pid"], signal.SIGKILL)
    message = _send(gateway, "stuck")
    process.stop(gateway.home)
    with contextlib.closing(sqlite3.connect(gateway.home.database)) as connection, connection:
        connection.execute("UPDATE deliveries SET state = 'dispatching', claimed_by = 'gone'")
    gateway = start_gateway()
    await_true(lambda: _states(gateway)[message] == "sent")
    delivered = [json.loads(line)["id"] for line in gateway.home.outbox.read_text().splitlines()]
    assert delivered.count(message) == 1


def test_a_truncated_outbox_line_damages_no_more(restored_settings: RunningGateway) -> None:
    """The next message starts on a new line."""
    await_true(lambda: restored_settings.health()["queue"]["dispatching"] == 0)
    with restored_settings.home.outbox.open("a") as outbox:
        outbox.write('{"id": "msg_to')
    message = _send(restored_settings, "whole")
    await_true(lambda: _states(restored_settings)[message] == "sent")
    torn, whole = restored_settings.home.outbox.read_text().splitlines()[-2:]
    restored_settings.home.outbox.write_text("")
    assert torn == '{"id": "msg_to' and json.loads(whole)["id"] == message


def _copy(source: Path, target: Path) -> None:
    with (
        contextlib.closing(sqlite3.connect(source)) as old,
        contextlib.closing(sqlite3.connect(target)) as new,
    ):
        old.backup(new)


@pytest.mark.slow
def test_a_restore_through_sqlite_is_visible_to_the_running_service(
    start_gateway: Callable[..., Any], tmp_path: Path
) -> None:
    """Open connections read the restored rows immediately, and later writes are stored."""
    gateway = start_gateway()
    stored = _send(gateway, "before the snapshot")
    await_true(lambda: _states(gateway)[stored] == "sent")
    _copy(gateway.home.database, tmp_path / "snapshot.db")
    dropped = _send(gateway, "after the snapshot")
    await_true(lambda: _states(gateway)[dropped] == "sent")
    _copy(tmp_path / "snapshot.db", gateway.home.database)
    assert _states(gateway) == {stored: "sent"}
    later = _send(gateway, "after the restore")
    await_true(lambda: _states(gateway).get(later) == "sent")
    process.stop(gateway.home)
    gateway = start_gateway()
    assert _states(gateway) == {stored: "sent", later: "sent"}


@pytest.mark.slow
def test_a_replaced_database_file_is_reopened(gateway: RunningGateway, tmp_path: Path) -> None:
    """The service reads and writes a database that was renamed into place, never the old file."""
    stored = _send(gateway, "in both")
    await_true(lambda: _states(gateway)[stored] == "sent")
    _copy(gateway.home.database, tmp_path / "other.db")
    _send(gateway, "in the old file alone")
    for name in ("gateway.db-wal", "gateway.db-shm"):
        gateway.home.database.with_name(name).unlink()
    os.replace(tmp_path / "other.db", gateway.home.database)
    assert _states(gateway) == {stored: "sent"}
    later = _send(gateway, "in the new file")
    await_true(lambda: _states(gateway).get(later) == "sent")
    assert gateway.health()["status"] == "ok"
    with contextlib.closing(sqlite3.connect(gateway.home.database)) as connection:
        assert connection.execute("SELECT count(*) FROM messages").fetchone() == (2,)


def test_health_answers_while_a_writer_holds_the_lock(restored_settings: RunningGateway) -> None:
    """A long write transaction, such as a restore, blocks neither health nor reads."""
    with contextlib.closing(open_existing(restored_settings.home.database, busy_ms=0, read_only=False)) as db:
        db.execute("BEGIN IMMEDIATE")
        assert restored_settings.get("/health").elapsed.total_seconds() < 1
        assert restored_settings.get("/reliability").status_code == 200
        db.execute("ROLLBACK")


@pytest.fixture
def store(tmp_path: Path) -> Any:
    """Return a store on its own database."""
    create_database(tmp_path / "store.db")
    store = MessageStore(tmp_path / "store.db")
    yield store
    assert store.close()


@pytest.mark.parametrize("set_back", [3600.0, 31_536_000.0])
def test_a_clock_set_back_delays_no_delivery(store: MessageStore, set_back: float) -> None:
    """The next attempt is due when its time is further away than the longest pause."""
    store.add_message("telegram", "1", "hello")
    claimed = store.claim("worker")
    assert claimed is not None
    assert store.record_result(claimed, "worker", "failed", error="busy", pause=set_back)
    again = store.claim("worker")
    assert again is not None and again.attempt == 2
    assert store.record_result(again, "worker", "failed", error="busy", pause=200.0)
    assert store.claim("worker") is None


def test_a_row_is_claimed_once(store: MessageStore) -> None:
    """A claim moves the row and counts the attempt; a finished row is not claimed again."""
    store.add_message("telegram", "1", "hello")
    claimed = store.claim("worker")
    assert claimed is not None and claimed.attempt == 1
    assert store.delivery_totals()["dispatching"] == 1
    assert store.record_result(claimed, "worker", "sent")
    assert store.claim("worker") is None


def test_finishing_a_claim_that_a_restore_removed_changes_nothing(store: MessageStore) -> None:
    """The claim of another worker, or another message with the same number, is unchanged."""
    store.add_message("telegram", "1", "hello")
    claimed = store.claim("worker")
    assert claimed is not None
    assert not store.record_result(claimed, "another", "sent")
    assert store.delivery_totals()["dispatching"] == 1


def test_a_failed_row_waits_for_its_pause(store: MessageStore) -> None:
    """It is not due before its pause is over, and it does not delay other rows."""
    store.add_message("telegram", "1", "first")
    claimed = store.claim("worker")
    assert claimed is not None
    store.record_result(claimed, "worker", "failed", error="no", pause=60)
    assert store.claim("worker") is None
    store.add_message("telegram", "1", "second")
    following = store.claim("worker")
    assert following is not None and following.text == "second"
    assert store.delivery_totals()["failed"] == 1


@pytest.mark.slow
def test_health_answers_while_many_writers_wait(shared: RunningGateway) -> None:
    """Requests that wait for the lock of a restore do not use the threads that health needs."""
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
