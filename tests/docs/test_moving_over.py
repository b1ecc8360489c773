"""What docs/moving-over.md promises, on the older tool's files and with the real tasks."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.documented.older import AUDIT_LINES, PAIRED
from tests.support.documented.pages import Block, parts_of
from tests.support.documented.states import older_project
from tests.support.documented.worlds import World

pytestmark = pytest.mark.slow
NEWEST = "v10_snapshot_20250301120000"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """The older project with the page's own invoke.yaml, its service at work."""
    with contextlib.closing(World(tmp_path / "world")) as made:
        older_project(made)
        yield made


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(world: World) -> list[str]:
    with contextlib.closing(sqlite3.connect(world.root / "memory" / "gateway.db")) as database:
        return [row[0] for row in database.execute("SELECT text FROM messages ORDER BY rowid")]


def test_looking_at_it_changes_nothing_and_shows_everything(world: World) -> None:
    """Older releases and snapshots are listed, these as unverifiable, and a blocked ``latest.json`` is not believed."""
    before = content(world.root)
    found = world.inv("release.status")
    assert [release["releaseId"] for release in found["releases"]] == ["v11", "v10", "v9"]
    assert {shot["snapshotId"]: shot["status"] for shot in found["snapshots"]} == {
        NEWEST: "unverifiable",
        "v9_snapshot_20250201090000": "unverifiable",
    }
    assert found["rollback"]["snapshotId"] == NEWEST
    waiting = {channel: world.inv("pairing.list", channel)["requests"] for channel in PAIRED}
    assert {channel: [one["code"] for one in asked] for channel, asked in waiting.items()} == {
        "telegram": ["BR9VL5CR"],
        "whatsapp": ["K7MN2QXA"],
    }
    for task in ("release.verify", "release.audit"):
        world.inv(task)
    assert content(world.root) == before


def test_an_older_snapshot_goes_live_only_when_forced(world: World) -> None:
    """By time v10 is the newest. Refused at first, then restored by way of a copy with digests; it stays as it is."""
    stored = content(world.pipeline / "snapshots")
    refused = world.inv("release.rollback", code=1)
    assert refused["status"] == "failed"
    assert f"--snapshot {NEWEST} --force" in refused["diagnostics"][0]
    assert rows(world) == []
    restored = world.inv("release.rollback", "--force")
    assert (restored["status"], rows(world)) == ("restored", ["of v9", "of v10"])
    assert restored["snapshotId"].startswith(f"adopted_{NEWEST}")
    assert json.loads((world.root / "identity" / "identity.json").read_text()) == {"id": "one"}
    now = content(world.pipeline / "snapshots")
    assert {name: now[name] for name in stored} == stored
    verdicts = {one["snapshotId"]: one["status"] for one in world.inv("release.verify")["snapshots"]}
    assert verdicts.pop(restored["snapshotId"]) == "verified"
    assert verdicts.pop(NEWEST) == "unverifiable"


def test_an_older_snapshot_with_a_broken_database_is_refused_all_the_same(world: World) -> None:
    """``integrity_check`` decides, before anything live is touched."""
    database = world.pipeline / "snapshots" / NEWEST / "assets" / "memory" / "gateway.db"
    database.write_bytes(database.read_bytes()[:4096] + b"\xff" * 4096)
    assert world.inv("release.rollback", "--force", code=1)["status"] == "failed"
    assert rows(world) == []


def test_the_older_state_is_never_a_reason_for_a_noop(world: World) -> None:
    """It says ``success`` for v10; the data has changed since, and nobody says that all is done."""
    outcome = world.inv("release.rollback", "--snapshot", NEWEST, code=1)
    assert outcome["status"] == "failed"
    assert world.inv("release.rollback", "--snapshot", NEWEST, "--force")["status"] == "restored"


def test_the_older_log_stays_and_the_chain_begins_after_it(world: World) -> None:
    """Byte for byte; from then on a change of it breaks the chain."""
    world.inv("release.prepare", "--release-id", "v12")
    log = world.pipeline / "rollback-audit.log"
    assert log.read_text().startswith(AUDIT_LINES)
    verdict = world.inv("release.audit")
    assert verdict["status"] == "intact"
    assert [event["event"] for event in verdict["events"]] == ["audit.adopted", "prepare.ready"]
    log.write_text(log.read_text().replace('"ok":false', '"ok":true '))
    assert world.inv("release.audit", code=1)["status"] == "broken"


def test_an_older_id_is_taken_and_its_manifest_never_rewritten(world: World) -> None:
    """A ready release's id is refused with 2; the first ready release replaces ``latest.json``."""
    before = content(world.pipeline / "manifests")
    assert world.inv("release.prepare", "--release-id", "v10", code=2)["exitCode"] == 2
    assert content(world.pipeline / "manifests") == before
    world.inv("release.prepare", "--release-id", "v12")
    now = content(world.pipeline / "manifests")
    assert {name: now[name] for name in before if name != "latest.json"} == {
        name: text for name, text in before.items() if name != "latest.json"
    }
    assert json.loads(now["latest.json"])["releaseId"] == "v12"


def test_retention_neither_counts_nor_removes_older_snapshots(world: World) -> None:
    """With one to keep, the older two stay beside the newest of ours."""
    for release in ("v12", "v13"):
        world.inv("release.prepare", "--release-id", release, "--retention", "1")
    kept = sorted(path.name.partition("_")[0] for path in (world.pipeline / "snapshots").iterdir())
    assert kept == ["v10", "v13", "v9"]
    assert world.inv("release.drill")["snapshotId"].startswith("v13_")
    assert world.inv("release.rollback")["status"] == "restored"


@pytest.mark.parametrize("channel", sorted(PAIRED))
def test_pairing_stores_keep_their_dialect(world: World, channel: str) -> None:
    """An approval is written as the file was, with what it holds besides."""
    folder = world.root / "memory" / "credentials"
    code = world.inv("pairing.list", channel)["requests"][0]["code"]
    sender = world.inv("pairing.approve", channel, code)["sender"]
    document: dict[str, Any] = json.loads((folder / f"{channel}-allowFrom.json").read_text())
    wanted = sorted([PAIRED[channel], sender])
    assert document == ({"senderIds": wanted} if channel == "telegram" else {"version": 1, "allowFrom": wanted})
    requests: dict[str, Any] = json.loads((folder / f"{channel}-pairing.json").read_text())
    assert (requests["requests"], requests.get("version")) == ([], None if channel == "telegram" else 1)


def test_npm_scripts_hand_flags_and_exit_codes_on(world: World) -> None:
    """The page's own ``scripts`` block, with real npm, else with the shell that npm would start."""
    (block,) = [part for part in parts_of("docs/moving-over.md") if isinstance(part, Block) and part.language == "json"]
    package = json.loads((world.root / "package.json").read_text()) | json.loads(block.text)
    (world.root / "package.json").write_text(json.dumps(package))
    (world.folder / "bin" / "npm").unlink()  # the stand-in
    npm = shutil.which("npm")

    def run(script: str, *flags: str) -> subprocess.CompletedProcess[str]:
        shell = ["sh", "-c", f'{package["scripts"][script]} "$@"', "-"]
        words = [*([npm, "run", "--silent", script, "--"] if npm else shell), *flags]
        return subprocess.run(words, cwd=world.root, env=world.variables, capture_output=True, text=True, timeout=90)

    (world.root / "invoke.yaml").write_text((world.root / "invoke.yaml").read_text().replace("npm run", "true"))
    prepared = run("release:prepare", "--release-id", "v12", "--json")
    assert (prepared.returncode, json.loads(prepared.stdout)["releaseId"]) == (0, "v12"), prepared
    assert run("release:prepare", "--release-id", "v12").returncode == 2
    assert run("release:preflight").returncode == 0
    assert run("release:drill").returncode == 0
    assert run("release:rollback", "--snapshot", NEWEST).returncode == 1
    assert run("release:rollback", "--plan").returncode == 0


def test_a_snapshot_that_is_not_there_is_a_sentence_on_record(world: World) -> None:
    """No stack trace, the documented exit code, and an event."""
    answer = world.run("inv release.rollback --snapshot v99_nonesuch")
    assert (answer.code, "Traceback" in answer.output) == (2, False), answer
    assert "v99_nonesuch" in answer.output
    assert world.inv("release.audit")["events"][-1]["event"] == "rollback.refused"
