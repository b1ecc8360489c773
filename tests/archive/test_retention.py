"""An id that was printed keeps working, and the last known good state is never removed."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from pathlib import Path
from typing import Any, Literal

import pytest

from release_tasks.archive.aliases import Alias
from release_tasks.archive.capture import CaptureRequest, capture_snapshot
from release_tasks.archive.catalogue import Catalogue
from release_tasks.archive.retention import apply_retention, plan_retention, retain
from release_tasks.archive.status import release_status
from release_tasks.archive.verify import verify_all
from release_tasks.core.durable import remove_tree
from release_tasks.core.errors import UsageError
from release_tasks.core.records import Manifest
from release_tasks.report.status import overview
from release_tasks.stages.rollback.plan import plan_rollback
from tests.support.health import Health
from tests.support.project import Project
from tests.support.releases import good_release, release
from tests.support.rollback import audit_events, roll_back, safety_id
from tests.support.snapshots import flip_bit


def ids(catalogue: Catalogue) -> list[str]:
    return [snapshot.snapshot_id for snapshot in catalogue.published()[0]]


def take(project: Project, content: str, *snapshot_ids: str, kind: Literal["release", "safety"] = "safety") -> None:
    """Capture snapshots of one small file with this content, one after the other."""
    project.mcp.write_text(content)
    assets = {"mcp": project.settings.release.assets["mcp"]}
    for snapshot_id in snapshot_ids:
        request = CaptureRequest(snapshot_id=snapshot_id, release_id=None, kind=kind, retention_limit=5)
        capture_snapshot(project.pipeline.catalogue, assets, request)


def snapshot_of(manifest: Manifest) -> str:
    assert manifest.snapshot is not None
    return manifest.snapshot.snapshot_id


@pytest.mark.slow
@pytest.mark.smoke
def test_every_printed_undo_option_works(project: Project) -> None:
    """Undo a rollback, undo the undo, and so on: the state of each printed id comes back, with two or ten undos."""
    project.overrides["retention"] = 2
    release(project, "v1")
    good = project.content()
    project.damage()
    damaged = project.content()
    printed = {"v1": safety_id(roll_back(project))}
    assert project.content() == good
    states = {printed["v1"]: damaged}
    for _ in range(8):
        before = project.content()
        target = list(states)[-1]
        undo = safety_id(roll_back(project, target))
        assert project.content() == states[target]
        states[undo] = before
    for name, state in states.items():
        outcome = roll_back(project, name, force=True)
        assert (outcome.status, project.content()) == ("restored", state), name
    assert len([s for s in project.pipeline.catalogue.published()[0] if s.kind == "safety"]) <= 3
    aliases = project.pipeline.catalogue.aliases.read()
    assert aliases
    assert {alias.target for alias in aliases.values()} <= set(ids(project.pipeline.catalogue))


@pytest.mark.slow
def test_the_older_of_equal_states_stays_and_the_newer_id_stands_for_it(project: Project) -> None:
    """Rollback, rollback to A, rollback: C equals A. Both ids work, and the removal is printed and audited."""
    release(project, "v1")
    project.damage()
    first = safety_id(roll_back(project))
    second = roll_back(project, first)
    third = roll_back(project)
    fourth = roll_back(project, first)
    catalogue = project.pipeline.catalogue
    assert safety_id(third) not in ids(catalogue)
    assert catalogue.get(safety_id(third)).snapshot_id == first
    assert fourth.removed_snapshots == [safety_id(third)]
    assert fourth.diagnostics[-1] == (f"Retention removed {safety_id(third)}; its id now stands for the equal {first}.")
    assert ("retention.applied", "removed") in audit_events(project)
    restored = roll_back(project, safety_id(third), force=True)
    assert restored.snapshot_id == first
    assert f"Snapshot {safety_id(third)} was equal to {first}, and retention kept only this one." in (
        restored.diagnostics
    )
    assert plan_rollback(project.settings, safety_id(second)).snapshot_id in ids(catalogue)


def test_aliases_are_in_status_and_verify(project: Project) -> None:
    """Each snapshot lists the ids that stand for it, and verify takes these ids."""
    take(project, "{}", "a", "b", "c")
    catalogue = project.pipeline.catalogue
    assert retain(catalogue, 5, set()) == ["b", "c"]
    (shown,) = overview(project.settings, 10, release_status(project.settings))["snapshots"]
    assert (shown["snapshotId"], shown["aliases"]) == ("a", ["b", "c"])
    (verdict,) = verify_all(catalogue, "c")
    assert (verdict.snapshot_id, verdict.status, len(verdict.notes)) == ("a", "verified", 1)


def test_alias_goes_with_its_state_and_the_message_names_the_time(project: Project) -> None:
    """The limit removes the state; then neither id works, and the message says when retention removed it."""
    take(project, "1", "a", "b")
    retain(project.pipeline.catalogue, 1, set())
    take(project, "2", "c")
    apply_retention(project.pipeline, 1)
    catalogue = project.pipeline.catalogue
    assert (ids(catalogue), catalogue.aliases.read()) == (["c"], {})
    with pytest.raises(UsageError, match=r"There is no snapshot 'a': retention removed it on 20\d\d-.*snapshots are c"):
        catalogue.get("a")
    with pytest.raises(UsageError, match=r"There is no snapshot 'x'\. The latest"):
        catalogue.get("x")


def test_a_state_that_was_used_again_is_recent(project: Project) -> None:
    """Its oldest copy stays in place of the newest, and does not count as old."""
    take(project, "1", "a")
    take(project, "2", "b")
    take(project, "1", "a2")
    assert retain(project.pipeline.catalogue, 2, set()) == ["a2"]
    take(project, "3", "c")
    assert retain(project.pipeline.catalogue, 2, set()) == ["b"]
    assert project.pipeline.catalogue.get("a2").snapshot_id == "a"


def test_a_damaged_copy_does_not_take_the_place_of_an_intact_one(project: Project) -> None:
    """The oldest intact copy stays, and the chain of aliases leads to it."""
    take(project, "{}", "a", "b")
    catalogue = project.pipeline.catalogue
    retain(catalogue, 5, set())
    take(project, "{}", "c", "d")
    flip_bit(catalogue.path("a") / "assets" / "mcp" / "mcp.json")
    assert retain(catalogue, 5, set()) == ["a", "d"]
    assert {catalogue.get(name).snapshot_id for name in "abcd"} == {"c"}


def test_states_that_differ_only_in_a_journal_mode_are_not_equal(project: Project) -> None:
    """A rollback restores the journal mode, which the digest of a snapshot excludes."""
    project.capture("v1")
    for number, mode in enumerate(("wal", "delete")):
        database = sqlite3.connect(project.database)
        database.execute(f"PRAGMA journal_mode = {mode}")
        database.close()
        request = CaptureRequest(snapshot_id=f"s{number}", release_id=None, kind="safety", retention_limit=5)
        capture_snapshot(project.pipeline.catalogue, project.settings.release.assets, request)
    first, second = (project.pipeline.catalogue.get(name) for name in ("s0", "s1"))
    assert first.digest == second.digest
    assert retain(project.pipeline.catalogue, 5, set()) == []


def test_aliases_have_a_limit(project: Project) -> None:
    """The file stays readable after any number of rollbacks; the latest ids stay."""
    file = project.pipeline.catalogue.aliases
    file.write(
        Alias(snapshot_id=f"safety_snapshot_{number:014}-abcdef", target="a", sequence=number, removed_at="t" * 24)
        for number in range(10_100)
    )
    sequences = [alias.sequence for alias in file.read().values()]
    assert sequences == list(range(100, 10_100))


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"formatVersion": 1, "aliases": []}'])
def test_altered_aliases_are_reported_and_replace_nothing(project: Project, content: bytes) -> None:
    """Retention then keeps equal snapshots, the file stays as evidence, and verify names it."""
    take(project, "{}", "a", "b")
    catalogue = project.pipeline.catalogue
    catalogue.aliases.path.write_bytes(content)
    assert retain(catalogue, 5, set()) == []
    assert catalogue.aliases.path.read_bytes() == content
    assert [verdict.snapshot_id for verdict in verify_all(catalogue) if verdict.status == "damaged"] == ["aliases.json"]
    assert catalogue.get("b").snapshot_id == "b"
    with pytest.raises(UsageError, match="There is no snapshot 'x'"):
        catalogue.get("x")


@pytest.mark.parametrize("call", ["os.rename", "os.replace", "os.fsync", "remove_tree"])
def test_killed_retention_loses_no_id(project: Project, call: str) -> None:
    """Killed before or after each of its steps: each id still finds its state, and the next run finishes."""
    point = 0
    while True:
        for name in os.listdir(folder) if (folder := project.pipeline.catalogue.store.folder).exists() else []:
            remove_tree(folder / name)
        take(project, "1", "a", "b", "c")
        if not killed(project, call, point):
            break
        catalogue = project.pipeline.catalogue
        assert {catalogue.get(name).asset("mcp") == catalogue.get("a").asset("mcp") for name in "abc"} == {True}
        assert all(alias.target in ids(catalogue) for alias in catalogue.aliases.read().values())
        project.pipeline.clean_up()
        retain(catalogue, 5, set())
        assert (ids(catalogue), {catalogue.get(name).snapshot_id for name in "abc"}) == (["a"], {"a"})
        assert project.leftovers() == []
        point += 1
    assert point > 0


def killed(project: Project, call: str, point: int) -> bool:
    """Run retention in a child that is killed at call number ``point``; return whether it came so far."""
    child = os.fork()
    if child == 0:
        import release_tasks.archive.stores.local as local

        holder: Any = local if call == "remove_tree" else os
        name = call.removeprefix("os.")
        original, count = getattr(holder, name), [0]

        def counted(*arguments: Any, **options: Any) -> Any:
            if count[0] == point:
                os.kill(os.getpid(), signal.SIGKILL)
            count[0] += 1
            return original(*arguments, **options)

        setattr(holder, name, counted)
        try:
            retain(project.pipeline.catalogue, 5, set())
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


RETRIES = [7, pytest.param(50, marks=[pytest.mark.slow, pytest.mark.timeout(300)])]


@pytest.mark.slow
@pytest.mark.parametrize("retries", RETRIES)
@pytest.mark.parametrize("verdict", [True, False])
def test_retried_deploys_do_not_push_out_the_good_state(project: Project, retries: int, verdict: bool) -> None:
    """A deploy spoils the state, and CI retries it: the snapshot before it stays, and only that one in addition."""
    if verdict:
        for number in range(7):
            good_release(project, f"good{number}")
    good = project.content()
    before = snapshot_of(release(project, "r0"))
    project.damage()
    project.mcp.write_text('{"mcpServers": {"bad": {}}}')
    for number in range(1, retries + 1):
        project.damage_rows()
        release(project, f"r{number}")
    catalogue = project.pipeline.catalogue
    kept = ids(catalogue)
    assert (len(kept), kept[0]) == (6, before)
    assert f"inv release.rollback --plan --snapshot {before}" in " ".join(plan_rollback(project.settings).diagnostics)
    outcome = roll_back(project)
    assert outcome.status == "restored"
    assert before in ids(catalogue)
    assert f"inv release.rollback --plan --snapshot {before}" in " ".join(outcome.diagnostics)
    outcome = roll_back(project, before)
    assert (outcome.status, project.content()) == ("restored", good)


def test_removals_are_printed_and_audited(project: Project) -> None:
    """The answer of prepare and the audit log name what retention removed; the manifest on disk does not."""
    names = [snapshot_of(good_release(project, f"r{number}", retention=1)) for number in range(2)]
    manifest = release(project, "r2", retention=1)
    assert manifest.removed_snapshots == [names[1]]
    assert manifest.diagnostics[-1] == f"Retention removed {names[1]}."
    assert "removedSnapshots" not in json.loads(Path(manifest.manifest_path).read_text())
    (event,) = [e for e in project.pipeline.audit.verify().events if names[1] in e.get("removedSnapshots", [])]
    assert (event["event"], event["aliases"]) == ("retention.applied", {})


def test_prepare_names_a_release_without_a_verdict(project: Project) -> None:
    """The note does not block; a watch or a rollback ends it."""
    assert release(project, "r1").diagnostics == []
    (note,) = release(project, "r2").diagnostics
    assert note.startswith("Release r1 was never judged") and "inv release.watch" in note
    good_release(project, "r3")
    assert release(project, "r4").diagnostics == []
    project.damage()
    roll_back(project)
    assert release(project, "r5").diagnostics == []


@pytest.mark.slow
def test_a_rollback_that_changes_nothing_is_no_verdict(project: Project, health: Health) -> None:
    """The health is shallow, and the latest snapshot has the bad state: restoring it must not release the good one."""
    project.overrides |= {"health.url": health.url, "retention": 1}
    before = snapshot_of(release(project, "r0"))
    project.damage_rows()
    for number in (1, 2, 3):
        release(project, f"r{number}")
    outcome = roll_back(project)
    assert (outcome.status, outcome.restored_assets, outcome.removed_assets) == ("restored", [], [])
    release(project, "r4")
    assert before in ids(project.pipeline.catalogue)
    assert roll_back(project, before).restored_assets
    release(project, "r5")  # its snapshot is the first one after the restore
    release(project, "r6")
    good = project.pipeline.verdicts().good
    assert good is not None
    assert good.release_id == "r5"


@pytest.mark.slow
@pytest.mark.parametrize("verdict", [True, False])
def test_a_restored_bad_state_does_not_release_the_good_one(project: Project, health: Health, verdict: bool) -> None:
    """The latest snapshot has the bad state, and the service wrote a row since: the rollback restores it, and the
    shallow health passes. The good state stays, and every answer names it."""
    project.overrides |= {"health.url": health.url, "retention": 1}
    if verdict:
        good_release(project, "r0")
    good, before = project.content(), snapshot_of(release(project, "r1"))
    for number in (2, 3):
        project.damage_rows()
        release(project, f"r{number}")
    for number in (4, 6):
        project.mcp.write_text(f'{{"written": {number}}}')
        assert f"--snapshot {before}" in " ".join(plan_rollback(project.settings).diagnostics)
        outcome = roll_back(project)
        assert (outcome.status, outcome.restored_assets) == ("restored", ["mcp"])
        note = next(note for note in outcome.diagnostics if "may be bad" in note)
        assert f"inv release.rollback --plan --snapshot {before}" in note
        release(project, f"r{number}")
        release(project, f"r{number + 1}")
    assert roll_back(project, before).status == "restored"
    assert project.content() == good
    release(project, "r8")
    assert project.pipeline.verdicts().earlier is None


def test_a_restore_counts_once_health_passes(project: Project, health: Health) -> None:
    """Health fails after the restore, an operator starts the service, and the rollback is repeated: a verdict."""
    project.overrides |= {"health.url": health.url, "health.deadline": "100ms"}
    before = snapshot_of(release(project, "r0"))
    project.damage()
    health.body = b'{"status": "down"}'
    assert roll_back(project, before).status == "failed"
    health.body = b'{"status": "ok"}'
    assert roll_back(project, before).status == "noop"
    after = release(project, "r1")
    good = project.pipeline.verdicts().good
    assert good is not None
    assert good.snapshot_id == snapshot_of(after)


def test_the_verdict_on_an_earlier_release_does_not_count(project: Project) -> None:
    """A watch of r1 that ends after r2 was prepared says nothing about the state after r2."""
    before = snapshot_of(release(project, "r1", retention=1))
    release(project, "r2", retention=1)
    project.pipeline.audit.append("watch.finished", status="healthy", release_id="r1")
    for number in (3, 4):
        release(project, f"r{number}", retention=1)
    assert before in ids(project.pipeline.catalogue)


@pytest.mark.parametrize("damage", ["removed", "restarted"])
def test_without_the_log_the_oldest_state_stays(project: Project, damage: str) -> None:
    """The log was moved away: then no verdict is known, and the oldest snapshot counts as the good one."""
    before = snapshot_of(good_release(project, "r0", retention=2))
    project.pipeline.audit.path.unlink()
    if damage == "restarted":
        project.pipeline.audit.append("test", status="ok")
    for number in (1, 2, 3, 4):
        release(project, f"r{number}", retention=2)
    assert ids(project.pipeline.catalogue)[0] == before


def test_plan_does_not_remove(project: Project) -> None:
    """The plan names what would be removed, in order, and reads only."""
    take(project, "1", "a", "b")
    take(project, "2", "c", "d", kind="release")
    found = plan_retention(project.pipeline.catalogue, 1, set())
    assert (found.removed, list(found.aliases)) == (["b", "c"], ["b"])
    assert ids(project.pipeline.catalogue) == ["a", "b", "c", "d"]
    assert not project.pipeline.catalogue.aliases.path.exists()
