"""The sources of the page: records that may be damaged, hostile, huge or from an older version."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from release_tasks.core.errors import UsageError
from release_tasks.core.records import Check, PreflightReport
from release_tasks.core.units import show_size, show_span
from release_tasks.report.html.gates import gates_of
from release_tasks.report.html.health import strips_of
from release_tasks.report.html.history import Rollback, history_of, read_rollbacks, word_of
from release_tasks.report.html.page import ReleasePage, find_release, gather
from release_tasks.report.html.render import render
from release_tasks.report.html.timeline import timeline_of
from release_tasks.report.values import moment, seconds_between, text
from release_tasks.report.words import meaning_of
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from tests.support.faults.stages import prepare
from tests.support.project import Project

PASSED = Check(
    id="build",
    subsystem="build",
    status="passed",
    detail="exit code 0",
    command="true",
    started_at="2026-01-31T03:00:00.000Z",
    completed_at="2026-01-31T03:00:02.000Z",
    duration_ms=2000,
)
FAILED = evolve(
    PASSED, id="tests", status="failed", detail="exit code 1", diagnostics={"exitCode": 1, "next": "inv gate.tests"}
)


def release(project: Project, release_id: str, *checks: Check) -> Any:
    found = list(checks or (PASSED,))
    failed = [check.id for check in found if check.blocks]
    report = PreflightReport(passed=not failed, checks=found, failed_checks=failed)
    return prepare(project.settings, report, release_id)


def page_of(project: Project, release_id: str | None = None) -> ReleasePage:
    return gather(project.settings, find_release(project.pipeline, release_id))


def event(kind: str, at: int, **more: Any) -> dict[str, Any]:
    return {
        "event": f"rollback.{kind}",
        "time": f"2026-01-31T03:00:{at:02d}.000Z",
        "actor": "ann",
        "host": "vm",
        **more,
    }


STARTED = event("started", 0, rollbackId="r1", releaseId="v1", snapshotId="s1")


@pytest.mark.parametrize(
    ("events", "status", "seconds"),
    [
        ([STARTED], "in_progress", None),
        ([STARTED, event("finished", 7, rollbackId="r1", status="restored")], "restored", 7),
        ([STARTED, event("finished", 7, rollbackId="r1", status="failed")], "live", 7),
        ([STARTED, event("recovered", 9, rollbackId="r1", status="restored")], "restored", 9),
        ([STARTED, event("refused", 2, status="failed")], "failed", 2),
        ([STARTED, event("refused", 2, status="refused", detail="Interrupted by SIGINT.")], "refused", 2),
        ([STARTED, event("refused", 2, status="refused", detail="locked by pid 7")], "in_progress", None),
        ([STARTED, event("refused", 2, status="failed", rollbackId="r1")], "live", 2),
        ([event("finished", 3, rollbackId="r2", status="noop", releaseId="v1")], "noop", None),
    ],
)
def test_a_rollback_is_read_from_start_to_end(events: list[dict[str, Any]], status: str, seconds: float | None) -> None:
    """Finished, recovered, given up, interrupted or open; a refusal of another run ends none."""
    (found,) = read_rollbacks(events)
    assert (found.status, found.seconds, found.release_id) == (status, seconds, "v1")
    assert found.took_effect == (status in ("restored", "live"))


def test_a_refusal_alone_is_not_a_rollback() -> None:
    """An unknown id or a held lock changed nothing, and does not count as a failed release."""
    assert read_rollbacks([event("refused", 1, status="refused"), event("recovered", 2, rollbackId="x")]) == []


def test_failure_rate_and_time_to_restore_cover_the_last_twenty(project: Project) -> None:
    """20 of 22 ready releases count; three of them were rolled back, and only a complete restore has a time."""
    files = [evolve(found, release_id=f"v{n}") for n in range(22) for found in [_ready(project)]]
    files = [
        type(file)(file.release_id, evolve(file.manifest, release_id=file.release_id, snapshot=None)) for file in files
    ]
    expected = [("v1", "restored", 50.0), ("v5", "restored", 4.0), ("v6", "restored", 8.0), ("v7", "live", 30.0)]
    rollbacks = [_rollback(release_id, status, seconds) for release_id, status, seconds in expected]
    history = history_of(files, rollbacks, set(), {"v9"}, "")
    assert (len(history.rows), history.total, history.ready, history.rolled_back) == (20, 22, 20, 3)
    assert history.failed_share == pytest.approx(0.15)
    assert (history.median_seconds, history.longest_seconds) == (6.0, 8.0)
    words = {row.file.release_id: row.word for row in history.rows}
    assert (words["v7"], words["v8"], words["v9"]) == ("rolled back, unwell", "ready", "degraded")


def _ready(project: Project) -> Any:
    if not project.pipeline.read_manifests():
        release(project, "v0")
    return project.pipeline.read_manifests()[0]


def _rollback(release_id: str, status: str, seconds: float | None) -> Rollback:
    return Rollback(
        rollback_id=f"r-{release_id}",
        release_id=release_id,
        snapshot_id="",
        status=status,
        started_at=None,
        finished_at=None,
        seconds=seconds,
        detail="",
        actor="ann@vm",
    )


def test_the_status_word_of_a_release(project: Project) -> None:
    """The last rollback that took effect decides; a noop changes nothing."""
    manifest = release(project, "v1")
    taken_back = [_rollback("v1", "live", 1), _rollback("v1", "restored", 1)]
    for rollbacks, is_degraded, word in (
        ([], False, ("ready", "good")),
        ([], True, ("degraded", "warn")),
        ([_rollback("v1", "noop", None)], False, ("ready", "good")),
        (taken_back, True, ("rolled back", "warn")),
        (taken_back[:1], True, ("rolled back, unwell", "bad")),
        ([_rollback("v1", "in_progress", None)], True, ("rollback unfinished", "bad")),
    ):
        found = word_of(manifest, rollbacks, is_degraded=is_degraded)
        assert (found, meaning_of(found)) == word
    assert word_of(None, [], is_degraded=False) == "unreadable" and meaning_of("unreadable") == "bad"


def test_a_degraded_release_is_not_called_ready(project: Project) -> None:
    """This holds without a rollback too; a later healthy watch counts."""
    release(project, "v1")
    log = project.pipeline.audit
    log.append("watch.degraded", status="degraded", detail="slow", release_id="v1", reasons=["3 looks were slow."])
    log.append("watch.finished", status="degraded", detail="slow", release_id="v1")
    page = page_of(project)
    assert (page.verdict.word, page.verdict.reasons) == ("degraded", ["3 looks were slow."])
    assert [row.word for row in page.history.rows] == ["degraded"]
    log.append("watch.finished", status="healthy", detail="", release_id="v1")
    assert page_of(project).verdict.message.endswith("The watch after the deploy found it healthy.")
    assert page_of(project).verdict.word == "ready"


def test_the_end_of_a_log_is_shown_with_its_size(tmp_path: Path) -> None:
    """At most 64 KiB of each, in complete lines, without colours; the full size is next to it."""
    line = "\x1b[31mline\x1b[0m of a log \n"
    (tmp_path / "build.log").write_text(line * 10_000)
    (gate,) = gates_of([PASSED], tmp_path)
    assert gate.log is not None
    assert gate.log.size == len(line) * 10_000
    assert gate.log.shown <= 64 << 10
    assert set(gate.log.text.split("\n")) == {"line of a log"}


def test_all_logs_together_have_a_limit(tmp_path: Path) -> None:
    """The first gates have their logs on the page, the others show the path of theirs."""
    checks = [evolve(PASSED, id=f"gate-{number}") for number in range(20)]
    for check in checks:
        (tmp_path / f"{check.id}.log").write_text("x" * 100 + "\n" + "y" * (70 << 10))
    logs = [gate.log for gate in gates_of(checks, tmp_path)]
    assert sum(log.shown for log in logs if log) <= 512 << 10
    assert logs[-1] is not None and not logs[-1].text and logs[-1].size > 0


def test_a_link_instead_of_a_log_is_not_followed(tmp_path: Path) -> None:
    """The page shows no other file, and a malformed id opens none."""
    (tmp_path / "secret").write_text("key material")
    (tmp_path / "build.log").symlink_to(tmp_path / "secret")
    (tmp_path / "tests.log").mkdir()
    linked, folder, outside = gates_of([PASSED, FAILED, evolve(PASSED, id="../secret")], tmp_path)
    assert linked.log is not None and linked.log.problem and not linked.log.text
    assert folder.log is not None and folder.log.problem == "it is not a regular file"
    assert outside.log is None


def test_records_of_any_form_are_shown_or_skipped(tmp_path: Path) -> None:
    """The diagnostics come from a plugin or a forged manifest."""
    strange: dict[str, Any] = {
        "exitCode": {"a": [1]},
        "problems": "none",
        "outputTail": [None, {"b": 2}, "line"],
        "next": 7,
        "history": [None, 3, {"latencyMs": "fast", "at": 5, "passed": False}, {"latencyMs": -4}],
        "attempts": True,
    }
    check = evolve(PASSED, diagnostics=strange)
    (gate,) = gates_of([check], tmp_path)
    assert gate.tail == ["", "{'b': 2}", "line"]
    assert ("Exit code", "{'a': [1]}") in gate.facts
    (strip,) = strips_of([check], [{"event": "watch.degraded", "samples": 4}][:0], [])
    assert (len(strip.attempts), strip.total) == (2, 2)
    assert all(0 < attempt.height <= 1 for attempt in strip.attempts)


def test_a_manifest_without_phases_has_the_times_of_its_gates(project: Project) -> None:
    """Older manifests have no phases; one without any time shows none."""
    manifest = release(project, "v1", PASSED)
    timeline = timeline_of(evolve(manifest, phases=[]), [], [], [])
    assert [(bar.name, bar.begin, bar.length) for bar in timeline.bars] == [("build", 0.0, 1.0)]
    none = evolve(manifest, phases=[], preflight=evolve(manifest.preflight, checks=[]))
    assert timeline_of(none, [], [], []).bars == []


def test_the_latest_release_is_the_default(project: Project) -> None:
    """It may be a blocked one; an unknown id is refused with the known ones."""
    with pytest.raises(UsageError, match=r"no release to report on yet. Prepare one: `inv release.prepare`"):
        find_release(project.pipeline, None)
    release(project, "v1")
    release(project, "v2", FAILED)
    assert find_release(project.pipeline, None).release_id == "v2"
    with pytest.raises(UsageError, match=r"no release 'v3'. The latest releases are v1, v2"):
        find_release(project.pipeline, "v3")
    with pytest.raises(UsageError):
        find_release(project.pipeline, "../v1")


@pytest.mark.smoke
def test_a_ready_release_shows_its_rollback_command(project: Project) -> None:
    """The exact command, verified at that moment; after it was used, also the command that undoes it."""
    manifest = release(project, "v1")
    page = page_of(project)
    assert (page.verdict.word, page.snapshot and page.snapshot.tone) == ("ready", "good")
    command = f"inv release.rollback --snapshot {manifest.snapshot.snapshot_id}"
    assert page.rollback_options.commands[0] == ("Restore the state before this release", command)
    project.damage()
    outcome = rollback(project.settings, RollbackRequest())
    page = page_of(project)
    assert (page.verdict.word, page.history.rolled_back) == ("rolled back", 1)
    undo = f"inv release.rollback --snapshot {outcome.safety_snapshot_id}"
    assert page.rollback_options.commands[0] == ("Undo the rollback", undo)
    assert [step.what for step in page.timeline.steps] == ["Rolled back to the state before it"]


def test_reading_changes_nothing(project: Project) -> None:
    """No byte and no name changes, also of the databases that are compared and the snapshot that is digested."""
    release(project, "v1")
    project.damage()
    project.mcp.write_text("{}")
    release(project, "v2")
    before = _tree(project.folder)
    page = page_of(project)
    assert page.differences is not None
    assert {row.where for row in page.differences.differences} >= {"database rows", "identity", "extra"}
    assert _tree(project.folder) == before


def _tree(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def test_the_history_marks_the_release_of_the_page(project: Project) -> None:
    """One row is marked, for any release."""
    for release_id in ("v1", "v2", "v3"):
        release(project, release_id)
    for release_id in ("v1", "v3"):
        html = render(page_of(project, release_id)).decode()
        assert html.count('aria-current="true"') == 1
        assert f'aria-current="true"><th scope="row"><bdi>{release_id}</bdi>' in html


def test_a_blocked_release_has_its_reason_and_no_rollback(project: Project) -> None:
    """There is no snapshot of it, and the differences from the ready release before it are shown."""
    release(project, "v1")
    release(project, "v2", PASSED, FAILED)
    page = page_of(project)
    assert (page.verdict.word, page.verdict.reasons) == ("blocked", ["tests: exit code 1"])
    assert page.snapshot is None
    assert not [line for _, line in page.rollback_options.commands if "rollback" in line]
    assert page.differences is not None and page.differences.before == "v1"
    assert {row.where for row in page.differences.differences} == {"status", "gates"}


Damage = Callable[[Any], None]


def _alter_manifest(project: Project) -> None:
    path = project.pipeline.manifests / "v1.json"
    path.write_text(path.read_text().replace('"ready"', '"blocked"'))


def _remove_snapshot(project: Project) -> None:
    import shutil

    shutil.rmtree(next(project.pipeline.catalogue.store.folder.glob("v1_*")))


def _alter_snapshot(project: Project) -> None:
    path = next(project.pipeline.catalogue.store.folder.glob("v1_*/assets/mcp/*"))
    path.write_text("{}")


def _alter_metadata(project: Project) -> None:
    path = next(project.pipeline.catalogue.store.folder.glob("v1_*/metadata.json"))
    path.write_text("no JSON")


def _break_chain(project: Project) -> None:
    path = project.pipeline.audit.path
    path.write_text(path.read_text().replace("prepare.ready", "prepare.steady"))


def _alter_statement(project: Project) -> None:
    path = project.pipeline.statement_path("v1")
    path.write_text(path.read_text().replace("PASSED", "PASSES"))


def _cut_log(project: Project) -> None:
    project.pipeline.audit.path.write_bytes(b"")


def _log_is_a_folder(project: Project) -> None:
    project.pipeline.audit.path.unlink()
    project.pipeline.audit.path.mkdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_alter_manifest, "was altered"),
        (_remove_snapshot, "does not exist any more"),
        (_alter_snapshot, "does not match the record"),
        (_alter_metadata, "not valid JSON"),
        (_break_chain, "altered, or not a record of this log"),
        (_cut_log, "the end of the log is missing"),
        (_log_is_a_folder, "It should be a file and is not"),
        (_alter_statement, "does not match this release"),
    ],
)
def test_the_page_is_written_with_any_damage(project: Project, damage: Damage, message: str) -> None:
    """The page names a manifest, snapshot or log that cannot be read, and shows the rest."""
    release(project, "v0")
    release(project, "v1")
    damage(project)
    page = page_of(project, "v1")
    html = render(page).decode()
    assert message in html
    assert page.history.total == 2
    if damage in (_remove_snapshot, _alter_snapshot, _alter_metadata):
        rollbacks = [line for _, line in page.rollback_options.commands if "release.rollback" in line]
        assert not rollbacks, "a snapshot that would be refused is not offered"
    if damage in (_break_chain, _cut_log, _log_is_a_folder):
        assert (page.audit.intact, bool(page.history.problem)) == (False, True)
        assert "Chain broken" in html


def test_the_snapshot_of_an_unreadable_release_is_found(project: Project) -> None:
    """Its own record names the release; without the record nothing is claimed."""
    command = f"inv release.rollback --snapshot {release(project, 'v1').snapshot.snapshot_id}"
    _alter_manifest(project)
    page = page_of(project)
    assert (page.verdict.word, page.rollback_options.commands[0][1]) == ("unreadable", command)
    _remove_snapshot(project)
    page = page_of(project)
    assert [line for _, line in page.rollback_options.commands] == ["inv release.status"]
    assert [fact.value for fact in page.facts if fact.label == "Snapshot"] == ["unknown"]


def test_a_replaced_snapshot_is_not_offered(project: Project) -> None:
    """A complete snapshot with the right name and another digest than in the manifest is not offered."""
    manifest = release(project, "v1")
    path = project.pipeline.manifests / "v1.json"
    document = json.loads(path.read_text())
    document["snapshot"]["digest"] = "0" * 64
    from release_tasks.archive.seal import sealed_document
    from release_tasks.core.canonical import pretty_bytes

    document.pop("checksum")
    path.write_bytes(pretty_bytes(sealed_document(document)))
    page = page_of(project)
    assert page.snapshot is not None and "their digests differ" in page.snapshot.finding
    assert manifest.snapshot.snapshot_id not in str(
        [line for _, line in page.rollback_options.commands if "rollback" in line]
    )


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 bytes"), (1, "1 byte"), (1023, "1023 bytes"), (40960, "40 KiB"), (1 << 31, "2 GiB")]
)
def test_sizes_are_readable(count: int, shown: str) -> None:
    """Small sizes in bytes, larger ones in a larger unit."""
    assert show_size(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.34, "340 ms"), (12.34, "12.3 s"), (59.99, "1 min 00 s"), (125, "2 min 05 s"), (3900, "1 h 05 min")],
)
def test_durations_are_readable(seconds: float, shown: str) -> None:
    """The precision depends on the length."""
    assert show_span(seconds) == shown


def test_malformed_times_are_skipped() -> None:
    """A record may have any value instead of a time."""
    assert moment("soon") is None and moment(None) is None and moment("9999-12-31T23:59:59-23:59") is None
    assert seconds_between("2026-01-31T03:00:02Z", "2026-01-31T03:00:01Z") is None
    assert seconds_between("2026-01-31T03:00:01", "2026-01-31T03:00:02.500+00:00") == 1.5
    assert len(text("x" * 9000)) == 2000
