"""A damaged or forged metadata.json is refused before the live state changes, or has no effect on the rollback."""

from __future__ import annotations

import copy
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from attrs import evolve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from release_tasks.archive.seal import sealed
from release_tasks.archive.verify import verify_all
from release_tasks.core.canonical import pretty_bytes
from release_tasks.core.errors import ExitCode, StageFailed, UsageError
from release_tasks.report.status import overview
from release_tasks.stages.rollback.plan import plan_rollback
from tests.support.faults.damage import (
    DEVICES,
    IN_PLACE,
    WRONG_DOCUMENTS,
    DamagedProject,
    edited,
    edits,
)
from tests.support.faults.marks import NEEDS_ROOT
from tests.support.faults.stages import passed_preflight, prepare
from tests.support.rollback import other_notes
from tests.support.stored_snapshots import forge, parts_of, read_snapshot, reseal

Document = dict[str, Any]
Change = Callable[[Document], Any]

DATABASE, IDENTITY, MCP, EXTRA = range(4)  # the indexes of Project's assets in the list


def assert_snapshot_refused(damaged: DamagedProject, case: str) -> str:
    """Fail unless every command works or refuses this snapshot alone with a message; returns the message."""
    message = damaged.assert_refused(case)
    assert len(message) < 5000, (case, len(message))
    with pytest.raises(StageFailed) as error:
        plan_rollback(damaged.settings, snapshot_id="v1_snapshot")
    assert error.value.message == message, case
    verdicts = verify_all(damaged.pipeline.catalogue)
    assert {verdict.snapshot_id: verdict.status for verdict in verdicts} == {
        "v0_snapshot": "verified",
        "v1_snapshot": "damaged",
    }, case
    for finding in [finding for verdict in verdicts for finding in verdict.findings]:
        assert not finding.what.endswith(" was added") or ".." not in str(finding.found), (case, finding)
    assert pretty_bytes(overview(damaged.settings, 10)), case
    assert damaged.pipeline.audit.verify(damaged.pipeline.anchors()).events, case
    return message


@pytest.mark.parametrize(
    "case", [*WRONG_DOCUMENTS, *(pytest.param(kind, marks=[pytest.mark.root, NEEDS_ROOT]) for kind in DEVICES)]
)
@pytest.mark.slow
def test_unreadable_metadata_is_refused(damaged: DamagedProject, case: str) -> None:
    """Immediately and with a message; also without a chosen snapshot, because it may be the latest."""
    {**WRONG_DOCUMENTS, **DEVICES}[case](damaged.metadata)
    message = assert_snapshot_refused(damaged, case)
    assert "v1_snapshot" in message
    if case in {**IN_PLACE, **DEVICES}:
        assert "and should be a file" in message  # lstat only, never opened
    live = damaged.live()
    outcome = damaged.roll_back(None)
    assert (outcome.status, damaged.live()) == ("failed", live)
    assert "The latest snapshot cannot be determined, because v1_snapshot is unreadable" in outcome.diagnostics[0]
    assert damaged.roll_back("v0_snapshot").status == "restored"
    assert damaged.state() == "new"


def test_missing_metadata_is_found(damaged: DamagedProject) -> None:
    """The rollback does not use an older snapshot instead: a published snapshot always has metadata.json."""
    damaged.metadata.unlink()
    live = damaged.live()
    with pytest.raises(UsageError, match=r"its folder has no metadata\.json"):
        damaged.roll_back()
    assert damaged.last_event()[:2] == ("rollback.refused", "refused")
    assert damaged.live() == live
    found = {verdict.snapshot_id: verdict for verdict in verify_all(damaged.pipeline.catalogue)}
    assert {name: verdict.status for name, verdict in found.items()} == {
        "v0_snapshot": "verified",
        "v1_snapshot": "damaged",
    }
    assert "v1_snapshot/metadata.json is missing" in str(found["v1_snapshot"].findings[0])
    outcome = damaged.roll_back(None)
    assert (outcome.status, damaged.live()) == ("failed", live)
    assert "The latest snapshot cannot be determined, because v1_snapshot is unreadable" in outcome.diagnostics[0]


def set_in(asset: int, **values: Any) -> Change:
    return lambda document: document["assets"][asset].update(values)


def set_entry(index: int, **values: Any) -> Change:
    return lambda document: document["assets"][IDENTITY]["entries"][index].update(values)


def file_entry(document: Document) -> Document:
    found: Document = next(entry for entry in document["assets"][IDENTITY]["entries"] if entry["kind"] == "file")
    return found


def swap_two(document: Document) -> None:
    one, other = document["assets"][DATABASE], document["assets"][MCP]
    one["relativePath"], other["relativePath"] = other["relativePath"], one["relativePath"]


def missing_assets(document: Document, count: int) -> list[Document]:
    mcp = document["assets"][MCP]
    return [{**mcp, "key": f"k{n}", "relativePath": f"assets/k{n}/x"} for n in range(count)]


def double(asset: int, **values: Any) -> Change:
    return lambda document: document["assets"].append({**document["assets"][asset], **values})


NOT_INSIDE = "which is not a path inside the asset"

# Forged documents with correct digests: (the change, a part of the message).
FORGED: dict[str, tuple[Change, str]] = {
    # Paths: only assets/<key>/<name> is ever read.
    "a path out of the snapshot": (set_in(MCP, relativePath="../../../state/mcp.json"), "not a path of"),
    "a path out by its key": (set_in(MCP, relativePath="assets/mcp/../../../../../state/identity"), "not a path of"),
    "an absolute path": (set_in(MCP, relativePath="/etc/passwd"), "not a path of"),
    "another asset's path": (set_in(MCP, relativePath="assets/database/app.db"), "not a path of"),
    "a path inside another asset": (set_in(MCP, relativePath="assets/identity/identity/keys"), "not a path of"),
    "its own folder": (set_in(MCP, relativePath="assets/mcp/."), "not a path of"),
    "the folder above": (set_in(MCP, relativePath="assets/mcp/.."), "not a path of"),
    "a path that ends in a slash": (set_in(MCP, relativePath="assets/mcp/mcp.json/"), "not a path of"),
    "a doubled slash": (set_in(MCP, relativePath="assets//mcp/mcp.json"), "not a path of"),
    "metadata.json itself": (set_in(MCP, relativePath="metadata.json"), "not a path of"),
    "no path": (set_in(MCP, relativePath=""), "not a path of"),
    "a path with a zero": (set_in(MCP, relativePath="assets/mcp/mcp.json\x00"), "not a path of"),
    "a path that stands for no bytes": (set_in(MCP, relativePath="assets/mcp/\ud800"), "not a path of"),
    "a path of 5000 characters": (set_in(MCP, relativePath="x" * 5000), "not a path of"),
    "a name of 300 characters": (set_in(MCP, relativePath="assets/mcp/" + "x" * 300), "cannot be read"),
    "a name that is not there": (set_in(MCP, relativePath="assets/mcp/other.json"), "is missing"),
    "two paths swapped": (swap_two, "not a path of"),
    "a path that is a number": (set_in(MCP, relativePath=7), "expected str"),
    # Keys: they are folder names too.
    "a key that leads out": (set_in(MCP, key="../../../state", relativePath="assets/../../../state"), "not a path of"),
    "a key that leads to the root": (set_in(MCP, key="../../../../../../../../etc"), "not a path of"),
    "a key that stands for no bytes": (set_in(MCP, key="\ud800"), "not a path of"),
    "another key": (set_in(MCP, key="other"), "not a path of"),
    "no key": (set_in(MCP, key=""), "not a path of"),
    "an asset twice": (double(MCP), "the records of the assets were altered"),
    "an asset twice, once absent": (double(MCP, exists=False), "the records of the assets were altered"),
    "a hundred assets that are not there": (
        lambda d: d["assets"].extend(missing_assets(d, 100)),
        "is missing",
    ),
    "an asset left out": (lambda d: d["assets"].pop(MCP), "assets/mcp was added"),
    "no assets": (lambda d: d.update(assets=[]), "was added"),
    # Kinds.
    "a file that is a folder": (set_in(MCP, kind="directory"), "is not a folder"),
    "a folder that is a file": (set_in(IDENTITY, kind="file"), "is not a regular file"),
    "a folder that is a database": (set_in(IDENTITY, kind="sqlite"), "is not a regular file"),
    "a database that is a file": (set_in(DATABASE, kind="file"), "a content digest"),
    "a kind that is none": (set_in(MCP, kind="symlink"), "kind"),
    "remains that are a file": (set_in(MCP, damaged=True), "is not a folder"),
    "absent, with a copy": (set_in(MCP, exists=False), "recorded as absent"),
    "there, without a copy": (set_in(EXTRA, exists=True, mode=0o600, sha256="0" * 64), "is missing"),
    "there or not, as a number": (set_in(MCP, exists=1), "expected bool"),
    # Sizes and digests.
    "a size too large": (set_in(MCP, size=10**6), "a size of 1000000 for 18 bytes"),
    "a size below zero": (set_in(MCP, size=-1), "a size of -1 for 18 bytes"),
    "a folder's size": (set_in(IDENTITY, size=0), "a size that is not the sum"),
    "a size with a point": (set_in(MCP, size=18.0), "expected int"),
    "a digest of something else": (set_in(MCP, sha256="0" * 64), "was altered (recorded " + "0" * 64),
    "no digest": (set_in(MCP, sha256=None), "was altered"),
    "a digest in capitals": (lambda d: set_in(MCP, sha256=d["assets"][MCP]["sha256"].upper())(d), "was altered"),
    "a digest cut short": (lambda d: set_in(MCP, sha256=d["assets"][MCP]["sha256"][:-1])(d), "was altered"),
    "a database's content digest": (set_in(DATABASE, contentDigest="0" * 64), "a content digest"),
    "a content digest that is empty": (set_in(DATABASE, contentDigest=""), "a content digest"),
    "a content digest of a file": (set_in(MCP, contentDigest="0" * 64), "a content digest"),
    "a content digest of a folder": (set_in(IDENTITY, contentDigest="0" * 64), "a content digest"),
    # Modes: they reach chmod.
    **{
        f"a {what} with the mode {mode!r}": (set_in(asset, mode=mode), reason or "an invalid mode")
        for what, asset in (("database", DATABASE), ("folder", IDENTITY), ("file", MCP))
        for mode, reason in (
            (None, None), (-1, None), (0o10000, None), (2**31, None), (2**64, None), (10**299, None),
            (True, "expected int"), ("0600", "expected int"), (384.0, "expected int"),
        )
    },
    # Entries of a folder.
    "no list of entries": (lambda d: set_in(IDENTITY, entries=None)(d), "entries/identity.jsonl is missing"),
    "an empty list of entries": (set_in(IDENTITY, entries=[], size=0), "was added"),
    "an entry left out": (lambda d: d["assets"][IDENTITY]["entries"].remove(file_entry(d)), "was added"),
    "an entry twice": (
        lambda d: d["assets"][IDENTITY]["entries"].insert(2, file_entry(d)),
        "entries/identity.jsonl, line 3, repeats the entry 'identity.json'",
    ),
    "its entries in another order": (
        lambda d: d["assets"][IDENTITY]["entries"].reverse(),
        "line 2, should be above the entry 'keys/private.pem'",
    ),
    "an entry that leads out": (lambda d: file_entry(d).update(path="../../../../../state/mcp.json"), NOT_INSIDE),
    "an entry with an absolute path": (lambda d: file_entry(d).update(path="/etc/passwd"), NOT_INSIDE),
    "an entry by a way round": (lambda d: file_entry(d).update(path="keys/../identity.json"), NOT_INSIDE),
    "an entry with a doubled slash": (lambda d: file_entry(d).update(path="keys//private.pem"), NOT_INSIDE),
    "an entry that ends in a slash": (lambda d: file_entry(d).update(path="identity.json/"), NOT_INSIDE),
    "an entry with a zero": (lambda d: file_entry(d).update(path="identity\0"), NOT_INSIDE),
    "an entry without a path": (lambda d: file_entry(d).update(path=""), NOT_INSIDE),
    "an entry that is the folder": (lambda d: file_entry(d).update(path="."), NOT_INSIDE),
    "an entry that stands for no bytes": (lambda d: file_entry(d).update(path="\ud800"), NOT_INSIDE),
    "a path of an entry of 100,000 characters": (lambda d: file_entry(d).update(path="x" * 100_000), "should be above"),
    "an entry of another kind": (lambda d: file_entry(d).update(kind="symlink", target="/etc/passwd"), "was altered"),
    "a link that leads elsewhere": (set_entry(0, target="/etc/passwd"), "current was altered"),
    "a target of a file": (lambda d: file_entry(d).update(target="/etc/passwd"), "identity.json was altered"),
    "an entry's digest": (lambda d: file_entry(d).update(sha256="0" * 64), "was altered (recorded " + "0" * 64),
    "an entry's size": (lambda d: file_entry(d).update(size=5), "was altered"),
    "an entry's mode below zero": (lambda d: file_entry(d).update(mode=-1), "an invalid mode"),
    "an entry's mode too large": (lambda d: file_entry(d).update(mode=2**40), "an invalid mode"),
    "an entry without a mode": (lambda d: file_entry(d).update(mode=None), "expected int"),
    "an entry that is a list": (lambda d: d["assets"][IDENTITY]["entries"].append([]), "line 6, should contain a JSON"),
    "entries of a file": (set_in(MCP, entries=[]), "entries/mcp.jsonl was added"),
    # The document.
    "the id of another": (lambda d: d.update(snapshotId="v0_snapshot"), "belongs to snapshot 'v0_snapshot'"),
    "an id that leads out": (lambda d: d.update(snapshotId="../v1_snapshot"), "belongs to snapshot"),
    "an id of 100,000 characters": (lambda d: d.update(snapshotId="x" * 100_000), "belongs to snapshot"),
    "a sequence of zero": (lambda d: d.update(sequence=0), "no valid sequence"),
    "a sequence below zero": (lambda d: d.update(sequence=-(10**200)), "no valid sequence"),
    "a sequence of 400 digits": (lambda d: d.update(sequence=10**400), "too large a number"),
    "a sequence as text": (lambda d: d.update(sequence="1"), "expected int"),
    "a newer format": (lambda d: d.update(formatVersion=4), "reads up to 3"),
    "a format of zero": (lambda d: d.update(formatVersion=0), "no valid formatVersion"),
    "a format that is true": (lambda d: d.update(formatVersion=True), "no valid formatVersion"),
    "no format": (lambda d: d.pop("formatVersion"), "no valid formatVersion"),
    "another kind of snapshot": (lambda d: d.update(kind="other"), "kind"),
    "no time": (lambda d: d.update(createdAt=None), "expected str"),
    "assets that are an object": (lambda d: d.update(assets={}), "expected list"),
    "assets that are numbers": (lambda d: d.update(assets=[1] * 100_000), "assets.4: expected object, got int; and"),
    "an anchor without a hash": (lambda d: d.update(audit={"seq": 1}), "audit.hash: is missing"),
    "a limit as text": (lambda d: d.update(retentionLimit="5"), "expected int"),
}  # fmt: skip


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in (1, 2, 3))])
def test_forged_document_with_correct_digests_is_refused(
    damaged: DamagedProject, report_points: Callable[[int], None], part: int
) -> None:
    """An attacker who computes all digests cannot make a rollback read or write outside the assets."""
    original = damaged.document()
    cases = list(FORGED.items())[part::4]
    for case, (change, reason) in cases:
        document = copy.deepcopy(original)
        change(document)
        damaged.write(forge(document))
        message = assert_snapshot_refused(damaged, case)
        assert "v1_snapshot is refused" in message, (case, message)
        assert reason in message, (case, message)
        assert "was altered: its checksum" not in message, (case, message)
    report_points(len(cases))


def test_same_changes_without_correct_digests_are_found_by_the_checksum(
    damaged: DamagedProject, report_points: Callable[[int], None]
) -> None:
    """The checksum covers every change, also those that have no effect on a rollback."""
    original = damaged.document()
    changes = {**{case: change for case, (change, _) in FORGED.items()}, **HARMLESS}
    for case, change in changes.items():
        document = copy.deepcopy(original)
        change(document)
        damaged.write(document)
        (verdict,) = verify_all(damaged.pipeline.catalogue, "v1_snapshot")
        assert verdict.status == "damaged", case
        if parts_of(document)[0] != parts_of(original)[0]:
            with pytest.raises(StageFailed, match="v1_snapshot is refused"):
                damaged.pipeline.catalogue.get("v1_snapshot")
    report_points(len(changes))


def test_wrong_digest_of_the_state_is_refused(damaged: DamagedProject) -> None:
    """With a correct checksum of the document; the message gives both digests."""
    original = damaged.document()
    damaged.write(reseal({**original, "digest": "0" * 64}))
    message = assert_snapshot_refused(damaged, "digest")
    assert f"the records of the assets were altered (recorded {'0' * 64}, found {original['digest']})" in message


# Forged values without effect: the rollback is the same as without them.
HARMLESS: dict[str, Change] = {
    "a release of any name": lambda d: d.update(releaseId="../../x"),
    "no release": lambda d: d.update(releaseId=None),
    "any time": lambda d: d.update(createdAt="\ud800\x1b[2J tomorrow"),
    "the last of all": lambda d: d.update(sequence=2**52),
    "a limit below zero": lambda d: d.update(retentionLimit=-5),
    "any place of its own": lambda d: d.update(metadataPath="/etc/passwd"),
    "a safety snapshot": lambda d: d.update(kind="safety"),
    "an anchor far ahead": lambda d: d.update(audit={"seq": 10**200, "hash": "x"}),
    "keys of a later time": lambda d: d.update(later={"deep": [1, {"er": "\ud800"}]}),
    "keys of a later time in an asset": set_in(MCP, later=["x"]),
    "a journal mode that is none": set_in(MCP, journalMode="../x"),
    "the size of what is absent": set_in(EXTRA, size=10**9, sha256="x", mode=-1),
    "what a folder left out": set_in(IDENTITY, leftOut=["../../../etc/passwd"]),
    "the mode of a link": set_entry(0, mode=0),
    "its assets in another order": lambda d: d["assets"].reverse(),
}


@pytest.mark.parametrize("case", HARMLESS)
@pytest.mark.slow
def test_forged_value_without_effect_restores_the_snapshot(damaged: DamagedProject, case: str) -> None:
    """The captured state is restored; no path, size or time from the document reaches the live state."""
    document = damaged.document()
    HARMLESS[case](document)
    damaged.write(forge(document))
    outside = {path: info for path, info in damaged.live().items() if path.startswith("neighbour")}
    assert {verdict.status for verdict in verify_all(damaged.pipeline.catalogue)} == {"verified"}
    outcome = damaged.roll_back()
    assert outcome.status == "restored"
    assert other_notes(outcome) == []
    assert damaged.state() == "new"
    assert {path: info for path, info in damaged.live().items() if path.startswith("neighbour")} == outside
    assert damaged.leftovers() == []
    assert damaged.roll_back(outcome.safety_snapshot_id).status == "restored"
    assert damaged.state() == "old"


def test_forged_mode_is_restored(damaged: DamagedProject) -> None:
    """A forged mode within the valid bits is restored; verify cannot find it."""
    document = damaged.document()
    set_in(MCP, mode=0o4751)(document)
    damaged.write(forge(document))
    assert damaged.roll_back().status == "restored"
    assert os.stat(damaged.project.mcp).st_mode & 0o7777 == 0o4751
    os.chmod(damaged.project.mcp, 0o644)
    assert damaged.state() == "new"


OLDER: Document = {
    "snapshotId": "old", "releaseId": "old", "createdAt": "2025-01-01T00:00:00.000Z", "retentionLimit": 5,
    "metadataPath": "/srv/app/metadata.json",
    "assets": [{"key": "database", "relativePath": "state/app.db", "kind": "file", "exists": True}],
}  # fmt: skip


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["a named pipe", "a socket", "a link to nowhere", "a folder"])
def test_special_file_in_an_older_snapshot_never_blocks(damaged: DamagedProject, kind: str) -> None:
    """The format has no digests, so SQLite opens its database, and would wait for a writer of a pipe."""
    folder = damaged.pipeline.catalogue.store.folder / "old"
    (folder / "assets" / "state").mkdir(parents=True)
    (folder / "metadata.json").write_text(json.dumps(OLDER))
    WRONG_DOCUMENTS[kind](folder / "assets" / "state" / "app.db")
    live = damaged.live()
    verdict = next(verdict for verdict in verify_all(damaged.pipeline.catalogue) if verdict.snapshot_id == "old")
    assert verdict.status == "unverifiable"
    assert [finding.key for finding in verdict.findings] == ["database"]
    outcome = damaged.roll_back("old", force=True)
    assert outcome.status == "failed"
    assert "asset database" in outcome.diagnostics[0]
    assert damaged.live() == live


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["assets"][0].update(relativePath="/" + "x" * 1_000_000),
        lambda d: d["assets"][0].update(relativePath="../" * 100_000),
        lambda d: d["assets"][0].update(relativePath="\ud800"),
        lambda d: d["assets"][0].update(key=[]),
        lambda d: d.update(assets=[None]),
        lambda d: d.update(retentionLimit="9" * 5000),
        lambda d: d.update(snapshotId="x" * 1_000_000),
    ],
    ids=["an endless path", "a path that leads out", "no bytes", "a key", "an asset", "a limit", "an endless id"],
)
def test_invalid_older_document_is_refused(damaged: DamagedProject, change: Change) -> None:
    """The message is short, and the other snapshots still verify."""
    folder = damaged.pipeline.catalogue.store.folder / "old"
    (folder / "assets" / "state").mkdir(parents=True)
    (folder / "assets" / "state" / "app.db").touch()
    document = copy.deepcopy(OLDER)
    change(document)
    (folder / "metadata.json").write_text(json.dumps(document))
    live = damaged.live()
    outcome = damaged.roll_back("old", force=True)
    assert (outcome.status, damaged.live()) == ("failed", live)
    assert len(outcome.diagnostics[0]) < 5000
    verdicts = {verdict.snapshot_id: verdict for verdict in verify_all(damaged.pipeline.catalogue)}
    assert verdicts["old"].findings and len(str(verdicts["old"].findings[0])) < 5000
    assert verdicts["v0_snapshot"].status == verdicts["v1_snapshot"].status == "verified"


def stripped(document: Document) -> Document:
    """Return a document without digests, in the format of the older tool."""
    names = ("snapshotId", "releaseId", "createdAt", "retentionLimit", "assets", "metadataPath")
    return {name: document[name] for name in names}


def test_document_that_lost_its_digests_is_refused(damaged: DamagedProject) -> None:
    """An older tool took no digests, but the log has those of this snapshot."""
    document = stripped(damaged.document())
    damaged.write(document)
    assert "it has no digests, as if an older tool had taken it" in damaged.assert_refused("stripped")
    assert {v.snapshot_id: v.status for v in verify_all(damaged.pipeline.catalogue)} == {
        "v0_snapshot": "verified",
        "v1_snapshot": "unverifiable",
    }


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_edit_of_a_document_is_found_by_its_checksum(damaged: DamagedProject, data: st.DataObject) -> None:
    """Up to three values are set, dropped or doubled; the checksum no longer matches."""
    original = read_snapshot(damaged.template / damaged.snapshot.relative_to(damaged.folder))
    document = edited(original, data.draw(edits(original)))
    damaged.write(document)
    if json.dumps(parts_of(document)[0], sort_keys=True) == json.dumps(parts_of(original)[0], sort_keys=True) and (
        parts_of(document)[1] == parts_of(original)[1]
    ):
        return  # the text differs for true and 1; a key that was dropped and set again is unchanged
    (verdict,) = verify_all(damaged.pipeline.catalogue, "v1_snapshot")
    assert verdict.status == "damaged" or set(document) <= set(OLDER)
    assert damaged.assert_refused("edited")


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_edit_of_a_forged_document_is_refused_or_restores_the_whole_snapshot(
    damaged: DamagedProject, data: st.DataObject
) -> None:
    """There is no other result, no unexpected exception, and no change outside the assets.

    An asset that is missing in the document stays unchanged and is reported, as one configured after the capture.
    """
    original = read_snapshot(damaged.template / damaged.snapshot.relative_to(damaged.folder))
    document = forge(edited(original, data.draw(edits(original))))
    try:
        damaged.write(document)
        outside = {path: info for path, info in damaged.live().items() if path.startswith("neighbour")}
        live = damaged.live()
        is_verified = verify_all(damaged.pipeline.catalogue, "v1_snapshot")[0].status == "verified"
        assert pretty_bytes(overview(damaged.settings, 10))
        outcome = damaged.roll_back()
        if outcome.status == "failed":
            assert damaged.live() == live
            assert len(outcome.diagnostics[0]) < 5000
        else:
            assert is_verified
            left = set(by_asset(damaged.new)) - {asset["key"] for asset in document["assets"]}
            unchanged = {key: content for key, content in by_asset(damaged.old).items() if key in left}
            assert by_asset(damaged.project.content()) == {**by_asset(damaged.new), **unchanged}
            assert all(f"{key}: snapshot v1_snapshot does not hold it" in str(outcome.diagnostics) for key in left)
        assert {path: info for path, info in damaged.live().items() if path.startswith("neighbour")} == outside
    finally:
        damaged.reset()


def by_asset(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content of each asset without modes, because a forged mode may be valid."""
    found: dict[str, Any] = {"database": content["rows"], "identity": {}, "mcp": {}, "extra": {}}
    for path, info in content["files"].items():
        found[path.split("/")[0].split(".")[0]][path] = info[0] if isinstance(info[0], bytes) else info[0:1]
    return found


LIMITED = """
import json, re, sys, time
from pathlib import Path
from release_tasks.tasks.project import load_settings
from release_tasks.archive.pipeline import Pipeline
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.archive.seal import sealed
from release_tasks.archive.verify import verify_all
folder = Path(sys.argv[1])
settings = load_settings({"release": json.loads((folder / "invoke.yaml").read_text())["release"]}, folder)
outcome = rollback(settings, RollbackRequest(snapshot_id="v1_snapshot"))
statuses = [verdict.status for verdict in verify_all(Pipeline(settings.release.root).catalogue)]
report = {"status": outcome.status, "verdicts": sorted(statuses), "length": len(outcome.diagnostics[0])}
most = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
print(json.dumps({**report, "seconds": time.process_time(), "MiB": int(most) >> 10}))
"""


def with_assets(original: Document, assets: list[Any]) -> bytes:
    """Return a document with other assets and correct digests."""
    return json.dumps(forge({**original, "assets": assets})).encode()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_huge_documents_are_refused_in_bounded_time_and_memory(
    damaged: DamagedProject, report_points: Callable[[int], None]
) -> None:
    """100 MiB of JSON, a million errors or many assets take some seconds, less than 300 MiB and one short message."""
    original = damaged.document()
    entry, small = file_entry(original), {"key": "a", "relativePath": "x", "kind": "file", "exists": True}
    many = {**original["assets"][IDENTITY], "entries": [{**entry, "path": str(n)} for n in range(60_000)]}
    key = b'"' + b"k" * (7 << 20) + b'": 1'
    large: dict[str, Callable[[], bytes]] = {
        "100 MiB of JSON": lambda: b'{"formatVersion": 1, "x": [' + b'{"a": 1},' * (11 << 20) + b"0]}",
        "16 MiB of lists": lambda: b'{"formatVersion": 1, "x": [' + b"[]," * ((16 << 20) // 3 - 100) + b"0]}",
        "a million assets that are numbers": lambda: with_assets(original, [0] * 990_000),
        "half a million assets without keys": lambda: with_assets(original, [{}] * 450_000),
        "fifty thousand times the same asset": lambda: with_assets(original, [small] * 50_000),
        "many assets that are missing": lambda: with_assets(original, missing_assets(original, 20_000)),
        "many entries that are missing": lambda: with_assets(original, [original["assets"][DATABASE], many]),
        "a text of 15 MiB": lambda: json.dumps(reseal({**original, "snapshotId": "x" * (15 << 20)})).encode(),
        "a key of 7 MiB twice": lambda: b"{" + key + b"," + key + b"}",
    }
    for case, make in large.items():
        damaged.metadata.write_bytes(make())
        done = subprocess.run(
            [sys.executable, "-c", LIMITED, str(damaged.folder)],
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30)),
        )
        assert done.returncode == 0, (case, done.stderr[-2000:])
        report = json.loads(done.stdout)
        print(case, report)
        assert (report["status"], report["verdicts"]) == ("failed", ["damaged", "verified"]), (case, report)
        assert report["length"] < 5000, (case, report)
        assert report["MiB"] < 300, (case, report)
        assert report["seconds"] < 30, (case, report)
    report_points(len(large))


def test_snapshot_with_too_large_metadata_is_never_published(
    damaged: DamagedProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too many assets are refused at the capture, not at the rollback; the number of names in a folder is no limit."""
    monkeypatch.setattr("release_tasks.core.canonical.MAX_BYTES", 5000)
    for number in range(100):
        (damaged.project.identity / f"name-{number}").touch()
    snapshot = damaged.project.capture("v2")
    assert damaged.roll_back("v0_snapshot").status == "restored"
    assert damaged.roll_back("v2_snapshot").status == "restored"
    assert len(os.listdir(damaged.project.identity)) == len(snapshot.assets[IDENTITY].entries or []) - 2
    for number in range(10):
        damaged.project.overrides[f"assets.more-{number}"] = {"file": f"{number}.json", "required": False}
    with pytest.raises(StageFailed, match="too many assets for one snapshot"):
        damaged.project.capture("v3")
    assert not damaged.pipeline.catalogue.path("v3_snapshot").exists()
    damaged.project.mcp.write_text("{}")
    monkeypatch.setattr("release_tasks.stages.prepare.unpublished_snapshot", None)  # nothing is copied
    manifest = prepare(damaged.project.settings, passed_preflight(), "v4")
    assert manifest.status == "blocked"
    assert "too many assets for one snapshot" in manifest.diagnostics[0]


def test_names_for_the_operator_never_prevent_a_safety_snapshot(
    damaged: DamagedProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are left out when the metadata would be too large, and their number stays."""
    snapshot = damaged.project.capture("v2")
    names = [f"{number}-" + "n" * 200 for number in range(50)]
    record = evolve(snapshot.assets[IDENTITY], left_out=names, left_out_count=70, unstable=names)
    long = evolve(snapshot, kind="safety", assets=[record])
    assert sealed(long).assets[0].left_out == names
    monkeypatch.setattr("release_tasks.core.canonical.MAX_BYTES", 5000)
    (short,) = sealed(long).assets
    assert (short.left_out, short.unstable, short.left_out_count) == (None, None, 70)


# The messages about entries where they are a part of metadata.json; each other case has the same message.
FORMAT_1 = {
    "no list of entries": "list of entries was altered",
    "an entry twice": "a duplicate entry",
    "a path of an entry of 100,000 characters": "is missing",
    "an entry that is a list": "expected object",
}
NOT_IN_FORMAT_1 = ("its entries in another order", "entries of a file")


def test_forged_entries_of_format_1_are_refused(damaged: DamagedProject, report_points: Callable[[int], None]) -> None:
    """A snapshot of format 1 with correct digests, whose entries are a part of metadata.json."""
    original = forge({**damaged.document(), "formatVersion": 1})
    damaged.write(original)
    assert [verdict.status for verdict in verify_all(damaged.pipeline.catalogue, "v1_snapshot")] == ["verified"]
    cases = [case for case in FORGED if "entr" in case and case not in NOT_IN_FORMAT_1]
    for case in cases:
        document = copy.deepcopy(original)
        change, reason = FORGED[case]
        change(document)
        damaged.write(forge(document))
        message = assert_snapshot_refused(damaged, case)
        reason = "is missing" if reason == NOT_INSIDE else FORMAT_1.get(case, reason)
        assert reason in message, (case, message)
    damaged.write(original)
    (damaged.snapshot / "entries").mkdir()
    assert "entries was added" in assert_snapshot_refused(damaged, "a folder of entries")
    report_points(len(cases) + 1)


@pytest.mark.parametrize("case", [case for case in HARMLESS if "asset" in case])
def test_snapshot_of_format_1_is_restored(damaged: DamagedProject, case: str) -> None:
    """Also with values that have no effect; its entries may be in any order."""
    document = {**damaged.document(), "formatVersion": 1}
    HARMLESS[case](document)
    document["assets"][IDENTITY]["entries"].reverse() if case != "its assets in another order" else None
    damaged.write(forge(document))
    outcome = damaged.roll_back()
    assert outcome.status == "restored"
    assert other_notes(outcome) == []
    assert damaged.state() == "new"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_inv_refuses_the_worst_documents_with_a_message(
    damaged: DamagedProject, report_points: Callable[[int], None]
) -> None:
    """rollback, its plan and verify end with 1; status, audit and recover work; the live state is unchanged."""
    original = damaged.document()
    worst = ["100,000 levels", "a named pipe", "a folder", "100 MiB"]
    forged = ["a path that stands for no bytes", "a file with the mode None"]
    for case in [*worst, *forged]:
        if case in FORGED:
            document = copy.deepcopy(original)
            FORGED[case][0](document)
            damaged.write(forge(document))
        else:
            WRONG_DOCUMENTS[case](damaged.metadata)
        live = damaged.live()
        for words in (["rollback", "--snapshot", "v1_snapshot"], ["rollback", "--plan"], ["verify"]):
            done = damaged.inv(f"release.{words[0]}", *words[1:])
            assert done.returncode == ExitCode.NEGATIVE, (case, words, done)
            assert "v1_snapshot" in done.stdout + done.stderr, (case, words, done)
        done = damaged.inv("release.recover", "release.status", "release.audit")
        assert done.returncode == ExitCode.DONE, (case, done)
        assert damaged.live() == live, case
        damaged.repair_snapshots()
    report_points(len(worst) + len(forged))
