"""The decision guide: every row is reached by what really happened, and says what to type."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from release_tasks import ns
from release_tasks.core.errors import UsageError
from release_tasks.core.records import Pressure
from release_tasks.pairing.channels import Channel
from release_tasks.pairing.policy import Pairing
from release_tasks.stages.diagnose.guide import GUIDE, decide, diagnose_service, guide_table
from release_tasks.stages.diagnose.signals import Disk
from release_tasks.stages.diagnose.summary import summary
from release_tasks.stages.notifications.sending import Notifications
from release_tasks.stages.notifications.wording import about_failure
from release_tasks.stages.rollback import engine
from release_tasks.stages.rollback.journal import write_journal
from release_tasks.stages.rollback.recovery import recover
from release_tasks.tasks.flags import with_flags

REPOSITORY = Path(__file__).parents[3]
DOWN = {"ok": False, "data": {"status": "failed"}}


def interrupt(site: Any) -> None:
    """Let a rollback die after its journal is written."""

    class PowerCut(BaseException):
        pass

    def die(*arguments: Any) -> None:
        write_journal(*arguments)
        raise PowerCut

    site.project.damage()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(engine, "write_journal", die)
        site.roll_back()


def fail_a_rollback(site: Any) -> None:
    stored = site.project.pipeline.catalogue.path(site.signals().snapshot.snapshot_id) / "assets/mcp/mcp.json"
    kept = stored.read_bytes()
    stored.write_bytes(b"{}")
    assert site.roll_back().status == "failed"
    stored.write_bytes(kept)


def restore_a_service_that_stays_unwell(site: Any) -> None:
    site.project.damage()
    assert site.roll_back().status == "restored"
    site.health.body = DOWN


def restore_without_health(site: Any) -> None:
    site.project.damage()
    site.project.overrides["health.deadline"] = "100ms"
    site.health.body = DOWN
    assert site.roll_back().status == "failed"
    site.calm()


def tell_nobody(site: Any) -> None:
    """Configure a pager that is not there, and let it be told."""
    site.project.overrides["notices"] = {"pager": {"command": "./no-such-pager"}}
    settings = site.settings
    with Notifications(settings) as notices:
        notices.announce(lambda: about_failure(settings, "release.rollback", "no room"))


def break_the_pairing_chain(site: Any) -> None:
    ask_to_be_let_in(site)
    path = Pairing(site.settings.pairing).audit.path
    path.write_bytes(path.read_bytes().replace(b"15551234567", b"15551234568"))


def block(site: Any, gate: dict[str, Any]) -> None:
    site.project.overrides["gates.extra"] = gate
    assert site.release("v2").status == "blocked"


def start_unreleased(site: Any) -> None:
    site.project.overrides["root"] = "elsewhere"
    site.health.body = DOWN


def break_the_chain(site: Any) -> None:
    path = site.project.pipeline.audit.path
    path.write_bytes(path.read_bytes().replace(b"prepare.ready", b"prepare.reads"))


def damage_the_snapshot(site: Any) -> None:
    snapshot = site.project.pipeline.catalogue.path(site.signals().snapshot.snapshot_id)
    (snapshot / "assets/mcp/mcp.json").write_bytes(b"{}")


def damage_a_manifest(site: Any) -> None:
    (site.project.pipeline.manifests / "v0.json").write_text("{")


def note_a_drill(site: Any, status: str) -> None:
    """Write down how a drill of the newest snapshot ended."""
    snapshot = site.signals().snapshot
    site.project.pipeline.drill_audit.append(
        f"drill.{status}",
        status=status,
        detail="it would not boot",
        snapshot_id=snapshot.snapshot_id,
        digest=snapshot.digest,
    )


def say(site: Any, **data: Any) -> None:
    site.health.body = {"ok": True, "data": {"status": "ok", **data}}


def ask_to_be_let_in(site: Any) -> None:
    Pairing(site.settings.pairing).request(Channel.WHATSAPP, "15551234567")


def damage_the_pairing_store(site: Any) -> None:
    ask_to_be_let_in(site)
    (site.settings.pairing.credentials / "whatsapp-pairing.json").write_text("{")


OPEN = [{"id": "files", "state": "connected", "health": {"circuit": "open", "failureCount": 5}}]
CASES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "interrupted": (interrupt, "no command is running"),
    "rollback-failed": (lambda site: restore_without_health(site), "Health at"),
    "rollback-given-up": (fail_a_rollback, "asset mcp"),
    "restored-unhealthy": (restore_a_service_that_stays_unwell, "it says ok: false"),
    "unhealthy": (lambda site: setattr(site.health, "body", DOWN), "release v1: it says ok: false"),
    "unhealthy-unreleased": (start_unreleased, "it says ok: false"),
    "chain-broken": (break_the_chain, "line 1"),
    "snapshot-unrestorable": (damage_the_snapshot, "asset mcp"),
    "drill-failed": (lambda site: note_a_drill(site, "failed"), "it would not boot"),
    "unproved": (lambda site: None, "v1_snapshot_"),
    "unreadable": (damage_a_manifest, "v0.json is not valid JSON"),
    "mcp-degraded": (lambda site: say(site, mcpServers=OPEN), "files: circuit open"),
    "degraded": (lambda site: say(site, heartbeat={"running": False}), "heartbeat: not running"),
    "pressure": (lambda site: site.counts(queued=25), "26 messages waiting or on their way (limit 25)"),
    "pressure-unknown": (lambda site: setattr(site.reliability, "status", 500), "HTTP 500"),
    "build-or-tests-failed": (lambda site: block(site, {"command": "exit 3"}), "gate extra: exit code 3"),
    "not-ready": (lambda site: block_on_health(site), "gate extra"),
    "gate-failed": (lambda site: block(site, {"path": "nowhere"}), "gate extra"),
    "blocked": (lambda site: block_on_an_asset(site), "mcp"),
    "low-disk": (lambda site: None, "a rollback may need"),
    "pairing-unusable": (damage_the_pairing_store, "whatsapp-pairing.json"),
    "pairing-chain-broken": (break_the_pairing_chain, "line 1"),
    "locked": (lambda site: None, "sleeping"),
    "no-release": (lambda site: site.project.overrides.update({"root": "elsewhere"}), "no manifest in"),
    "notice-failed": (tell_nobody, "pager, at 20"),
    "nobody-asked": (lambda site: site.project.overrides.update({"health.url": None}), "release.health.url is not set"),
    "pairing-waiting": (ask_to_be_let_in, "1 on whatsapp"),
}


def block_on_health(site: Any) -> None:
    site.health.body = DOWN
    block(site, {"http": "health"})
    site.calm()


def block_on_an_asset(site: Any) -> None:
    kept = site.project.mcp.read_bytes()
    site.project.mcp.unlink()
    assert site.release("v2").status == "blocked"
    site.project.mcp.write_bytes(kept)


def test_every_row_of_the_guide_has_a_case() -> None:
    """And no two rows have the same key."""
    assert [row.key for row in GUIDE] == list(dict.fromkeys(row.key for row in GUIDE))
    assert set(CASES) == {row.key for row in GUIDE}


HOLDER = """
import sys, time
from pathlib import Path
from release_tasks.core.lock import run_lock
with run_lock(Path(sys.argv[1]), "sleeping"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("key", CASES)
def test_what_happened_is_found_first_and_says_what_to_type(
    site: Any, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the first finding, names what was seen, and its commands are complete."""
    cause, seen = CASES[key]
    if key != "unproved":
        note_a_drill(site, "passed")
    cause(site)
    signals = site.signals()
    if key == "low-disk":  # the one thing that cannot be had in a moment
        signals.disks = [Disk(path=site.project.folder, free=1, needed=5 << 20)]
    if key == "locked":
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(site.settings.release.root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        signals = site.signals()
        holder.communicate()
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


def test_a_healthy_site_has_no_findings(site: Any) -> None:
    """Also after a rollback that went well, and after a failed one that a new release has superseded."""
    note_a_drill(site, "passed")
    assert site.diagnose().findings == []
    site.project.damage()
    assert site.roll_back().status == "restored"
    assert site.diagnose().findings == []
    fail_a_rollback(site)
    assert site.diagnose().first.key == "rollback-given-up"
    assert site.release("v2").status == "ready"
    note_a_drill(site, "passed")
    assert site.diagnose().findings == []


def test_commands_name_tasks_that_exist() -> None:
    """Whatever the guide sends somebody to can be typed."""
    named = {re.match(r"inv (\S+)", command)[1] for row in GUIDE for command in row.commands}  # type: ignore[index]
    assert named <= set(ns.task_names)


def test_the_documentation_has_this_guide() -> None:
    """docs/runbook.md holds what ``inv dev.docs`` writes today."""
    assert guide_table() in (REPOSITORY / "docs" / "runbook.md").read_text()


@pytest.mark.parametrize("how", ["killed", "recovered"])
def test_a_rollback_that_ended_while_health_was_asked_is_not_taken_for_healthy(site: Any, how: str) -> None:
    """The snapshot is live, nobody wrote down how it ended, and the service is unwell."""

    class PowerCut(BaseException):
        pass

    def die(*arguments: Any, **options: Any) -> None:
        raise PowerCut

    site.project.damage()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(engine, "ask_health", die)
        site.roll_back()
    site.health.body = DOWN
    if how == "recovered":
        recover(site.settings)
    first = site.diagnose().first
    assert first.key == {"killed": "interrupted", "recovered": "restored-unhealthy"}[how]


def test_a_refused_attempt_makes_nothing_good(site: Any) -> None:
    """A mistyped id after a rollback that failed is not what happened last to the state."""
    fail_a_rollback(site)
    with pytest.raises(UsageError):
        site.roll_back(snapshot_id="mistyped")
    assert site.diagnose().first.key == "rollback-given-up"


def test_a_restored_state_that_was_damaged_since_is_restored_again(site: Any) -> None:
    """It is no case for a restart alone: another rollback would bring it back."""
    restore_a_service_that_stays_unwell(site)
    site.project.damage()
    assert site.diagnose().first.key == "unhealthy"


def test_unwell_is_never_healthy(site: Any) -> None:
    """Whatever else the signals say: a service that fails its health is something to do."""
    site.health.body = DOWN
    site.project.overrides["health.deadline"] = "100ms"
    for cause in (lambda: None, site.project.damage, lambda: site.roll_back(), lambda: site.roll_back(force=True)):
        cause()
        assert site.diagnose().status == "act"


def test_the_most_urgent_comes_first(site: Any) -> None:
    """With everything wrong at once, what may be mixed is mended first."""
    damage_the_pairing_store(site)
    site.counts(dead=1)
    damage_the_snapshot(site)
    break_the_chain(site)
    site.health.body = DOWN
    keys = [finding.key for finding in site.diagnose().findings]
    assert keys == [row.key for row in GUIDE if row.key in keys]
    assert keys[0] == "unhealthy" and {"chain-broken", "snapshot-unrestorable", "pressure", "pairing-unusable"} <= set(
        keys
    )


def test_no_endpoint_of_all_answers(site: Any, free_port: int) -> None:
    """Every signal that cannot be reached is a finding; none keeps the others from being read."""
    url = f"http://127.0.0.1:{free_port}/x"
    diagnosis = diagnose_service(with_flags(site.settings, health_url=url, reliability_url=url))[1]
    assert [finding.key for finding in diagnosis.findings] == ["unhealthy", "unproved"]
    assert "refused the connection" in diagnosis.findings[0].detail


def test_callbacks_count_since_the_release(site: Any) -> None:
    """Rejected ones of long ago are no pressure; the manifest keeps how many there were."""
    site.counts(rejected=1000)
    manifest = site.release("v2")
    assert manifest.baseline.pressure == Pressure(queued=1, failed=0, dead_letters=0, rejected_callbacks=1000)
    assert manifest.baseline.health == "ok" and manifest.baseline.latency_ms >= 0
    site.counts(rejected=1003)
    assert site.diagnose().first is None
    site.counts(rejected=1004)
    finding = site.diagnose().first
    assert finding.detail == "4 callbacks rejected since the release was prepared (limit 3)"


def test_nothing_is_changed_by_looking(site: Any) -> None:
    """No file appears, changes or goes."""

    def tree() -> dict[str, Any]:
        paths = sorted(site.project.folder.rglob("*"))
        return {str(p): (p.lstat().st_mtime_ns, p.lstat().st_ino) for p in paths if p.name != "lock" and not p.is_dir()}

    before = tree()
    site.diagnose()
    assert tree() == before
