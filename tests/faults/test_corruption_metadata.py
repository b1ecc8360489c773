"""Whatever a snapshot's metadata.json says: refused before anything live changes, or harmless and kept in its place."""

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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from release_tasks.archive.verify import verify_all
from release_tasks.core.canonical import pretty_bytes
from release_tasks.core.errors import ExitCode, StageFailed, UsageError
from release_tasks.report.status import overview
from release_tasks.stages.rollback.plan import plan_rollback
from tests.support.faults.damage import (
    DEVICES,
    IN_PLACE,
    NEEDS_ROOT,
    WRONG_DOCUMENTS,
    Watched,
    edited,
    edits,
    forge,
    reseal,
)

Document = dict[str, Any]
Change = Callable[[Document], Any]

DATABASE, IDENTITY, MCP, EXTRA = range(4)  # where Project's assets stand in the list


def hold_damaged(watched: Watched, case: str) -> str:
    """Hold that every command answers with a sentence and refuses this snapshot alone; returns the sentence."""
    sentence = watched.refused(case)
    assert len(sentence) < 5000, (case, len(sentence))
    with pytest.raises(StageFailed) as error:
        plan_rollback(watched.settings, snapshot_id="v1_snapshot")
    assert error.value.message == sentence, case
    verdicts = verify_all(watched.pipeline.catalogue)
    assert {verdict.snapshot_id: verdict.status for verdict in verdicts} == {
        "v0_snapshot": "verified",
        "v1_snapshot": "damaged",
    }, case
    for finding in [finding for verdict in verdicts for finding in verdict.findings]:
        assert not finding.what.endswith(" was added") or ".." not in str(finding.found), (case, finding)
    assert pretty_bytes(overview(watched.settings, 10)), case
    assert watched.pipeline.audit.verify(watched.pipeline.anchors()).events, case
    return sentence


@pytest.mark.parametrize(
    "case", [*WRONG_DOCUMENTS, *(pytest.param(kind, marks=[pytest.mark.root, NEEDS_ROOT]) for kind in DEVICES)]
)
@pytest.mark.slow
def test_a_metadata_file_that_cannot_be_read_is_refused(watched: Watched, case: str) -> None:
    """At once and in a sentence, also when nobody chose a snapshot, because it might be the newest."""
    {**WRONG_DOCUMENTS, **DEVICES}[case](watched.metadata)
    sentence = hold_damaged(watched, case)
    assert "v1_snapshot" in sentence
    if case in {**IN_PLACE, **DEVICES}:
        assert "and should be a file" in sentence  # looked at, and not opened
    live = watched.live()
    outcome = watched.roll(None)
    assert (outcome.status, watched.live()) == ("failed", live)
    assert "The latest snapshot cannot be determined, because v1_snapshot is unreadable" in outcome.diagnostics[0]
    assert watched.roll("v0_snapshot").status == "restored"
    assert watched.is_whole() == "new"


def test_a_metadata_file_that_was_removed_is_found(watched: Watched) -> None:
    """It is not passed over for an older one: snapshots are published, and removed, as a whole."""
    watched.metadata.unlink()
    live = watched.live()
    with pytest.raises(UsageError, match=r"its folder has no metadata\.json"):
        watched.roll()
    assert watched.last_event()[:2] == ("rollback.refused", "refused")
    assert watched.live() == live
    found = {verdict.snapshot_id: verdict for verdict in verify_all(watched.pipeline.catalogue)}
    assert {name: verdict.status for name, verdict in found.items()} == {
        "v0_snapshot": "verified",
        "v1_snapshot": "damaged",
    }
    assert "v1_snapshot/metadata.json is missing" in str(found["v1_snapshot"].findings[0])
    outcome = watched.roll(None)
    assert (outcome.status, watched.live()) == ("failed", live)
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


# What a forged document may try, all its digests made right: (what it says, what the refusal says).
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
        f"a {what} with the mode {mode!r}": (set_in(asset, mode=mode), "an invalid mode" if told is None else told)
        for what, asset in (("database", DATABASE), ("folder", IDENTITY), ("file", MCP))
        for mode, told in (
            (None, None), (-1, None), (0o10000, None), (2**31, None), (2**64, None), (10**299, None),
            (True, "expected int"), ("0600", "expected int"), (384.0, "expected int"),
        )
    },
    # Entries of a folder.
    "no list of entries": (lambda d: set_in(IDENTITY, entries=None)(d), "list of entries was altered"),
    "an empty list of entries": (set_in(IDENTITY, entries=[], size=0), "was added"),
    "an entry left out": (lambda d: d["assets"][IDENTITY]["entries"].remove(file_entry(d)), "was added"),
    "an entry twice": (lambda d: d["assets"][IDENTITY]["entries"].append(file_entry(d)), "entr"),
    "an entry that leads out": (lambda d: file_entry(d).update(path="../../../../../state/mcp.json"), "is missing"),
    "an entry with an absolute path": (lambda d: file_entry(d).update(path="/etc/passwd"), "is missing"),
    "an entry by a way round": (lambda d: file_entry(d).update(path="keys/../identity.json"), "is missing"),
    "an entry that is the folder": (lambda d: file_entry(d).update(path="."), "is missing"),
    "an entry that stands for no bytes": (lambda d: file_entry(d).update(path="\ud800"), "is missing"),
    "a path of an entry of 100,000 characters": (lambda d: file_entry(d).update(path="x" * 100_000), "is missing"),
    "an entry of another kind": (lambda d: file_entry(d).update(kind="symlink", target="/etc/passwd"), "was altered"),
    "a link that leads elsewhere": (set_entry(0, target="/etc/passwd"), "current was altered"),
    "a target of a file": (lambda d: file_entry(d).update(target="/etc/passwd"), "identity.json was altered"),
    "an entry's digest": (lambda d: file_entry(d).update(sha256="0" * 64), "was altered (recorded " + "0" * 64),
    "an entry's size": (lambda d: file_entry(d).update(size=5), "was altered"),
    "an entry's mode below zero": (lambda d: file_entry(d).update(mode=-1), "an invalid mode"),
    "an entry's mode too large": (lambda d: file_entry(d).update(mode=2**40), "an invalid mode"),
    "an entry without a mode": (lambda d: file_entry(d).update(mode=None), "expected int"),
    "an entry that is a list": (lambda d: d["assets"][IDENTITY]["entries"].append([]), "expected object"),
    # The document.
    "the id of another": (lambda d: d.update(snapshotId="v0_snapshot"), "belongs to snapshot 'v0_snapshot'"),
    "an id that leads out": (lambda d: d.update(snapshotId="../v1_snapshot"), "belongs to snapshot"),
    "an id of 100,000 characters": (lambda d: d.update(snapshotId="x" * 100_000), "belongs to snapshot"),
    "a sequence of zero": (lambda d: d.update(sequence=0), "no valid sequence"),
    "a sequence below zero": (lambda d: d.update(sequence=-(10**200)), "no valid sequence"),
    "a sequence of 400 digits": (lambda d: d.update(sequence=10**400), "too large a number"),
    "a sequence as text": (lambda d: d.update(sequence="1"), "expected int"),
    "a newer format": (lambda d: d.update(formatVersion=2), "reads up to 1"),
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


def write(watched: Watched, document: Document) -> None:
    watched.metadata.write_text(json.dumps(document))


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in (1, 2, 3))])
def test_a_forged_document_is_refused_by_what_lies_below_its_checksum(
    watched: Watched, tried: Callable[[int], None], part: int
) -> None:
    """Whoever makes all digests anew still cannot make a rollback read, write or call anything out of its place."""
    original = json.loads(watched.metadata.read_bytes())
    cases = list(FORGED.items())[part::4]
    for case, (change, told) in cases:
        document = copy.deepcopy(original)
        change(document)
        write(watched, forge(document))
        sentence = hold_damaged(watched, case)
        assert "v1_snapshot is refused" in sentence, (case, sentence)
        assert told in sentence, (case, sentence)
        assert "was altered: its checksum" not in sentence, (case, sentence)
    tried(len(cases))


def test_the_same_changes_without_the_right_digests_are_found_by_the_checksum(
    watched: Watched, tried: Callable[[int], None]
) -> None:
    """Whatever the change is, and whether or not what lies below would find it too."""
    original = json.loads(watched.metadata.read_bytes())
    changes = {**{case: change for case, (change, _) in FORGED.items()}, **HARMLESS}
    for case, change in changes.items():
        document = copy.deepcopy(original)
        change(document)
        write(watched, document)
        (verdict,) = verify_all(watched.pipeline.catalogue, "v1_snapshot")
        assert verdict.status == "damaged", case
        with pytest.raises(StageFailed, match="v1_snapshot is refused"):
            watched.pipeline.catalogue.get("v1_snapshot")
    tried(len(changes))


def test_a_digest_of_the_state_that_is_not_that_of_its_records_is_refused(watched: Watched) -> None:
    """With the right checksum around it; both digests are named."""
    original = json.loads(watched.metadata.read_bytes())
    write(watched, reseal({**original, "digest": "0" * 64}))
    sentence = hold_damaged(watched, "digest")
    assert f"the records of the assets were altered (recorded {'0' * 64}, found {original['digest']})" in sentence


# Forged values that nothing is steered by: the rollback is the same as without them.
HARMLESS: dict[str, Change] = {
    "a release of any name": lambda d: d.update(releaseId="../../x"),
    "no release": lambda d: d.update(releaseId=None),
    "any time": lambda d: d.update(createdAt="\ud800\x1b[2J tomorrow"),
    "the last of all": lambda d: d.update(sequence=10**200),
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
    "entries of a file": set_in(MCP, entries=[]),
    "its assets in another order": lambda d: d["assets"].reverse(),
    "its entries in another order": lambda d: d["assets"][IDENTITY]["entries"].reverse(),
}


@pytest.mark.parametrize("case", HARMLESS)
@pytest.mark.slow
def test_a_forged_value_that_steers_nothing_stays_in_its_place(watched: Watched, case: str) -> None:
    """It is restored as it was captured; no path, size or time from the document reaches the live state."""
    document = json.loads(watched.metadata.read_bytes())
    HARMLESS[case](document)
    write(watched, forge(document))
    around = {path: kept for path, kept in watched.live().items() if path.startswith("neighbour")}
    assert {verdict.status for verdict in verify_all(watched.pipeline.catalogue)} == {"verified"}
    outcome = watched.roll()
    assert (outcome.status, outcome.diagnostics) == ("restored", [])
    assert watched.is_whole() == "new"
    assert {path: kept for path, kept in watched.live().items() if path.startswith("neighbour")} == around
    assert watched.strays() == []
    assert watched.roll(outcome.safety_snapshot_id).status == "restored"
    assert watched.is_whole() == "old"


def test_a_forged_mode_is_a_mode(watched: Watched) -> None:
    """What a document says within the bits that a mode has is what is restored, and verify has no way to tell."""
    document = json.loads(watched.metadata.read_bytes())
    set_in(MCP, mode=0o4751)(document)
    write(watched, forge(document))
    assert watched.roll().status == "restored"
    assert os.stat(watched.project.mcp).st_mode & 0o7777 == 0o4751
    os.chmod(watched.project.mcp, 0o644)
    assert watched.is_whole() == "new"


OLDER: Document = {
    "snapshotId": "old", "releaseId": "old", "createdAt": "2025-01-01T00:00:00.000Z", "retentionLimit": 5,
    "metadataPath": "/srv/app/metadata.json",
    "assets": [{"key": "database", "relativePath": "state/app.db", "kind": "file", "exists": True}],
}  # fmt: skip


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["a named pipe", "a socket", "a link to nowhere", "a folder"])
def test_an_older_snapshot_makes_nobody_wait_for_a_pipe(watched: Watched, kind: str) -> None:
    """It has no digests, so its database is looked at by SQLite, which would wait for somebody to write."""
    folder = watched.pipeline.catalogue.store.folder / "old"
    (folder / "assets" / "state").mkdir(parents=True)
    (folder / "metadata.json").write_text(json.dumps(OLDER))
    WRONG_DOCUMENTS[kind](folder / "assets" / "state" / "app.db")
    live = watched.live()
    verdict = next(verdict for verdict in verify_all(watched.pipeline.catalogue) if verdict.snapshot_id == "old")
    assert verdict.status == "unverifiable"
    assert [finding.key for finding in verdict.findings] == ["database"]
    outcome = watched.roll("old", force=True)
    assert outcome.status == "failed"
    assert "asset database" in outcome.diagnostics[0]
    assert watched.live() == live


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
def test_an_older_document_is_read_as_strictly(watched: Watched, change: Change) -> None:
    """What it holds is refused in a short sentence, and the snapshots beside it are no worse for it."""
    folder = watched.pipeline.catalogue.store.folder / "old"
    (folder / "assets" / "state").mkdir(parents=True)
    (folder / "assets" / "state" / "app.db").touch()
    document = copy.deepcopy(OLDER)
    change(document)
    (folder / "metadata.json").write_text(json.dumps(document))
    live = watched.live()
    outcome = watched.roll("old", force=True)
    assert (outcome.status, watched.live()) == ("failed", live)
    assert len(outcome.diagnostics[0]) < 5000
    verdicts = {verdict.snapshot_id: verdict for verdict in verify_all(watched.pipeline.catalogue)}
    assert verdicts["old"].findings and len(str(verdicts["old"].findings[0])) < 5000
    assert verdicts["v0_snapshot"].status == verdicts["v1_snapshot"].status == "verified"


def stripped(document: Document) -> Document:
    """Return a document of ours in the clothes of the older tool, which nothing verifies."""
    names = ("snapshotId", "releaseId", "createdAt", "retentionLimit", "assets", "metadataPath")
    return {name: document[name] for name in names}


def test_a_document_without_its_digests_is_only_taken_with_force(watched: Watched) -> None:
    """Dropping them is no way past the checksum: it is then a snapshot that cannot be verified, and says so."""
    document = stripped(json.loads(watched.metadata.read_bytes()))
    write(watched, document)
    assert "cannot be verified" in watched.refused("stripped")
    assert {v.snapshot_id: v.status for v in verify_all(watched.pipeline.catalogue)} == {
        "v0_snapshot": "verified",
        "v1_snapshot": "unverifiable",
    }


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_edit_of_a_sealed_document_is_found(watched: Watched, data: st.DataObject) -> None:
    """Values set to anything, dropped, doubled, up to three at once: another document is another checksum."""
    original = json.loads((watched.template / watched.metadata.relative_to(watched.folder)).read_bytes())
    document = edited(original, data.draw(edits(original)))
    write(watched, document)
    if json.dumps(document, sort_keys=True) == json.dumps(original, sort_keys=True):
        return  # true is not 1 there, and a key that was dropped and set again is as it was
    (verdict,) = verify_all(watched.pipeline.catalogue, "v1_snapshot")
    assert verdict.status == "damaged" or set(document) <= set(OLDER)
    assert watched.refused("edited")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_edit_of_a_forged_document_is_refused_or_restores_the_whole_snapshot(
    watched: Watched, data: st.DataObject
) -> None:
    """Nothing between, no exception that is no sentence, and nothing beside the assets is ever touched.

    An asset that the document does not hold any more is as one that was configured since: left as it is, and named.
    """
    original = json.loads((watched.template / watched.metadata.relative_to(watched.folder)).read_bytes())
    document = forge(edited(original, data.draw(edits(original))))
    try:
        write(watched, document)
        around = {path: kept for path, kept in watched.live().items() if path.startswith("neighbour")}
        live = watched.live()
        is_verified = verify_all(watched.pipeline.catalogue, "v1_snapshot")[0].status == "verified"
        assert pretty_bytes(overview(watched.settings, 10))
        outcome = watched.roll()
        if outcome.status == "failed":
            assert watched.live() == live
            assert len(outcome.diagnostics[0]) < 5000
        else:
            assert is_verified
            left = set(by_asset(watched.new)) - {asset["key"] for asset in document["assets"]}
            as_before = {key: kept for key, kept in by_asset(watched.old).items() if key in left}
            assert by_asset(watched.project.content()) == {**by_asset(watched.new), **as_before}
            assert all(f"{key}: snapshot v1_snapshot does not hold it" in str(outcome.diagnostics) for key in left)
        assert {path: kept for path, kept in watched.live().items() if path.startswith("neighbour")} == around
    finally:
        watched.fresh()


def by_asset(content: Any) -> dict[str, Any]:
    """What each asset holds, without modes: what a mode may be, any mode is."""
    found: dict[str, Any] = {"database": content["rows"], "identity": {}, "mcp": {}, "extra": {}}
    for path, kept in content["files"].items():
        found[path.split("/")[0].split(".")[0]][path] = kept[0] if isinstance(kept[0], bytes) else kept[0:1]
    return found


LIMITED = """
import json, re, sys, time
from pathlib import Path
from release_tasks.tasks.project import load_settings
from release_tasks.archive.pipeline import Pipeline
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.archive.verify import verify_all
folder = Path(sys.argv[1])
settings = load_settings({"release": json.loads((folder / "invoke.yaml").read_text())["release"]}, folder)
outcome = rollback(settings, RollbackRequest(snapshot_id="v1_snapshot"))
statuses = [verdict.status for verdict in verify_all(Pipeline(settings.release.root).catalogue)]
told = {"status": outcome.status, "verdicts": sorted(statuses), "length": len(outcome.diagnostics[0])}
most = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
print(json.dumps({**told, "seconds": time.process_time(), "MiB": int(most) >> 10}))
"""


def flood(original: Document, assets: list[Any]) -> bytes:
    """A document with other assets, and all its digests right."""
    return json.dumps(forge({**original, "assets": assets})).encode()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_documents_that_were_made_to_be_large_take_neither_time_nor_memory(
    watched: Watched, tried: Callable[[int], None]
) -> None:
    """100 MiB of JSON, a million errors, many assets: some seconds, less than 300 MiB, one short sentence."""
    original = json.loads(watched.metadata.read_bytes())
    entry, alone = file_entry(original), {"key": "a", "relativePath": "x", "kind": "file", "exists": True}
    many = {**original["assets"][IDENTITY], "entries": [{**entry, "path": str(n)} for n in range(60_000)]}
    key = b'"' + b"k" * (7 << 20) + b'": 1'
    large: dict[str, Callable[[], bytes]] = {
        "100 MiB of JSON": lambda: b'{"formatVersion": 1, "x": [' + b'{"a": 1},' * (11 << 20) + b"0]}",
        "16 MiB of lists": lambda: b'{"formatVersion": 1, "x": [' + b"[]," * ((16 << 20) // 3 - 100) + b"0]}",
        "a million assets that are numbers": lambda: flood(original, [0] * 990_000),
        "half a million assets without keys": lambda: flood(original, [{}] * 450_000),
        "fifty thousand times the same asset": lambda: flood(original, [alone] * 50_000),
        "many assets that are missing": lambda: flood(original, missing_assets(original, 20_000)),
        "many entries that are missing": lambda: flood(original, [original["assets"][DATABASE], many]),
        "a text of 15 MiB": lambda: json.dumps(reseal({**original, "snapshotId": "x" * (15 << 20)})).encode(),
        "a key of 7 MiB twice": lambda: b"{" + key + b"," + key + b"}",
    }
    for case, make in large.items():
        watched.metadata.write_bytes(make())
        done = subprocess.run(
            [sys.executable, "-c", LIMITED, str(watched.folder)],
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30)),
        )
        assert done.returncode == 0, (case, done.stderr[-2000:])
        told = json.loads(done.stdout)
        print(case, told)
        assert (told["status"], told["verdicts"]) == ("failed", ["damaged", "verified"]), (case, told)
        assert told["length"] < 5000, (case, told)
        assert told["MiB"] < 300, (case, told)
        assert told["seconds"] < 30, (case, told)
    tried(len(large))


def test_a_snapshot_that_no_reader_would_take_is_never_published(watched: Watched, monkeypatch: Any) -> None:
    """A folder of so many names that its metadata is too large: refused when it is taken, not when it is needed."""
    monkeypatch.setattr("release_tasks.core.canonical._MAX_BYTES", 5000)
    for number in range(40):
        (watched.project.identity / f"name-{number}").touch()
    content = watched.project.content()
    with pytest.raises(StageFailed, match="too many files for one snapshot"):
        watched.project.capture("v2")
    outcome = watched.roll("v0_snapshot")
    assert (outcome.status, watched.project.content()) == ("failed", content)
    assert "too many files for one snapshot" in outcome.diagnostics[0]
    assert sorted(os.listdir(watched.pipeline.catalogue.store.folder)) == ["v0_snapshot", "v1_snapshot"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_real_command_refuses_the_worst_documents_in_a_sentence(
    watched: Watched, tried: Callable[[int], None]
) -> None:
    """Exit 1 from rollback, plan and verify; status, audit and recover answer; nothing live has changed."""
    original = json.loads(watched.metadata.read_bytes())
    worst = ["100,000 levels", "a named pipe", "a folder", "100 MiB"]
    forged = ["a path that stands for no bytes", "a file with the mode None"]
    for case in [*worst, *forged]:
        if case in FORGED:
            document = copy.deepcopy(original)
            FORGED[case][0](document)
            write(watched, forge(document))
        else:
            WRONG_DOCUMENTS[case](watched.metadata)
        live = watched.live()
        for words in (["rollback", "--snapshot", "v1_snapshot"], ["rollback", "--plan"], ["verify"]):
            done = watched.inv(f"release.{words[0]}", *words[1:])
            assert done.returncode == ExitCode.NEGATIVE, (case, words, done)
            assert "v1_snapshot" in done.stdout + done.stderr, (case, words, done)
        done = watched.inv("release.recover", "release.status", "release.audit")
        assert done.returncode == ExitCode.DONE, (case, done)
        assert watched.live() == live, case
        watched.mend()
    tried(len(worst) + len(forged))
