"""Damaged manifests, latest.json, rollback state and journal: every command works or fails with a message."""

from __future__ import annotations

import copy
import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from release_tasks.archive.pipeline import Pipeline
from release_tasks.archive.retention import retain
from release_tasks.archive.verify import verify_all
from release_tasks.assets import base
from release_tasks.assets.placing import rename_into_place
from release_tasks.core.canonical import pretty_bytes
from release_tasks.core.errors import ExitCode, StageError, StageFailed, UsageError
from release_tasks.core.records import Manifest
from release_tasks.report.status import overview
from release_tasks.stages.rollback.plan import plan_rollback
from release_tasks.stages.rollback.recovery import pending, recover
from release_tasks.tasks.flags import with_flags
from tests.support.crash import PowerCut, fail_at
from tests.support.faults.damage import (
    DEVICES,
    WRONG_DOCUMENTS,
    DamagedProject,
    edited,
    edits,
    paths_in,
    scratch_folder,
    value_at,
)
from tests.support.faults.marks import NEEDS_ROOT
from tests.support.faults.stages import passed_preflight, prepare
from tests.support.files import listing
from tests.support.project import Project
from tests.support.stored_snapshots import reseal

pytestmark = pytest.mark.slow

Document = dict[str, Any]
Change = Callable[[Document], Any]

EVERY_DAMAGE = {**WRONG_DOCUMENTS, **(DEVICES if os.geteuid() == 0 else {})}
# One of each kind, for tests that are too slow for all of them.
WORST = ["half of it", "NaN", "100,000 levels", "a folder", "a named pipe", "a link to the moved original"]
DANGLING = ["a link to nowhere", "a link to itself"]
OTHERS = [case for case in EVERY_DAMAGE if case not in (*WORST, *DANGLING)]
CASES_IN_TWO_PARTS = pytest.mark.parametrize(
    "cases", [WORST, pytest.param(OTHERS, marks=pytest.mark.slow)], ids=["the worst", "the others"]
)


@pytest.fixture(scope="module")
def released_template() -> Iterator[DamagedProject]:
    """The project of ``released``, made once for all tests of this module."""
    with scratch_folder() as folder:
        (folder / "released").mkdir()
        made = DamagedProject(Project(folder / "released"))
        assert made.roll_back("v0_snapshot").status == "restored"
        made.project.damage()
        made.project.mcp.write_text('{"since": 1}')
        assert release(made, "r1").status == "ready"
        made.old = made.project.content()
        made.save_template()
        yield made


@pytest.fixture
def released(released_template: DamagedProject) -> DamagedProject:
    """A project with manifest, latest.json and rollback state: rolled back once, changed and released since then."""
    released_template.reset()
    return released_template


def release(damaged: DamagedProject, release_id: str, retention: int | None = None) -> Manifest:
    return prepare(with_flags(damaged.settings, retention=retention), passed_preflight(), release_id)


def crash_in_swap(damaged: DamagedProject, exchanges: int = 2) -> Path:
    """End a rollback to v1 after the database is restored and two files are exchanged; returns the journal's path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "rename_into_place", fail_at(exchanges + 1, rename_into_place, PowerCut()))
        with pytest.raises(PowerCut):
            damaged.roll_back()
    assert damaged.state().startswith("a mix")
    return damaged.pipeline.journal_path


def unchanged_files(damaged: DamagedProject) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a listing of what no recovery may change: a file that is no asset, and the earlier snapshots."""
    stored = listing(damaged.pipeline.catalogue.store.folder)
    snapshots = {path: info for path, info in stored.items() if path.startswith(("v0_snapshot", "v1_snapshot"))}
    return {path: info for path, info in damaged.live().items() if path.startswith("neighbour/file")}, snapshots


def set_step(number: int, **values: Any) -> Change:
    return lambda document: document["steps"][number].update(values)


# ---- the journal


def assert_journal_refused(damaged: DamagedProject, case: str, thoroughly: bool = False) -> None:
    """Fail unless recover refuses with a message and changes nothing; with ``thoroughly`` other commands too."""
    live, stored = damaged.live(), listing(damaged.pipeline.catalogue.store.folder)
    path = damaged.pipeline.journal_path
    before = os.lstat(path)
    commands: dict[str, Callable[[], Any]] = {"recover": lambda: recover(damaged.settings)}
    if thoroughly:
        commands["pending"] = lambda: pending(damaged.settings, damaged.pipeline)
        commands["plan"] = lambda: plan_rollback(damaged.settings)
        commands["prepare"] = lambda: release(damaged, "later")
    for name, command in commands.items():
        with pytest.raises(StageFailed) as error:
            command()
        message = error.value.message
        if name == "prepare":
            assert "Run `inv release.recover` first" in message, (case, message)
        else:
            assert f"move {path} away, then run `inv release.rollback --snapshot ID --force`" in message, (
                case,
                name,
                message,
            )
            assert "Nothing was changed" in message, (case, name, message)
            assert len(message) < 5000, (case, name, len(message))
    if thoroughly:
        outcome = damaged.roll_back(force=True)
        assert outcome.status == "failed", case
        assert "its journal is damaged" in outcome.diagnostics[0], case
        assert damaged.last_event() == ("rollback.refused", "failed", outcome.diagnostics[0]), case
        assert overview(damaged.settings, 10)["interrupted"] is True, case
        assert {verdict.status for verdict in verify_all(damaged.pipeline.catalogue)} == {"verified"}, case
    assert damaged.live() == live, case
    assert listing(damaged.pipeline.catalogue.store.folder) == stored, case
    after = os.lstat(path)
    assert (before.st_ino, before.st_mode, before.st_mtime_ns) == (after.st_ino, after.st_mode, after.st_mtime_ns), case


@CASES_IN_TWO_PARTS
def test_unreadable_journal_stops_every_command_that_changes_state(
    damaged: DamagedProject, report_points: Callable[[int], None], cases: list[str]
) -> None:
    """After a crash in the swap no command guesses; with the original journal recover finishes."""
    path = crash_in_swap(damaged)
    good = path.with_name("good")
    path.rename(good)
    for case in cases:
        shutil.copy(good, path)
        EVERY_DAMAGE[case](path)
        assert_journal_refused(damaged, case, thoroughly=True)
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        (damaged.folder / "neighbour" / "moved").unlink(missing_ok=True)
    good.rename(path)
    assert recover(damaged.settings).status == "finished"
    assert damaged.state() == "new"
    report_points(len(cases))


@pytest.mark.parametrize("case", DANGLING)
def test_journal_that_is_a_dangling_link_still_stops_commands(damaged: DamagedProject, case: str) -> None:
    """``exists`` is false for such a link, and a release would then capture the mix."""
    path = crash_in_swap(damaged)
    EVERY_DAMAGE[case](path)
    assert_journal_refused(damaged, case, thoroughly=True)


def changed(value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int):
        return value + 1
    return value[:-1] if value else "x"


def test_every_value_of_a_journal_is_covered_by_its_checksum(
    damaged: DamagedProject, report_points: Callable[[int], None]
) -> None:
    """A value changed, dropped or added at any depth is refused: a wrong inode or ``done`` would make a mix."""
    path = crash_in_swap(damaged)
    text = path.read_text()
    original = json.loads(text)
    found = [keys for keys in paths_in(original) if not isinstance(value_at(original, keys), dict)]
    for keys in found:
        path.write_text(json.dumps(edited(original, [(keys, "set", changed(value_at(original, keys)))])))
        assert_journal_refused(damaged, f"{keys} changed")
        path.write_text(json.dumps(edited(original, [(keys, "drop", None)])))
        assert_journal_refused(damaged, f"{keys} dropped")
    path.write_text(json.dumps({**original, "more": 1}))
    assert_journal_refused(damaged, "a key more")
    path.write_text(text)
    assert recover(damaged.settings).status == "finished"
    assert damaged.state() == "new"
    assert len(found) > 30
    report_points(2 * len(found) + 1)


DATABASE, IDENTITY, MCP, EXTRA = range(4)  # the steps, in their order

# Journals with a correct checksum that no rollback writes: (the change, a part of the message).
FORGED: dict[str, tuple[Change, str]] = {
    "a rollback that leads out": (lambda d: d.update(rollbackId="../../neighbour"), "invalid rollbackId"),
    "a rollback with a slash": (lambda d: d.update(rollbackId="a/b"), "invalid rollbackId"),
    "no rollback": (lambda d: d.update(rollbackId=""), "invalid rollbackId"),
    "a rollback of surrogates": (lambda d: d.update(rollbackId="\ud800"), "invalid rollbackId"),
    "a rollback of 100,000 characters": (lambda d: d.update(rollbackId="x" * 100_000), "invalid rollbackId"),
    "another rollback": (lambda d: d.update(rollbackId="20200101000000-aaaaaa"), "of another rollback"),
    "a snapshot that leads out": (lambda d: d.update(snapshotId="../v1_snapshot"), "invalid snapshotId"),
    "a snapshot of 100,000 characters": (lambda d: d.update(snapshotId="x" * 100_000), "invalid snapshotId"),
    "a safety snapshot of another": (lambda d: d.update(safetySnapshotId="v0_snapshot"), "of another rollback"),
    "a safety snapshot that leads out": (lambda d: d.update(safetySnapshotId="../v0_snapshot"), "of another rollback"),
    "a number for the safety snapshot": (lambda d: d.update(safetySnapshotId=7), "safetySnapshotId: expected"),
    "another direction": (lambda d: d.update(direction="sideways"), "direction"),
    "a step twice": (lambda d: d["steps"].append(d["steps"][MCP]), "has two steps for one asset"),
    "a step twice, once done": (
        lambda d: d["steps"].append({**d["steps"][MCP], "done": True}),
        "has two steps for one asset",
    ),
    "another action": (set_step(MCP, action="delete"), "action"),
    "a database that takes a place": (set_step(DATABASE, action="place", begun=True), "inconsistent step"),
    "a database with an inode": (set_step(DATABASE, new={"device": 1, "number": 1}), "inconsistent step"),
    "a database that is mirrored": (set_step(DATABASE, mirrored=True), "inconsistent step"),
    "a file whose rows were begun": (set_step(MCP, begun=True), "inconsistent step"),
    "an inode that is a list": (set_step(MCP, new=[1, 2]), "expected object"),
    "an inode that is text": (set_step(MCP, new={"device": "1", "number": 1}), "expected int"),
    "an inode with a point": (set_step(MCP, new={"device": 1, "number": 1.5}), "expected int"),
    "half an inode": (set_step(MCP, new={"device": 1}), "is missing"),
    "done as text": (set_step(MCP, done="yes"), "expected bool"),
    "steps that are an object": (lambda d: d.update(steps={}), "expected list"),
    "a step that is a list": (lambda d: d["steps"].append([]), "expected object"),
    "a hundred thousand steps": (lambda d: d.update(steps=[0] * 100_000), "and more"),
    "no steps": (lambda d: d.pop("steps"), "steps: is missing"),
    "a time that is a number": (lambda d: d.update(startedAt=5), "expected str"),
    "a later version": (lambda d: d.update(journalVersion=3), "unknown journalVersion"),
    "a version that is true": (lambda d: d.update(journalVersion=True), "unknown journalVersion"),
}


def test_forged_journal_with_a_correct_checksum_is_refused(
    damaged: DamagedProject, report_points: Callable[[int], None]
) -> None:
    """An attacker who computes the checksum cannot make recover read or rename other files."""
    path = crash_in_swap(damaged)
    text = path.read_text()
    for case, (change, reason) in FORGED.items():
        document = json.loads(text)
        change(document)
        path.write_text(json.dumps(reseal(document)))
        assert_journal_refused(damaged, case)
        with pytest.raises(StageFailed) as error:
            pending(damaged.settings, damaged.pipeline)
        assert reason in error.value.message, (case, error.value.message)
    path.write_text(text)
    assert recover(damaged.settings).status == "finished"
    assert damaged.state() == "new"
    report_points(len(FORGED))


WRONG_PATHS: dict[str, Change] = {
    "an asset that is none": set_step(MCP, key="other"),
    "another asset's key": lambda d: (set_step(EXTRA, key="spare")(d), set_step(MCP, key="extra")(d)),
    "an absolute path": set_step(MCP, path="/etc/passwd"),
    "a path with dots": lambda d: set_step(MCP, path=d["steps"][MCP]["path"] + "/../mcp.json")(d),
    "a path out of the project": set_step(MCP, path="../neighbour/file"),
    "a path that stands for no bytes": set_step(MCP, path="\ud800"),
    "no path": set_step(MCP, path=""),
    "two paths swapped": lambda d: (
        set_step(MCP, path=d["steps"][EXTRA]["path"])(d),
        set_step(EXTRA, path=d["steps"][IDENTITY]["path"])(d),
    ),
}


def test_forged_journal_cannot_name_a_path_outside_the_configuration(
    damaged: DamagedProject, report_points: Callable[[int], None]
) -> None:
    """The path of an asset comes from release.assets; the message names the unknown path."""
    path = crash_in_swap(damaged)
    text = path.read_text()
    live = damaged.live()
    for case, change in WRONG_PATHS.items():
        document = json.loads(text)
        change(document)
        path.write_text(json.dumps(reseal(document)))
        with pytest.raises(StageFailed, match=r"which is no longer in release\.assets"):
            recover(damaged.settings)
        assert damaged.roll_back(force=True).status == "failed", case
        assert damaged.live() == live, case
    report_points(len(WRONG_PATHS))


def all_steps(**values: Any) -> Change:
    return lambda document: [step.update(values) for step in document["steps"]]


def no_inodes(document: Document) -> None:
    for step in document["steps"]:
        if step["action"] == "place" and step["new"] is not None:
            step.update(new={"device": -1, "number": 10**200}, done=False)


# Forged values that recover accepts: (the change, the status of recover, the live state after it).
ACCEPTED: dict[str, tuple[Change, str, str]] = {
    "the other direction": (lambda d: d.update(direction="back"), "undone", "old"),
    "a snapshot that is not there": (lambda d: d.update(snapshotId="nowhere"), "undone", "old"),
    "a snapshot that is the safety snapshot": (
        lambda d: d.update(snapshotId=d["safetySnapshotId"]), "finished", "",
    ),
    "nothing done so far": (all_steps(done=False), "finished", "new"),
    "all of it mirrored": (
        lambda d: [step.update(mirrored=True) for step in d["steps"][IDENTITY:]], "finished", "new",
    ),
    "inodes of no file": (no_inodes, "finished", "new"),
    "its steps in another order": (lambda d: d["steps"].reverse(), "finished", "new"),
    "a lineage of any kind": (lambda d: d.update(lineage="\ud800/-1"), "finished", "new"),
    "a time of any kind": (lambda d: d.update(startedAt="\x1b[2J"), "finished", "new"),
    "keys of a later time": (lambda d: d.update(later=[{}]), "finished", "new"),
}  # fmt: skip


@pytest.mark.parametrize("case", ACCEPTED)
def test_plausible_forged_journal_ends_in_a_whole_state(damaged: DamagedProject, case: str) -> None:
    """Recover finds old and new by the inodes and the snapshots, not by the progress in the journal."""
    change, status, state = ACCEPTED[case]
    path = crash_in_swap(damaged)
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(reseal(document)))
    before = unchanged_files(damaged)
    assert recover(damaged.settings, unverified=True).status == status  # the log has another snapshot
    assert state in damaged.state()
    assert unchanged_files(damaged) == before
    assert damaged.leftovers() == []
    assert damaged.roll_back(force=True).status == "restored"
    assert damaged.state() == "new"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_edit_of_a_forged_journal_leaves_a_rollback_possible(damaged: DamagedProject, data: st.DataObject) -> None:
    """Recover fails with a message or reports; only assets change; a forced rollback restores the whole snapshot.

    Recover cannot find a false ``done`` with a correct checksum.
    """
    damaged.reset()
    path = crash_in_swap(damaged)
    original = json.loads(path.read_text())
    path.write_text(json.dumps(reseal(edited(original, data.draw(edits(original))))))
    live, before = damaged.live(), unchanged_files(damaged)
    try:
        recover(damaged.settings)
    except StageError as error:
        if path.exists() and "could not be completed" not in error.message:
            assert damaged.live() == live
    assert unchanged_files(damaged) == before
    assert pretty_bytes(overview(damaged.settings, 10))
    path.unlink(missing_ok=True)
    outcome = damaged.roll_back(force=True)
    assert outcome.status == "restored", outcome
    assert damaged.state() == "new"
    assert damaged.leftovers() == []
    assert unchanged_files(damaged) == before


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_edit_of_a_journal_is_found(damaged: DamagedProject, data: st.DataObject) -> None:
    """After any change of bytes the journal is refused, unless its JSON is equal."""
    path = damaged.pipeline.journal_path
    if not path.exists():
        crash_in_swap(damaged)
        shutil.copy(path, damaged.folder.with_name("good-journal"))
    good = damaged.folder.with_name("good-journal").read_bytes()
    start = data.draw(st.integers(0, len(good)))
    new = data.draw(st.binary(max_size=5))
    bad = good[:start] + new + good[start + data.draw(st.integers(0, 5)) :]
    path.write_bytes(bad)
    try:
        if json.loads(bad) == json.loads(good):
            return
    except ValueError:
        pass
    assert_journal_refused(damaged, repr(bad[start - 20 : start + 20]))


def break_metadata(damaged: DamagedProject, snapshot_id: str) -> Callable[[], object]:
    """Damage the metadata of a snapshot; returns the function that repairs it."""
    path = damaged.pipeline.catalogue.path(snapshot_id) / "metadata.json"
    good = path.read_bytes()
    path.write_bytes(good.replace(b'"sequence"', b'"sequences"'))
    return lambda: path.write_bytes(good)


def break_file(damaged: DamagedProject, snapshot_id: str) -> Callable[[], object]:
    """Flip a bit of a stored file; returns the function that repairs it."""
    path = damaged.pipeline.catalogue.path(snapshot_id) / "assets/identity/identity/identity.json"
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    return lambda: path.write_bytes(good)


BREAKS = {"metadata": break_metadata, "a stored file": break_file}


def safety_snapshot_of(damaged: DamagedProject) -> str:
    found: str = json.loads(damaged.pipeline.journal_path.read_text())["safetySnapshotId"]
    return found


@pytest.mark.parametrize("what", BREAKS)
def test_recovery_undoes_when_the_snapshot_is_damaged(damaged: DamagedProject, what: str) -> None:
    """Recover verifies the digests before it moves any file, and then restores the old state."""
    crash_in_swap(damaged)
    BREAKS[what](damaged, "v1_snapshot")
    report = recover(damaged.settings)
    assert (report.status, damaged.state()) == ("undone", "old")
    assert damaged.leftovers() == []


@pytest.mark.parametrize("what", BREAKS)
def test_recovery_finishes_when_only_the_safety_snapshot_is_damaged(damaged: DamagedProject, what: str) -> None:
    """Finishing does not need the safety snapshot; undoing would."""
    crash_in_swap(damaged)
    BREAKS[what](damaged, safety_snapshot_of(damaged))
    report = recover(damaged.settings)
    assert (report.status, damaged.state()) == ("finished", "new")


@pytest.mark.parametrize("what", BREAKS)
def test_recovery_changes_nothing_when_both_snapshots_are_damaged(damaged: DamagedProject, what: str) -> None:
    """It reports both, keeps the journal, and finishes once one snapshot is repaired."""
    path = crash_in_swap(damaged)
    safety = safety_snapshot_of(damaged)
    live = damaged.live()
    journal = path.read_bytes()
    repair = BREAKS[what](damaged, "v1_snapshot")
    BREAKS[what](damaged, safety)
    for _ in range(2):
        with pytest.raises(StageFailed, match="may be mixed"):
            recover(damaged.settings)
        assert damaged.roll_back("v0_snapshot", force=True).status == "failed"
        assert damaged.live() == live
        assert path.read_bytes() == journal
    repair()
    assert recover(damaged.settings).status == "finished"
    assert damaged.state() == "new"


# ---- manifests, latest.json and the rollback state


def record_path(damaged: DamagedProject, which: str) -> Path:
    pipeline = damaged.pipeline
    return {
        "manifest": pipeline.manifests / "r1.json",
        "latest": pipeline.manifests / "latest.json",
        "state": pipeline.state_path,
    }[which]


def assert_reading_works(damaged: DamagedProject, case: str) -> None:
    """Fail unless every command that only reads works."""
    assert pretty_bytes(overview(damaged.settings, 10)), case
    assert {verdict.status for verdict in verify_all(damaged.pipeline.catalogue)} == {"verified"}, case
    assert damaged.pipeline.audit.verify(damaged.pipeline.anchors()).intact, case
    assert plan_rollback(damaged.settings, snapshot_id="v1_snapshot").changes, case
    assert recover(damaged.settings).status == "clean", case


def write_record(path: Path, document: Document) -> None:
    """Write a document with a correct checksum, as an attacker does."""
    path.write_text(json.dumps(reseal(document)))


@pytest.mark.parametrize("which", ["manifest", "latest", "state"])
def test_every_value_of_a_record_is_covered_by_its_checksum(
    released: DamagedProject, report_points: Callable[[int], None], which: str
) -> None:
    """A value changed, dropped or added at any depth, or a changed checksum, makes the record unreadable."""
    path = record_path(released, which)
    original = json.loads(path.read_bytes())
    found = [keys for keys in paths_in(original) if not isinstance(value_at(original, keys), (dict, list))]
    documents = [edited(original, [(keys, "set", changed(value_at(original, keys)))]) for keys in found]
    documents += [edited(original, [(keys, "drop", None)]) for keys in found]
    documents += [{**original, "more": 1}, {**original, "checksum": None}]
    for document in documents:
        path.write_text(json.dumps(document))
        status = overview(released.settings, 10)
        if which == "manifest":
            assert status["releases"][0]["status"] == "unreadable", document
        elif which == "state":
            assert status["rollback"]["status"] == "unreadable", document
        else:
            assert released.pipeline.latest_ready() is None, document
    report_points(len(documents))


@CASES_IN_TWO_PARTS
@pytest.mark.parametrize("which", ["manifest", "latest", "state"])
def test_unreadable_record_stops_no_reading_command(
    released: DamagedProject, report_points: Callable[[int], None], which: str, cases: list[str]
) -> None:
    """Status names the record and the reason; the live state and the record stay unchanged."""
    path = record_path(released, which)
    good = path.with_name("good")
    path.rename(good)
    for case in [*cases, *DANGLING]:
        shutil.copy(good, path)
        EVERY_DAMAGE[case](path)
        content, before = released.project.content(), os.lstat(path)
        assert_reading_works(released, case)
        found = overview(released.settings, 10)
        if which == "manifest":
            assert [r["status"] for r in found["releases"]] == ["unreadable"], case
            assert "r1.json" in found["releases"][0]["detail"], case
            with pytest.raises(UsageError, match="taken by an unreadable manifest"):
                release(released, "r1")
        elif which == "state":
            assert found["rollback"]["status"] == "unreadable", case
            assert "rollback-state.json" in found["rollback"]["detail"], case
        else:
            assert released.pipeline.latest_ready() is None, case
        assert released.project.content() == content, case
        assert os.lstat(path).st_ino == before.st_ino, case
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        (released.folder / "neighbour" / "moved").unlink(missing_ok=True)
    report_points(len(cases) + len(DANGLING))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("case", [*WORST, pytest.param("a device that is empty", marks=[pytest.mark.root, NEEDS_ROOT])])
@pytest.mark.parametrize("which", ["manifest", "latest", "state"])
def test_unreadable_record_blocks_no_rollback(released: DamagedProject, which: str, case: str) -> None:
    """Rollback and release succeed, or fail without a change; the target of a link is never written."""
    EVERY_DAMAGE[case](record_path(released, which))
    moved = released.folder / "neighbour" / "moved"
    before = moved.read_bytes() if moved.exists() else None
    live = released.live()
    outcome = released.roll_back()
    if (which, case) == ("state", "a folder"):
        assert (outcome.status, released.live()) == ("failed", live)
        assert str(released.pipeline.state_path) in outcome.diagnostics[0]
    else:
        assert outcome.status == "restored"
        assert released.state() == "new"
    content = released.project.content()
    manifest = release(released, "r2")
    assert manifest.status == ("blocked" if (which, case) == ("latest", "a folder") else "ready"), manifest.diagnostics
    assert released.project.content() == content
    assert (moved.read_bytes() if moved.exists() else None) == before
    assert released.leftovers() == []


@pytest.mark.parametrize("case", [*WORST, "removed"])
@pytest.mark.parametrize("which", ["latest", "state"])
def test_retention_keeps_snapshots_that_an_unreadable_record_may_name(
    released: DamagedProject, which: str, case: str
) -> None:
    """The deployed release has its own manifest; with an unreadable rollback state retention deletes nothing."""
    state = released.pipeline.read_state()
    latest = released.pipeline.latest_ready()
    assert state is not None and latest is not None and latest.snapshot is not None
    path = record_path(released, which)
    path.unlink() if case == "removed" else EVERY_DAMAGE[case](path)
    for number in range(3):
        released.project.mcp.write_text(str(number))
        released.project.capture(f"x{number}")
    protected = Pipeline(released.pipeline.root).protected_snapshots()
    if which == "latest":
        assert latest.snapshot.snapshot_id in protected
    elif case != "removed":
        assert {state.snapshot_id, state.safety_snapshot_id} <= protected
    retain(released.pipeline.catalogue, 1, protected)
    left = set(os.listdir(released.pipeline.catalogue.store.folder))
    assert protected <= left
    assert "x2_snapshot" in left


# Invalid manifests: (the change, a part of the reason).
INVALID: dict[str, tuple[Change, str]] = {
    "another release": (lambda d: d.update(releaseId="r9"), "belongs to release 'r9'"),
    "a release that leads out": (lambda d: d.update(releaseId="../r1"), "belongs to release"),
    "a release of 100,000 characters": (lambda d: d.update(releaseId="x" * 100_000), "belongs to release"),
    "a snapshot that leads out": (lambda d: d["snapshot"].update(snapshotId="../x"), "snapshotId"),
    "a snapshot of surrogates": (lambda d: d["snapshot"].update(snapshotId="\ud800"), "snapshotId"),
    "a snapshot that is text": (lambda d: d.update(snapshot="r1_snapshot"), "expected object"),
    "a sequence below zero": (lambda d: d.update(sequence=-1), "sequence"),
    "a sequence of 400 digits": (lambda d: d.update(sequence=10**400), "too large a number"),
    "a sequence with a point": (lambda d: d.update(sequence=1.5), "expected int"),
    "another status": (lambda d: d.update(status="done"), "status"),
    "a status that is a list": (lambda d: d.update(status=["ready"]), "status"),
    "no preflight": (lambda d: d.pop("preflight"), "preflight: is missing"),
    "checks that are numbers": (lambda d: d["preflight"].update(checks=[1] * 100_000), "and more"),
    "diagnostics that are numbers": (lambda d: d.update(diagnostics=[1]), "expected str"),
    "an artifact that is text": (lambda d: d.update(artifacts=["x"]), "expected object"),
    "an anchor that is text": (lambda d: d.update(audit="x"), "expected object"),
    "a newer version": (lambda d: d.update(manifestVersion=2), "reads up to 1"),
    "a version that is true": (lambda d: d.update(manifestVersion=True), "no valid manifestVersion"),
}


def test_invalid_manifest_is_listed_with_its_reason(
    released: DamagedProject, report_points: Callable[[int], None]
) -> None:
    """Its snapshot, sequence and anchor have no effect."""
    path = record_path(released, "manifest")
    original = json.loads(path.read_bytes())
    for case, (change, reason) in INVALID.items():
        document = copy.deepcopy(original)
        change(document)
        write_record(path, document)
        assert_reading_works(released, case)
        (listed,) = overview(released.settings, 10)["releases"]
        assert (listed["releaseId"], listed["status"]) == ("r1", "unreadable"), case
        assert reason in listed["detail"] and len(listed["detail"]) < 5000, (case, listed)
        assert released.pipeline.lineage().endswith("/0"), case
    report_points(len(INVALID))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_edit_of_a_record_leaves_a_rollback_that_restores_the_snapshot(
    released: DamagedProject, data: st.DataObject
) -> None:
    """No content of a manifest or of the rollback state makes a rollback restore anything else."""
    released.reset()
    for which in data.draw(st.lists(st.sampled_from(["manifest", "latest", "state"]), min_size=1, max_size=2)):
        path = record_path(released, which)
        original = json.loads(path.read_bytes())
        write_record(path, edited(original, data.draw(edits(original))))
    content, before = released.project.content(), unchanged_files(released)
    assert pretty_bytes(overview(released.settings, 10))
    released.pipeline.audit.verify(released.pipeline.anchors())
    recover(released.settings)
    assert released.project.content() == content
    outcome = released.roll_back()
    assert outcome.status == "restored", outcome
    assert released.state() == "new"
    assert unchanged_files(released) == before
    assert released.leftovers() == []


NOOP_STATE: dict[str, Change] = {
    "another snapshot": lambda d: d.update(restoredSnapshotId="v0_snapshot"),
    "no snapshot": lambda d: d.update(restoredSnapshotId=None),
    "a lineage further on": lambda d: d.update(lineage="9/9"),
    "a lineage by one digit": lambda d: d.update(lineage=d["lineage"].replace("2", "4")),
    "a lineage further back": lambda d: d.update(lineage="0/0"),
    "a lineage that is none": lambda d: d.update(lineage="x"),
    "no lineage": lambda d: d.pop("lineage"),
    "a text of any kind": lambda d: d.update(detail="\ud800"),
}


@pytest.mark.parametrize("case", NOOP_STATE)
def test_altered_rollback_state_gives_no_noop(damaged: DamagedProject, case: str) -> None:
    """A release was prepared since the rollback, so the next rollback restores the snapshot again."""
    assert damaged.roll_back().status == "restored"
    assert damaged.roll_back().status == "noop"
    damaged.project.capture("v2")
    rows = damaged.project.rows()
    add_a_row(damaged)
    path = damaged.pipeline.state_path
    document = json.loads(path.read_bytes())
    NOOP_STATE[case](document)
    path.write_text(json.dumps(document))
    assert damaged.roll_back().status == "restored"
    assert damaged.project.rows() == rows


def add_a_row(damaged: DamagedProject) -> None:
    database = sqlite3.connect(damaged.project.database)
    database.execute("INSERT INTO ledger(a, b, amount) VALUES (1, 2, 3)")
    database.commit()
    database.close()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("which", ["manifest", "latest", "state"])
def test_inv_works_with_any_damaged_record(
    released: DamagedProject, report_points: Callable[[int], None], which: str
) -> None:
    """Reading commands end with 0, a release with the documented code, and no command prints a traceback.

    ``release.verify`` finds a manifest that differs from its attestation, and a latest.json that is no copy of it.
    """
    cases = ["100,000 levels", "a named pipe", "a folder"]
    verified = ExitCode.DONE if which == "state" else ExitCode.NEGATIVE
    for case in cases:
        released.reset()
        EVERY_DAMAGE[case](record_path(released, which))
        content = released.project.content()
        done = released.inv("release.recover", "release.status", "release.audit")
        assert done.returncode == ExitCode.DONE, (case, done)
        done = released.inv("release.verify")
        assert (done.returncode, "Traceback" in done.stderr) == (verified, False), (case, done)
        done = released.inv("release.rollback", "--snapshot", "v1_snapshot", "--plan", "--json")
        assert done.returncode == ExitCode.DONE, (case, done)
        assert json.loads(done.stdout)["status"] == "planned", case
        assert released.project.content() == content
        done = released.inv("release.prepare", "--release-id", "r2", "--json")
        expected = (
            ("blocked", ExitCode.NEGATIVE) if (which, case) == ("latest", "a folder") else ("ready", ExitCode.DONE)
        )
        assert (json.loads(done.stdout)["status"], done.returncode) == expected, (case, done)
    report_points(len(cases))


@pytest.mark.timeout(600)
def test_inv_refuses_a_damaged_journal(damaged: DamagedProject, report_points: Callable[[int], None]) -> None:
    """recover, rollback, its plan and prepare end with 1 and the next command; status, verify and audit work."""
    good = crash_in_swap(damaged).read_bytes()
    path = damaged.pipeline.journal_path
    worst = ["100,000 levels", "a named pipe", "a folder", "a link to nowhere"]
    live = damaged.live()
    for case in worst:
        EVERY_DAMAGE[case](path)
        for words in (["recover"], ["rollback", "--force"], ["rollback", "--plan"], ["prepare"]):
            done = damaged.inv(f"release.{words[0]}", *words[1:])
            assert done.returncode == ExitCode.NEGATIVE, (case, words, done)
            assert "its journal is damaged" in done.stdout + done.stderr, (case, words, done)
        assert damaged.inv("release.status", "release.verify", "release.audit").returncode == ExitCode.DONE, case
        assert damaged.live() == live, case
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        path.write_bytes(good)
    assert damaged.inv("release.recover").returncode == ExitCode.DONE
    assert damaged.state() == "new"
    report_points(len(worst))
