"""The states that the pages speak of: each takes a fresh project with two releases, whose service does not run."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from datetime import datetime, timedelta, timezone

from tests.support.documented.older import lay_down
from tests.support.documented.pages import Block, parts_of
from tests.support.documented.worlds import World

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


def running(world: World) -> None:
    """The service runs and is well, on the snapshot that was restored last."""
    world.start()


def stopped(world: World) -> None:
    """The service is down; everything else is as it was."""


def prepared(world: World) -> None:
    """Release 1.7.0 is ready, on a service that runs and is well."""
    world.start()
    world.inv("release.prepare", "--release-id", "1.7.0")


def changed(world: World) -> None:
    """A release was prepared, and its deploy changed rows."""
    prepared(world)
    world.change_rows()


def build_fails(world: World) -> None:
    """The build's program is not there, and the tests need the build."""
    world.start()
    broken = {"build": {"command": "echo compiling; npmx run build"}, "tests": {"command": "true", "needs": ["build"]}}
    world.configure(gates={**world.gates(), **broken})


def blocked(world: World) -> None:
    """Release r3 was blocked, for want of the MCP configuration."""
    world.start()
    (world.home / "mcp-servers.json").unlink()
    world.inv("release.prepare", "--release-id", "r3", code=1)


def degraded_release(world: World) -> None:
    """Release 1.4.0 was prepared on a service that was well, and its deploy made it unwell."""
    world.start()
    world.inv("release.prepare", "--release-id", "1.4.0")
    (world.home / "identity" / "identity.json").write_text("no JSON")


def waiting(world: World) -> None:
    """Somebody has written to the service, and waits for an operator."""
    world.start()
    world.code()


def down_and_changed(world: World) -> None:
    """A release was prepared, its deploy changed rows, and the service does not start."""
    world.configure(health={"deadline": "2s"})
    world.start()
    world.inv("release.prepare", "--release-id", "r3")
    world.change_rows()
    world.stop()


def up_after_failed_rollback(world: World) -> None:
    """The same, and a rollback has restored the state; then somebody has started the service."""
    down_and_changed(world)
    world.inv("release.rollback", code=1)
    world.start()


def down_after_rollback(world: World) -> None:
    """The snapshot is in place since the last rollback, and the service is down."""


def altered_snapshot(world: World) -> None:
    """A byte of the newest snapshot is not as recorded; two others hold the same file unharmed."""
    world.start()
    world.change_rows()
    world.inv("release.rollback", "--force")
    with (world.pipeline / "snapshots" / world.snapshots()[0] / "assets" / "mcp" / "mcp-servers.json").open(
        "a"
    ) as file:
        file.write(" ")


def held(world: World) -> None:
    """Another run is at work, for a while."""
    world.start()
    world.hold_lock(6)


def interrupted(world: World) -> None:
    """The power went in the middle of a rollback's swap."""
    world.interrupt_rollback()


def damaged_journal(world: World) -> None:
    """The same, and the journal cannot be read."""
    world.interrupt_rollback()
    journal = world.pipeline / "rollback-journal.json"
    journal.write_text(journal.read_text()[:-40])


def corrupt_database(world: World) -> None:
    """A page in the middle of the database was overwritten, and the service is stopped."""
    with (world.home / "gateway.db").open("r+b") as file:
        file.write(b"\0" * 100)


def older_snapshot(world: World) -> None:
    """Among the snapshots lies one of the older tool, as that wrote them."""
    folder = world.pipeline / "snapshots" / "v1_snapshot_20240101000000"
    stored = folder / "assets" / "memory" / "gateway"
    stored.mkdir(parents=True)
    with (
        closing(sqlite3.connect(world.home / "gateway.db")) as live,
        closing(sqlite3.connect(stored / "gateway.db")) as copy,
    ):
        live.backup(copy)
    shutil.copytree(world.home / "identity", stored / "identity")
    assets = [
        {"key": key, "relativePath": f"memory/gateway/{name}", "kind": kind, "exists": True}
        | {"sourcePath": "/srv/old", "snapshotPath": "/srv/old"}
        for key, name, kind in (("gateway-db", "gateway.db", "file"), ("identity", "identity", "directory"))
    ]
    document = {"snapshotId": folder.name, "releaseId": "v1", "createdAt": "2024-01-01T00:00:00.000Z"}
    document |= {"retentionLimit": 5, "assets": assets, "metadataPath": "/srv/old/metadata.json"}
    (folder / "metadata.json").write_text(json.dumps(document))
    world.start()


def older_project(world: World) -> None:
    """A gateway with the older tool's files, the invoke.yaml of the page, and a service that says it is well."""
    shutil.rmtree(world.root / "memory", ignore_errors=True)
    moment = datetime.now(timezone.utc)
    now, later = ((moment + timedelta(minutes=minutes)).isoformat() for minutes in (-1, 59))
    lay_down(world.root, now, later)
    (block,) = [part for part in parts_of("docs/moving-over.md") if isinstance(part, Block) and part.language == "yaml"]
    (world.root / "invoke.yaml").write_text(block.text.replace("3100", str(world.port)))
    world.serve_health()


def empty_folder(world: World) -> None:
    """Nothing is there yet."""
    for path in world.root.iterdir():
        if path.name != ".venv":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def notebook_again(world: World) -> None:
    """The quick start's service was stopped at the end of it, and runs again."""
    world.run("python3 service.py >> service.log 2>&1 &")
    assert world.run("inv gate.api-health").code == 0  # it waits for a service that starts


def stock_executor(world: World) -> None:
    """The line that chooses the suite's executor is not in invoke.yaml."""
    world.start()
    path = world.root / "invoke.yaml"
    raw = json.loads(path.read_text())
    del raw["tasks"]
    path.write_text(json.dumps(raw))
