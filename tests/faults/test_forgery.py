"""Forged, removed and replayed records: a rollback refuses a snapshot that its records do not prove.

The attacker can write everything below ``release.root``, knows every format, and has no key. After each act the
refusal comes before anything is touched, it is on record, and ``release.verify`` names the same disagreement.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from release_tasks import (
    UsageError,
    plan_rollback,
    recover,
    run_drill,
    verify_snapshots,
    watch_release,
    with_flags,
)
from release_tasks.archive.attestation.signing import signer_of
from release_tasks.archive.diff import compare_releases
from release_tasks.archive.verify import require_intact
from release_tasks.core.errors import StageError, StageFailed
from release_tasks.core.records import RollbackOutcome
from release_tasks.report.html.page import find_release, gather
from release_tasks.stages.diagnose.guide import diagnose_service
from release_tasks.stages.rollback import engine, recovery
from release_tasks.stages.rollback.engine import RollbackRequest, roll_back, rollback
from tests.support.commands import run_inv, write_project_files
from tests.support.faults.replace import replace
from tests.support.files import listing
from tests.support.forger import FORGED, Forger
from tests.support.keys import KeyPair
from tests.support.project import Project
from tests.support.releases import release
from tests.support.stored_snapshots import append_taken

pytestmark = pytest.mark.slow

Act = Callable[["Scene"], str | None]  # returns the snapshot to type, None for the default one


class Scene:
    """A project with the releases v1, v2 and v3, a rollback to v2 with its safety snapshot, and a change since."""

    def __init__(self, folder: Path, *, key: KeyPair | None) -> None:
        (folder / "project").mkdir()
        self.project = Project(folder / "project")
        if key is not None:
            self.attestation = {"key_env": "RELEASE_KEY", "public_keys": [str(key.public)]}
            self.project.overrides["attestation"] = self.attestation
        stopped = folder / "project" / "stopped"
        self.project.overrides["restart.stop"] = f"touch {stopped}"
        self.other_key = KeyPair(folder, "other")
        write_project_files(self.project.folder, self.project.raw)
        for name in ("v1", "v2", "v3"):
            self.project.mcp.write_text(json.dumps({"mcpServers": {name: {}}}))
            release(self.project, name)
        self.project.damage()
        self.project.mcp.write_text("{}")
        assert self.roll_back(self.forger.snapshot_of("v2")).status == "restored"
        stopped.unlink()
        self.project.damage_rows()
        self.project.mcp.write_text("{}")
        self.template = folder / "template"
        shutil.copytree(self.project.folder, self.template, symlinks=True)

    @property
    def forger(self) -> Forger:
        """The attacker on this pipeline folder."""
        return Forger(self.project.pipeline.root)

    def reset(self) -> None:
        """Bring the project back to what it was before an act."""
        shutil.rmtree(self.project.folder)
        shutil.copytree(self.template, self.project.folder, symlinks=True)

    def live(self) -> dict[str, Any]:
        """Return everything in the project outside the pipeline folder."""
        found = listing(self.project.folder)
        return {path: info for path, info in found.items() if path.partition("/")[0] not in ("pipeline", ".")}

    def roll_back(
        self, snapshot_id: str | None = None, *, force: bool = False, unverified: bool = False
    ) -> RollbackOutcome:
        """Roll back."""
        request = RollbackRequest(snapshot_id=snapshot_id, force=force, unverified=unverified)
        return rollback(self.project.settings, request)

    def last_event(self) -> dict[str, Any]:
        """Return the last record of the log."""
        return self.forger.events()[-1]

    def findings(self) -> str:
        """Return what ``release.verify`` finds, and its notes."""
        found = verify_snapshots(self.project.settings)
        lines = [f"{each.snapshot_id}: {line}" for each in found.snapshots for line in [*each.findings, *each.notes]]
        return "\n".join([*lines, *(str(line) for each in found.attestations for line in each.findings)])


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    """The key pair of the project."""
    return KeyPair(tmp_path_factory.mktemp("keys"), "ours")


@pytest.fixture(scope="module")
def _signed(tmp_path_factory: pytest.TempPathFactory, key: KeyPair) -> Scene:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RELEASE_KEY", str(key.private))
        return Scene(tmp_path_factory.mktemp("signed"), key=key)


@pytest.fixture(scope="module")
def _unsigned(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene(tmp_path_factory.mktemp("unsigned"), key=None)


@pytest.fixture
def signed(_signed: Scene, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """A project whose releases are signed, on a machine that has only the public key."""
    monkeypatch.delenv("RELEASE_KEY", raising=False)
    _signed.reset()
    yield _signed


@pytest.fixture
def unsigned(_unsigned: Scene) -> Scene:
    """A project without keys."""
    _unsigned.reset()
    return _unsigned


def alter(scene: Scene) -> str:
    """Change an asset and seal the snapshot anew."""
    name = scene.forger.snapshot_of("v3")
    scene.forger.replace_asset(name)
    return name


def alter_the_default(scene: Scene) -> None:
    """The same, for a rollback without an id."""
    alter(scene)


def alter_and_append(scene: Scene) -> str:
    """Append an event that fits the altered snapshot."""
    name = scene.forger.snapshot_of("v3")
    append_taken(scene.forger.log, name, scene.forger.replace_asset(name))
    return name


def alter_and_rewrite(scene: Scene) -> str:
    """Rewrite the whole log, as if it had always recorded the altered snapshot."""
    name = scene.forger.snapshot_of("v3")
    scene.forger.tell_log(scene.forger.replace_asset(name))
    return name


def alter_everything(scene: Scene) -> str:
    """Rewrite log and anchors, and remove the statement."""
    name = alter_and_rewrite(scene)
    scene.forger.reanchor()
    scene.forger.statement("v3").unlink()
    return name


def alter_everything_and_unsign(scene: Scene) -> str:
    """Remove the trace of a statement from the manifest, too."""
    name = alter_everything(scene)
    for file in ("v3.json", "latest.json"):
        path = scene.forger.manifests / file
        document = {**json.loads(path.read_bytes()), "attestation": None}
        document["snapshot"]["digest"] = scene.project.pipeline.catalogue.get(name).digest
        path.write_text(json.dumps(document))
    scene.forger.reanchor()
    return name


def sign_with_another_key(scene: Scene) -> str:
    """Sign the statement with a key that the project does not trust."""
    config = evolve(scene.project.settings.release.attestation, key_env="OTHER_KEY")
    settings = evolve(scene.project.settings, release=evolve(scene.project.settings.release, attestation=config))
    os.environ["OTHER_KEY"] = str(scene.other_key.private)
    try:
        signer = signer_of(settings)
    finally:
        del os.environ["OTHER_KEY"]
    assert signer is not None
    scene.forger.statement("v3").write_text(json.dumps(signer.envelope(b"{}")))
    return scene.forger.snapshot_of("v3")


def remove_the_statement(scene: Scene) -> str:
    """Remove only the statement."""
    scene.forger.statement("v3").unlink()
    return scene.forger.snapshot_of("v3")


def remove_the_manifest(scene: Scene) -> str:
    """Remove the manifest and its statement."""
    scene.forger.statement("v3").unlink()
    (scene.forger.manifests / "v3.json").unlink()
    return scene.forger.snapshot_of("v3")


def replay_a_statement(scene: Scene) -> str:
    """Put the statement of an older release in the place of the statement."""
    shutil.copy(scene.forger.statement("v1"), scene.forger.statement("v3"))
    return scene.forger.snapshot_of("v3")


def replay_a_release(scene: Scene) -> str:
    """Put the older snapshot, its statement and its manifest under the newer names."""
    forger = scene.forger
    name = forger.snapshot_of("v3")
    forger.copy(forger.snapshot_of("v1"), name, releaseId="v3", sequence=3)
    shutil.copy(forger.statement("v1"), forger.statement("v3"))
    return name


def exchange_two(scene: Scene) -> str:
    """Exchange the contents of two snapshots."""
    forger = scene.forger
    first, second = forger.snapshot_of("v1"), forger.snapshot_of("v3")
    forger.copy(first, "kept")
    forger.copy(second, first)
    forger.copy("kept", second)
    forger.remove("kept")
    return second


def forge_a_sequence(scene: Scene) -> None:
    """Make an older snapshot the latest one."""
    forger = scene.forger
    forger.copy(forger.snapshot_of("v1"), "moved")
    document = forger.copy("moved", forger.snapshot_of("v1"), sequence=99)
    forger.remove("moved")
    assert document["sequence"] == 99


def forge_parents(scene: Scene) -> str:
    """Open the folders above the assets to everybody: no digest covers them."""
    forger, name = scene.forger, scene.forger.snapshot_of("v3")
    document = json.loads((forger.snapshots / name / "metadata.json").read_bytes())
    parents = [{**parent, "mode": 0o777} for parent in document["parents"]]
    assert parents
    forger.copy(name, "moved")
    forger.copy("moved", name, parents=parents)
    forger.remove("moved")
    return name


def alter_safety(scene: Scene) -> str:
    """Change the safety snapshot and seal it anew."""
    name = scene.forger.safety()
    scene.forger.replace_asset(name)
    return name


def alter_safety_and_append(scene: Scene) -> str:
    """Append an event that fits the altered safety snapshot, whose signed statement stays."""
    name = scene.forger.safety()
    append_taken(scene.forger.log, name, scene.forger.replace_asset(name))
    return name


def forge_safety(scene: Scene) -> str:
    """Write an event for the altered safety snapshot, and remove its statement."""
    name = alter_safety_and_append(scene)
    (scene.forger.snapshots / name / "statement.intoto.jsonl").unlink(missing_ok=True)
    return name


def plant_safety(scene: Scene) -> str:
    """Plant a safety snapshot that no rollback took."""
    forger, name = scene.forger, "safety_snapshot_20261129000000-aaaaaa"
    forger.copy(forger.safety(), name)
    forger.replace_asset(name)
    return name


def plant_a_release(scene: Scene) -> None:
    """Plant a snapshot of a release that was never prepared; it is the latest one."""
    forger = scene.forger
    forger.copy(forger.snapshot_of("v3"), "v9_snapshot", releaseId="v9", sequence=99)
    forger.replace_asset("v9_snapshot")


def remove_the_latest(scene: Scene) -> None:
    """Remove the latest release, so that an older state is restored."""
    scene.forger.remove_release("v3")


def remove_the_log(scene: Scene) -> str:
    """Remove the log."""
    scene.forger.log.unlink()
    return _v3(scene)


def _v3(scene: Scene) -> str:
    return next(path.name for path in scene.forger.snapshots.glob("v3_snapshot_*"))


def replace_the_log(scene: Scene) -> str:
    """Replace the log by a fresh, valid one that has the same digests."""
    scene.forger.rewrite_log(lambda event: {**event, "host": "elsewhere"})
    return scene.forger.snapshot_of("v3")


def cut_the_log(scene: Scene) -> str:
    """Cut the end of the log, with the event of the release."""
    scene.forger.cut_log("prepare.ready", releaseId="v3")
    return _v3(scene)


def put_back(scene: Scene) -> str:
    """Put back a snapshot that retention removed."""
    forger, name = scene.forger, scene.forger.snapshot_of("v1")
    forger.append(event="retention.applied", status="removed", removedSnapshots=[name], aliases={})
    return name


def forge_an_alias(scene: Scene) -> str:
    """Let the id of a removed safety snapshot stand for another state."""
    name = "safety_snapshot_20261101000000-bbbbbb"
    scene.forger.append(event="snapshot.taken", status="taken", snapshotId=name, digest="1" * 64, checksum="2" * 64)
    scene.forger.append(event="retention.applied", status="removed", removedSnapshots=[name], aliases={})
    _write_alias(scene, name)
    return name


def plant_an_alias(scene: Scene) -> str:
    """Let an id that the log does not know stand for a snapshot."""
    name = "safety_snapshot_20261101000000-cccccc"
    _write_alias(scene, name)
    return name


def _write_alias(scene: Scene, name: str) -> None:
    from release_tasks.archive.aliases import Alias

    target = scene.forger.snapshot_of("v1")
    alias = Alias(snapshot_id=name, target=target, sequence=1, removed_at="2026-11-01T00:00:00.000Z")
    scene.project.pipeline.catalogue.aliases.write([alias])


def plant_an_older_form(scene: Scene) -> str:
    """Plant a snapshot in the form of the older tool, which has no digests."""
    folder = scene.forger.snapshots / "old_snapshot_20240101000000"
    (folder / "assets" / "state").mkdir(parents=True)
    (folder / "assets" / "state" / "mcp.json").write_bytes(FORGED)
    asset = {"key": "mcp", "relativePath": "state/mcp.json", "kind": "file", "exists": True}
    document = {"snapshotId": folder.name, "releaseId": "old", "createdAt": "2024-01-01T00:00:00Z", "assets": [asset]}
    (folder / "metadata.json").write_text(json.dumps({**document, "metadataPath": ""}))
    return folder.name


def empty_the_latest(scene: Scene) -> None:
    """Remove what is in the folder of the latest snapshot, and keep its name."""
    folder = scene.forger.snapshots / _v3(scene)
    shutil.rmtree(folder)
    folder.mkdir()


def rename_the_kind(scene: Scene) -> None:
    """Make the latest snapshot look like a safety snapshot."""
    folder = scene.forger.snapshots / _v3(scene)
    scene.forger.alter(folder / "metadata.json", kind="safety")


def downgrade(scene: Scene) -> str:
    """Give the latest snapshot the form of the older tool, which has no digests, and change an asset."""
    folder = scene.forger.snapshots / _v3(scene)
    (folder / "assets" / "mcp" / "mcp.json").write_bytes(FORGED)
    asset = {"key": "mcp", "relativePath": "mcp/mcp.json", "kind": "file", "exists": True}
    document = {"snapshotId": folder.name, "releaseId": "v3", "createdAt": "2024-01-01T00:00:00Z", "assets": [asset]}
    (folder / "metadata.json").write_text(json.dumps({**document, "metadataPath": ""}))
    return folder.name


def downgrade_the_default(scene: Scene) -> None:
    """The same, so that the release before it counts as the latest."""
    downgrade(scene)


def remove_and_withdraw(scene: Scene) -> None:
    """Remove the latest snapshot, with events as if it had been removed and its release withdrawn."""
    name = _v3(scene)
    scene.forger.remove(name)
    scene.forger.append(event="retention.applied", status="removed", removedSnapshots=[name], aliases={})
    scene.forger.append(event="prepare.blocked", status="blocked", releaseId="v3")


def publish_an_older_one_again(scene: Scene) -> None:
    """Remove the later snapshots, with events as if the first release had been published after them."""
    name, latest = scene.forger.snapshot_of("v1"), _v3(scene)
    scene.forger.remove(scene.forger.snapshot_of("v2"), latest)
    scene.forger.append(event="prepare.published", status="published", releaseId="v1", snapshotId=name)
    scene.forger.append(event="prepare.published", status="published", releaseId="v9", snapshotId=name)
    scene.forger.append(event="retention.applied", status="removed", removedSnapshots=[], aliases={latest: name})


def pretend_first(scene: Scene) -> str:
    """Change the manifest alone: a rollback to the state before the first deployment asks and restarts no service."""
    for name in ("v3.json", "latest.json"):
        scene.forger.alter(scene.forger.manifests / name, firstDeployment=True)
    return _v3(scene)


_UNKNOWN = "the audit log has no event of it"
_DIGEST = "its digest differs from the one in the audit log"
# Without a key, too: the log and the snapshots must agree.
BOTH: dict[str, tuple[Act, str]] = {
    "an asset is changed, and the snapshot is sealed anew": (alter, _DIGEST),
    "the same, and no id is typed": (alter_the_default, _DIGEST),
    "two snapshots are exchanged": (exchange_two, _DIGEST),
    "an older snapshot under a newer name": (replay_a_release, _DIGEST),
    "an older snapshot gets a later sequence": (forge_a_sequence, "the checksum of its metadata differs"),
    "the folders above the assets": (forge_parents, "the checksum of its metadata differs"),
    "a safety snapshot is changed": (alter_safety, _DIGEST),
    "a safety snapshot that no rollback took": (plant_safety, _UNKNOWN),
    "a release that was never prepared": (plant_a_release, _UNKNOWN),
    "the latest release is removed": (remove_the_latest, "The latest snapshot is missing"),
    "the log is removed": (remove_the_log, _UNKNOWN),
    "the log is replaced": (replace_the_log, "is not the one that its manifest names"),
    "the end of the log is cut": (cut_the_log, _UNKNOWN),
    "a removed snapshot is put back": (put_back, "says that retention removed it"),
    "the latest snapshot is emptied": (empty_the_latest, "The latest snapshot is missing"),
    "the latest snapshot becomes a safety snapshot": (rename_the_kind, "The latest snapshot was altered"),
    "the latest snapshot loses its digests": (downgrade_the_default, "The latest snapshot was altered"),
    "a snapshot loses its digests": (downgrade, "has no digests"),
    "the latest release is withdrawn": (remove_and_withdraw, "The latest snapshot is missing"),
    "an older release is published again": (publish_an_older_one_again, "The latest snapshot"),
    "the manifest is changed": (pretend_first, "manifests/v3.json was altered"),
    "the id of another state": (forge_an_alias, "whose digest in the audit log is another one"),
    "an id that was never used": (plant_an_alias, "does not say that it stands for"),
}
SIGNED: dict[str, tuple[Act, str]] = {
    "an event is appended": (alter_and_append, "differs from the statement"),
    "the log is rewritten": (alter_and_rewrite, "differs from the statement"),
    "log, anchors and statement": (alter_everything, "v3.json.intoto.jsonl is missing"),
    "log, anchors, statement and manifest": (alter_everything_and_unsign, "no trusted key signed release v3"),
    "another key": (sign_with_another_key, "is not valid for any trusted key"),
    "the statement is removed": (remove_the_statement, "v3.json.intoto.jsonl is missing"),
    "the manifest is removed": (remove_the_manifest, "manifests/v3.json is missing"),
    "the statement of another release": (replay_a_statement, "manifests/v3.json was altered"),
    "the event of a safety snapshot is appended": (alter_safety_and_append, "it differs from its signed statement"),
    "a safety snapshot without its statement": (forge_safety, "no trusted key signed it"),
    "a snapshot of an older tool": (plant_an_older_form, "no trusted key signed it"),
}


def assert_refused(scene: Scene, act: Act, expected: str) -> None:
    """Fail unless rollback, plan and drill refuse the snapshot for this reason, and touch nothing."""
    typed = act(scene)
    before, stored = scene.live(), listing(scene.forger.snapshots)
    outcome = scene.roll_back(typed, force=True)
    message = " ".join(outcome.diagnostics)
    assert (outcome.status, outcome.safety_snapshot_id) == ("failed", None), message
    assert expected in message and "nothing was changed" in message
    assert scene.live() == before
    assert listing(scene.forger.snapshots) == stored
    event = scene.last_event()
    assert (event["event"], event["status"]) == ("rollback.refused", "failed")
    assert expected in event["detail"]
    with pytest.raises(StageFailed, match=expected.partition("(")[0]):
        plan_rollback(scene.project.settings, typed, force=True)
    drill = run_drill(scene.project.settings, typed)
    assert drill.status == "failed"
    assert expected in drill.diagnostics[0] or act is plant_an_older_form
    assert scene.live() == before


# A rollback to them needs --unverified, but in an honest project they look the same: verify has a note.
_NOTES = (forge_safety, plant_an_older_form)


def assert_found(scene: Scene, act: Act, expected: str) -> None:
    """Fail unless ``release.verify`` ends with 1 and says what the rollback said."""
    if act in (forge_an_alias, plant_an_alias):
        return  # a wrong id is no part of a snapshot
    found = scene.findings()
    is_good = verify_snapshots(scene.project.settings).is_good
    assert is_good == (act in _NOTES), found
    if act is remove_the_latest:
        assert "is missing: the audit log has its event" in found and "manifests/v3.json: is missing" in found
    elif act is publish_an_older_one_again:
        assert "of release v9 as the latest one" in found
    elif act in (rename_the_kind, downgrade_the_default):
        assert "the checksum of its metadata differs" in found or "it has no digests" in found
    elif act is alter_everything_and_unsign:
        assert "manifests/v3.json.intoto.jsonl: is missing" in found
    else:
        assert expected.split(" is ")[-1] in found or expected.replace(".json was", ".json: was") in found


@pytest.mark.parametrize("name", BOTH)
def test_forgery_is_refused_without_a_key(unsigned: Scene, name: str) -> None:
    """The log and the snapshots disagree."""
    assert_refused(unsigned, *BOTH[name])
    assert_found(unsigned, *BOTH[name])


@pytest.mark.parametrize("name", [*BOTH, *SIGNED])
def test_forgery_is_refused_with_a_public_key(signed: Scene, name: str) -> None:
    """No act of a person without the key is restored."""
    assert_refused(signed, *(BOTH | SIGNED)[name])
    assert_found(signed, *(BOTH | SIGNED)[name])


def test_a_consistent_rewrite_without_keys_is_restored(unsigned: Scene) -> None:
    """Without keys nothing else is left to compare: docs/guarantees.md says so."""
    forger = unsigned.forger
    name = forger.snapshot_of("v3")
    forger.tell_log(forger.replace_asset(name))
    assert unsigned.roll_back(name).status == "failed", "the manifest names another event"
    for path in forger.manifests.glob("*.json"):
        path.write_text(json.dumps({**json.loads(path.read_bytes()), "audit": None}))
        forger.seal(path)
    forger.tell_manifests()
    assert unsigned.roll_back(name).status == "restored"
    assert unsigned.project.mcp.read_bytes() == FORGED


def test_refusal_names_good_snapshots_and_touches_no_service(signed: Scene) -> None:
    """Both digests, other snapshots, and the command that restores the latest of them, which works as typed."""
    good = signed.forger.snapshot_of("v3")
    bad = signed.forger.snapshot_of("v2")
    recorded = signed.project.pipeline.catalogue.get(bad).digest
    found = signed.forger.replace_asset(bad)["digest"]
    outcome = signed.roll_back(bad)
    message = " ".join(outcome.diagnostics)
    assert f"(recorded {recorded}, found {found})" in message
    assert f"To restore the latest of them, type `inv release.rollback --snapshot {good}`." in message
    assert "--unverified" not in message, "a contradiction has no way round"
    assert not (signed.project.folder / "stopped").exists(), "the stop command did not run"
    assert [event["event"] for event in signed.forger.events()[-1:]] == ["rollback.refused"]
    assert signed.roll_back(bad, unverified=True, force=True).status == "failed"
    assert signed.roll_back(good).status == "restored"


def test_commands_that_offer_a_way_back_do_not_offer_a_forgery(signed: Scene) -> None:
    """``diagnose``, ``report`` and ``diff``; and a watch ends in a rollback that refuses it."""
    settings = signed.project.settings
    name = alter(signed)
    signals, diagnosis = diagnose_service(settings)
    assert signals.verdict is not None and signals.verdict.status == "damaged"
    assert _DIGEST in str(signals.verdict.findings)
    for finding in diagnosis.findings:
        assert not any("rollback" in command and name in command for command in finding.commands), finding
    page = gather(settings, find_release(signed.project.pipeline, "v3"))
    assert page.snapshot is not None and not page.snapshot.is_restorable
    assert not any("rollback" in command for _, command in page.rollback_options.commands)
    assert any(_DIGEST in note for note in compare_releases(settings, "v2", "v3").notes)
    request = RollbackRequest(snapshot_id=name, only_while=engine_precondition(signed))
    assert rollback(settings, request).status == "failed"
    alter_safety(signed)
    _, diagnosis = diagnose_service(settings)
    assert signed.forger.safety() in str([each.detail for each in diagnosis.findings if each.key == "snapshot-refused"])


def engine_precondition(scene: Scene) -> Any:
    """Return the precondition of a watch that decides now."""
    from release_tasks.stages.rollback.attempt import precondition_now

    return precondition_now(scene.project.pipeline)


def test_honest_project_is_accepted_everywhere(signed: Scene, unsigned: Scene) -> None:
    """Every snapshot of both projects is restored, the safety snapshots too, and verify finds nothing."""
    for scene in (signed, unsigned):
        assert scene.findings() == ""
        names = [snapshot.snapshot_id for snapshot in scene.project.pipeline.catalogue.published()[0]]
        assert len(names) == 4
        for name in names:
            outcome = scene.roll_back(name, force=True)
            assert outcome.status == "restored", outcome.diagnostics
            assert run_drill(scene.project.settings, name).status == "passed"


def test_safety_snapshot_without_the_private_key(signed: Scene, key: KeyPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The undo command has --unverified until a later release is signed: its signature covers the log before it."""
    outcome = signed.roll_back(signed.forger.snapshot_of("v3"))
    name = str(outcome.safety_snapshot_id)
    assert outcome.status == "restored"
    signed.project.damage()
    refused = signed.roll_back(name)
    assert refused.status == "failed"
    command = f"inv release.rollback --snapshot {name} --unverified"
    assert command in refused.diagnostics[0]
    assert verify_snapshots(signed.project.settings).is_good and command.split()[-1] in signed.findings()
    restored = signed.roll_back(name, unverified=True)
    assert restored.status == "restored"
    assert any("without complete records: no trusted key signed it" in line for line in restored.diagnostics)
    monkeypatch.setenv("RELEASE_KEY", str(key.private))
    release(signed.project, "v4")
    monkeypatch.delenv("RELEASE_KEY")
    assert signed.roll_back(name, force=True).status == "restored"
    signed.forger.replace_asset(name)
    assert signed.roll_back(name, force=True, unverified=True).status == "failed"


def test_no_key_to_check_with(signed: Scene) -> None:
    """A usage error before anything is touched, with the command that rolls back nevertheless."""
    signed.project.overrides["attestation"] = {"key_env": "RELEASE_KEY"}
    try:
        before, name = signed.live(), signed.forger.snapshot_of("v3")
        with pytest.raises(UsageError, match=f"Nothing was changed.*--snapshot {name} --unverified"):
            signed.roll_back(name)
        assert signed.live() == before
        settings = with_flags(signed.project.settings, rollback=True, health_url="http://127.0.0.1:9/health")
        with pytest.raises(UsageError, match="Signatures cannot be checked"):
            watch_release(settings)  # before it watches for minutes
        assert signed.roll_back(name, unverified=True).status == "restored"
    finally:
        signed.project.overrides["attestation"] = signed.attestation


def test_real_command_ends_with_1_and_prints_the_reason(signed: Scene) -> None:
    """No traceback; ``--unverified`` is a flag of rollback and of recover."""
    name = remove_the_statement(signed)
    done = run_inv(signed.project.folder, "release.rollback", "--snapshot", name)
    assert done.returncode == 1 and "is missing" in done.stdout + done.stderr
    assert run_inv(signed.project.folder, "release.verify").returncode == 1
    assert run_inv(signed.project.folder, "release.recover", "--unverified").returncode == 0
    done = run_inv(signed.project.folder, "release.rollback", "--snapshot", name, "--unverified")
    assert done.returncode == 0, done.stdout + done.stderr


def interrupt(scene: Scene, snapshot_id: str) -> Path:
    """Kill a rollback after its journal is written, before its first step; return the path of the journal."""
    child = os.fork()
    if child == 0:
        replace(engine, "swap_in", lambda *_: os._exit(9))
        scene.roll_back(snapshot_id)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    path = scene.project.pipeline.journal_path
    assert path.exists()
    return path


def forge_rollback_id(scene: Scene, journal: Path) -> None:
    """A journal of a rollback that the log does not know."""
    document = json.loads(journal.read_bytes())
    document |= {"rollbackId": "20261129000000-dddddd", "safetySnapshotId": None}
    journal.write_text(json.dumps(document))
    scene.forger.seal(journal)


def forge_target(scene: Scene, journal: Path) -> None:
    """A journal that leads to another snapshot."""
    document = {**json.loads(journal.read_bytes()), "snapshotId": scene.forger.snapshot_of("v1")}
    journal.write_text(json.dumps(document))
    scene.forger.seal(journal)


def cut_the_start(scene: Scene, journal: Path) -> None:
    """The log lost the start of the rollback."""
    rollback_id = json.loads(journal.read_bytes())["rollbackId"]
    scene.forger.cut_log("rollback.started", rollbackId=rollback_id)


def forge_both(scene: Scene, journal: Path) -> None:
    """Both snapshots that the journal names are changed and sealed anew."""
    document = json.loads(journal.read_bytes())
    scene.forger.replace_asset(document["snapshotId"])
    scene.forger.replace_asset(document["safetySnapshotId"])


JOURNALS = {
    "another rollback": (forge_rollback_id, "the audit log has no rollback 20261129000000-dddddd"),
    "another snapshot": (forge_target, "the audit log has no rollback"),
    "the log is cut": (cut_the_start, "the audit log has no rollback"),
    "both snapshots": (forge_both, _DIGEST),
}


@pytest.mark.parametrize("name", JOURNALS)
def test_recovery_follows_no_forged_journal(signed: Scene, name: str) -> None:
    """The journal, its rollback in the log and both snapshots agree, or nothing live is changed."""
    act, expected = JOURNALS[name]
    journal = interrupt(signed, signed.forger.snapshot_of("v3"))
    act(signed, journal)
    before = signed.live()
    with pytest.raises(StageFailed, match=expected.partition("(")[0]):
        recover(signed.project.settings)
    assert signed.live() == before
    assert journal.exists()


def test_recovery_without_its_log_needs_a_flag(signed: Scene) -> None:
    """The message names the flag, so the operator is not locked out."""
    journal = interrupt(signed, signed.forger.snapshot_of("v3"))
    cut_the_start(signed, journal)
    with pytest.raises(StageError, match=r"inv release\.recover --unverified"):
        recover(signed.project.settings)
    assert recover(signed.project.settings, unverified=True).status == "finished"
    assert not journal.exists()


def test_journal_of_an_earlier_rollback_is_no_journal(signed: Scene) -> None:
    """A copy that was put back would bring an old state back at the next start of the service."""
    journal = interrupt(signed, signed.forger.snapshot_of("v1"))
    copy = journal.read_bytes()
    assert recover(signed.project.settings).status == "finished"
    assert signed.roll_back(signed.forger.snapshot_of("v3")).status == "restored"
    journal.write_bytes(copy)
    before = signed.live()
    with pytest.raises(StageFailed, match="ended, or that another one ran since"):
        recover(signed.project.settings)
    assert signed.live() == before


def test_interrupted_rollback_is_recovered_with_the_public_key(signed: Scene) -> None:
    """Forward: the target is signed, and the unsigned safety snapshot is not needed."""
    interrupt(signed, signed.forger.snapshot_of("v3"))
    assert recover(signed.project.settings).status == "finished"
    assert json.loads(signed.project.mcp.read_bytes()) == {"mcpServers": {"v3": {}}}


def test_forged_state_makes_no_noop(signed: Scene) -> None:
    """A rollback is a noop only when the log has a rollback to its snapshot."""
    name = signed.forger.snapshot_of("v1")
    path = signed.project.pipeline.state_path
    assert signed.roll_back(name).status == "restored"
    restored = path.read_bytes()
    signed.reset()
    document = {**json.loads(restored), "audit": json.loads(path.read_bytes())["audit"]}
    path.write_text(json.dumps(document))
    signed.forger.seal(path)
    assert signed.roll_back(name).status == "restored"


def test_forged_latest_is_found(signed: Scene) -> None:
    """latest.json is a copy of the latest ready manifest, or verify says that it is not."""
    shutil.copy(signed.forger.manifests / "v1.json", signed.forger.manifests / "latest.json")
    assert "manifests/latest.json: is not a copy" in signed.findings()
    assert signed.roll_back().status == "restored"
    assert signed.findings().startswith("safety_snapshot") and "latest.json" not in signed.findings(), "it is repaired"


def exchange_the_database(scene: Scene) -> None:
    """Put another database in the place of the stored one."""
    stored = next((scene.forger.snapshots / _v3(scene) / "assets").glob("*/app.db"))
    other = stored.with_name("other.db")
    with contextlib.closing(sqlite3.connect(other)) as database:
        database.execute("CREATE TABLE evil(x)")
    os.replace(other, stored)


def extend_the_list(scene: Scene) -> None:
    """Change the mode of a file in the list of a folder."""
    path = scene.forger.snapshots / _v3(scene) / "entries" / "identity.jsonl"
    path.write_text(path.read_text().replace('"mode":', '"mode":1'))


def files(scene: Scene) -> dict[str, Any]:
    """Return the live files, without the mark of the stop command."""
    return {path: info for path, info in scene.live().items() if path != "stopped" and not stat.S_ISDIR(info[0])}


LATE: dict[str, tuple[Callable[[Scene], None], str, str]] = {
    "a database, before its lock": (exchange_the_database, "lock_all", "changed after it was verified"),
    "a list of entries, before it is staged": (
        extend_the_list,
        "staged",
        "it is not the list whose digest is recorded",
    ),
}


@pytest.mark.parametrize("name", LATE)
def test_exchange_after_the_verification_changes_nothing(
    unsigned: Scene, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte that goes live is compared with the record when it is read for that."""
    act, step, expected = LATE[name]
    original = getattr(engine, step)
    monkeypatch.setattr(engine, step, lambda *rest: (act(unsigned), original(*rest))[1])
    shutil.rmtree(unsigned.project.identity)
    before = files(unsigned)
    outcome = unsigned.roll_back(_v3(unsigned))
    assert outcome.status == "failed" and expected in outcome.diagnostics[0], outcome.diagnostics
    assert files(unsigned) == before


def test_exchange_after_the_verification_of_a_recovery(signed: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recovery takes the interrupted rollback back: the live state is as before it, in each asset."""
    before = files(signed)
    interrupt(signed, _v3(signed))

    def verify(*rest: Any) -> None:
        require_intact(*rest)
        exchange_the_database(signed)

    monkeypatch.setattr(recovery, "require_intact", verify)
    try:
        assert recover(signed.project.settings, unverified=True).status == "undone"
    finally:
        monkeypatch.undo()
    assert files(signed).keys() - {"state/app.db-shm", "state/app.db-wal"} == before.keys()
    assert files(signed)["state/mcp.json"] == before["state/mcp.json"]
    with contextlib.closing(sqlite3.connect(signed.project.database)) as database:
        assert database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'evil'").fetchone() == (0,)


def lead_elsewhere(scene: Scene) -> None:
    """Let the latest manifest name the snapshot of an older release."""
    reference = json.loads((scene.forger.manifests / "v1.json").read_bytes())["snapshot"]
    for name in ("v3.json", "latest.json"):
        scene.forger.alter(scene.forger.manifests / name, snapshot=reference)


def lead_elsewhere_with_its_log(scene: Scene) -> None:
    """The same, with a log that agrees."""
    lead_elsewhere(scene)
    name = scene.forger.snapshot_of("v1")
    digest = scene.project.pipeline.catalogue.get(name).digest

    def altered(event: dict[str, Any]) -> dict[str, Any]:
        is_of_it = event.get("releaseId") == "v3" and str(event["event"]).startswith("prepare.")
        return {**event, "snapshotId": name, **({"digest": digest} if "digest" in event else {})} if is_of_it else event

    scene.forger.rewrite_log(altered)
    scene.forger.reanchor()
    scene.forger.tell_manifests()


def older_latest(scene: Scene) -> None:
    """Let latest.json be a copy of the manifest of an older release."""
    shutil.copy(scene.forger.manifests / "v1.json", scene.forger.manifests / "latest.json")


def latest_alone(scene: Scene) -> None:
    """Change latest.json alone."""
    scene.forger.alter(scene.forger.manifests / "latest.json", baseline=None, appName="other")


MANIFESTS: dict[str, tuple[Callable[[Scene], None], bool]] = {
    "another snapshot": (lead_elsewhere, True),
    "an older latest.json": (older_latest, False),
    "latest.json alone": (latest_alone, False),
}


@pytest.mark.parametrize("is_signed", [False, True])
@pytest.mark.parametrize("name", [*MANIFESTS, "another snapshot, and the log"])
def test_no_command_follows_a_forged_manifest(signed: Scene, unsigned: Scene, name: str, is_signed: bool) -> None:
    """Neither a watch, before it watches for minutes, nor a rollback of a release."""
    if name not in MANIFESTS and not is_signed:
        return  # without keys nothing is left to compare
    scene = signed if is_signed else unsigned
    act, is_of_release = MANIFESTS.get(name, (lead_elsewhere_with_its_log, True))
    act(scene)
    before = scene.live()
    settings = with_flags(scene.project.settings, rollback=True, health_url="http://127.0.0.1:9/health")
    with pytest.raises(StageFailed, match="is refused, nothing was changed"):
        watch_release(settings)
    assert "manifests" in dict(diagnose_service(scene.project.settings)[0].unread)
    if is_of_release:
        with pytest.raises(StageFailed, match="is refused, nothing was changed"):
            roll_back(settings, release_id="v3", unverified=True)
        with pytest.raises(StageFailed, match="is refused, nothing was changed"):
            plan_rollback(settings, release_id="v3")
        assert any("the manifest of v3" in note for note in compare_releases(settings, "v2", "v3").notes)
    assert scene.live() == before


def test_replayed_state_makes_no_noop(unsigned: Scene) -> None:
    """The state file of a rollback that was undone since: its snapshot is not live."""
    name, path = unsigned.forger.snapshot_of("v1"), unsigned.project.pipeline.state_path
    done = unsigned.roll_back(name)
    replayed = path.read_bytes()
    assert unsigned.roll_back(name).status == "noop"
    assert unsigned.roll_back(done.safety_snapshot_id).status == "restored"
    path.write_bytes(replayed)
    shutil.copy(unsigned.forger.snapshots / name / "assets" / "mcp" / "mcp.json", unsigned.project.mcp)
    assert unsigned.roll_back(name).status == "restored"


def test_handwritten_state_of_a_running_rollback_is_no_restore(unsigned: Scene) -> None:
    """A recovery does not write to the log what only the state file says."""
    name, path = unsigned.forger.snapshot_of("v1"), unsigned.project.pipeline.state_path
    started = next(e["rollbackId"] for e in unsigned.forger.events() if e["event"] == "rollback.started")
    forged = {"snapshotId": name, "status": "in_progress", "updatedAt": "", "detail": "", "restored": True}
    path.write_text(json.dumps({**forged, "restoredSnapshotId": name, "rollbackId": started}))
    recover(unsigned.project.settings)
    assert (unsigned.last_event()["event"], unsigned.last_event()["status"]) == ("rollback.recovered", "failed")


@pytest.mark.parametrize("sequence", [(1 << 53) - 1, 10**300 - 1], ids=["valid", "too large"])
def test_planted_sequence_is_never_used(unsigned: Scene, sequence: int) -> None:
    """The next release has the next sequence of the log; the planted snapshot is named, and never restored."""
    forger, name = unsigned.forger, "v9_snapshot"
    forger.copy(_v3(unsigned), name, releaseId="v9", sequence=sequence)
    shutil.copy(forger.manifests / "v3.json", forger.manifests / "v9.json")
    forger.alter(forger.manifests / "v9.json", releaseId="v9", sequence=sequence)
    release(unsigned.project, "v4")
    pipeline = unsigned.project.pipeline
    made = pipeline.catalogue.get(forger.snapshot_of("v4"))
    assert made.sequence < 10 and pipeline.get_manifest("v4").sequence == 4
    assert name in unsigned.findings()
    outcome = unsigned.roll_back()
    assert outcome.status == "failed" and name in outcome.diagnostics[0]
    forger.remove(name)
    assert unsigned.roll_back(force=True).snapshot_id == made.snapshot_id
