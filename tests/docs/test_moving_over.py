"""The promises of docs/moving-over.md, with the older tool's files and the real tasks."""

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

from tests.support.documented.example_project import ExampleProject
from tests.support.documented.older import AUDIT_LINES, PAIRED
from tests.support.documented.pages import Block, parts_of
from tests.support.documented.states import older_project

pytestmark = pytest.mark.slow
NEWEST = "v10_snapshot_20250301120000"


@pytest.fixture
def example(tmp_path: Path) -> Iterator[ExampleProject]:
    """Return the older project with the page's invoke.yaml and a running service."""
    with contextlib.closing(ExampleProject(tmp_path / "example")) as made:
        older_project(made)
        yield made


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(example: ExampleProject) -> list[str]:
    with contextlib.closing(sqlite3.connect(example.root / "memory" / "gateway.db")) as database:
        return [row[0] for row in database.execute("SELECT text FROM messages ORDER BY rowid")]


def test_reading_changes_nothing_and_lists_everything(example: ExampleProject) -> None:
    """Older releases and snapshots are listed, snapshots as unverifiable; a blocked ``latest.json`` is ignored."""
    before = content(example.root)
    found = example.inv("release.status")
    assert [release["releaseId"] for release in found["releases"]] == ["v11", "v10", "v9"]
    assert {shot["snapshotId"]: shot["status"] for shot in found["snapshots"]} == {
        NEWEST: "unverifiable",
        "v9_snapshot_20250201090000": "unverifiable",
    }
    assert found["rollback"]["snapshotId"] == NEWEST
    waiting = {channel: example.inv("pairing.list", channel)["requests"] for channel in PAIRED}
    assert {channel: [one["code"] for one in asked] for channel, asked in waiting.items()} == {
        "telegram": ["BR9VL5CR"],
        "whatsapp": ["K7MN2QXA"],
    }
    for task in ("release.verify", "release.audit"):
        example.inv(task)
    assert content(example.root) == before


def test_an_older_snapshot_is_restored_only_with_force(example: ExampleProject) -> None:
    """v10 is the latest. It is refused, then restored through a copy with digests; the original is unchanged."""
    stored = content(example.pipeline / "snapshots")
    refused = example.inv("release.rollback", code=1)
    assert refused["status"] == "failed"
    assert f"--snapshot {NEWEST} --force" in refused["diagnostics"][0]
    assert rows(example) == []
    restored = example.inv("release.rollback", "--force")
    assert (restored["status"], rows(example)) == ("restored", ["of v9", "of v10"])
    assert restored["snapshotId"].startswith(f"adopted_{NEWEST}")
    assert json.loads((example.root / "identity" / "identity.json").read_text()) == {"id": "one"}
    now = content(example.pipeline / "snapshots")
    assert {name: now[name] for name in stored} == stored
    verdicts = {one["snapshotId"]: one["status"] for one in example.inv("release.verify")["snapshots"]}
    assert verdicts.pop(restored["snapshotId"]) == "verified"
    assert verdicts.pop(NEWEST) == "unverifiable"


def test_an_older_snapshot_with_a_damaged_database_is_refused(example: ExampleProject) -> None:
    """``integrity_check`` decides, before any live change."""
    database = example.pipeline / "snapshots" / NEWEST / "assets" / "memory" / "gateway.db"
    database.write_bytes(database.read_bytes()[:4096] + b"\xff" * 4096)
    assert example.inv("release.rollback", "--force", code=1)["status"] == "failed"
    assert rows(example) == []


def test_the_older_state_never_causes_a_noop(example: ExampleProject) -> None:
    """It says ``success`` for v10, and the data has changed since."""
    outcome = example.inv("release.rollback", "--snapshot", NEWEST, code=1)
    assert outcome["status"] == "failed"
    assert example.inv("release.rollback", "--snapshot", NEWEST, "--force")["status"] == "restored"


def test_the_older_log_stays_and_the_chain_starts_after_it(example: ExampleProject) -> None:
    """It stays byte for byte; a later change of it breaks the chain."""
    example.inv("release.prepare", "--release-id", "v12")
    log = example.pipeline / "rollback-audit.log"
    assert log.read_text().startswith(AUDIT_LINES)
    verdict = example.inv("release.audit")
    assert verdict["status"] == "intact"
    assert [event["event"] for event in verdict["events"]] == ["audit.adopted", "prepare.ready", "prepare.published"]
    log.write_text(log.read_text().replace('"ok":false', '"ok":true '))
    assert example.inv("release.audit", code=1)["status"] == "broken"


def test_an_older_id_is_in_use_and_its_manifest_is_never_rewritten(example: ExampleProject) -> None:
    """The id of a ready release is refused with 2; the first ready release replaces ``latest.json``."""
    before = content(example.pipeline / "manifests")
    assert example.inv("release.prepare", "--release-id", "v10", code=2)["exitCode"] == 2
    assert content(example.pipeline / "manifests") == before
    example.inv("release.prepare", "--release-id", "v12")
    now = content(example.pipeline / "manifests")
    assert {name: now[name] for name in before if name != "latest.json"} == {
        name: text for name, text in before.items() if name != "latest.json"
    }
    assert json.loads(now["latest.json"])["releaseId"] == "v12"


def test_retention_ignores_older_snapshots(example: ExampleProject) -> None:
    """With a limit of one, both older snapshots stay next to our latest, and our first that was never judged."""
    for release in ("v12", "v13", "v14"):
        example.inv("release.prepare", "--release-id", release, "--retention", "1")
    stored = sorted(path.name.partition("_")[0] for path in (example.pipeline / "snapshots").iterdir())
    assert stored == ["v10", "v12", "v14", "v9"]
    assert example.inv("release.drill")["snapshotId"].startswith("v14_")
    assert example.inv("release.rollback")["status"] == "restored"


@pytest.mark.parametrize("channel", sorted(PAIRED))
def test_pairing_stores_keep_their_format(example: ExampleProject, channel: str) -> None:
    """An approval is written in the form of the file, whose other content stays."""
    folder = example.root / "memory" / "credentials"
    code = example.inv("pairing.list", channel)["requests"][0]["code"]
    sender = example.inv("pairing.approve", channel, code)["sender"]
    document: dict[str, Any] = json.loads((folder / f"{channel}-allowFrom.json").read_text())
    expected = sorted([PAIRED[channel], sender])
    assert document == ({"senderIds": expected} if channel == "telegram" else {"version": 1, "allowFrom": expected})
    requests: dict[str, Any] = json.loads((folder / f"{channel}-pairing.json").read_text())
    assert (requests["requests"], requests.get("version")) == ([], None if channel == "telegram" else 1)


def test_npm_scripts_pass_flags_and_exit_codes(example: ExampleProject) -> None:
    """The page's ``scripts`` block, with real npm, else with the shell that npm starts."""
    (block,) = [part for part in parts_of("docs/moving-over.md") if isinstance(part, Block) and part.language == "json"]
    package = json.loads((example.root / "package.json").read_text()) | json.loads(block.text)
    (example.root / "package.json").write_text(json.dumps(package))
    (example.folder / "bin" / "npm").unlink()  # the stand-in
    npm = shutil.which("npm")

    def run(script: str, *flags: str) -> subprocess.CompletedProcess[str]:
        shell = ["sh", "-c", f'{package["scripts"][script]} "$@"', "-"]
        words = [*([npm, "run", "--silent", script, "--"] if npm else shell), *flags]
        return subprocess.run(
            words, cwd=example.root, env=example.variables, capture_output=True, text=True, timeout=90
        )

    (example.root / "invoke.yaml").write_text((example.root / "invoke.yaml").read_text().replace("npm run", "true"))
    prepared = run("release:prepare", "--release-id", "v12", "--json")
    assert (prepared.returncode, json.loads(prepared.stdout)["releaseId"]) == (0, "v12"), prepared
    assert run("release:prepare", "--release-id", "v12").returncode == 2
    assert run("release:preflight").returncode == 0
    assert run("release:drill").returncode == 0
    assert run("release:rollback", "--snapshot", NEWEST).returncode == 1
    assert run("release:rollback", "--plan").returncode == 0


def test_a_missing_snapshot_is_a_message_and_an_event(example: ExampleProject) -> None:
    """There is no traceback, and the exit code is the documented one."""
    answer = example.run("inv release.rollback --snapshot v99_nonesuch")
    assert (answer.code, "Traceback" in answer.output) == (2, False), answer
    assert "v99_nonesuch" in answer.output
    assert example.inv("release.audit")["events"][-1]["event"] == "rollback.refused"
