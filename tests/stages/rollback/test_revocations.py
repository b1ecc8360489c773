"""Pairing stores as assets: a rollback never brings back an approval that was revoked since the snapshot."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from release_tasks.assets import base
from release_tasks.core.errors import ExitCode, Interrupted, LockHeld, StageFailed
from release_tasks.core.lock import FileLock
from release_tasks.pairing import store as store_module
from release_tasks.pairing.channels import Channel
from release_tasks.pairing.policy import Pairing
from release_tasks.stages.rollback.amendment import covers_pairing
from release_tasks.stages.rollback.plan import plan_rollback
from release_tasks.stages.rollback.recovery import recover
from release_tasks.tasks.project import load_settings
from tests.support.faults.listeners import on_steps
from tests.support.files import file_tree
from tests.support.project import Project
from tests.support.rollback import audit_events, roll_back, rollback_state
from tests.support.scripts import Scripts
from tests.support.snapshots import write_older_metadata
from tests.support.swap_crash import crash_at

pytestmark = pytest.mark.slow

TELEGRAM, WHATSAPP = Channel.TELEGRAM, Channel.WHATSAPP
ANNA, BERT, CARL = "1001", "1002", "1003"
ASSETS: dict[str, dict[str, Any]] = {
    "file": {"allow": {"file": "memory/credentials/telegram-allowFrom.json", "required": False}},
    "folder": {"credentials": {"directory": "memory/credentials", "required": False}},
    "folder above": {"memory": {"directory": "memory", "required": False}},
}
EMPTY = {
    "plain": {"senderIds": [], "ours": {"extra": [1, 2]}},
    "versioned": {"version": 1, "allowFrom": [], "ours": {"extra": [1, 2]}},
}


class PairedProject:
    """A scratch project whose pairing store is an asset, with Anna and Bert approved."""

    def __init__(self, project: Project, asset: str, dialect: str = "plain") -> None:
        self.project = project
        self.asset = asset
        self.credentials = project.folder / "memory" / "credentials"
        self.allowed = self.credentials / "telegram-allowFrom.json"
        self.log = self.credentials / "pairing-audit.log"
        for key, value in ASSETS[asset].items():
            project.overrides[f"assets.{key}"] = value
        self.credentials.mkdir(parents=True)
        self.allowed.write_text(json.dumps(EMPTY[dialect]))
        self.approve(ANNA)
        self.approve(BERT)

    @property
    def pairing(self) -> Pairing:
        return Pairing(self.project.settings.pairing)

    def approve(self, sender: str, channel: Channel = TELEGRAM) -> None:
        request = self.pairing.request(channel, sender).request
        assert request is not None
        self.pairing.approve(channel, request.code)

    def revoke(self, sender: str) -> None:
        self.pairing.revoke(TELEGRAM, sender)

    @property
    def approved(self) -> list[str]:
        return self.pairing.approved(TELEGRAM)

    def edit_list(self, *senders: str) -> None:
        document = json.loads(self.allowed.read_text())
        key = "allowFrom" if "allowFrom" in document else "senderIds"
        self.allowed.write_text(json.dumps({**document, key: list(senders)}))

    @property
    def events(self) -> list[tuple[str, str | None]]:
        verdict = self.pairing.audit.verify()
        assert verdict.intact, verdict.problems
        return [(event["event"], event.get("senderId")) for event in verdict.events]

    @property
    def snapshots(self) -> list[str]:
        return [snapshot.snapshot_id for snapshot in self.project.pipeline.catalogue.published()[0]]


@pytest.fixture(params=list(ASSETS))
def paired(project: Project, request: pytest.FixtureRequest) -> PairedProject:
    """Return a project with its pairing store as an asset, in each way that can be configured."""
    return PairedProject(project, request.param)


@pytest.fixture
def as_file(project: Project) -> PairedProject:
    return PairedProject(project, "file")


@pytest.fixture
def as_folder(project: Project) -> PairedProject:
    return PairedProject(project, "folder")


@pytest.mark.smoke
@pytest.mark.parametrize("asset", ASSETS)
@pytest.mark.parametrize("dialect", EMPTY)
def test_revoked_sender_stays_revoked(project: Project, asset: str, dialect: str) -> None:
    """All else is restored, the outcome names the sender, and unknown keys of the file stay."""
    paired = PairedProject(project, asset, dialect)
    os.chmod(paired.allowed, 0o640)
    before = project.content()
    project.capture()
    paired.revoke(BERT)
    project.damage()
    outcome = roll_back(project)
    assert outcome.status == "restored", outcome.diagnostics
    assert paired.approved == [ANNA]
    assert project.content() == before
    assert any("revoked" in message and BERT in message for message in outcome.diagnostics), outcome.diagnostics
    found = json.loads(paired.allowed.read_text())
    assert found["ours"] == {"extra": [1, 2]} and ("allowFrom" in found) == (dialect == "versioned")
    assert paired.allowed.stat().st_mode & 0o777 == 0o640
    assert ("pairing.revoked", BERT) in paired.events
    assert audit_events(project)[-1] == ("rollback.finished", "restored")
    assert project.leftovers() == []


def test_amended_snapshot_restores_the_journal_mode_of_a_database(as_file: PairedProject) -> None:
    """The amended snapshot has the records of the other assets too."""
    project = as_file.project
    project.capture()
    as_file.revoke(BERT)
    for path in project.state.glob("app.db*"):
        path.unlink()
    assert roll_back(project).status == "restored"
    database = sqlite3.connect(project.database)
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    database.close()


def test_sender_approved_again_stays_approved(paired: PairedProject) -> None:
    """The last decision counts."""
    paired.project.capture()
    paired.revoke(BERT)
    paired.approve(BERT)
    outcome = roll_back(paired.project)
    assert paired.approved == [ANNA, BERT]
    assert not any("removed from the snapshot" in message for message in outcome.diagnostics)


def test_later_approval_is_withdrawn_and_returns_with_the_safety_snapshot(paired: PairedProject) -> None:
    """Each rollback leaves an event about the sender."""
    paired.project.capture()
    paired.approve(CARL)
    outcome = roll_back(paired.project)
    assert paired.approved == [ANNA, BERT]
    assert any("removed by the rollback" in message and CARL in message for message in outcome.diagnostics)
    assert paired.events[-1] == ("pairing.withdrawn", CARL)
    assert roll_back(paired.project, outcome.safety_snapshot_id).status == "restored"
    assert paired.approved == [ANNA, BERT, CARL]
    assert paired.events[-1] == ("pairing.returned", CARL)


def test_no_snapshot_brings_a_revoked_sender_back(paired: PairedProject) -> None:
    """Neither the safety snapshot nor the first snapshot again."""
    paired.project.capture()
    paired.approve(CARL)
    paired.project.capture("v2")
    paired.revoke(BERT)
    paired.project.mcp.write_text("{}")  # of equal safety snapshots retention keeps the newest only
    safety = roll_back(paired.project, "v1_snapshot").safety_snapshot_id
    for snapshot_id, expected in (
        ("v2_snapshot", [ANNA, CARL]),
        (safety, [ANNA, CARL]),
        ("v1_snapshot", [ANNA]),
        ("v2_snapshot", [ANNA, CARL]),
    ):
        assert roll_back(paired.project, snapshot_id).status == "restored"
        assert paired.approved == expected


PHONE, SCOPED = "15557000001", "US.13491208655302741918"


@pytest.mark.parametrize("revoked", [PHONE, SCOPED])
def test_no_snapshot_brings_a_person_back_by_another_id(project: Project, revoked: str) -> None:
    """Both ids were approved with one code; later with codes of their own, and the live list is lost."""
    paired = PairedProject(project, "folder")
    pairing = paired.pairing

    def approve(*ids: str) -> None:
        request = pairing.request(WHATSAPP, *ids).request
        assert request is not None
        pairing.approve(WHATSAPP, request.code)

    def admitted() -> list[str | None]:
        return [pairing.admitted(WHATSAPP, ids) for ids in ([PHONE, SCOPED], [PHONE], [SCOPED])]

    before = project.capture()
    approve(PHONE, SCOPED)
    both = project.capture("v2")
    pairing.revoke(WHATSAPP, revoked)
    assert roll_back(project, both.snapshot_id).status == "restored"
    assert admitted() == [None, None, None]
    # Without a file in the snapshot: an approval of the other id alone is not enough afterwards.
    assert roll_back(project, before.snapshot_id).status == "restored"
    assert admitted() == [None, None, None]
    other = SCOPED if revoked == PHONE else PHONE
    approve(other)
    after = project.capture("v3")
    assert pairing.approved(WHATSAPP) == [other]
    pairing.revoke(WHATSAPP, other)
    (paired.credentials / "whatsapp-allowFrom.json").unlink()
    assert roll_back(project, after.snapshot_id).status == "restored"
    assert admitted() == [None, None, None]
    assert pairing.audit.verify().intact


@pytest.mark.parametrize("first", [PHONE, SCOPED])
def test_withdrawn_person_stays_revoked_by_either_id(project: Project, first: str) -> None:
    """A rollback withdrew both approvals; the operator then revokes one id, which is refused, and restores again."""
    paired = PairedProject(project, "folder")
    before = project.capture()
    request = paired.pairing.request(WHATSAPP, PHONE, SCOPED).request
    assert request is not None
    paired.pairing.approve(WHATSAPP, request.code)
    outcome = roll_back(project, before.snapshot_id)
    assert paired.pairing.approved(WHATSAPP) == []
    with pytest.raises(StageFailed):
        paired.pairing.revoke(WHATSAPP, first)
    roll_back(project, outcome.safety_snapshot_id)
    for ids in ([PHONE, SCOPED], [PHONE], [SCOPED]):
        assert paired.pairing.admitted(WHATSAPP, ids) is None, ids


@pytest.mark.parametrize("how", ["revoke", "reject"])
def test_refusal_after_the_rollback_counts(paired: PairedProject, how: str) -> None:
    """A rollback withdrew the approval; the safety snapshot does not overrule a later refusal by an operator."""
    paired.project.capture()
    paired.approve(CARL)
    safety = roll_back(paired.project).safety_snapshot_id
    if how == "revoke":
        with pytest.raises(StageFailed, match="nothing to revoke"):
            paired.revoke(CARL)
    else:
        request = paired.pairing.request(TELEGRAM, CARL).request
        assert request is not None
        paired.pairing.reject(TELEGRAM, request.code)
    roll_back(paired.project, safety)
    assert paired.approved == [ANNA, BERT]


def test_manually_removed_sender_stays_removed(paired: PairedProject) -> None:
    """An edit by another program leaves no event."""
    paired.project.capture()
    paired.edit_list(ANNA)
    outcome = roll_back(paired.project)
    assert paired.approved == [ANNA]
    assert any(BERT in message for message in outcome.diagnostics)


def test_manually_removed_sender_stays_removed_after_an_earlier_return(paired: PairedProject) -> None:
    """That an earlier rollback withdrew the approval does not count for ever."""
    paired.project.capture()
    paired.approve(CARL)
    safety = roll_back(paired.project).safety_snapshot_id
    roll_back(paired.project, safety)
    assert CARL in paired.approved
    paired.edit_list(ANNA, BERT)
    roll_back(paired.project, safety)
    assert paired.approved == [ANNA, BERT]


def test_manually_removed_sender_stays_removed_across_a_removed_list(as_file: PairedProject) -> None:
    """A list that a rollback removed counts as empty."""
    project = as_file.project
    content = as_file.allowed.read_bytes()
    as_file.allowed.unlink()
    project.capture("v0")
    as_file.allowed.write_bytes(content)
    project.capture()
    as_file.edit_list(ANNA)
    assert "allow" in roll_back(project, "v0_snapshot").removed_assets
    roll_back(project, "v1_snapshot")
    assert as_file.approved == [ANNA]


def remove_file(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def alter_event(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"pairing.revoked", b"pairing.revokid"))


def overwrite_with_garbage(path: Path) -> None:
    path.write_bytes(b"\xff\xfe rubbish\n")


LOGS: dict[str, tuple[Callable[[Path], None] | None, bool]] = {
    "intact": (None, True),
    "altered": (alter_event, False),
    "rubbish": (overwrite_with_garbage, False),
    "missing": (remove_file, False),
}


@pytest.mark.parametrize("log", LOGS)
@pytest.mark.parametrize("damage", [remove_file, truncate, overwrite_with_garbage])
def test_pairing_log_decides_without_a_live_list(
    paired: PairedProject, damage: Callable[[Path], None], log: str
) -> None:
    """Without a usable log no sender is admitted, and the message names the stored list and the command to approve."""
    project = paired.project
    project.capture()
    paired.revoke(BERT)
    damage(paired.allowed)
    damage_log, is_usable = LOGS[log]
    if damage_log is not None:
        damage_log(paired.log)
    outcome = roll_back(project)
    assert outcome.status == "restored", outcome.diagnostics
    assert paired.approved == ([ANNA] if is_usable else [])
    if not is_usable:
        (message,) = [message for message in outcome.diagnostics if "no sender is approved" in message]
        assert "inv pairing.approve telegram" in message
        stored = next(word.rstrip(";.") for word in message.split() if "/snapshots/" in word)
        assert ANNA in Path(stored).read_text()


@pytest.mark.parametrize("log", ["altered", "missing"])
def test_live_list_decides_without_a_usable_log(paired: PairedProject, log: str) -> None:
    """Only senders approved now stay approved."""
    paired.project.capture()
    paired.revoke(BERT)
    paired.approve(CARL)
    damage_log, _ = LOGS[log]
    assert damage_log is not None
    damage_log(paired.log)
    safety = roll_back(paired.project).safety_snapshot_id
    assert paired.approved == [ANNA]
    roll_back(paired.project, safety)
    assert paired.approved == ([ANNA, CARL] if log == "missing" else [ANNA])


def test_restarted_log_does_not_count(as_folder: PairedProject) -> None:
    """The snapshot records the position of the log, and the log must continue from there."""
    as_folder.project.capture()
    as_folder.revoke(BERT)
    as_folder.log.unlink()
    as_folder.approve(CARL)
    as_folder.allowed.unlink()
    outcome = roll_back(as_folder.project)
    assert as_folder.approved == []
    assert any("no sender is approved" in message for message in outcome.diagnostics)


def test_log_started_by_this_rollback_does_not_count(as_file: PairedProject) -> None:
    """An event about one channel says nothing about the other channel before it."""
    project = as_file.project
    project.overrides["assets.more"] = {"file": "memory/credentials/whatsapp-allowFrom.json", "required": False}
    project.capture()
    as_file.approve("15551234567", WHATSAPP)
    as_file.revoke(BERT)
    as_file.log.unlink()
    as_file.allowed.unlink()
    roll_back(project)
    assert as_file.approved == []
    assert as_file.events == [("pairing.withdrawn", "15551234567"), ("pairing.emptied", None)]


def test_shared_ids_in_a_snapshot_are_left_out(paired: PairedProject) -> None:
    """A wildcard or a group never admits anyone, and a rollback does not bring either back."""
    paired.edit_list(ANNA, BERT, "*", "-100200")
    paired.project.capture()
    outcome = roll_back(paired.project)
    assert json.loads(paired.allowed.read_text())["senderIds"] == [ANNA, BERT]
    assert any("several people share the id" in message and "-100200" in message for message in outcome.diagnostics)


def test_unusable_list_in_a_snapshot_is_restored_unchanged(paired: PairedProject) -> None:
    """It admits no sender; the safety snapshot brings the earlier approvals back."""
    good = paired.allowed.read_bytes()
    paired.allowed.write_bytes(b"{")
    paired.project.capture()
    paired.allowed.write_bytes(good)
    outcome = roll_back(paired.project)
    assert outcome.status == "restored"
    assert paired.allowed.read_bytes() == b"{"
    roll_back(paired.project, outcome.safety_snapshot_id)
    assert paired.approved == [ANNA, BERT]


@pytest.mark.parametrize("asset", ["folder", "folder above"])
def test_pairing_log_is_never_rolled_back(project: Project, asset: str) -> None:
    """Its earlier bytes stay and the chain continues, also in a rollback to the safety snapshot."""
    paired = PairedProject(project, asset)
    project.capture()
    paired.revoke(BERT)
    paired.approve(CARL)
    before = paired.log.read_bytes()
    outcome = roll_back(project)
    assert paired.log.read_bytes().startswith(before)
    assert any("log is not rolled back" in message for message in outcome.diagnostics)
    events = paired.events
    roll_back(project, outcome.safety_snapshot_id)
    assert paired.events[: len(events)] == events


@pytest.mark.parametrize("asset", ["folder", "folder above"])
def test_snapshot_taken_before_the_first_pairing_keeps_the_log(project: Project, asset: str) -> None:
    """No sender stays admitted; the safety snapshot brings back those that were not revoked."""
    (project.folder / "memory").mkdir()
    if asset == "folder above":
        (project.folder / "memory" / "note").write_text("x")
    for key, value in ASSETS[asset].items():
        project.overrides[f"assets.{key}"] = value
    project.capture()
    paired = PairedProject(project, asset)
    paired.revoke(BERT)
    outcome = roll_back(project)
    assert outcome.status == "restored", outcome.diagnostics
    assert paired.approved == []
    assert sorted(os.listdir(paired.credentials)) == ["pairing-audit.log"]
    assert roll_back(project).status == "noop"
    roll_back(project, outcome.safety_snapshot_id)
    assert paired.approved == [ANNA]


def test_absent_folder_is_not_created(project: Project) -> None:
    """It is not created for a lock either."""
    project.overrides["assets.credentials"] = ASSETS["folder"]["credentials"]
    project.capture()
    assert roll_back(project).status == "restored"
    assert not (project.folder / "memory").exists()
    assert roll_back(project).status == "noop"


def test_missing_folder_is_restored_without_approvals(project: Project) -> None:
    """No log is left that lists revocations."""
    paired = PairedProject(project, "folder above")
    project.capture()
    shutil.rmtree(project.folder / "memory")
    outcome = roll_back(project)
    assert outcome.status == "restored"
    assert paired.approved == [] and paired.allowed.exists()
    assert any("no sender is approved" in message for message in outcome.diagnostics)


def test_second_rollback_is_a_noop(paired: PairedProject) -> None:
    """The amended snapshot has the same id again, so rows that the service wrote since the first rollback stay."""
    project = paired.project
    project.capture()
    paired.revoke(BERT)
    project.damage()
    assert roll_back(project).status == "restored"
    database = sqlite3.connect(project.database)
    database.execute("INSERT INTO ledger(a, b, amount) VALUES (1, 2, 4242)")
    database.commit()
    database.close()
    known = paired.snapshots
    assert roll_back(project).status == "noop"
    assert project.rows()[1][-1][-1] == 4242
    assert paired.snapshots == known
    paired.revoke(ANNA)
    assert roll_back(project).status == "restored"
    assert paired.approved == []


def test_unchanged_store_needs_no_amended_snapshot(paired: PairedProject) -> None:
    """The target itself is restored."""
    paired.project.capture()
    paired.project.damage()
    outcome = roll_back(paired.project)
    assert outcome.snapshot_id == "v1_snapshot"
    assert paired.snapshots == ["v1_snapshot", outcome.safety_snapshot_id]
    assert paired.approved == [ANNA, BERT]


def test_stores_that_are_no_asset_are_left_alone(as_file: PairedProject) -> None:
    """The default: approvals are not rolled back, and the rollback waits for no pairing lock."""
    del as_file.project.overrides["assets.allow"]
    as_file.project.capture()
    as_file.revoke(BERT)
    as_file.approve(CARL)
    before = as_file.log.read_bytes()
    lock = FileLock(as_file.credentials / "telegram-pairing.lock")
    assert lock.acquire(1)
    assert roll_back(as_file.project).status == "restored"
    lock.release()
    assert as_file.approved == [ANNA, CARL]
    assert as_file.log.read_bytes() == before


def test_damaged_amended_snapshot_is_replaced(as_file: PairedProject) -> None:
    """The rollback makes another amended snapshot."""
    as_file.project.capture()
    as_file.revoke(BERT)
    first = roll_back(as_file.project).snapshot_id
    assert first is not None
    (stored,) = as_file.project.pipeline.catalogue.path(first).glob("assets/mcp/*")
    stored.write_text("altered")
    as_file.project.mcp.unlink()
    outcome = roll_back(as_file.project, "v1_snapshot")
    assert outcome.status == "restored", outcome.diagnostics
    assert outcome.snapshot_id != first
    assert as_file.project.mcp.read_text() == '{"mcpServers": {}}'
    assert as_file.approved == [ANNA]


def test_retention_keeps_the_amended_snapshot_that_is_live(paired: PairedProject) -> None:
    """It stays with a limit of one and after another rollback."""
    project = paired.project
    project.overrides["retention"] = 1
    project.capture()
    paired.revoke(BERT)
    outcome = roll_back(project)
    assert outcome.snapshot_id is not None and outcome.snapshot_id.startswith("amended_v1_snapshot_")
    assert outcome.snapshot_id in paired.snapshots and outcome.safety_snapshot_id in paired.snapshots
    assert roll_back(project, force=True).status == "restored"
    assert outcome.snapshot_id in paired.snapshots
    assert paired.approved == [ANNA]


def test_failed_swap_leaves_the_approvals_unchanged(paired: PairedProject, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its withdrawal does not count: a sender removed manually afterwards stays removed."""
    project = paired.project
    project.capture()
    paired.approve(CARL)
    project.capture("v2")
    project.damage()
    with monkeypatch.context() as patch:
        crash_at(patch, "rename_into_place", 3, after=False, error=StageFailed("no."))
        assert roll_back(project, "v1_snapshot").status == "failed"
    assert paired.approved == [ANNA, BERT, CARL]
    assert paired.events[-1] == ("pairing.withdrawn", CARL)
    assert roll_back(project, "v2_snapshot").status == "restored"
    assert paired.approved == [ANNA, BERT, CARL]
    paired.edit_list(ANNA, BERT)
    roll_back(project, "v2_snapshot")
    assert paired.approved == [ANNA, BERT]


def test_withdrawal_counts_when_a_signal_ends_the_run_after_the_swap(as_file: PairedProject) -> None:
    """The snapshot is live, so the safety snapshot brings the approval back."""
    project = as_file.project
    project.overrides["restart.command"] = "true"
    project.capture()
    as_file.approve(CARL)

    def interrupt(step: str) -> None:
        if step == "restart":
            raise Interrupted(ExitCode.SIGTERM)

    with pytest.raises(Interrupted):
        roll_back(project, emit=on_steps(interrupt))
    assert as_file.approved == [ANNA, BERT]
    roll_back(project, rollback_state(project).safety_snapshot_id)
    assert as_file.approved == [ANNA, BERT, CARL]


REVOKE = """
import sys
from pathlib import Path
from release_tasks.config.schema import PairingConfig
from release_tasks.pairing.channels import Channel
from release_tasks.pairing.policy import Pairing
pairing = Pairing(PairingConfig(credentials=Path(sys.argv[1])))
print("ready", flush=True)
pairing.revoke(Channel.TELEGRAM, sys.argv[2])
"""


@pytest.mark.parametrize("step", ["recover", "verify", "safety snapshot", "stage", "swap"])
def test_revocation_during_a_rollback_is_not_lost(paired: PairedProject, scripts: Scripts, step: str) -> None:
    """It is carried out before, or it waits for the end of the swap and changes the new store."""
    project = paired.project
    project.capture()
    project.damage()
    paired.approve(CARL)
    revoking: list[subprocess.Popen[str]] = []
    held: list[int | None] = []

    def act(started: str) -> None:
        if started.startswith(step):
            revoking.append(scripts.start(REVOKE, str(paired.credentials), BERT))
        elif revoking and started == "swap" and step in ("safety snapshot", "stage"):
            held.append(revoking[0].poll())

    assert roll_back(project, emit=on_steps(act)).status == "restored"
    assert held == ([None] if step in ("safety snapshot", "stage") else []), "the stores were not held"
    assert revoking[0].wait(timeout=30) == 0
    assert paired.approved == [ANNA]
    assert ("pairing.revoked", BERT) in paired.events
    assert project.leftovers() == []


@pytest.mark.parametrize("asset", ["folder", "folder above"])
@pytest.mark.parametrize("has_lock", [True, False])
def test_new_store_is_locked_until_the_swap_is_over(
    project: Project, monkeypatch: pytest.MonkeyPatch, asset: str, has_lock: bool
) -> None:
    """A change there would be lost if a later step fails. A lock file created for this is removed again."""
    paired = PairedProject(project, asset)
    lock = paired.credentials / "telegram-pairing.lock"
    if not has_lock:
        lock.unlink()
    project.capture()
    paired.revoke(BERT)
    held: list[bool] = []
    real = base.AssetKind.exchange

    def place(self: Any, move: Any, live: Any) -> bool:
        placed = real(self, move, live)
        held.append(lock.exists() and not FileLock(lock).acquire())
        return placed

    monkeypatch.setattr(base.AssetKind, "exchange", place)
    assert roll_back(project).status == "restored"
    assert held == [True]
    assert lock.exists() == has_lock
    paired.revoke(ANNA)
    assert paired.approved == []


def test_revoked_sender_stays_revoked_where_names_cannot_be_exchanged(
    paired: PairedProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a bind mount or an overlay the amended content overwrites the file in place."""
    project = paired.project
    before = project.content()
    project.capture()
    paired.revoke(BERT)
    paired.approve(CARL)
    project.damage()
    monkeypatch.setattr(base, "rename_into_place", lambda *_: False)
    outcome = roll_back(project)
    assert outcome.status == "restored", outcome.diagnostics
    assert paired.approved == [ANNA] and project.content() == before
    assert paired.events[-1] == ("pairing.withdrawn", CARL)
    roll_back(project, outcome.safety_snapshot_id)
    assert paired.approved == [ANNA, CARL]


def test_held_pairing_lock_ends_with_75(paired: PairedProject, monkeypatch: pytest.MonkeyPatch) -> None:
    """No live file is touched, and the attempt is audited."""
    monkeypatch.setattr(store_module, "WAIT_SECONDS", 0.1)
    paired.project.capture()
    paired.project.damage()
    before = file_tree(paired.project.state)
    lock = FileLock(paired.credentials / "telegram-pairing.lock")
    assert lock.acquire(1)
    with pytest.raises(LockHeld) as held:
        roll_back(paired.project)
    lock.release()
    assert held.value.exit_code is ExitCode.LOCKED
    assert file_tree(paired.project.state) == before
    assert audit_events(paired.project) == [("rollback.refused", "refused")]
    assert roll_back(paired.project).status == "restored"


KILLED = """
import json, os, signal, sys
from pathlib import Path
from release_tasks.assets import base
from release_tasks.stages.rollback import commit, engine
from release_tasks.tasks.project import load_settings
folder, number = Path(sys.argv[1]), int(sys.argv[3])
settings = load_settings({"release": json.loads(sys.argv[2])}, folder)
module, name = (commit, "write_journal") if number == 0 else (base, "rename_into_place")
real, calls = getattr(module, name), 0
def call(*args):
    global calls
    calls += 1
    result = real(*args) if number else None
    if calls >= number:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
setattr(module, name, call)
print("ready", flush=True)
engine.rollback(settings, engine.RollbackRequest())
"""


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_recovery_after_a_kill_during_the_swap_leaves_the_revoked_out(
    paired: PairedProject, scripts: Scripts, number: int
) -> None:
    """The kill comes after identity, mcp.json, extra.json or the stores."""
    project = paired.project
    before = project.content()
    project.capture()
    paired.revoke(BERT)
    paired.approve(CARL)
    project.damage()
    process = scripts.start(KILLED, str(project.folder), json.dumps(project.raw), str(number))
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert project.pipeline.has_journal()
    assert recover(project.settings).status == "finished"
    assert paired.approved == [ANNA]
    assert project.content() == before
    assert [event for event in paired.events if event[1] in (BERT, CARL)][-1] == ("pairing.withdrawn", CARL)
    assert project.leftovers() == []
    roll_back(project, rollback_state(project).safety_snapshot_id)
    assert paired.approved == [ANNA, CARL]


def test_kill_before_the_commit_withdraws_no_approval(paired: PairedProject, scripts: Scripts) -> None:
    """The event exists and does not count, because the rollback never took effect."""
    project = paired.project
    project.capture()
    paired.approve(CARL)
    project.capture("v2")
    before = project.content()
    raw = {**project.raw, "retention": 5}
    shutil.rmtree(project.pipeline.catalogue.path("v2_snapshot"))
    process = scripts.start(KILLED, str(project.folder), json.dumps(raw), "0")
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert recover(project.settings).status == "discarded"
    assert paired.approved == [ANNA, BERT, CARL] and project.content() == before
    assert paired.events[-1] == ("pairing.withdrawn", CARL)
    project.capture("v3")
    paired.edit_list(ANNA, BERT)
    roll_back(project, "v3_snapshot")
    assert paired.approved == [ANNA, BERT]


def test_plan_lists_the_approvals_that_would_be_withdrawn(paired: PairedProject) -> None:
    """It says how many, who, and that the log stays; it changes nothing and takes no snapshot."""
    project = paired.project
    project.capture()
    paired.revoke(BERT)
    paired.approve(CARL)
    before = file_tree(project.folder / "memory")
    plan = plan_rollback(project.settings)
    messages = " ".join(plan.diagnostics)
    assert f"revoked or removed since: 1 ({BERT})" in messages
    assert f"removed by the rollback: 1 ({CARL})" in messages
    assert ("The pairing log is not rolled back" in messages) == (paired.asset != "file")
    assert plan.snapshot_id == "v1_snapshot"
    assert plan.keys("restore") == list(ASSETS[paired.asset])
    assert file_tree(project.folder / "memory") == before
    assert paired.snapshots == ["v1_snapshot"]


def test_plan_reports_a_noop(as_file: PairedProject) -> None:
    """A rollback to an amended snapshot is a noop too."""
    as_file.project.capture()
    as_file.revoke(BERT)
    roll_back(as_file.project)
    messages = " ".join(plan_rollback(as_file.project.settings).diagnostics)
    assert "noop" in messages


@pytest.mark.parametrize("asset", ASSETS)
def test_adopted_snapshot_of_the_older_tool_is_amended(project: Project, asset: str) -> None:
    """It needs --force, and the plan reports the amendment before."""
    paired = PairedProject(project, asset)
    ((key, value),) = ASSETS[asset].items()
    ((kind, path),) = ((kind, path) for kind, path in value.items() if kind != "required")
    folder = project.pipeline.catalogue.store.folder / "v0_snapshot"
    stored = folder / "assets" / path
    stored.parent.mkdir(parents=True)
    (shutil.copytree if kind == "directory" else shutil.copy)(project.folder / path, stored)
    write_older_metadata(folder, {"key": key, "relativePath": path, "kind": kind, "exists": True})
    paired.revoke(BERT)
    plan = plan_rollback(project.settings, "v0_snapshot", force=True)
    assert "revoked since would be removed" in " ".join(plan.diagnostics)
    outcome = roll_back(project, "v0_snapshot", force=True)
    assert outcome.status == "restored", outcome.diagnostics
    assert paired.approved == [ANNA]
    assert ("pairing.revoked", BERT) in paired.events


def test_credentials_folder_behind_a_link_is_amended(project: Project) -> None:
    """The link may lead to another folder in the snapshot than now."""
    real = project.state / "identity" / "credentials"
    real.mkdir()
    (project.folder / "memory").mkdir()
    os.symlink(real, project.folder / "memory" / "credentials")
    pairing = Pairing(project.settings.pairing)
    for sender in (ANNA, BERT):
        request = pairing.request(TELEGRAM, sender).request
        assert request is not None
        pairing.approve(TELEGRAM, request.code)
    project.capture()
    pairing.revoke(TELEGRAM, BERT)
    assert covers_pairing(project.settings)
    roll_back(project)
    assert pairing.approved(TELEGRAM) == [ANNA]


def test_credentials_folder_that_became_a_link_is_amended(project: Project) -> None:
    """The stores are inside the asset in the snapshot and outside live; after the restore they are inside again."""
    paired = PairedProject(project, "folder above")
    project.capture()
    outside = project.folder / "outside"
    paired.credentials.rename(outside)
    os.symlink(outside, paired.credentials)
    paired.revoke(BERT)
    roll_back(project)
    assert not paired.credentials.is_symlink()
    assert paired.approved == [ANNA]
    assert ("pairing.revoked", BERT) in paired.events


@pytest.mark.parametrize(
    ("asset", "is_covered"),
    [
        ({"file": "creds/telegram-allowFrom.json"}, True),
        ({"file": "creds/whatsapp-allowFrom.json"}, True),
        ({"file": "creds/pairing-audit.log"}, True),
        ({"directory": "creds"}, True),
        ({"directory": "creds/inside"}, False),
        ({"file": "creds/telegram.json"}, False),
        ({"directory": "credentials"}, False),
    ],
)
def test_which_assets_contain_a_store(tmp_path: Path, asset: dict[str, str], is_covered: bool) -> None:
    """A list, the log, their folder or a folder above it."""
    raw = {"release": {"root": "pipeline", "assets": {"one": asset}}, "pairing": {"credentials": "creds"}}
    assert covers_pairing(load_settings(raw, tmp_path)) == is_covered
    raw["pairing"] = {"credentials": "creds/of/ours"}
    assert covers_pairing(load_settings(raw, tmp_path)) == (asset == {"directory": "creds"})
