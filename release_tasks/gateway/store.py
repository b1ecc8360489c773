"""The SQLite store of the gateway: messages, their deliveries, and received callbacks.

Nothing is cached: every call reads the database.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import sqlite3
import time
from pathlib import Path
from typing import Any

from attrs import frozen

from release_tasks.core.clock import timestamp
from release_tasks.gateway.connection import Connection, open_existing
from release_tasks.gateway.errors import StoreError

__all__ = [
    "CALLBACK_OUTCOMES",
    "DELIVERY_STATES",
    "MAX_PAUSE_SECONDS",
    "ClaimedMessage",
    "MessageStore",
    "create_database",
]

SCHEMA_VERSION = 1
DELIVERY_STATES = ("queued", "dispatching", "sent", "failed", "dead")
CALLBACK_OUTCOMES = ("accepted", "duplicate", "rejected")

_SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS messages (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    channel TEXT NOT NULL,
    recipient TEXT NOT NULL,
    text TEXT NOT NULL,
    created_at TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS deliveries (
    seq INTEGER PRIMARY KEY REFERENCES messages (seq) ON DELETE CASCADE,
    state TEXT NOT NULL DEFAULT 'queued'
        CHECK (state IN ('queued', 'dispatching', 'sent', 'failed', 'dead')),
    attempts INTEGER NOT NULL DEFAULT 0,
    next_attempt_at REAL NOT NULL DEFAULT 0,
    claimed_by TEXT,
    last_error TEXT,
    updated_at TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS deliveries_by_state ON deliveries (state, seq);
CREATE TABLE IF NOT EXISTS callbacks (
    key TEXT PRIMARY KEY,
    digest TEXT NOT NULL,
    payload TEXT NOT NULL,
    received_at TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS callback_totals (outcome TEXT PRIMARY KEY, total INTEGER NOT NULL);
PRAGMA user_version = 1;
COMMIT;
"""
_PROBES = (
    "SELECT seq, id, channel, recipient, text, created_at FROM messages ORDER BY seq DESC LIMIT 1",
    "SELECT seq, state, attempts, next_attempt_at, claimed_by, last_error, updated_at"
    " FROM deliveries ORDER BY seq DESC LIMIT 1",
    "SELECT key, digest, payload, received_at FROM callbacks LIMIT 1",
)
_PROBE_BUSY_MILLISECONDS = 2_000
MAX_PAUSE_SECONDS = 300.0  # between two attempts to deliver a message
# Up to this size a full check takes about 20 ms. On a larger database, a health request runs only the queries.
_CHECK_MAX_BYTES = 8 * 1024 * 1024


@frozen
class ClaimedMessage:
    """A message claimed for delivery; ``attempt`` starts at 1."""

    seq: int
    id: str
    channel: str
    to: str
    text: str
    attempt: int


def create_database(path: Path) -> None:
    """Create an empty database with mode 0600; raises sqlite3.Error."""
    # The file is created first, because SQLite would use the umask; -wal and -shm get the mode of the database.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    with contextlib.closing(open_existing(path, busy_ms=2_000, read_only=False)) as connection:
        connection.executescript(_SCHEMA)


class MessageStore:
    """The database of one gateway, open from the first use until ``close``; thread-safe.

    Reads use a separate connection: in WAL mode they never wait for a writer, so health responds while a restore holds
    the write lock. Every method raises StoreError.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader = Connection(path, read_only=True)
        self._writer = Connection(path, read_only=False)

    def check(self) -> dict[str, Any]:
        """Open a new connection, query every table, and return the result for the health response.

        The open connections may use cached pages from before the file was damaged.
        """
        if not self._path.exists():
            raise StoreError(f"the database {self._path.name} is missing")
        try:
            with contextlib.closing(
                open_existing(self._path, busy_ms=_PROBE_BUSY_MILLISECONDS, read_only=True)
            ) as probe:
                result = _examine(probe)
        except sqlite3.Error as error:
            raise StoreError(str(error)) from error
        with self._reader.use() as connection:
            connection.execute(_PROBES[0]).fetchone()
        return result

    def check_writes(self) -> None:
        """Raise StoreError if the last write failed and writing is still impossible; reads are not affected."""
        self._writer.check_writes()

    def add_message(self, channel: str, to: str, text: str) -> str:
        """Queue one message for delivery and return its id; the message is durable when this returns."""
        with self._writer.transaction() as connection:
            return _queue(connection, channel, to, text)

    def add_message_once(self, key: str, channel: str, to: str, text: str) -> bool:
        """Queue a message unless the key was used before; return whether it was queued."""
        query = "SELECT 1 FROM callbacks WHERE key = ?"
        with self._reader.use() as connection:
            if connection.execute(query, (key,)).fetchone() is not None:
                return False
        with self._writer.transaction() as connection:
            if connection.execute(query, (key,)).fetchone() is not None:
                return False
            connection.execute(
                "INSERT INTO callbacks (key, digest, payload, received_at) VALUES (?, ?, '', ?)",
                (key, hashlib.sha256(text.encode()).hexdigest(), timestamp()),
            )
            _queue(connection, channel, to, text)
        return True

    def messages(self, limit: int) -> list[dict[str, Any]]:
        """Return the last ``limit`` messages with their delivery states, oldest first."""
        with self._reader.use() as connection:
            rows = connection.execute(
                'SELECT m.id, m.channel, m.recipient AS "to", m.text, d.state, d.attempts, m.created_at AS "createdAt"'
                " FROM messages m LEFT JOIN deliveries d USING (seq) ORDER BY m.seq DESC LIMIT ?",
                (limit,),
            ).fetchall()
        return [dict(row) for row in reversed(rows)]

    def delivery_totals(self) -> dict[str, int]:
        """Return the number of deliveries in each state."""
        with self._reader.use() as connection:
            return _totals(connection)

    def callback_totals(self) -> dict[str, int]:
        """Return the total number of callbacks with each outcome."""
        with self._reader.use() as connection:
            rows = connection.execute("SELECT outcome, total FROM callback_totals").fetchall()
        return dict.fromkeys(CALLBACK_OUTCOMES, 0) | {row["outcome"]: row["total"] for row in rows}

    def accept_callback(self, key: str, payload: bytes) -> str:
        """Store a callback and return ``accepted``, ``duplicate``, or ``rejected`` (same key, other content)."""
        digest = hashlib.sha256(payload).hexdigest()
        with self._writer.transaction() as connection:
            known = connection.execute("SELECT digest FROM callbacks WHERE key = ?", (key,)).fetchone()
            if known is None:
                connection.execute(
                    "INSERT INTO callbacks (key, digest, payload, received_at) VALUES (?, ?, ?, ?)",
                    (key, digest, payload.decode("utf-8", "replace"), timestamp()),
                )
                outcome = "accepted"
            else:
                outcome = "duplicate" if known["digest"] == digest else "rejected"
            _count(connection, outcome)
        return outcome

    def count_rejected_callback(self) -> None:
        """Count a callback that was rejected before its key was checked."""
        with self._writer.transaction() as connection:
            _count(connection, "rejected")

    def claim(self, worker: str) -> ClaimedMessage | None:
        """Claim the next due delivery for ``worker``; returns None if no delivery is due.

        One worker runs per gateway and claims one delivery at a time. So a row in the state ``dispatching`` at this
        moment belongs to a dead worker or comes from a restore: it is queued again.
        """
        with self._reader.use() as connection:
            # Checked first without a write lock, so that an idle gateway does not write.
            if connection.execute(_DUE, (time.time(),)).fetchone() is None:
                return None
        with self._writer.transaction() as connection:
            connection.execute("UPDATE deliveries SET state = 'queued', claimed_by = NULL WHERE state = 'dispatching'")
            due = connection.execute(_DUE, (time.time(),)).fetchone()
            if due is None:
                return None
            connection.execute(
                "UPDATE deliveries SET state = 'dispatching', claimed_by = ?,"
                " attempts = attempts + 1, updated_at = ? WHERE seq = ?",
                (worker, timestamp(), due["seq"]),
            )
            row = connection.execute(
                'SELECT m.seq, m.id, m.channel, m.recipient AS "to", m.text, d.attempts AS attempt'
                " FROM messages m JOIN deliveries d USING (seq) WHERE seq = ?",
                (due["seq"],),
            ).fetchone()
        return ClaimedMessage(**dict(row))

    def record_result(
        self, delivery: ClaimedMessage, worker: str, state: str, *, error: str | None = None, pause: float = 0.0
    ) -> bool:
        """Record the result of a claimed delivery; ``pause`` is the time in seconds until the next attempt.

        Returns False if the claim no longer exists, because a restore removed it.
        """
        with self._writer.transaction() as connection:
            changed = connection.execute(
                "UPDATE deliveries SET state = ?, claimed_by = NULL, last_error = ?,"
                " next_attempt_at = ?, updated_at = ?"
                " WHERE seq = ? AND state = 'dispatching' AND claimed_by = ?"
                " AND EXISTS (SELECT 1 FROM messages m WHERE m.seq = deliveries.seq AND m.id = ?)",
                (state, error, time.time() + pause, timestamp(), delivery.seq, worker, delivery.id),
            ).rowcount
        return changed == 1

    def close(self, timeout: float = 1.0) -> bool:
        """Close both connections, which runs the checkpoint of the WAL; return whether both were closed."""
        # The reader first: the last close runs the checkpoint, and a query_only connection cannot.
        reader = self._reader.close(timeout)
        return self._writer.close(timeout) and reader


# Uses one index range per state; a dispatching row is due immediately, see MessageStore.claim. So is a row that would
# wait longer than the longest pause: the clock was set back after its last attempt.
_DUE = (
    "SELECT d.seq FROM deliveries d JOIN messages m USING (seq)"
    " WHERE d.state IN ('queued', 'failed', 'dispatching')"
    f" AND (d.state = 'dispatching' OR d.next_attempt_at <= ?1 OR d.next_attempt_at > ?1 + {MAX_PAUSE_SECONDS})"
    " ORDER BY d.seq LIMIT 1"
)


def _examine(connection: sqlite3.Connection) -> dict[str, Any]:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > SCHEMA_VERSION:
        raise StoreError(f"schema version {version} is newer than this gateway's ({SCHEMA_VERSION})")
    for query in _PROBES:
        connection.execute(query).fetchone()
    connection.execute("SELECT outcome, total FROM callback_totals").fetchall()
    totals = _totals(connection)
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    size = int(pages) * int(connection.execute("PRAGMA page_size").fetchone()[0])
    checked = size <= _CHECK_MAX_BYTES
    if checked:
        verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise StoreError(f"the database is damaged: {verdict}")
    return {
        "journalMode": connection.execute("PRAGMA journal_mode").fetchone()[0],
        "schemaVersion": version,
        "sizeBytes": size,
        "checked": "pages" if checked else "queries",
        "queue": totals,
    }


def _queue(connection: sqlite3.Connection, channel: str, to: str, text: str) -> str:
    # Random, not sequential: a rollback removes rows, and a sequential id would be used twice.
    message_id = f"msg_{secrets.token_hex(8)}"
    now = timestamp()
    seq = connection.execute(
        "INSERT INTO messages (id, channel, recipient, text, created_at) VALUES (?, ?, ?, ?, ?)",
        (message_id, channel, to, text, now),
    ).lastrowid
    connection.execute("INSERT INTO deliveries (seq, updated_at) VALUES (?, ?)", (seq, now))
    return message_id


def _totals(connection: sqlite3.Connection) -> dict[str, int]:
    rows = connection.execute("SELECT state, count(*) AS total FROM deliveries GROUP BY state").fetchall()
    return dict.fromkeys(DELIVERY_STATES, 0) | {row["state"]: row["total"] for row in rows}


def _count(connection: sqlite3.Connection, outcome: str) -> None:
    # Two statements: some SQLite versions that Python 3.10 supports have no upsert.
    connection.execute("INSERT OR IGNORE INTO callback_totals (outcome, total) VALUES (?, 0)", (outcome,))
    connection.execute("UPDATE callback_totals SET total = total + 1 WHERE outcome = ?", (outcome,))
