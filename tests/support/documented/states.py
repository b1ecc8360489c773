"""The documented states: each starts with a fresh project with two releases, whose service does not run."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from datetime import datetime, timedelta, timezone
from typing import Any

from tests.support.documented.example_project import ExampleProject
from tests.support.documented.older import write_older_project
from tests.support.documented.pages import Block, parts_of

__all__ = [
    "altered_snapshot",
    "blocked",
    "build_fails",
    "changed",
    "corrupt_database",
    "damaged_journal",
    "degraded_release",
    "down_after_rollback",
    "down_and_changed",
    "empty_folder",
    "held",
    "interrupted",
    "not_deployed",
    "notebook_again",
    "older_project",
    "older_snapshot",
    "prepared",
    "running",
    "stock_executor",
    "stopped",
    "up_after_failed_rollback",
    "waiting",
]


def running(example: ExampleProject) -> None:
    """The service runs and is healthy, on the snapshot that was restored last."""
    example.start()


def stopped(example: ExampleProject) -> None:
    """The service is down; all else is unchanged."""


def not_deployed(example: ExampleProject) -> None:
    """No release was prepared, and no service runs."""
    shutil.rmtree(example.pipeline)


def prepared(example: ExampleProject) -> None:
    """Release 1.7.0 is ready, and its service is healthy."""
    example.start()
    example.inv("release.prepare", "--release-id", "1.7.0")


def changed(example: ExampleProject) -> None:
    """A release was prepared, and its deploy changed rows."""
    prepared(example)
    example.change_rows()


def build_fails(example: ExampleProject) -> None:
    """The build's program is missing, and the tests need the build."""
    example.start()
    broken = {"build": {"command": "echo compiling; npmx run build"}, "tests": {"command": "true", "needs": ["build"]}}
    example.configure(gates={**example.gates(), **broken})


def blocked(example: ExampleProject) -> None:
    """Release r3 was blocked, because the MCP configuration is missing."""
    example.start()
    (example.home / "mcp-servers.json").unlink()
    example.inv("release.prepare", "--release-id", "r3", code=1)


def degraded_release(example: ExampleProject) -> None:
    """Release 1.4.0 was prepared on a healthy service, and its deploy made it unhealthy."""
    example.start()
    example.inv("release.prepare", "--release-id", "1.4.0")
    (example.home / "identity" / "identity.json").write_text("no JSON")


def waiting(example: ExampleProject) -> None:
    """A new sender has a pairing request."""
    example.start()
    example.code()


def down_and_changed(example: ExampleProject) -> None:
    """A release was prepared, its deploy changed rows, and the service does not start."""
    example.configure(health={"deadline": "2s"})
    example.start()
    example.inv("release.prepare", "--release-id", "r3")
    example.change_rows()
    example.stop()


def up_after_failed_rollback(example: ExampleProject) -> None:
    """The same, and a rollback has restored the state; then the service was started."""
    down_and_changed(example)
    example.inv("release.rollback", code=1)
    example.start()


def down_after_rollback(example: ExampleProject) -> None:
    """The snapshot is in place since the last rollback, and the service is down."""


def altered_snapshot(example: ExampleProject) -> None:
    """A byte of the latest snapshot has changed; two others have the same file intact."""
    example.start()
    example.change_rows()
    example.inv("release.rollback", "--force")
    with (example.pipeline / "snapshots" / example.snapshots()[0] / "assets" / "mcp" / "mcp-servers.json").open(
        "a"
    ) as file:
        file.write(" ")


def held(example: ExampleProject) -> None:
    """Another run holds the lock for a while."""
    example.start()
    example.hold_lock(6)


def interrupted(example: ExampleProject) -> None:
    """The power failed during a rollback's swap."""
    example.interrupt_rollback()


def damaged_journal(example: ExampleProject) -> None:
    """The same, and the journal cannot be read."""
    example.interrupt_rollback()
    journal = example.pipeline / "rollback-journal.json"
    journal.write_text(journal.read_text()[:-40])


def corrupt_database(example: ExampleProject) -> None:
    """A page in the middle of the database was overwritten, and the service is stopped."""
    with (example.home / "gateway.db").open("r+b") as file:
        file.write(b"\0" * 100)


def older_snapshot(example: ExampleProject) -> None:
    """One of the snapshots is from the older tool."""
    folder = example.pipeline / "snapshots" / "v1_snapshot_20240101000000"
    stored = folder / "assets" / "memory" / "gateway"
    stored.mkdir(parents=True)
    with (
        closing(sqlite3.connect(example.home / "gateway.db")) as live,
        closing(sqlite3.connect(stored / "gateway.db")) as copy,
    ):
        live.backup(copy)
    shutil.copytree(example.home / "identity", stored / "identity")
    assets = [
        {"key": key, "relativePath": f"memory/gateway/{name}", "kind": kind, "exists": True}
        | {"sourcePath": "/srv/old", "snapshotPath": "/srv/old"}
        for key, name, kind in (("gateway-db", "gateway.db", "file"), ("identity", "identity", "directory"))
    ]
    document: dict[str, Any] = {"snapshotId": folder.name, "releaseId": "v1", "createdAt": "2024-01-01T00:00:00.000Z"}
    document |= {"retentionLimit": 5, "assets": assets, "metadataPath": "/srv/old/metadata.json"}
    (folder / "metadata.json").write_text(json.dumps(document))
    example.start()


def older_project(example: ExampleProject) -> None:
    """A gateway with the older tool's files, the invoke.yaml of the page, and a healthy service."""
    shutil.rmtree(example.root / "memory", ignore_errors=True)
    moment = datetime.now(timezone.utc)
    now, later = ((moment + timedelta(minutes=minutes)).isoformat() for minutes in (-1, 59))
    write_older_project(example.root, now, later)
    (block,) = [part for part in parts_of("docs/moving-over.md") if isinstance(part, Block) and part.language == "yaml"]
    (example.root / "invoke.yaml").write_text(block.text.replace("3100", str(example.port)))
    example.serve_health()


def empty_folder(example: ExampleProject) -> None:
    """The folder is empty."""
    for path in example.root.iterdir():
        if path.name != ".venv":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def notebook_again(example: ExampleProject) -> None:
    """The quick start stopped its service at its end; it runs again."""
    example.run("python3 service.py >> service.log 2>&1 &")
    assert example.run("inv gate.api-health").code == 0  # it waits for a service that starts


def stock_executor(example: ExampleProject) -> None:
    """invoke.yaml has no line for the suite's executor."""
    example.start()
    path = example.root / "invoke.yaml"
    raw = json.loads(path.read_text())
    del raw["tasks"]
    path.write_text(json.dumps(raw))
