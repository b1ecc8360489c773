"""A drill restores a snapshot and does not touch live state."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import sqlite3
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from release_tasks.archive.capture import CaptureRequest, capture_snapshot
from release_tasks.archive.restore_tests import read_restore_tests
from release_tasks.archive.retention import retain
from release_tasks.archive.seal import sealed_document
from release_tasks.core.errors import ExitCode, Interrupted, UsageError
from release_tasks.core.lock import run_lock
from release_tasks.pairing.channels import Channel
from release_tasks.stages.drill import engine
from release_tasks.stages.drill.engine import run_drill
from release_tasks.stages.drill.outcome import DrillOutcome
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.tasks.project import load_settings
from tests.support.faults.listeners import on_steps
from tests.support.project import Project


def rehearse(project: Project, snapshot_id: str | None = None, **options: Any) -> DrillOutcome:
    progress = options.pop("progress", lambda step: None)
    return run_drill(project.settings, snapshot_id=snapshot_id, **options, emit=on_steps(progress))


def events(project: Project) -> list[dict[str, Any]]:
    """Return the events of the drill log, whose chain must be intact."""
    verdict = project.pipeline.drill_audit.verify()
    assert verdict.intact
    return verdict.events


def left(project: Project) -> list[str]:
    folder = project.pipeline.drills
    return os.listdir(folder) if folder.exists() else []


def test_a_good_snapshot_passes_and_live_state_is_untouched(project: Project, live_tree: Callable[..., Any]) -> None:
    """Inodes, digests, modes and times of state and pipeline are unchanged; only the drill log has grown."""
    snapshot = project.capture()
    project.damage()
    before = live_tree(project)
    outcome = rehearse(project)
    assert (outcome.status, outcome.snapshot_id, outcome.digest) == ("passed", snapshot.snapshot_id, snapshot.digest)
    assert {check.key: check.status for check in outcome.assets} == {
        "database": "restored",
        "identity": "restored",
        "mcp": "restored",
        "extra": "absent",
    }
    assert [(d.key, d.integrity, d.tables) for d in outcome.databases] == [
        ("database", "ok", {"accounts": 50, "ledger": 0})
    ]
    assert outcome.boot is None
    assert live_tree(project) == before
    assert left(project) == []
    (event,) = events(project)
    assert (event["event"], event["snapshotId"], event["digest"]) == (
        "drill.passed",
        snapshot.snapshot_id,
        snapshot.digest,
    )
    assert event["durationMs"] == outcome.duration_ms


def test_a_drill_under_a_writer_leaves_live_state_alone(
    project: Project, live_tree: Callable[..., Any], start_writer: Callable[..., Any]
) -> None:
    """The writer runs during the whole drill; only its own writes change the state."""
    project.capture()
    database = [project.database.with_name(project.database.name + suffix) for suffix in ("", "-wal", "-shm")]
    writer = start_writer(project.database)
    inode = project.database.stat().st_ino
    before = live_tree(project, *database)
    assert rehearse(project).status == "passed"
    assert live_tree(project, *database) == before
    assert writer.poll() is None
    assert project.database.stat().st_ino == inode
    accounts, ledger = project.rows()
    assert sum(balance for _, balance in accounts) == 50 * 100 and ledger


def alter(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def replace_link(link: Path, target: str) -> None:
    link.unlink()
    link.symlink_to(target)


def add_file(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("{}")


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "database: altered": lambda assets: alter(assets / "database" / "app.db"),
    "database: cut short": lambda assets: os.truncate(assets / "database" / "app.db", 4096),
    "database: missing": lambda assets: (assets / "database" / "app.db").unlink(),
    "identity: altered": lambda assets: alter(assets / "identity" / "identity" / "keys" / "private.pem"),
    "identity: missing": lambda assets: (assets / "identity" / "identity" / "identity.json").unlink(),
    "identity: added": lambda assets: (assets / "identity" / "identity" / "more").touch(),
    "identity: link": lambda assets: replace_link(assets / "identity" / "identity" / "current", "identity.json"),
    "mcp: altered": lambda assets: alter(assets / "mcp" / "mcp.json"),
    "extra: added": lambda assets: add_file(assets / "extra" / "extra.json"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_content_fails_and_names_the_asset(
    project: Project, live_tree: Callable[..., Any], damage: str
) -> None:
    """The drill fails, live state is untouched, and the failure is recorded."""
    snapshot = project.capture()
    DAMAGE[damage](project.pipeline.catalogue.path(snapshot.snapshot_id) / "assets")
    before = live_tree(project)
    outcome = rehearse(project)
    assert outcome.status == "failed"
    assert f"asset {damage.partition(':')[0]}:" in outcome.diagnostics[0]
    assert live_tree(project) == before
    assert left(project) == []
    assert [(event["event"], event["conclusive"]) for event in events(project)] == [("drill.failed", True)]
    assert read_restore_tests(project.pipeline).by_snapshot[snapshot.snapshot_id].status == "failed"


def test_altered_metadata_fails(project: Project) -> None:
    """Both a document with a wrong checksum and one that was sealed again fail."""
    snapshot = project.capture()
    path = project.pipeline.catalogue.path(snapshot.snapshot_id) / "metadata.json"
    document = json.loads(path.read_text())
    document["assets"][0]["mode"] = 0o777
    path.write_text(json.dumps(document))
    outcome = rehearse(project, snapshot.snapshot_id)
    assert (outcome.status, "checksum" in outcome.diagnostics[0]) == ("failed", True)
    path.write_text(json.dumps(sealed_document({k: v for k, v in document.items() if k != "checksum"})))
    outcome = rehearse(project, snapshot.snapshot_id)
    assert (outcome.status, "records of the assets were altered" in outcome.diagnostics[0]) == ("failed", True)


def test_a_snapshot_that_does_not_exist_is_a_usage_error(project: Project) -> None:
    """A mistyped id records nothing; a project without snapshots is a failed drill."""
    project.capture()
    with pytest.raises(UsageError, match="There is no snapshot 'nope'"):
        rehearse(project, "nope")
    assert not project.pipeline.drill_audit.path.exists()
    shutil.rmtree(project.pipeline.catalogue.store.folder)
    assert "no release snapshot" in rehearse(project).diagnostics[0]


def test_a_snapshot_without_digests_fails(project: Project) -> None:
    """Snapshots of the older tool can be restored with --force and cannot be verified."""
    folder = project.pipeline.catalogue.path("old")
    (folder / "assets").mkdir(parents=True)
    (folder / "assets" / "mcp.json").write_text("{}")
    asset = {"key": "mcp", "relativePath": "mcp.json", "kind": "file", "exists": True}
    document = {"snapshotId": "old", "releaseId": "old", "createdAt": "x", "retentionLimit": 5, "metadataPath": "x"}
    (folder / "metadata.json").write_text(json.dumps({**document, "assets": [asset]}))
    outcome = rehearse(project, "old")
    assert (outcome.status, outcome.digest) == ("failed", None)
    assert "has no digests" in outcome.diagnostics[0]
    assert read_restore_tests(project.pipeline).by_snapshot == {}


def test_a_safety_snapshot_of_a_damaged_database_fails(project: Project) -> None:
    """A safety snapshot of a damaged database cannot be restored."""
    project.database.write_bytes(b"no database at all" * 100)
    request = CaptureRequest(
        snapshot_id="safety_1", release_id=None, kind="safety", retention_limit=5, allow_damaged=True
    )
    capture_snapshot(project.pipeline.catalogue, project.settings.release.assets, request)
    outcome = rehearse(project, "safety_1")
    assert (outcome.status, "contains only remains of database" in outcome.diagnostics[0]) == ("failed", True)


def test_a_database_whose_index_lost_rows_fails(project: Project) -> None:
    """integrity_check finds what the quick_check of a capture does not."""
    database = sqlite3.connect(project.database)
    database.execute("CREATE INDEX by_balance ON accounts(balance)")
    database.execute("PRAGMA writable_schema = ON")
    database.execute(
        "UPDATE sqlite_schema SET sql = 'CREATE INDEX by_balance ON accounts(id)' WHERE name = 'by_balance'"
    )
    database.commit()
    database.close()
    project.capture()
    outcome = rehearse(project)
    assert outcome.status == "failed"
    assert "integrity check" in outcome.diagnostics[0]
    (check,) = outcome.databases
    assert (check.integrity != "ok", check.tables) == (True, {})


@pytest.mark.parametrize(
    "step", ["verify v1_snapshot", "copy", "rollback: recover", "rollback: swap", "integrity_check"]
)
def test_a_snapshot_removed_during_the_drill_is_not_restore_tested(project: Project, step: str) -> None:
    """Retention removes it at any step; earlier restore tests keep their status."""
    project.capture("v0")
    project.capture("v1")
    assert rehearse(project, "v0_snapshot").status == "passed"

    def retain_at(at: str) -> None:
        if at == step:
            assert retain(project.pipeline.catalogue, 1, {"v0_snapshot"}) == ["v1_snapshot"]

    retain(project.pipeline.catalogue, 5, set())
    project.capture("v2")
    outcome = rehearse(project, "v1_snapshot", progress=retain_at)
    assert outcome.status == "failed"
    assert "was removed during the drill" in outcome.diagnostics[0]
    assert left(project) == []
    assert events(project)[-1]["conclusive"] is False
    assert list(read_restore_tests(project.pipeline).by_snapshot) == ["v0_snapshot"]


def test_a_drill_and_a_rollback_do_not_block_each_other(project: Project) -> None:
    """A rollback runs in the middle of a drill, and a drill passes while the lock is held."""
    project.capture()
    project.damage()
    ended: list[str] = []

    def roll_back(step: str) -> None:
        if step == "rollback: stage":
            ended.append(rollback(project.settings, RollbackRequest()).status)

    assert rehearse(project, progress=roll_back).status == "passed"
    assert ended == ["restored"]
    with run_lock(project.pipeline.root, "another run"):
        assert rehearse(project).status == "passed"
    assert project.pipeline.audit.verify().intact


def test_two_concurrent_drills_use_separate_folders(project: Project) -> None:
    """Both run at the same moment, each in its own folder."""
    project.capture()
    meeting = threading.Barrier(2, timeout=30)
    seen: list[set[str]] = []
    outcomes: list[DrillOutcome] = []

    def meet(step: str) -> None:
        if step == "compare":
            meeting.wait()
            seen.append(set(left(project)))
            meeting.wait()

    threads = [threading.Thread(target=lambda: outcomes.append(rehearse(project, progress=meet))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [outcome.status for outcome in outcomes] == ["passed", "passed"]
    assert [len(folders) for folders in seen] == [2, 2]
    assert left(project) == []
    assert len(events(project)) == 2


def test_the_folder_of_a_killed_drill_is_removed(project: Project) -> None:
    """A folder without an owner is removed; a folder in use, one of another name, and a file stay."""
    project.capture()
    drills = project.pipeline.drills
    abandoned, at_work, foreign = (
        drills / name for name in ("release-drill-20260101000000-aaaaaa", "release-drill-20260101000000-bbbbbb", "mine")
    )
    for folder in (abandoned, at_work, foreign):
        (folder / "project").mkdir(parents=True)
    (abandoned / "project").chmod(0o500)
    (drills / "release-drill-20260101000000-cccccc").write_text("")
    claim = os.open(at_work, os.O_RDONLY)
    fcntl.flock(claim, fcntl.LOCK_EX)
    assert rehearse(project).status == "passed"
    os.close(claim)
    assert sorted(left(project)) == sorted([at_work.name, foreign.name, "release-drill-20260101000000-cccccc"])


def test_a_folder_that_cannot_be_locked_is_a_failed_drill(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network filesystems refuse locks: the drill fails after a few attempts, and no folder stays."""

    flock = fcntl.flock

    def refuse_folders(descriptor: int, operation: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(descriptor, operation)

    project.capture()
    monkeypatch.setattr(fcntl, "flock", refuse_folders)
    outcome = rehearse(project)
    assert (outcome.status, "can be locked" in outcome.diagnostics[0]) == ("failed", True)
    assert left(project) == []


@pytest.mark.slow
def test_an_interrupted_drill_leaves_nothing(project: Project, live_tree: Callable[..., Any]) -> None:
    """No folder and no event stays, wherever the signal arrives."""
    project.capture()
    before = live_tree(project)
    steps: list[str] = []
    rehearse(project, progress=steps.append)
    project.pipeline.drill_audit.path.unlink()
    for expected in steps:

        def interrupt(step: str, expected: str = expected) -> None:
            if step == expected:
                raise Interrupted(ExitCode.SIGINT)

        with pytest.raises(Interrupted):
            rehearse(project, progress=interrupt)
        assert left(project) == []
    assert not project.pipeline.drill_audit.path.exists()
    assert live_tree(project) == before


def test_a_requested_scratch_folder_is_used(
    project: Project, tmp_path_factory: pytest.TempPathFactory, live_tree: Callable[..., dict[str, Any]]
) -> None:
    """It may be on another filesystem; the pipeline folder gets only the log."""
    shared = Path("/dev/shm")
    scratch = shared if shared.is_dir() else tmp_path_factory.mktemp("scratch")
    project.capture()
    before, there = live_tree(project), set(os.listdir(scratch))
    seen: list[Path] = []
    outcome = rehearse(
        project,
        scratch=scratch,
        progress=lambda step: seen.extend(scratch.glob("release-drill-*/project/state/app.db")),
    )
    assert outcome.status == "passed"
    assert seen
    assert {name for name in os.listdir(scratch) if name.startswith("release-drill-")} <= there
    assert not project.pipeline.drills.exists()
    assert live_tree(project) == before


def test_a_scratch_folder_within_live_state_is_refused(project: Project) -> None:
    """Inside an asset, also through a link, inside the pipeline, or missing: usage errors without any change."""
    project.capture()
    (project.folder / "link").symlink_to(project.identity)
    for folder in (project.identity, project.identity / "keys", project.pipeline.root, project.folder / "link"):
        with pytest.raises(UsageError, match="live"):
            rehearse(project, scratch=folder)
    with pytest.raises(UsageError, match="is not a directory"):
        rehearse(project, scratch=project.folder / "nowhere")
    assert not project.pipeline.drill_audit.path.exists()


def test_the_scratch_folder_is_private(project: Project) -> None:
    """The mode is 0700 from the drills folder down to the project, with any umask."""
    project.capture()
    modes: set[int] = set()

    def look(step: str) -> None:
        for pattern in ("drills", "drills/*", "drills/*/*", "drills/*/pipeline/snapshots"):
            modes.update(path.stat().st_mode & 0o777 for path in project.pipeline.root.glob(pattern) if path.is_dir())

    before = os.umask(0)
    try:
        assert rehearse(project, progress=look).status == "passed"
    finally:
        os.umask(before)
    assert modes == {0o700}


def test_assets_outside_of_the_project_are_restored_in_the_scratch_folder(
    project: Project, tmp_path_factory: pytest.TempPathFactory, live_tree: Callable[..., dict[str, Any]]
) -> None:
    """Paths that are next to each other elsewhere are so in the scratch folder, and the live paths are untouched."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "one.json").write_text("1")
    (elsewhere / "two").mkdir()
    (elsewhere / "two" / "deep").write_text("2")
    project.overrides["assets.one"] = {"file": str(elsewhere / "one.json")}
    project.overrides["assets.two"] = {"directory": str(elsewhere / "two")}
    project.capture()
    before = {path: path.lstat() for path in [elsewhere, *elsewhere.rglob("*")]}
    found: list[list[str]] = []

    def look(step: str) -> None:
        if step == "compare":
            (folder,) = project.pipeline.drills.glob(f"*/outside{elsewhere}")
            found.append(sorted(path.name for path in folder.iterdir()))

    assert rehearse(project, progress=look).status == "passed"
    assert found == [["one.json", "two"]]
    assert {path: path.lstat() for path in [elsewhere, *elsewhere.rglob("*")]} == before


def test_pairing_stores_in_a_snapshot_are_restored_unchanged(project: Project, live_tree: Callable[..., Any]) -> None:
    """The drill does not read or write the live stores and their log."""
    from release_tasks.pairing.store import Store

    credentials = project.state / "credentials"
    store = Store(credentials)
    credentials.mkdir()
    store.approved_path(Channel.TELEGRAM).write_text('{"senderIds": ["1", "2"]}')
    store.audit.append("pairing.approved", status="granted", detail="")
    project.overrides["assets.credentials"] = {"directory": "state/credentials"}
    raw = {"release": project.raw, "pairing": {"credentials": "state/credentials"}}
    settings = load_settings(raw, project.folder)
    project.capture()
    store.approved_path(Channel.TELEGRAM).write_text('{"senderIds": ["1"]}')
    before = live_tree(project)
    assert run_drill(settings).status == "passed"
    assert live_tree(project) == before


def test_assets_known_to_one_side_only_are_reported(project: Project) -> None:
    """As in a rollback: an asset that the snapshot lacks is left alone, one without configuration is not restored."""
    project.capture()
    project.overrides["assets.late"] = {"file": "state/late.json", "required": False}
    outcome = rehearse(project)
    assert (outcome.status, len(outcome.diagnostics)) == ("passed", 1)
    assert outcome.diagnostics[0].startswith("late:")
    project.overrides["assets"] = {"other": {"file": "state/other.json"}}
    del project.overrides["assets.late"]
    outcome = rehearse(project)
    assert (outcome.status, "contains no asset of release.assets" in outcome.diagnostics[0]) == ("failed", True)


def lose_rows(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("DELETE FROM accounts")


MUTANTS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "content": ("mcp: its content differs", lambda state: (state / "mcp.json").write_text("[]")),
    "mode": ("mcp: its mode is 777", lambda state: (state / "mcp.json").chmod(0o777)),
    "missing": ("mcp: it was not restored", lambda state: (state / "mcp.json").unlink()),
    "too much": ("extra: it exists", lambda state: (state / "extra.json").touch()),
    "entry": ("identity: its content differs", lambda state: (state / "identity" / "more").touch()),
    "kind": ("mcp: it is not a file", lambda state: replace_by_folder(state / "mcp.json")),
    "rows": (
        "database: its content differs",
        lambda state: lose_rows(state / "app.db"),
    ),
    "side file": (
        "database: it has an extra side file app.db-journal",
        lambda state: (state / "app.db-journal").touch(),
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_faulty_restore_is_found(project: Project, monkeypatch: pytest.MonkeyPatch, mutant: str) -> None:
    """A restore with one difference from the metadata does not pass."""
    message, spoil = MUTANTS[mutant]
    project.capture()

    def spoiled(settings: Any, *arguments: Any) -> Any:
        outcome = rollback(settings, *arguments)
        if outcome.status == "restored":
            spoil(settings.project / "state")
        return outcome

    monkeypatch.setattr(engine, "rollback", spoiled)
    outcome = rehearse(project)
    assert outcome.status == "failed"
    assert any(message in sentence for sentence in outcome.diagnostics), outcome.diagnostics


def test_an_unwritable_drill_log_is_a_failed_drill(project: Project) -> None:
    """The log is a folder: the drill fails and the message names the file."""
    project.capture()
    project.pipeline.drill_audit.path.mkdir()
    outcome = rehearse(project)
    assert outcome.status == "failed"
    assert "drill-audit.log" in outcome.diagnostics[0]
