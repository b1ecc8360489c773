"""Fixtures of the rollback tests: services that keep a database open, and scripts that run during a rollback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.scripts import DatabaseClient, Scripts, StartService


@pytest.fixture
def start_service() -> Iterator[StartService]:
    """Return a starter of processes that keep a database open and run statements in it."""
    running: list[DatabaseClient] = []

    def start(database: Path) -> DatabaseClient:
        running.append(DatabaseClient(database))
        return running[-1]

    yield start
    for service in running:
        if service.process.poll() is None:
            service.stop()


@pytest.fixture
def scripts() -> Iterator[Scripts]:
    """Return a starter of Python scripts; those that still run are killed after the test."""
    running = Scripts()
    yield running
    running.close()
