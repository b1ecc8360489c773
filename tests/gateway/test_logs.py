"""The log stays small, whatever clients do."""

from __future__ import annotations

import logging

from release_tasks.gateway.logs import RateLimit


def _record(message: str, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord("gateway", logging.WARNING, "", 0, message, arguments, None)


def test_records_of_one_kind_are_limited_and_counted() -> None:
    """The last record before a pause says so, and the first one after it how many are missing."""
    now = 0.0
    limit = RateLimit(burst=3, seconds=60, clock=lambda: now)
    written = []
    for number in range(10):
        record = _record("client %d failed", number)
        if limit.filter(record):
            written.append(record.getMessage())
    assert written == [
        "client 0 failed",
        "client 1 failed",
        "client 2 failed (for up to 60 s, more records of this kind are left out)",
    ]
    other = _record("another kind: 100 %")
    assert limit.filter(other) and other.msg == "another kind: 100 %"
    now = 60.0
    record = _record("client %d failed", 11)
    assert limit.filter(record)
    assert record.getMessage() == "client 11 failed (7 records of this kind were left out before)"
