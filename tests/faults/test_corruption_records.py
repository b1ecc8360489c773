"""Manifests, latest.json, the rollback state and the journal, each damaged: a sentence, and no wrong thing is done."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from release_tasks.archive.pipeline import Pipeline
from release_tasks.archive.verify import verify_all
from release_tasks.assets import base
from release_tasks.core.canonical import pretty_bytes
from release_tasks.core.errors import ExitCode, StageError, StageFailed, UsageError
from release_tasks.core.records import Manifest
from release_tasks.report.status import overview
from release_tasks.stages.rollback.plan import plan_rollback
from release_tasks.stages.rollback.recovery import pending, recover
from release_tasks.tasks.flags import with_flags
from tests.support.faults.damage import (
    DEVICES,
    NEEDS_ROOT,
    WRONG_DOCUMENTS,
    Watched,
    edited,
    edits,
    listing,
    places,
    reseal,
)
from tests.support.faults.stages import passed_preflight, prepare

pytestmark = pytest.mark.slow

Document = dict[str, Any]
Change = Callable[[Document], Any]

EVERY_WAY = {**WRONG_DOCUMENTS, **(DEVICES if os.geteuid() == 0 else {})}
# One of each sort, for what is too slow to be tried with all of them.
WORST = ["half of it", "NaN", "100,000 levels", "a folder", "a named pipe", "a link to the same elsewhere"]
LEAD_NOWHERE = ["a link to nowhere", "a link to itself"]
OTHERS = [case for case in EVERY_WAY if case not in (*WORST, *LEAD_NOWHERE)]
IN_TWO_PARTS = pytest.mark.parametrize(
    "cases", [WORST, pytest.param(OTHERS, marks=pytest.mark.slow)], ids=["the worst", "the others"]
)


class PowerCut(BaseException):
    """Ends a run at once, as SIGKILL would: no handler of the package knows it."""


@pytest.fixture
def released(kept: dict[str, Any], project_at: Callable[..., Any]) -> Watched:
    """The same, rolled back once, at work since, and released: with manifest, latest.json and rollback state."""
    if "released" not in kept:
        folder = kept["folder"] / "released"
        folder.mkdir()
        made = kept["released"] = Watched(project_at(folder))
        assert made.roll("v0_snapshot").status == "restored"
        made.project.damage()
        made.project.mcp.write_text('{"since": 1}')
        assert release(made, "r1").status == "ready"
        made.old = made.project.content()
        made.keep()
    found: Watched = kept["released"]
    found.fresh()
    return found


def release(watched: Watched, release_id: str, retention: int | None = None) -> Manifest:
    return prepare(with_flags(watched.settings, retention=retention), passed_preflight(), release_id)


def crash_in_mid_swap(watched: Watched, number: int = 2) -> Path:
    """End a rollback to v1 after so many files have changed places, the database before them; returns the journal."""
    real, calls = base.rename_into_place, 0

    def place(*arguments: Any) -> bool:
        nonlocal calls
        calls += 1
        if calls > number:
            raise PowerCut
        return real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "rename_into_place", place)
        with pytest.raises(PowerCut):
            watched.roll()
    assert watched.is_whole().startswith("a mix")
    return watched.pipeline.journal_path


def around(watched: Watched) -> tuple[Any, Any]:
    """What no recovery may touch: nobody's files, and the snapshots that were there before."""
    stored = listing(watched.pipeline.catalogue.store.folder)
    kept = {path: kept for path, kept in stored.items() if path.startswith(("v0_snapshot", "v1_snapshot"))}
    return {path: kept for path, kept in watched.live().items() if path.startswith("neighbour/file")}, kept


def set_step(number: int, **values: Any) -> Change:
    return lambda document: document["steps"][number].update(values)


# ---- the journal


def hold_journal_refused(watched: Watched, case: str, thoroughly: bool = False) -> None:
    """Hold that recovery says what is wrong and changes nothing; with ``thoroughly`` every other command too."""
    live, stored = watched.live(), listing(watched.pipeline.catalogue.store.folder)
    path = watched.pipeline.journal_path
    before = os.lstat(path)
    commands: dict[str, Callable[[], Any]] = {"recover": lambda: recover(watched.settings)}
    if thoroughly:
        commands["pending"] = lambda: pending(watched.settings, watched.pipeline)
        commands["plan"] = lambda: plan_rollback(watched.settings)
        commands["prepare"] = lambda: release(watched, "later")
    for name, command in commands.items():
        with pytest.raises(StageFailed) as error:
            command()
        told = error.value.message
        if name == "prepare":
            assert "Run `inv release.recover` first" in told, (case, told)
        else:
            assert f"move {path} away, then run `inv release.rollback --snapshot ID --force`" in told, (
                case,
                name,
                told,
            )
            assert "Nothing was changed" in told, (case, name, told)
            assert len(told) < 5000, (case, name, len(told))
    if thoroughly:
        outcome = watched.roll(force=True)
        assert outcome.status == "failed", case
        assert "its journal is damaged" in outcome.diagnostics[0], case
        assert watched.last_event() == ("rollback.refused", "failed", outcome.diagnostics[0]), case
        assert overview(watched.settings, 10)["interrupted"] is True, case
        assert {verdict.status for verdict in verify_all(watched.pipeline.catalogue)} == {"verified"}, case
    assert watched.live() == live, case
    assert listing(watched.pipeline.catalogue.store.folder) == stored, case
    after = os.lstat(path)
    assert (before.st_ino, before.st_mode, before.st_mtime_ns) == (after.st_ino, after.st_mode, after.st_mtime_ns), case


@IN_TWO_PARTS
def test_a_journal_that_cannot_be_read_stops_everything_that_could_make_it_worse(
    watched: Watched, tried: Callable[[int], None], cases: list[str]
) -> None:
    """In mid-swap, whatever became of it: nothing is guessed, and with the journal put back recovery ends whole."""
    path = crash_in_mid_swap(watched)
    good = path.with_name("good")
    path.rename(good)
    for case in cases:
        shutil.copy(good, path)
        EVERY_WAY[case](path)
        hold_journal_refused(watched, case, thoroughly=True)
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        (watched.folder / "neighbour" / "moved").unlink(missing_ok=True)
    good.rename(path)
    assert recover(watched.settings).status == "finished"
    assert watched.is_whole() == "new"
    tried(len(cases))


@pytest.mark.parametrize("case", LEAD_NOWHERE)
def test_a_journal_that_became_a_link_to_nowhere_is_still_in_the_way(watched: Watched, case: str) -> None:
    """To whoever only asks whether it exists such a link looks like nothing, and a release would take the mix."""
    path = crash_in_mid_swap(watched)
    EVERY_WAY[case](path)
    hold_journal_refused(watched, case, thoroughly=True)


def changed(value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int):
        return value + 1
    return value[:-1] if value else "x"


def test_every_value_of_a_journal_is_covered_by_its_checksum(watched: Watched, tried: Callable[[int], None]) -> None:
    """Changed, dropped or added, at any depth: a step that is called done, or another inode, would make a mix."""
    path = crash_in_mid_swap(watched)
    text = path.read_text()
    original = json.loads(text)
    found = [place for place in places(original) if not isinstance(at(original, place), dict)]
    for place in found:
        path.write_text(json.dumps(edited(original, [(place, "set", changed(at(original, place)))])))
        hold_journal_refused(watched, f"{place} changed")
        path.write_text(json.dumps(edited(original, [(place, "drop", None)])))
        hold_journal_refused(watched, f"{place} dropped")
    path.write_text(json.dumps({**original, "more": 1}))
    hold_journal_refused(watched, "a key more")
    path.write_text(text)
    assert recover(watched.settings).status == "finished"
    assert watched.is_whole() == "new"
    assert len(found) > 30
    tried(2 * len(found) + 1)


def at(value: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        value = value[key]
    return value


DATABASE, IDENTITY, MCP, EXTRA = range(4)  # the steps, in their order

# With the right checksum: what no rollback writes is refused.
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
    "no safety snapshot": (lambda d: d.update(safetySnapshotId=None), "safetySnapshotId: expected str"),
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
    "a later version": (lambda d: d.update(journalVersion=2), "unknown journalVersion"),
    "a version that is true": (lambda d: d.update(journalVersion=True), "expected int"),
}


def test_a_forged_journal_is_refused_by_what_lies_below_its_checksum(
    watched: Watched, tried: Callable[[int], None]
) -> None:
    """Whoever makes the checksum anew still cannot make recovery read or rename anything out of its place."""
    path = crash_in_mid_swap(watched)
    text = path.read_text()
    for case, (change, told) in FORGED.items():
        document = json.loads(text)
        change(document)
        path.write_text(json.dumps(reseal(document)))
        hold_journal_refused(watched, case)
        with pytest.raises(StageFailed) as error:
            pending(watched.settings, watched.pipeline)
        assert told in error.value.message, (case, error.value.message)
    path.write_text(text)
    assert recover(watched.settings).status == "finished"
    assert watched.is_whole() == "new"
    tried(len(FORGED))


ELSEWHERE: dict[str, Change] = {
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


def test_a_forged_journal_cannot_name_a_place_that_the_configuration_does_not(
    watched: Watched, tried: Callable[[int], None]
) -> None:
    """Where an asset lies is what release.assets says; the sentence names what it does not know."""
    path = crash_in_mid_swap(watched)
    text = path.read_text()
    live = watched.live()
    for case, change in ELSEWHERE.items():
        document = json.loads(text)
        change(document)
        path.write_text(json.dumps(reseal(document)))
        with pytest.raises(StageFailed, match=r"which is no longer in release\.assets"):
            recover(watched.settings)
        assert watched.roll(force=True).status == "failed", case
        assert watched.live() == live, case
    tried(len(ELSEWHERE))


def all_steps(**values: Any) -> Change:
    return lambda document: [step.update(values) for step in document["steps"]]


def no_inodes(document: Document) -> None:
    for step in document["steps"]:
        if step["action"] == "place" and step["new"] is not None:
            step.update(new={"device": -1, "number": 10**200}, done=False)


# Forged values that recovery stands: (what it says, what recovery reports, what is live then).
STOOD: dict[str, tuple[Change, str, str]] = {
    "the other direction": (lambda d: d.update(direction="back"), "undone", "old"),
    "a snapshot that is not there": (lambda d: d.update(snapshotId="nowhere"), "undone", "old"),
    "a snapshot that is the safety snapshot": (
        lambda d: d.update(snapshotId=d["safetySnapshotId"]), "finished", "",
    ),
    "nothing done so far": (all_steps(done=False), "finished", "new"),
    "all of it mirrored": (
        lambda d: [step.update(mirrored=True) for step in d["steps"][IDENTITY:]], "finished", "new",
    ),
    "inodes that nobody has": (no_inodes, "finished", "new"),
    "its steps in another order": (lambda d: d["steps"].reverse(), "finished", "new"),
    "a lineage of any kind": (lambda d: d.update(lineage="\ud800/-1"), "finished", "new"),
    "a time of any kind": (lambda d: d.update(startedAt="\x1b[2J"), "finished", "new"),
    "keys of a later time": (lambda d: d.update(later=[{}]), "finished", "new"),
}  # fmt: skip


@pytest.mark.parametrize("case", STOOD)
def test_a_forged_journal_that_could_be_one_ends_whole(watched: Watched, case: str) -> None:
    """The inodes and the snapshots are there to tell old from new, whatever the journal says of the way so far."""
    change, status, state = STOOD[case]
    path = crash_in_mid_swap(watched)
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(reseal(document)))
    before = around(watched)
    assert recover(watched.settings).status == status
    assert state in watched.is_whole()
    assert around(watched) == before
    assert watched.strays() == []
    assert watched.roll(force=True).status == "restored"
    assert watched.is_whole() == "new"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_edit_of_a_forged_journal_leaves_a_way_on(watched: Watched, data: st.DataObject) -> None:
    """It is a sentence or a report; nothing beside the assets is touched, and a forced rollback makes all of it whole.

    What no program can tell is a journal that calls done what is not, sealed by somebody who wanted that.
    """
    watched.fresh()
    path = crash_in_mid_swap(watched)
    original = json.loads(path.read_text())
    path.write_text(json.dumps(reseal(edited(original, data.draw(edits(original))))))
    live, before = watched.live(), around(watched)
    try:
        recover(watched.settings)
    except StageError as error:
        if path.exists() and "could not be completed" not in error.message:
            assert watched.live() == live
    assert around(watched) == before
    assert pretty_bytes(overview(watched.settings, 10))
    path.unlink(missing_ok=True)
    outcome = watched.roll(force=True)
    assert outcome.status == "restored", outcome
    assert watched.is_whole() == "new"
    assert watched.strays() == []
    assert around(watched) == before


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_edit_of_a_journal_is_found(watched: Watched, data: st.DataObject) -> None:
    """Bytes put in, taken out or changed anywhere: refused, unless it still says the same."""
    path = watched.pipeline.journal_path
    if not path.exists():
        crash_in_mid_swap(watched)
        shutil.copy(path, watched.folder.with_name("good-journal"))
    good = watched.folder.with_name("good-journal").read_bytes()
    place = data.draw(st.integers(0, len(good)))
    new = data.draw(st.binary(max_size=5))
    bad = good[:place] + new + good[place + data.draw(st.integers(0, 5)) :]
    path.write_bytes(bad)
    try:
        if json.loads(bad) == json.loads(good):
            return
    except ValueError:
        pass
    hold_journal_refused(watched, repr(bad[place - 20 : place + 20]))


def break_metadata(watched: Watched, snapshot_id: str) -> Callable[[], None]:
    """Damage the metadata of a snapshot; returns what mends it."""
    path = watched.pipeline.catalogue.path(snapshot_id) / "metadata.json"
    good = path.read_bytes()
    path.write_bytes(good.replace(b'"sequence"', b'"sequences"'))
    return lambda: path.write_bytes(good) and None


def break_file(watched: Watched, snapshot_id: str) -> Callable[[], None]:
    """Flip a bit of a stored file; returns what mends it."""
    path = watched.pipeline.catalogue.path(snapshot_id) / "assets/identity/identity/identity.json"
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    return lambda: path.write_bytes(good) and None


BREAKS = {"metadata": break_metadata, "a stored file": break_file}


def safety_of(watched: Watched) -> str:
    found: str = json.loads(watched.pipeline.journal_path.read_text())["safetySnapshotId"]
    return found


@pytest.mark.parametrize("what", BREAKS)
def test_recovery_goes_back_when_the_snapshot_is_damaged_by_then(watched: Watched, what: str) -> None:
    """Its digests are taken again before anything is moved, and the state before is whole again."""
    crash_in_mid_swap(watched)
    BREAKS[what](watched, "v1_snapshot")
    report = recover(watched.settings)
    assert (report.status, watched.is_whole()) == ("undone", "old")
    assert watched.strays() == []


@pytest.mark.parametrize("what", BREAKS)
def test_recovery_goes_forward_when_only_the_safety_snapshot_is_damaged(watched: Watched, what: str) -> None:
    """The way forward does not need it, and there is no way back."""
    crash_in_mid_swap(watched)
    BREAKS[what](watched, safety_of(watched))
    report = recover(watched.settings)
    assert (report.status, watched.is_whole()) == ("finished", "new")


@pytest.mark.parametrize("what", BREAKS)
def test_recovery_moves_nothing_when_both_snapshots_are_damaged(watched: Watched, what: str) -> None:
    """It says so, keeps the journal, and ends whole once one of them is mended."""
    path = crash_in_mid_swap(watched)
    safety = safety_of(watched)
    live = watched.live()
    journal = path.read_bytes()
    mend = BREAKS[what](watched, "v1_snapshot")
    BREAKS[what](watched, safety)
    for _ in range(2):
        with pytest.raises(StageFailed, match="may be mixed"):
            recover(watched.settings)
        assert watched.roll("v0_snapshot", force=True).status == "failed"
        assert watched.live() == live
        assert path.read_bytes() == journal
    mend()
    assert recover(watched.settings).status == "finished"
    assert watched.is_whole() == "new"


# ---- manifests, latest.json and the rollback state


def record_path(watched: Watched, which: str) -> Path:
    pipeline = watched.pipeline
    return {
        "manifest": pipeline.manifests / "r1.json",
        "latest": pipeline.manifests / "latest.json",
        "state": pipeline.state_path,
    }[which]


def hold_readable(watched: Watched, case: str) -> None:
    """Hold that every command that only reads answers."""
    assert pretty_bytes(overview(watched.settings, 10)), case
    assert {verdict.status for verdict in verify_all(watched.pipeline.catalogue)} == {"verified"}, case
    assert watched.pipeline.audit.verify(watched.pipeline.anchors()).intact, case
    assert plan_rollback(watched.settings, snapshot_id="v1_snapshot").changes, case
    assert recover(watched.settings).status == "clean", case


def write_record(path: Path, document: Document) -> None:
    """Write what somebody would who knows how checksums are made."""
    path.write_text(json.dumps(reseal(document)))


@pytest.mark.parametrize("which", ["manifest", "latest", "state"])
def test_every_value_of_a_record_is_covered_by_its_checksum(
    released: Watched, tried: Callable[[int], None], which: str
) -> None:
    """Changed, dropped or added, at any depth, the checksum itself too; no note of the past is quietly another one."""
    path = record_path(released, which)
    original = json.loads(path.read_bytes())
    found = [place for place in places(original) if not isinstance(at(original, place), (dict, list))]
    documents = [edited(original, [(place, "set", changed(at(original, place)))]) for place in found]
    documents += [edited(original, [(place, "drop", None)]) for place in found]
    documents += [{**original, "more": 1}, {**original, "checksum": None}]
    for document in documents:
        path.write_text(json.dumps(document))
        told = overview(released.settings, 10)
        if which == "manifest":
            assert told["releases"][0]["status"] == "unreadable", document
        elif which == "state":
            assert told["rollback"]["status"] == "unreadable", document
        else:
            assert released.pipeline.latest_ready() is None, document
    tried(len(documents))


@IN_TWO_PARTS
@pytest.mark.parametrize("which", ["manifest", "latest", "state"])
def test_a_record_that_cannot_be_read_keeps_no_command_from_answering(
    released: Watched, tried: Callable[[int], None], which: str, cases: list[str]
) -> None:
    """Status says which one it is and why; nothing live changes, and the record is left as it is."""
    path = record_path(released, which)
    good = path.with_name("good")
    path.rename(good)
    for case in [*cases, *LEAD_NOWHERE]:
        shutil.copy(good, path)
        EVERY_WAY[case](path)
        content, before = released.project.content(), os.lstat(path)
        hold_readable(released, case)
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
    tried(len(cases) + len(LEAD_NOWHERE))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("case", [*WORST, pytest.param("a device that is empty", marks=[pytest.mark.root, NEEDS_ROOT])])
@pytest.mark.parametrize("which", ["manifest", "latest", "state"])
def test_a_record_that_cannot_be_read_bars_no_way_back(released: Watched, which: str, case: str) -> None:
    """A rollback and a release do what they would do, or fail whole; what a link led to is not written through."""
    EVERY_WAY[case](record_path(released, which))
    moved = released.folder / "neighbour" / "moved"
    kept = moved.read_bytes() if moved.exists() else None
    live = released.live()
    outcome = released.roll()
    if (which, case) == ("state", "a folder"):
        assert (outcome.status, released.live()) == ("failed", live)
        assert str(released.pipeline.state_path) in outcome.diagnostics[0]
    else:
        assert outcome.status == "restored"
        assert released.is_whole() == "new"
    content = released.project.content()
    manifest = release(released, "r2")
    assert manifest.status == ("blocked" if (which, case) == ("latest", "a folder") else "ready"), manifest.diagnostics
    assert released.project.content() == content
    assert (moved.read_bytes() if moved.exists() else None) == kept
    assert released.strays() == []


@pytest.mark.parametrize("case", [*WORST, "removed"])
@pytest.mark.parametrize("which", ["latest", "state"])
def test_retention_keeps_what_an_unreadable_record_may_name(released: Watched, which: str, case: str) -> None:
    """What is deployed is also in its own manifest; without a state nothing is let go at all."""
    state = released.pipeline.read_state()
    latest = released.pipeline.latest_ready()
    assert state is not None and latest is not None and latest.snapshot is not None
    path = record_path(released, which)
    path.unlink() if case == "removed" else EVERY_WAY[case](path)
    for number in range(3):
        released.project.mcp.write_text(str(number))
        released.project.capture(f"x{number}")
    protected = Pipeline(released.pipeline.root).protected_snapshots()
    if which == "latest":
        assert latest.snapshot.snapshot_id in protected
    elif case != "removed":
        assert {state.snapshot_id, state.safety_snapshot_id} <= protected
    released.pipeline.catalogue.retain(1, protected)
    left = set(os.listdir(released.pipeline.catalogue.store.folder))
    assert protected <= left
    assert "x2_snapshot" in left


# What a manifest may not say, as its file name and an id are checked.
IMPOSSIBLE: dict[str, tuple[Change, str]] = {
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


def test_a_manifest_that_cannot_be_one_is_listed_with_its_reason(
    released: Watched, tried: Callable[[int], None]
) -> None:
    """And does nothing else: what it says of a snapshot, a sequence or an anchor counts for nothing."""
    path = record_path(released, "manifest")
    original = json.loads(path.read_bytes())
    for case, (change, told) in IMPOSSIBLE.items():
        document = copy.deepcopy(original)
        change(document)
        write_record(path, document)
        hold_readable(released, case)
        (listed,) = overview(released.settings, 10)["releases"]
        assert (listed["releaseId"], listed["status"]) == ("r1", "unreadable"), case
        assert told in listed["detail"] and len(listed["detail"]) < 5000, (case, listed)
        assert released.pipeline.lineage().endswith("/0"), case
    tried(len(IMPOSSIBLE))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_edit_of_a_record_is_a_whole_rollback_or_a_sentence(released: Watched, data: st.DataObject) -> None:
    """No manifest and no state, whatever it says, makes a rollback do anything but restore the snapshot or nothing."""
    released.fresh()
    for which in data.draw(st.lists(st.sampled_from(["manifest", "latest", "state"]), min_size=1, max_size=2)):
        path = record_path(released, which)
        original = json.loads(path.read_bytes())
        write_record(path, edited(original, data.draw(edits(original))))
    content, before = released.project.content(), around(released)
    assert pretty_bytes(overview(released.settings, 10))
    released.pipeline.audit.verify(released.pipeline.anchors())
    recover(released.settings)
    assert released.project.content() == content
    outcome = released.roll()
    assert outcome.status == "restored", outcome
    assert released.is_whole() == "new"
    assert around(released) == before
    assert released.strays() == []


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
def test_an_altered_state_earns_no_noop(watched: Watched, case: str) -> None:
    """A release was prepared since: whatever became of the record, the snapshot is restored when asked for."""
    assert watched.roll().status == "restored"
    assert watched.roll().status == "noop"
    watched.project.capture("v2")
    rows = watched.project.rows()
    add_a_row(watched)
    path = watched.pipeline.state_path
    document = json.loads(path.read_bytes())
    NOOP_STATE[case](document)
    path.write_text(json.dumps(document))
    assert watched.roll().status == "restored"
    assert watched.project.rows() == rows


def add_a_row(watched: Watched) -> None:
    import sqlite3

    database = sqlite3.connect(watched.project.database)
    database.execute("INSERT INTO ledger(a, b, amount) VALUES (1, 2, 3)")
    database.commit()
    database.close()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("which", ["manifest", "latest", "state"])
def test_the_real_command_answers_whatever_record_is_damaged(
    released: Watched, tried: Callable[[int], None], which: str
) -> None:
    """All that only reads ends with 0, a release with the documented code, and nothing with a traceback.

    A manifest that is not what was attested is what ``release.verify`` is there to find.
    """
    cases = ["100,000 levels", "a named pipe", "a folder"]
    verified = ExitCode.NEGATIVE if which == "manifest" else ExitCode.DONE
    for case in cases:
        released.fresh()
        EVERY_WAY[case](record_path(released, which))
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
    tried(len(cases))


@pytest.mark.timeout(600)
def test_the_real_command_refuses_a_damaged_journal(watched: Watched, tried: Callable[[int], None]) -> None:
    """recover, rollback, its plan and prepare end with 1 and the way on; status, verify and audit answer."""
    good = crash_in_mid_swap(watched).read_bytes()
    path = watched.pipeline.journal_path
    worst = ["100,000 levels", "a named pipe", "a folder", "a link to nowhere"]
    live = watched.live()
    for case in worst:
        EVERY_WAY[case](path)
        for words in (["recover"], ["rollback", "--force"], ["rollback", "--plan"], ["prepare"]):
            done = watched.inv(f"release.{words[0]}", *words[1:])
            assert done.returncode == ExitCode.NEGATIVE, (case, words, done)
            assert "its journal is damaged" in done.stdout + done.stderr, (case, words, done)
        assert watched.inv("release.status", "release.verify", "release.audit").returncode == ExitCode.DONE, case
        assert watched.live() == live, case
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        path.write_bytes(good)
    assert watched.inv("release.recover").returncode == ExitCode.DONE
    assert watched.is_whole() == "new"
    tried(len(worst))
