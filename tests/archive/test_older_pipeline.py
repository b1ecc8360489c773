"""A pipeline folder of version 0.1.0 is read, verified, compared, drilled and restored.

``data/pipeline-0.1.0.tar.gz`` has releases v1 and v2, a drill and a rollback to v1, written by the version before the
layout of eight layers. No code of this test wrote any byte of it.
"""

from __future__ import annotations

import os
import sqlite3
import tarfile
from pathlib import Path
from typing import Any

import pytest

import release_tasks
from release_tasks import load_project

ARCHIVE = Path(__file__).parent / "data" / "pipeline-0.1.0.tar.gz"
V1, V2 = "v1_snapshot_20261128190807", "v2_snapshot_20261128190808"
SAFETY = "safety_snapshot_20261128190810-77224e"
CONFIGURATION: dict[str, Any] = {
    "root": "pipeline",
    "gates": {"always": {"command": "true"}},
    "assets": {
        "database": {"sqlite": "state/app.db"},
        "identity": {"directory": "state/identity"},
        "mcp": {"file": "state/mcp.json"},
        "settings": {"file": "state/settings.json"},
        "cache": {"file": "state/cache.json", "required": False},
    },
}


@pytest.fixture
def settings(tmp_path: Path) -> release_tasks.Settings:
    """Return the settings of a project with the older pipeline folder and no live state."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    (tmp_path / "state").mkdir()
    return load_project(tmp_path, {"release": CONFIGURATION})


def rows(folder: Path) -> list[tuple[int, str]]:
    """Return the orders in the live database."""
    with sqlite3.connect(folder / "state" / "app.db") as database:
        found: list[tuple[int, str]] = database.execute("SELECT id, item FROM orders ORDER BY id").fetchall()
    database.close()
    return found


def test_older_pipeline_is_read_and_verified(settings: release_tasks.Settings) -> None:
    """Snapshots, manifests with statements, rollback state, drill and audit chain of version 0.1.0 are accepted."""
    status = release_tasks.release_status(settings)
    assert [snapshot.snapshot_id for snapshot in status.snapshots] == [V1, V2, SAFETY]
    assert [file.release_id for file in status.manifests] == ["v1", "v2"]
    assert status.current is not None and status.current.release_id == "v2"
    assert status.rollback is not None and (status.rollback.status, status.rollback.snapshot_id) == ("success", V1)
    assert not status.unreadable and not status.is_interrupted
    found = release_tasks.verify_snapshots(settings)
    assert found.is_good
    assert [verdict.status for verdict in found.snapshots] == ["verified"] * 3
    assert [verdict.status for verdict in found.attestations] == ["unsigned"] * 2
    audit = release_tasks.verify_audit(settings)
    assert audit.intact
    assert [event["event"] for event in audit.events] == [
        "prepare.ready",
        "prepare.ready",
        "rollback.started",
        "rollback.finished",
    ]


def test_older_releases_are_compared(settings: release_tasks.Settings) -> None:
    """The version, the rows, a changed file and an added one are listed."""
    differences = release_tasks.compare_releases(settings, "v1", "v2").differences
    found = {(each.where, each.what): (each.how, each.before, each.after) for each in differences}
    assert found["version", ""] == ("changed", "1.0", "2.0")
    assert found["database rows", "orders"] == ("changed", "40", "41")
    assert found["identity", "identity.json"] == ("changed", None, None)
    assert found["cache", ""] == ("added", None, "2 bytes")


@pytest.mark.parametrize(("snapshot", "orders", "version"), [(V1, 40, "1.0"), (V2, 41, "2.0"), (SAFETY, 41, "2.0")])
def test_older_snapshot_is_restored(settings: release_tasks.Settings, snapshot: str, orders: int, version: str) -> None:
    """Rows, bytes, modes, links, empty folders and absences are restored into a project without state."""
    outcome = release_tasks.roll_back(settings, snapshot, force=True)
    assert outcome.status == "restored", outcome.diagnostics
    folder = settings.project
    assert len(rows(folder)) == orders
    assert rows(folder)[0] == (1, "item 0")
    state = folder / "state"
    name = "shop" if snapshot == V1 else "shop two"
    assert (state / "identity" / "identity.json").read_text() == f'{{"name": "{name}"}}\n'
    assert (state / "identity" / "keys" / "private.pem").stat().st_mode & 0o777 == 0o600
    assert os.readlink(state / "identity" / "current") == "identity.json"
    assert (state / "identity" / "keys" / "empty").is_dir()
    assert version in (state / "settings.json").read_text()
    assert (state / "cache.json").exists() == (snapshot != V1)
    again = release_tasks.roll_back(settings, snapshot)
    assert again.status == "noop", again.diagnostics
    assert release_tasks.verify_audit(settings).intact


@pytest.mark.slow
def test_older_snapshot_passes_a_drill(settings: release_tasks.Settings) -> None:
    """The drill restores it in a scratch copy and counts every row."""
    outcome = release_tasks.run_drill(settings, V2)
    assert outcome.status == "passed", outcome.diagnostics
    assert [check.tables for check in outcome.databases] == [{"orders": 41}]
