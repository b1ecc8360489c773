"""The decision guide: a real situation reaches every row, and each row says what to type."""

from __future__ import annotations

import itertools
import json
import os
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from release_tasks import ns
from release_tasks.archive.capacity import Need, Space
from release_tasks.assets.footprint import Footprint
from release_tasks.core.errors import UsageError
from release_tasks.core.records import Pressure
from release_tasks.pairing.channels import Channel
from release_tasks.pairing.policy import Pairing
from release_tasks.stages.diagnose.guide import GUIDE, decide, diagnose_service, guide_table
from release_tasks.stages.diagnose.summary import summary
from release_tasks.stages.notifications.sending import Notifications
from release_tasks.stages.notifications.wording import about_failure
from release_tasks.stages.prepare import prepare_release
from release_tasks.stages.rollback import commit
from release_tasks.stages.rollback import service as service_steps
from release_tasks.stages.rollback.journal import write_journal
from release_tasks.stages.rollback.recovery import recover
from release_tasks.tasks.flags import with_flags
from tests.support.crash import PowerCut, fail_at
from tests.support.forger import Forger
from tests.support.lock_holder import lock_holder
from tests.support.released_service import ReleasedService

REPOSITORY = Path(__file__).parents[3]
DOWN = {"ok": False, "data": {"status": "failed"}}


def interrupt_rollback(service: ReleasedService) -> None:
    """Let a rollback end after its journal is written."""
    service.project.damage()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(commit, "write_journal", fail_at(1, write_journal, PowerCut(), after=True))
        service.roll_back()


def fail_a_rollback(service: ReleasedService) -> None:
    stored = service.project.pipeline.catalogue.path(service.snapshot().snapshot_id) / "assets/mcp/mcp.json"
    original = stored.read_bytes()
    stored.write_bytes(b"{}")
    assert service.roll_back().status == "failed"
    stored.write_bytes(original)


def restore_an_unhealthy_service(service: ReleasedService) -> None:
    service.project.damage()
    assert service.roll_back().status == "restored"
    service.health.body = DOWN


def release_with_unreadable_health(service: ReleasedService) -> None:
    service.health.body = b""
    service.release("v2")
    service.project.pipeline.audit.append("watch.finished", status="healthy", release_id="v2")
    record_drill(service, "passed")


def release_again_without_a_verdict(service: ReleasedService) -> None:
    service.release("v2")
    record_drill(service, "passed")


def restore_an_unjudged_state(service: ReleasedService) -> None:
    """Restore the state that a release without a verdict left behind."""
    service.project.damage_rows()
    service.release("v2")
    assert service.roll_back().restored_assets == []
    service.health.body = DOWN


def restore_without_health(service: ReleasedService) -> None:
    service.project.damage()
    service.project.overrides["health.deadline"] = "100ms"
    service.health.body = DOWN
    assert service.roll_back().status == "failed"
    service.reset()


def change_after_a_restore(service: ReleasedService, statement: str) -> None:
    """Roll back, then change the database as a second bad release does."""
    assert service.roll_back().status == "restored"
    database = sqlite3.connect(service.project.database, isolation_level=None)
    database.execute(statement)
    database.close()


def lose_a_file_after_a_restore(service: ReleasedService) -> None:
    assert service.roll_back().status == "restored"
    service.project.mcp.unlink()


def change_a_file_after_a_restore(service: ReleasedService) -> None:
    assert service.roll_back().status == "restored"
    service.project.mcp.write_text("edited")


def fail_a_notification(service: ReleasedService) -> None:
    """Configure a notification command that does not exist, and send a notification."""
    service.project.overrides["notices"] = {"pager": {"command": "./no-such-pager"}}
    settings = service.settings
    with Notifications(settings) as notifications:
        notifications.announce(lambda: about_failure(settings, "release.rollback", "no space"))


def break_the_pairing_chain(service: ReleasedService) -> None:
    request_pairing(service)
    path = Pairing(service.settings.pairing).audit.path
    path.write_bytes(path.read_bytes().replace(b"15551234567", b"15551234568"))


def expose_tasks(service: ReleasedService) -> None:
    if os.geteuid() != 0:
        pytest.skip("NOT TESTED: only root may change owners")
    tasks = service.project.folder / "tasks.py"
    tasks.touch()
    os.chown(tasks, 4711, 4711)


def block(service: ReleasedService, gate: dict[str, Any]) -> None:
    service.project.overrides["gates.extra"] = gate
    assert service.release("v2").status == "blocked"


def start_unreleased(service: ReleasedService) -> None:
    service.project.overrides["root"] = "elsewhere"
    service.health.body = DOWN


def break_the_chain(service: ReleasedService) -> None:
    path = service.project.pipeline.audit.path
    path.write_bytes(path.read_bytes().replace(b"prepare.ready", b"prepare.reads"))


def forge_an_older_snapshot(service: ReleasedService) -> None:
    name = service.snapshot().snapshot_id
    assert service.release("v2").status == "ready"
    Forger(service.project.pipeline.root).replace_asset(name)


def damage_the_snapshot(service: ReleasedService) -> None:
    snapshot = service.project.pipeline.catalogue.path(service.snapshot().snapshot_id)
    (snapshot / "assets/mcp/mcp.json").write_bytes(b"{}")


def damage_a_manifest(service: ReleasedService) -> None:
    (service.project.pipeline.manifests / "v0.json").write_text("{")


def record_drill(service: ReleasedService, status: str) -> None:
    """Record the result of a drill of the latest snapshot."""
    snapshot = service.snapshot()
    service.project.pipeline.drill_audit.append(
        f"drill.{status}",
        status=status,
        detail="it would not boot",
        snapshot_id=snapshot.snapshot_id,
        digest=snapshot.digest,
    )


def set_health(service: ReleasedService, **data: Any) -> None:
    service.health.body = {"ok": True, "data": {"status": "ok", **data}}


def request_pairing(service: ReleasedService) -> None:
    Pairing(service.settings.pairing).request(Channel.WHATSAPP, "15551234567")


def damage_the_pairing_store(service: ReleasedService) -> None:
    request_pairing(service)
    (service.settings.pairing.credentials / "whatsapp-pairing.json").write_text("{")


def answer_every_second_request(service: ReleasedService) -> None:
    """Let the service fail and pass in turn, as one of two processes behind a URL does."""
    service.health.answers = itertools.cycle([503, 200])


def release_first(service: ReleasedService) -> None:
    """Prepare a first deployment behind a proxy that does not know the service yet."""
    service.project.overrides["root"] = "elsewhere"
    service.health.status, service.health.content_type = 404, "text/html"
    assert prepare_release(service.settings, release_id="v9", first=True).status == "ready"


def go_back_to_the_first(service: ReleasedService) -> None:
    release_first(service)
    assert service.roll_back().status == "restored"


def answer_slowly(service: ReleasedService) -> None:
    service.project.overrides["watch"] = {"latency_floor": "100ms", "latency_factor": 1}
    service.health.delay = 0.5


OPEN = [{"id": "files", "state": "connected", "health": {"circuit": "open", "failureCount": 5}}]
CASES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "interrupted": (interrupt_rollback, "no command is running"),
    "rollback-failed": (lambda service: restore_without_health(service), "Health at"),
    "rollback-given-up": (fail_a_rollback, "asset mcp"),
    "unreadable-health": (release_with_unreadable_health, "the same form as at prepare"),
    "restored-unjudged": (restore_an_unjudged_state, "No verdict exists; the oldest state is in v1_snapshot_"),
    "unjudged": (release_again_without_a_verdict, "No verdict exists; the oldest state is in v1_snapshot_"),
    "restored-unhealthy": (restore_an_unhealthy_service, "status failed"),
    "schema-changed": (lambda service: change_after_a_restore(service, "DROP TABLE ledger"), "table ledger is missing"),
    "state-lost": (lambda service: lose_a_file_after_a_restore(service), "mcp: missing"),
    "files-changed": (lambda service: change_a_file_after_a_restore(service), "mcp: content differs"),
    "rows-missing": (lambda service: change_after_a_restore(service, "DELETE FROM accounts"), "rows of accounts"),
    "unhealthy": (lambda service: setattr(service.health, "body", DOWN), "release v1: status failed"),
    "unhealthy-unreleased": (start_unreleased, "status failed"),
    "health-unknown": (
        lambda service: setattr(service.health, "body", b"<html>Sign in</html>"),
        "HTTP 200 with a text",
    ),
    "not-deployed": (go_back_to_the_first, "v9_snapshot_"),
    "first-unhealthy": (release_first, "release v9: HTTP 404"),
    "flapping": (answer_every_second_request, "of 5 samples passed"),
    "slow": (answer_slowly, "before the release)"),
    "chain-broken": (break_the_chain, "line 1"),
    "snapshot-unrestorable": (damage_the_snapshot, "asset mcp"),
    "snapshot-refused": (forge_an_older_snapshot, "its digest differs from the one in the audit log"),
    "drill-failed": (lambda service: record_drill(service, "failed"), "it would not boot"),
    "unproved": (lambda service: None, "v1_snapshot_"),
    "unreadable": (damage_a_manifest, "v0.json is not valid JSON"),
    "mcp-degraded": (lambda service: set_health(service, mcpServers=OPEN), "files: circuit open"),
    "degraded": (lambda service: set_health(service, checks={"disk": "full", "mail": "down"}), "checks.mail: down"),
    "pressure": (lambda service: service.counts(queued=25), "26 queued messages (limit 25)"),
    "pressure-unknown": (lambda service: setattr(service.reliability, "status", 500), "HTTP 500"),
    "missing": (
        lambda service: service.project.overrides.update({"restart.command": "./strat.sh"}),
        "release.restart.command: ./strat.sh does not exist",
    ),
    "exposed": (expose_tasks, "tasks.py belongs to uid 4711"),
    "missing-optional": (
        lambda service: service.project.overrides.update({"drill.command": "no-such-program"}),
        "release.drill.command: the program no-such-program is not in PATH",
    ),
    "build-or-tests-failed": (lambda service: block(service, {"command": "exit 3"}), "gate extra: exit code 3"),
    "not-ready": (lambda service: block_on_health(service), "gate extra"),
    "gate-failed": (lambda service: block(service, {"path": "nowhere"}), "gate extra"),
    "blocked": (lambda service: block_on_an_asset(service), "mcp"),
    "low-disk": (lambda service: None, "for a rollback: 5 MiB needed"),
    "pairing-unusable": (damage_the_pairing_store, "whatsapp-pairing.json"),
    "pairing-chain-broken": (break_the_pairing_chain, "line 1"),
    "locked": (lambda service: None, "sleeping"),
    "no-release": (lambda service: service.project.overrides.update({"root": "elsewhere"}), "no manifest in"),
    "notice-failed": (fail_a_notification, "pager, at 20"),
    "nobody-asked": (
        lambda service: service.project.overrides.update({"health.url": None}),
        "neither release.health.url nor an http gate",
    ),
    "unsendable": (
        lambda service: service.project.overrides.update({"health.headers": {"X-Key": "${A_VARIABLE_NOT_SET}"}}),
        "the header X-Key needs the variable A_VARIABLE_NOT_SET, which is not set",
    ),
    "pairing-waiting": (request_pairing, "1 on whatsapp"),
}


def block_on_health(service: ReleasedService) -> None:
    service.health.body = DOWN
    block(service, {"http": "health"})
    service.reset()


def block_on_an_asset(service: ReleasedService) -> None:
    stored = service.project.mcp.read_bytes()
    service.project.mcp.unlink()
    assert service.release("v2").status == "blocked"
    service.project.mcp.write_bytes(stored)


def test_every_row_of_the_guide_has_a_case() -> None:
    """No two rows have the same key."""
    assert [row.key for row in GUIDE] == list(dict.fromkeys(row.key for row in GUIDE))
    assert set(CASES) == {row.key for row in GUIDE}


@pytest.mark.slow
@pytest.mark.parametrize("key", CASES)
def test_each_situation_is_the_first_finding_and_says_what_to_type(
    service: ReleasedService, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The finding comes first, names the evidence, and has complete commands."""
    cause, seen = CASES[key]
    if key != "unproved":
        record_drill(service, "passed")
    cause(service)
    signals = service.signals()
    if key == "low-disk":  # a test cannot fill the disk in a moment
        need = Need(purpose="a rollback", folder=service.project.folder, footprint=Footprint(size=5 << 20, names=9))
        signals.disks = [Space(path=service.project.folder, needs=[need], free_size=1, free_names=5)]
    if key == "locked":
        with lock_holder(service.settings.release.root, "sleeping"):
            signals = service.signals()
    diagnosis = decide(signals)
    row = next(row for row in GUIDE if row.key == key)
    finding = next(finding for finding in diagnosis.findings if finding.key == key)
    assert seen in finding.detail
    assert diagnosis.findings[0] == finding
    assert (diagnosis.status, diagnosis.first) == (("act", finding) if row.severity == "act" else ("healthy", None))
    for command in finding.commands:
        assert "{" not in command
        assert re.fullmatch(r"inv ([a-z.-]+)( .*)?", command)
    assert json.dumps(summary(signals)).find("PRIVATE") == -1


@pytest.mark.slow
def test_a_healthy_service_has_no_findings(service: ReleasedService) -> None:
    """This also holds after a successful rollback, and after a failed one that a new release has superseded."""
    record_drill(service, "passed")
    assert service.diagnose().findings == []
    service.project.damage()
    assert service.roll_back().status == "restored"
    assert service.diagnose().findings == []
    fail_a_rollback(service)
    assert service.first_finding().key == "rollback-given-up"
    assert service.release("v2").status == "ready"
    record_drill(service, "passed")
    assert service.diagnose().findings == []


def test_commands_name_tasks_that_exist() -> None:
    """Every command of the guide can be typed."""
    named = {command.split()[0] for row in GUIDE for command in row.commands}
    assert named <= set(ns.task_names)


def test_the_documentation_has_this_guide() -> None:
    """docs/runbook.md contains what ``inv dev.docs`` writes today."""
    assert guide_table() in (REPOSITORY / "docs" / "runbook.md").read_text()


@pytest.mark.parametrize("how", ["killed", "recovered"])
def test_a_rollback_that_ended_during_its_health_check_is_not_healthy(service: ReleasedService, how: str) -> None:
    """The snapshot is live, no event records how the rollback ended, and the service is unhealthy."""

    def die(*arguments: Any, **options: Any) -> None:
        raise PowerCut

    service.project.damage()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(service_steps, "poll_health", die)
        service.roll_back()
    service.health.body = DOWN
    if how == "recovered":
        recover(service.settings)
    assert service.first_finding().key == {"killed": "interrupted", "recovered": "restored-unhealthy"}[how]


def test_an_undone_rollback_had_no_effect(service: ReleasedService, monkeypatch: pytest.MonkeyPatch) -> None:
    """After recover has undone the rollback, the guide does not say that its snapshot was restored."""
    interrupt_rollback(service)
    snapshot = service.project.pipeline.catalogue.path(service.snapshot().snapshot_id)
    (snapshot / "assets/mcp/mcp.json").write_bytes(b"{}")  # recovery cannot finish the rollback
    assert recover(service.settings).status == "undone"
    assert service.first_finding().key == "rollback-given-up"


def test_a_refused_attempt_does_not_hide_a_failed_rollback(service: ReleasedService) -> None:
    """A mistyped id after a failed rollback is not the last change of the state."""
    fail_a_rollback(service)
    with pytest.raises(UsageError):
        service.roll_back(snapshot_id="mistyped")
    assert service.first_finding().key == "rollback-given-up"


def test_a_restored_state_damaged_later_is_restored_again(service: ReleasedService) -> None:
    """A restart alone does not help; another rollback restores it."""
    restore_an_unhealthy_service(service)
    service.project.damage()
    assert service.first_finding().key == "unhealthy"


@pytest.mark.slow
def test_an_unhealthy_service_always_has_a_finding(service: ReleasedService) -> None:
    """A service that fails its health check has a finding, whatever the other signals are."""
    service.health.body = DOWN
    service.project.overrides["health.deadline"] = "100ms"
    for cause in (
        lambda: None,
        service.project.damage,
        lambda: service.roll_back(),
        lambda: service.roll_back(force=True),
    ):
        cause()
        assert service.diagnose().status == "act"


def test_the_most_urgent_finding_comes_first(service: ReleasedService) -> None:
    """With several faults at once, a possibly mixed state is the first to fix."""
    damage_the_pairing_store(service)
    service.counts(dead=1)
    damage_the_snapshot(service)
    break_the_chain(service)
    service.health.body = DOWN
    keys = [finding.key for finding in service.diagnose().findings]
    assert keys == [row.key for row in GUIDE if row.key in keys]
    assert keys[0] == "unhealthy" and {"chain-broken", "snapshot-unrestorable", "pressure", "pairing-unusable"} <= set(
        keys
    )


def test_every_unreachable_signal_is_a_finding(service: ReleasedService, free_port: int) -> None:
    """An unreachable signal does not keep the others from being read."""
    url = f"http://127.0.0.1:{free_port}/x"
    diagnosis = diagnose_service(with_flags(service.settings, health_url=url, reliability_url=url))[1]
    assert [finding.key for finding in diagnosis.findings] == ["unhealthy", "unproved"]
    assert "refused the connection" in diagnosis.findings[0].detail


@pytest.mark.slow
def test_a_flapping_service_gets_the_same_decision_each_time(service: ReleasedService) -> None:
    """Every second answer fails: the decision depends neither on the first answer nor on the last."""
    answer_every_second_request(service)
    decided = []
    for _ in range(4):
        signals, diagnosis = diagnose_service(service.settings)
        decided.append(
            (diagnosis.first and diagnosis.first.key, {name: state for name, state, _ in summary(signals)}["health"])
        )
        assert signals.health is not None and not signals.health.passed and signals.health.attempts == 5
        assert signals.health.http_status == 503 and len(signals.health.history) == 5
    assert set(decided) == {("flapping", "flapping")}


@pytest.mark.parametrize(("passing", "key"), [(0, "unhealthy"), (1, "flapping"), (4, "flapping"), (5, None)])
def test_only_a_service_that_never_passes_is_down(
    service: ReleasedService, passing: int, key: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sample that passes and one that fails make it flapping."""
    service.health.answers = iter([200] * passing + [503] * (5 - passing))
    first = service.diagnose().first
    assert (first.key if first else None) == key


@pytest.mark.slow
def test_a_service_that_never_answers_is_reported_within_seconds(service: ReleasedService) -> None:
    """The samples of a service that hangs are few."""
    service.project.overrides["health.timeout"] = "1s"
    service.health.delay = 3.0
    signals, diagnosis = diagnose_service(service.settings)
    assert diagnosis.first is not None and diagnosis.first.key == "unhealthy"
    assert signals.health is not None and signals.health.attempts == 3


def test_rejected_callbacks_count_since_the_release(service: ReleasedService) -> None:
    """Callbacks rejected before the release do not count; the manifest has their number."""
    service.counts(rejected=1000)
    baseline = service.release("v2").baseline
    assert baseline is not None and baseline.latency_ms is not None
    assert baseline.pressure == Pressure(queued=1, failed=0, dead_letters=0, rejected_callbacks=1000)
    assert baseline.health == "ok" and baseline.latency_ms >= 0
    service.counts(rejected=1003)
    assert service.diagnose().first is None
    service.counts(rejected=1004)
    assert service.first_finding().detail == "4 rejected callbacks since the release was prepared (limit 3)"


def test_diagnose_changes_nothing(service: ReleasedService) -> None:
    """No file is added, changed or removed."""

    def tree() -> dict[str, Any]:
        paths = sorted(service.project.folder.rglob("*"))
        return {str(p): (p.lstat().st_mtime_ns, p.lstat().st_ino) for p in paths if p.name != "lock" and not p.is_dir()}

    before = tree()
    service.diagnose()
    assert tree() == before
