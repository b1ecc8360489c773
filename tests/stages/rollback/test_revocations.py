"""Pairing stores that are an asset: whoever lost an approval since the snapshot does not get it back by a rollback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from release_tasks.assets import base
from release_tasks.core.errors import ExitCode, LockHeld, StageFailed
from release_tasks.core.lock import FileLock
from release_tasks.pairing import store as store_module
from release_tasks.pairing.channels import Channel
from release_tasks.pairing.policy import Pairing
from release_tasks.stages.rollback import swap
from release_tasks.stages.rollback.amendment import covers_pairing
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.stages.rollback.plan import plan_rollback
from release_tasks.stages.rollback.recovery import recover
from release_tasks.tasks.project import load_settings
from tests.support.faults.telling import at_steps
from tests.support.project import Project

pytestmark = pytest.mark.slow

TELEGRAM, WHATSAPP = Channel.TELEGRAM, Channel.WHATSAPP
ANNA, BERT, CARL = "1001", "1002", "1003"
ASSETS: dict[str, dict[str, Any]] = {
    "file": {"allow": {"file": "memory/credentials/telegram-allowFrom.json", "required": False}},
    "folder": {"credentials": {"directory": "memory/credentials", "required": False}},
    "folder above": {"memory": {"directory": "memory", "required": False}},
}
EMPTY = {
    "plain": {"senderIds": [], "ours": {"kept": [1, 2]}},
    "versioned": {"version": 1, "allowFrom": [], "ours": {"kept": [1, 2]}},
}


class Paired:
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

    def set_by_hand(self, *senders: str) -> None:
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
def paired(project: Project, request: pytest.FixtureRequest) -> Paired:
    """A project with its pairing store as an asset, in each way that can be configured."""
    return Paired(project, request.param)


@pytest.fixture
def as_file(project: Project) -> Paired:
    return Paired(project, "file")


@pytest.fixture
def as_folder(project: Project) -> Paired:
    return Paired(project, "folder")


@pytest.mark.smoke
@pytest.mark.parametrize("asset", ASSETS)
@pytest.mark.parametrize("dialect", EMPTY)
def test_who_was_revoked_since_stays_out(project: Project, roll: Any, events: Any, asset: str, dialect: str) -> None:
    """Everything else comes back as it was; the outcome names them; keys of others in the file survive."""
    paired = Paired(project, asset, dialect)
    os.chmod(paired.allowed, 0o640)
    before = project.content()
    project.capture()
    paired.revoke(BERT)
    project.damage()
    outcome = roll(project)
    assert outcome.status == "restored", outcome.diagnostics
    assert paired.approved == [ANNA]
    assert project.content() == before
    assert any("revoked" in told and BERT in told for told in outcome.diagnostics), outcome.diagnostics
    found = json.loads(paired.allowed.read_text())
    assert found["ours"] == {"kept": [1, 2]} and ("allowFrom" in found) == (dialect == "versioned")
    assert paired.allowed.stat().st_mode & 0o777 == 0o640
    assert ("pairing.revoked", BERT) in paired.events
    assert events(project)[-1] == ("rollback.finished", "restored")
    assert project.strays() == []


def test_a_missing_database_comes_back_in_its_journal_mode(as_file: Paired, roll: Any) -> None:
    """What is recorded of the other assets stands in the amended snapshot, too."""
    project = as_file.project
    project.capture()
    as_file.revoke(BERT)
    for path in project.state.glob("app.db*"):
        path.unlink()
    assert roll(project).status == "restored"
    database = sqlite3.connect(project.database)
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    database.close()


def test_who_was_approved_again_since_stays(paired: Paired, roll: Any) -> None:
    """The last word counts."""
    paired.project.capture()
    paired.revoke(BERT)
    paired.approve(BERT)
    outcome = roll(paired.project)
    assert paired.approved == [ANNA, BERT]
    assert not any("removed from the snapshot" in told for told in outcome.diagnostics)


def test_who_was_approved_since_goes_and_comes_back_with_the_safety_snapshot(paired: Paired, roll: Any) -> None:
    """Both are on record, each for the rollback that did it."""
    paired.project.capture()
    paired.approve(CARL)
    outcome = roll(paired.project)
    assert paired.approved == [ANNA, BERT]
    assert any("removed by the rollback" in told and CARL in told for told in outcome.diagnostics)
    assert paired.events[-1] == ("pairing.withdrawn", CARL)
    assert roll(paired.project, outcome.safety_snapshot_id).status == "restored"
    assert paired.approved == [ANNA, BERT, CARL]
    assert paired.events[-1] == ("pairing.returned", CARL)


def test_who_was_revoked_comes_back_with_no_snapshot(paired: Paired, roll: Any) -> None:
    """Not with the safety snapshot, and not with the first one again."""
    paired.project.capture()
    paired.approve(CARL)
    paired.project.capture("v2")
    paired.revoke(BERT)
    paired.project.mcp.write_text("{}")  # of equal safety snapshots retention keeps the newest only
    safety = roll(paired.project, "v1_snapshot").safety_snapshot_id
    for snapshot_id, expected in (
        ("v2_snapshot", [ANNA, CARL]),
        (safety, [ANNA, CARL]),
        ("v1_snapshot", [ANNA]),
        ("v2_snapshot", [ANNA, CARL]),
    ):
        assert roll(paired.project, snapshot_id).status == "restored"
        assert paired.approved == expected


@pytest.mark.parametrize("how", ["revoke", "reject"])
def test_a_no_after_the_rollback_counts(paired: Paired, roll: Any, how: str) -> None:
    """A rollback took the approval away; an operator who says no afterwards is not overruled by the way back."""
    paired.project.capture()
    paired.approve(CARL)
    safety = roll(paired.project).safety_snapshot_id
    if how == "revoke":
        with pytest.raises(StageFailed, match="nothing to revoke"):
            paired.revoke(CARL)
    else:
        request = paired.pairing.request(TELEGRAM, CARL).request
        assert request is not None
        paired.pairing.reject(TELEGRAM, request.code)
    roll(paired.project, safety)
    assert paired.approved == [ANNA, BERT]


def test_who_was_removed_by_hand_stays_out(paired: Paired, roll: Any) -> None:
    """Another program, or an editor, leaves no event."""
    paired.project.capture()
    paired.set_by_hand(ANNA)
    outcome = roll(paired.project)
    assert paired.approved == [ANNA]
    assert any(BERT in told for told in outcome.diagnostics)


def test_who_came_back_and_was_removed_by_hand_stays_out(paired: Paired, roll: Any) -> None:
    """That a rollback once took the approval away does not count for ever."""
    paired.project.capture()
    paired.approve(CARL)
    safety = roll(paired.project).safety_snapshot_id
    roll(paired.project, safety)
    assert CARL in paired.approved
    paired.set_by_hand(ANNA, BERT)
    roll(paired.project, safety)
    assert paired.approved == [ANNA, BERT]


def test_who_was_removed_by_hand_stays_out_on_the_way_over_a_time_without_a_store(as_file: Paired, roll: Any) -> None:
    """The list that a rollback removed was an empty one for all who were not on it."""
    project = as_file.project
    kept = as_file.allowed.read_bytes()
    as_file.allowed.unlink()
    project.capture("v0")
    as_file.allowed.write_bytes(kept)
    project.capture()
    as_file.set_by_hand(ANNA)
    assert "allow" in roll(project, "v0_snapshot").removed_assets
    roll(project, "v1_snapshot")
    assert as_file.approved == [ANNA]


def remove(path: Path) -> None:
    path.unlink()


def break_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def alter(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"pairing.revoked", b"pairing.revokid"))


def rubbish(path: Path) -> None:
    path.write_bytes(b"\xff\xfe rubbish\n")


LOGS: dict[str, tuple[Callable[[Path], None] | None, bool]] = {
    "intact": (None, True),
    "altered": (alter, False),
    "rubbish": (rubbish, False),
    "missing": (remove, False),
}


@pytest.mark.parametrize("log", LOGS)
@pytest.mark.parametrize("damage", [remove, break_off, rubbish])
def test_without_a_live_list_the_log_decides(
    paired: Paired, roll: Any, damage: Callable[[Path], None], log: str
) -> None:
    """Without a usable one nobody is admitted, which says where the approvals lie and how to admit anew."""
    project = paired.project
    project.capture()
    paired.revoke(BERT)
    damage(paired.allowed)
    harm, is_usable = LOGS[log]
    if harm is not None:
        harm(paired.log)
    outcome = roll(project)
    assert outcome.status == "restored", outcome.diagnostics
    assert paired.approved == ([ANNA] if is_usable else [])
    if not is_usable:
        (told,) = [told for told in outcome.diagnostics if "no sender is approved" in told]
        assert "inv pairing.approve telegram" in told
        stored = next(word.rstrip(";.") for word in told.split() if "/snapshots/" in word)
        assert ANNA in Path(stored).read_text()


@pytest.mark.parametrize("log", ["altered", "missing"])
def test_without_a_usable_log_the_live_list_decides(paired: Paired, roll: Any, log: str) -> None:
    """Only who is approved now stays so."""
    paired.project.capture()
    paired.revoke(BERT)
    paired.approve(CARL)
    harm, _ = LOGS[log]
    assert harm is not None
    harm(paired.log)
    safety = roll(paired.project).safety_snapshot_id
    assert paired.approved == [ANNA]
    roll(paired.project, safety)
    assert paired.approved == ([ANNA, CARL] if log == "missing" else [ANNA])


def test_a_log_that_was_begun_anew_is_no_witness(as_folder: Paired, roll: Any) -> None:
    """The snapshot knows how far the log had come, and it has to go on from there."""
    as_folder.project.capture()
    as_folder.revoke(BERT)
    as_folder.log.unlink()
    as_folder.approve(CARL)
    as_folder.allowed.unlink()
    outcome = roll(as_folder.project)
    assert as_folder.approved == []
    assert any("no sender is approved" in told for told in outcome.diagnostics)


def test_an_event_of_one_channel_makes_no_log_for_the_other(as_file: Paired, roll: Any) -> None:
    """A log that this very rollback begins says nothing of what was before."""
    project = as_file.project
    project.overrides["assets.more"] = {"file": "memory/credentials/whatsapp-allowFrom.json", "required": False}
    project.capture()
    as_file.approve("15551234567", WHATSAPP)
    as_file.revoke(BERT)
    as_file.log.unlink()
    as_file.allowed.unlink()
    roll(project)
    assert as_file.approved == []
    assert as_file.events == [("pairing.withdrawn", "15551234567"), ("pairing.emptied", None)]


def test_crowds_in_a_snapshot_are_left_out(paired: Paired, roll: Any) -> None:
    """Nobody is admitted by a wildcard or a group, and none is brought back."""
    paired.set_by_hand(ANNA, BERT, "*", "-100200")
    paired.project.capture()
    outcome = roll(paired.project)
    assert json.loads(paired.allowed.read_text())["senderIds"] == [ANNA, BERT]
    assert any("several people share the id" in told and "-100200" in told for told in outcome.diagnostics)


def test_a_snapshot_whose_list_is_unusable_is_restored_as_it_stands(paired: Paired, roll: Any) -> None:
    """It admits nobody; those who were admitted come back with the safety snapshot."""
    good = paired.allowed.read_bytes()
    paired.allowed.write_bytes(b"{")
    paired.project.capture()
    paired.allowed.write_bytes(good)
    outcome = roll(paired.project)
    assert outcome.status == "restored"
    assert paired.allowed.read_bytes() == b"{"
    roll(paired.project, outcome.safety_snapshot_id)
    assert paired.approved == [ANNA, BERT]


@pytest.mark.parametrize("asset", ["folder", "folder above"])
def test_the_log_is_never_rolled_back(project: Project, roll: Any, asset: str) -> None:
    """Its bytes from before are there, the chain goes on, and no event is lost on the way back either."""
    paired = Paired(project, asset)
    project.capture()
    paired.revoke(BERT)
    paired.approve(CARL)
    before = paired.log.read_bytes()
    outcome = roll(project)
    assert paired.log.read_bytes().startswith(before)
    assert any("log is not rolled back" in told for told in outcome.diagnostics)
    told = paired.events
    roll(project, outcome.safety_snapshot_id)
    assert paired.events[: len(told)] == told


@pytest.mark.parametrize("asset", ["folder", "folder above"])
def test_a_snapshot_from_before_the_first_pairing_keeps_the_log(project: Project, roll: Any, asset: str) -> None:
    """Nobody stays admitted, and whoever was comes back with the safety snapshot, unless revoked meanwhile."""
    (project.folder / "memory").mkdir()
    if asset == "folder above":
        (project.folder / "memory" / "note").write_text("x")
    for key, value in ASSETS[asset].items():
        project.overrides[f"assets.{key}"] = value
    project.capture()
    paired = Paired(project, asset)
    paired.revoke(BERT)
    outcome = roll(project)
    assert outcome.status == "restored", outcome.diagnostics
    assert paired.approved == []
    assert sorted(os.listdir(paired.credentials)) == ["pairing-audit.log"]
    assert roll(project).status == "noop"
    roll(project, outcome.safety_snapshot_id)
    assert paired.approved == [ANNA]


def test_a_folder_that_was_absent_and_is_absent_is_not_made(project: Project, roll: Any) -> None:
    """Not for the sake of a lock either."""
    project.overrides["assets.credentials"] = ASSETS["folder"]["credentials"]
    project.capture()
    assert roll(project).status == "restored"
    assert not (project.folder / "memory").exists()
    assert roll(project).status == "noop"


def test_a_folder_that_vanished_comes_back_with_nobody_admitted(project: Project, roll: Any) -> None:
    """Nothing is left that tells who was revoked."""
    paired = Paired(project, "folder above")
    project.capture()
    shutil.rmtree(project.folder / "memory")
    outcome = roll(project)
    assert outcome.status == "restored"
    assert paired.approved == [] and paired.allowed.exists()
    assert any("no sender is approved" in told for told in outcome.diagnostics)


def test_a_second_rollback_is_a_noop(paired: Paired, roll: Any) -> None:
    """The amended snapshot has the same id again, so what the service wrote since the first one is left alone."""
    project = paired.project
    project.capture()
    paired.revoke(BERT)
    project.damage()
    assert roll(project).status == "restored"
    database = sqlite3.connect(project.database)
    database.execute("INSERT INTO ledger(a, b, amount) VALUES (1, 2, 4242)")
    database.commit()
    database.close()
    known = paired.snapshots
    assert roll(project).status == "noop"
    assert project.rows()[1][-1][-1] == 4242
    assert paired.snapshots == known
    paired.revoke(ANNA)
    assert roll(project).status == "restored"
    assert paired.approved == []


def test_what_needs_no_amendment_gets_no_snapshot(paired: Paired, roll: Any) -> None:
    """The target itself goes live."""
    paired.project.capture()
    paired.project.damage()
    outcome = roll(paired.project)
    assert outcome.snapshot_id == "v1_snapshot"
    assert paired.snapshots == ["v1_snapshot", outcome.safety_snapshot_id]
    assert paired.approved == [ANNA, BERT]


def test_stores_that_are_no_asset_are_left_alone(as_file: Paired, roll: Any) -> None:
    """The default: approvals are not rolled back at all, and nobody waits for a lock."""
    del as_file.project.overrides["assets.allow"]
    as_file.project.capture()
    as_file.revoke(BERT)
    as_file.approve(CARL)
    before = as_file.log.read_bytes()
    lock = FileLock(as_file.credentials / "telegram-pairing.lock")
    assert lock.acquire(1)
    assert roll(as_file.project).status == "restored"
    lock.release()
    assert as_file.approved == [ANNA, CARL]
    assert as_file.log.read_bytes() == before


def test_a_damaged_amended_snapshot_is_not_used_again(as_file: Paired, roll: Any) -> None:
    """Another one is made in its place."""
    as_file.project.capture()
    as_file.revoke(BERT)
    first = roll(as_file.project).snapshot_id
    (stored,) = as_file.project.pipeline.catalogue.path(first).glob("assets/mcp/*")
    stored.write_text("altered")
    as_file.project.mcp.unlink()
    outcome = roll(as_file.project, "v1_snapshot")
    assert outcome.status == "restored", outcome.diagnostics
    assert outcome.snapshot_id != first
    assert as_file.project.mcp.read_text() == '{"mcpServers": {}}'
    assert as_file.approved == [ANNA]


def test_retention_keeps_the_amended_snapshot_that_is_live(paired: Paired, roll: Any) -> None:
    """With a limit of one, and another rollback after it."""
    project = paired.project
    project.overrides["retention"] = 1
    project.capture()
    paired.revoke(BERT)
    outcome = roll(project)
    assert outcome.snapshot_id.startswith("amended_v1_snapshot_")
    assert outcome.snapshot_id in paired.snapshots and outcome.safety_snapshot_id in paired.snapshots
    assert roll(project, force=True).status == "restored"
    assert outcome.snapshot_id in paired.snapshots
    assert paired.approved == [ANNA]


def test_a_swap_that_fails_leaves_the_approvals(paired: Paired, roll: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it wrote down as taken back does not count: who is removed by hand afterwards stays out."""
    project = paired.project
    project.capture()
    paired.approve(CARL)
    project.capture("v2")
    project.damage()
    with monkeypatch.context() as patch:
        patch.setattr(swap.Swap, "_require_same_folder", fail_for(project.extra))
        assert roll(project, "v1_snapshot").status == "failed"
    assert paired.approved == [ANNA, BERT, CARL]
    assert paired.events[-1] == ("pairing.withdrawn", CARL)
    assert roll(project, "v2_snapshot").status == "restored"
    assert paired.approved == [ANNA, BERT, CARL]
    paired.set_by_hand(ANNA, BERT)
    roll(project, "v2_snapshot")
    assert paired.approved == [ANNA, BERT]


def fail_for(live: Path) -> Callable[[Any, Path], None]:
    def require(_: Any, path: Path) -> None:
        if path == live:
            raise StageFailed("no.")

    return require


def test_a_signal_after_the_swap_lets_what_it_took_back_count(as_file: Paired, roll: Any) -> None:
    """The snapshot is live although the run was refused in the end; the way back gives the approval again."""
    from release_tasks.core.errors import Interrupted

    project = as_file.project
    project.overrides["restart.command"] = "true"
    project.capture()
    as_file.approve(CARL)

    def progress(step: str) -> None:
        if step == "restart":
            raise Interrupted(ExitCode.SIGTERM)

    with pytest.raises(Interrupted):
        rollback(project.settings, RollbackRequest(), at_steps(progress))
    assert as_file.approved == [ANNA, BERT]
    roll(project, project.pipeline.read_state().safety_snapshot_id)
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


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return a starter of processes that say ``ready`` before they begin; they are ended with the test."""
    running: list[subprocess.Popen[str]] = []

    def run(script: str, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        return process

    yield run
    for process in running:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("step", ["recover", "verify", "safety snapshot", "stage", "swap"])
def test_a_revocation_while_a_rollback_is_at_work_is_not_lost(paired: Paired, start: Any, step: str) -> None:
    """It comes before and wins, or waits for the end of the swap and finds the store that went live."""
    project = paired.project
    project.capture()
    project.damage()
    paired.approve(CARL)
    revoking: list[subprocess.Popen[str]] = []
    held: list[int | None] = []

    def progress(told: str) -> None:
        if told.startswith(step):
            revoking.append(start(REVOKE, str(paired.credentials), BERT))
        elif revoking and told == "swap" and step in ("safety snapshot", "stage"):
            held.append(revoking[0].poll())

    assert rollback(project.settings, RollbackRequest(), at_steps(progress)).status == "restored"
    assert held == ([None] if step in ("safety snapshot", "stage") else []), "the stores were not held"
    assert revoking[0].wait(timeout=30) == 0
    assert paired.approved == [ANNA]
    assert ("pairing.revoked", BERT) in paired.events
    assert project.strays() == []


@pytest.mark.parametrize("asset", ["folder", "folder above"])
@pytest.mark.parametrize("has_lock", [True, False])
def test_nobody_changes_the_new_store_before_the_swap_is_over(
    project: Project, roll: Any, monkeypatch: pytest.MonkeyPatch, asset: str, has_lock: bool
) -> None:
    """Or what is changed there would be lost when a later step fails. A lock file made for that goes again."""
    paired = Paired(project, asset)
    lock = paired.credentials / "telegram-pairing.lock"
    if not has_lock:
        lock.unlink()
    project.capture()
    paired.revoke(BERT)
    held: list[bool] = []
    real = base.AssetKind.exchange

    def place(self: Any, move: Any) -> bool:
        placed = real(self, move)
        held.append(lock.exists() and not FileLock(lock).acquire())
        return placed

    monkeypatch.setattr(base.AssetKind, "exchange", place)
    assert roll(project).status == "restored"
    assert held == [True]
    assert lock.exists() == has_lock
    paired.revoke(ANNA)
    assert paired.approved == []


def test_where_names_cannot_be_exchanged_the_revoked_stay_out(
    paired: Paired, roll: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bind mount, an overlay: the amended content is written in place."""
    project = paired.project
    before = project.content()
    project.capture()
    paired.revoke(BERT)
    paired.approve(CARL)
    project.damage()
    monkeypatch.setattr(base, "rename_into_place", lambda *_: False)
    outcome = roll(project)
    assert outcome.status == "restored", outcome.diagnostics
    assert paired.approved == [ANNA] and project.content() == before
    assert paired.events[-1] == ("pairing.withdrawn", CARL)
    roll(project, outcome.safety_snapshot_id)
    assert paired.approved == [ANNA, CARL]


def test_a_lock_that_stays_taken_ends_with_75(
    paired: Paired, roll: Any, tree: Any, events: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing live was touched, and the attempt is on record."""
    monkeypatch.setattr(store_module, "_WAIT_SECONDS", 0.1)
    paired.project.capture()
    paired.project.damage()
    before = tree(paired.project.state)
    lock = FileLock(paired.credentials / "telegram-pairing.lock")
    assert lock.acquire(1)
    with pytest.raises(LockHeld) as held:
        roll(paired.project)
    lock.release()
    assert held.value.exit_code is ExitCode.LOCKED
    assert tree(paired.project.state) == before
    assert events(paired.project) == [("rollback.refused", "refused")]
    assert roll(paired.project).status == "restored"


KILLED = """
import json, os, signal, sys
from pathlib import Path
from release_tasks.assets import base
from release_tasks.stages.rollback import engine
from release_tasks.tasks.project import load_settings
folder, number = Path(sys.argv[1]), int(sys.argv[3])
settings = load_settings({"release": json.loads(sys.argv[2])}, folder)
module, name = (engine, "write_journal") if number == 0 else (base, "rename_into_place")
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
def test_a_kill_in_mid_swap_is_recovered_without_the_revoked(
    paired: Paired, start: Any, roll: Any, number: int
) -> None:
    """Identity, mcp.json, extra.json and the stores: after each of them."""
    project = paired.project
    before = project.content()
    project.capture()
    paired.revoke(BERT)
    paired.approve(CARL)
    project.damage()
    process = start(KILLED, str(project.folder), json.dumps(project.raw), str(number))
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert project.pipeline.has_journal()
    assert recover(project.settings).status == "finished"
    assert paired.approved == [ANNA]
    assert project.content() == before
    assert [event for event in paired.events if event[1] in (BERT, CARL)][-1] == ("pairing.withdrawn", CARL)
    assert project.strays() == []
    roll(project, project.pipeline.read_state().safety_snapshot_id)
    assert paired.approved == [ANNA, CARL]


def test_a_kill_before_the_commit_takes_nothing_back(paired: Paired, start: Any, roll: Any) -> None:
    """The event is there, and does not count: the rollback never took effect."""
    project = paired.project
    project.capture()
    paired.approve(CARL)
    project.capture("v2")
    before = project.content()
    raw = {**project.raw, "retention": 5}
    shutil.rmtree(project.pipeline.catalogue.path("v2_snapshot"))
    process = start(KILLED, str(project.folder), json.dumps(raw), "0")
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert recover(project.settings).status == "discarded"
    assert paired.approved == [ANNA, BERT, CARL] and project.content() == before
    assert paired.events[-1] == ("pairing.withdrawn", CARL)
    project.capture("v3")
    paired.set_by_hand(ANNA, BERT)
    roll(project, "v3_snapshot")
    assert paired.approved == [ANNA, BERT]


def test_a_plan_says_what_would_be_taken_away(paired: Paired, tree: Any) -> None:
    """How many, who, and that the log stays; nothing is changed and no snapshot made."""
    project = paired.project
    project.capture()
    paired.revoke(BERT)
    paired.approve(CARL)
    before = tree(project.folder / "memory")
    plan = plan_rollback(project.settings)
    told = " ".join(plan.diagnostics)
    assert f"revoked or removed since: 1 ({BERT})" in told
    assert f"removed by the rollback: 1 ({CARL})" in told
    assert ("The pairing log is not rolled back" in told) == (paired.asset != "file")
    assert plan.snapshot_id == "v1_snapshot"
    assert plan.keys("restore") == list(ASSETS[paired.asset])
    assert tree(project.folder / "memory") == before
    assert paired.snapshots == ["v1_snapshot"]


def test_a_plan_foretells_a_noop(as_file: Paired, roll: Any) -> None:
    """Also one to a snapshot that was amended."""
    as_file.project.capture()
    as_file.revoke(BERT)
    roll(as_file.project)
    told = " ".join(plan_rollback(as_file.project.settings).diagnostics)
    assert "noop" in told


@pytest.mark.parametrize("asset", ASSETS)
def test_an_older_tools_snapshot_is_amended_after_it_was_taken_over(project: Project, roll: Any, asset: str) -> None:
    """With --force; the plan says it beforehand."""
    paired = Paired(project, asset)
    ((key, value),) = ASSETS[asset].items()
    ((kind, path),) = ((kind, path) for kind, path in value.items() if kind != "required")
    folder = project.pipeline.catalogue.store.folder / "v0_snapshot"
    stored = folder / "assets" / path
    stored.parent.mkdir(parents=True)
    (shutil.copytree if kind == "directory" else shutil.copy)(project.folder / path, stored)
    document = {
        "snapshotId": "v0_snapshot",
        "releaseId": "v0",
        "createdAt": "2024-01-01T00:00:00.000Z",
        "retentionLimit": 5,
        "assets": [{"key": key, "relativePath": path, "kind": kind, "exists": True}],
        "metadataPath": "/nowhere/metadata.json",
    }
    (folder / "metadata.json").write_text(json.dumps(document))
    paired.revoke(BERT)
    plan = plan_rollback(project.settings, "v0_snapshot", force=True)
    assert "revoked since would be removed" in " ".join(plan.diagnostics)
    outcome = roll(project, "v0_snapshot", force=True)
    assert outcome.status == "restored", outcome.diagnostics
    assert paired.approved == [ANNA]
    assert ("pairing.revoked", BERT) in paired.events


def test_a_credentials_folder_behind_a_link_is_found(project: Project, roll: Any) -> None:
    """Where the link leads now, and where it led in the snapshot."""
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
    roll(project)
    assert pairing.approved(TELEGRAM) == [ANNA]


def test_a_folder_that_became_a_link_since_is_found(project: Project, roll: Any) -> None:
    """In the snapshot the stores lie in the asset, live outside of it; afterwards they are in it again."""
    paired = Paired(project, "folder above")
    project.capture()
    outside = project.folder / "outside"
    paired.credentials.rename(outside)
    os.symlink(outside, paired.credentials)
    paired.revoke(BERT)
    roll(project)
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
def test_which_assets_hold_a_store(tmp_path: Path, asset: dict[str, str], is_covered: bool) -> None:
    """A list, the log, their folder or one above it."""
    raw = {"release": {"root": "pipeline", "assets": {"one": asset}}, "pairing": {"credentials": "creds"}}
    assert covers_pairing(load_settings(raw, tmp_path)) == is_covered
    raw["pairing"] = {"credentials": "creds/of/ours"}
    assert covers_pairing(load_settings(raw, tmp_path)) == (asset == {"directory": "creds"})
