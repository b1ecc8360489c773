"""Fixtures of the audit log's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from release_tasks.core.audit import AuditLog


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    """Return an audit log that has no file yet."""
    return AuditLog(tmp_path / "pipeline" / "rollback-audit.log")


@pytest.fixture
def filled(log: AuditLog) -> AuditLog:
    """Return an audit log of four records."""
    for number in range(4):
        log.append("rollback", status="restored", detail=f"number {number}", release_id="v1", snapshot_id="v1_snapshot")
    return log
