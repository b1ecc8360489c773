"""Snapshots whose database is a delta: listed, verified, compared, drilled and restored as plain ones."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from release_tasks.archive.capture import CaptureRequest
from release_tasks.archive.derive import Replacement, StoredFile, derive_snapshot
from release_tasks.archive.diff import compare
from release_tasks.archive.verify import require_intact, verify_all
from release_tasks.assets.sqlite.kind import SQLITE
from release_tasks.assets.sqlite.pages.engine import find_engine
from release_tasks.core.digests import sha256_file
from release_tasks.core.errors import StageFailed
from release_tasks.core.events import BytesMoved, Event, Meter, StepBegan, ignore
from release_tasks.core.place import trusted
from release_tasks.core.records import AssetRecord, StoredDelta
from release_tasks.stages.drill.engine import run_drill
from release_tasks.stages.extract import extract_snapshot
from tests.support.deltas import base_of, fill, store_as_delta, write_delta
from tests.support.project import Project
from tests.support.releases import release
from tests.support.snapshots import flip_bit
from tests.support.stored_snapshots import forge, read_snapshot, write_snapshot


@pytest.fixture
def chain(project: Project) -> Project:
    """A project with v1 (plain), and v2 and v3 as deltas against it; the live state is that of v3."""
    fill(project, 200)
    project.capture("v1")
    for name in ("v2", "v3"):
        project.damage_rows()
        fill(project, 30)
        project.capture(name)
        store_as_delta(project, f"{name}_snapshot", "v1_snapshot")
    return project


def test_deltas_are_verified_and_each_base_is_read_once(chain: Project) -> None:
    """The base has one inode with the plain copy, and three snapshots stand on it."""
    base = base_of(chain)
    read: list[int] = []

    def count(event: Event) -> None:
        if isinstance(event, StepBegan):
            read.append(0)
        if isinstance(event, BytesMoved) and event.key == "database" and event.action == "verify":
            read[-1] = event.done

    verdicts = verify_all(chain.pipeline.catalogue, emit=count)
    assert [(verdict.status, verdict.findings) for verdict in verdicts] == [("verified", [])] * 3
    folders = [chain.pipeline.catalogue.path(f"{name}_snapshot") for name in ("v2", "v3")]
    sizes = [read_snapshot(folder)["assets"][0]["delta"]["size"] for folder in folders]
    assert base.stat().st_nlink == 2
    assert read == [base.stat().st_size, *sizes]


def test_delta_is_restored_and_undone(chain: Project) -> None:
    """To a delta, to the plain base, back to the safety snapshot; equal state is a noop."""
    states = {"v3": chain.rows()}
    for name, before in (("v2", None), ("v1", None)):
        assert chain.roll_back(f"{name}_snapshot").status == "restored"
        states[name] = chain.rows()
        assert chain.roll_back(f"{name}_snapshot").status == "noop", before
    assert len({str(state) for state in states.values()}) == 3
    for name in ("v3", "v2", "v3", "v1"):
        outcome = chain.roll_back(f"{name}_snapshot")
        assert outcome.status == "restored", outcome.diagnostics
        assert chain.rows() == states[name]
    assert outcome.safety_snapshot_id is not None
    assert chain.roll_back(outcome.safety_snapshot_id).status == "restored"
    assert chain.rows() == states["v3"]
    with closing(sqlite3.connect(chain.database)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert chain.leftovers() == []


def test_missing_database_is_placed_from_a_delta(chain: Project) -> None:
    """A new file gets the recorded mode, and the content that base and delta have together."""
    expected = chain.rows()
    mode = chain.database.stat().st_mode
    for path in chain.state.glob("app.db*"):
        path.unlink()
    outcome = chain.roll_back("v3_snapshot")
    assert outcome.status == "restored", outcome.diagnostics
    assert chain.rows() == expected
    assert chain.database.stat().st_mode == mode


def test_file_is_overwritten_in_place_from_a_delta(chain: Project) -> None:
    """Where names cannot be exchanged, the whole content is written into the file."""
    catalogue = chain.pipeline.catalogue
    expected = chain.rows()
    record = catalogue.get("v3_snapshot").asset("database")
    assert record is not None
    chain.database.write_bytes(b"x" * 10_000_000)
    stored = catalogue.path("v3_snapshot") / record.relative_path
    SQLITE.overwrite_content(record, stored, trusted(chain.database))
    assert chain.rows() == expected


@pytest.mark.skipif(find_engine() is None, reason="NOT TESTED: the extra `fast` is not installed")
def test_captured_deltas_are_verified_restored_and_extracted(project: Project, tmp_path: Path) -> None:
    """From the capture on: with a base of a few pages, the second release is a delta, and is used as any snapshot."""
    project.overrides["storage"] = {"deltas_above": "4KiB"}
    fill(project, 2000)
    project.capture("v1")
    project.damage_rows()
    expected = project.rows()
    project.capture("v2")
    stored = project.pipeline.catalogue.get("v2_snapshot").asset("database")
    assert stored is not None
    assert stored.delta is not None
    assert base_of(project).stat().st_nlink == 2
    project.damage_rows()
    assert project.roll_back("v2_snapshot").status == "restored"
    assert project.rows() == expected
    assert {verdict.status for verdict in verify_all(project.pipeline.catalogue)} == {"verified"}
    extract_snapshot(project.settings, "v2_snapshot", tmp_path / "extracted", key="database")
    assert sha256_file(tmp_path / "extracted" / "database" / "app.db") == stored.sha256
    assert run_drill(project.settings, "v2_snapshot").status == "passed"


def test_delta_is_drilled(chain: Project) -> None:
    """A drill restores it and counts its rows."""
    outcome = run_drill(chain.settings)
    assert (outcome.status, outcome.diagnostics, outcome.snapshot_id) == ("passed", [], "v3_snapshot")


def test_delta_is_inspected_and_outlined_as_the_plain_database(chain: Project) -> None:
    """SQLite reads base and delta through a VFS."""
    catalogue = chain.pipeline.catalogue
    record = catalogue.get("v3_snapshot").asset("database")
    assert record is not None
    stored = catalogue.path("v3_snapshot") / record.relative_path
    inspection = SQLITE.inspect(record, stored)
    assert inspection is not None
    assert (inspection.problem, inspection.unchecked, inspection.rows["filler"]) == ("", "", 260)
    schema, rows = SQLITE.outline(record, stored)
    assert rows.values["filler"] == "260"
    assert "table filler" in schema.values
    check = SQLITE.examine(record, None, stored)
    assert check is not None
    assert (check.problems, check.unchecked) == ([], None)
    footprint = SQLITE.restore_footprint(chain.settings.release.assets["database"], stored)
    assert footprint.size == record.size


def test_releases_with_deltas_are_compared(project: Project) -> None:
    """The difference of two deltas is that of the databases."""
    fill(project, 200)
    release(project, "v1")
    fill(project, 7)
    release(project, "v2")
    (latest,) = (s for s in project.pipeline.catalogue.published()[0] if s.release_id == "v2")
    (first,) = (s for s in project.pipeline.catalogue.published()[0] if s.release_id == "v1")
    store_as_delta(project, latest.snapshot_id, first.snapshot_id)
    found = {(d.where, d.what): (d.before, d.after) for d in compare(project.pipeline, "v1", "v2").differences}
    assert found["database rows", "filler"] == ("200", "207")


def test_content_that_sqlite_finds_damaged_is_damage(chain: Project) -> None:
    """The digests are right, and the database is not: SQLite checks base and delta together."""
    folder = chain.pipeline.catalogue.path("v3_snapshot")
    document = read_snapshot(folder)
    record = document["assets"][0]
    stored = folder / record["relativePath"]
    base = base_of(chain).read_bytes()
    content = base[:4096] + b"\xff" * 4096 + base[8192:]
    stored.unlink()
    write_delta(stored, base, content, "v1_snapshot")
    record["delta"] |= {"sha256": hashlib.sha256(stored.read_bytes()).hexdigest(), "size": stored.stat().st_size}
    record |= {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    record["contentDigest"] = record["sha256"]
    write_snapshot(folder, forge(document))
    (verdict,) = verify_all(chain.pipeline.catalogue, "v3_snapshot")
    assert verdict.status == "damaged"
    assert "SQLite" in str(verdict.findings[0])


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (flip_bit, "was altered"),
        (lambda path: path.unlink(), "is missing"),
        (lambda path: os.truncate(path, 4096), "was altered"),
        (lambda path: (path.unlink(), path.mkdir()), "cannot be read"),
        (lambda path: (path.unlink(), path.symlink_to("/etc/passwd")), "cannot be read"),
    ],
)
def test_damaged_base_names_every_snapshot_that_needs_it(
    chain: Project, act: Callable[[Path], Any], words: str
) -> None:
    """Before anything live is touched: the base file, both digests, and the snapshots that fall with it."""
    base = base_of(chain)
    before = chain.content()
    chain.damage_rows()
    live = chain.content()
    assert live != before
    act(base)
    outcome = chain.roll_back("v3_snapshot")
    assert outcome.status == "failed"
    (message,) = (line for line in outcome.diagnostics if "is refused, nothing was changed" in line)
    assert str(base) in message
    assert words in message
    assert f"recorded {base.stem}" in message
    assert "v2_snapshot" in message
    assert chain.content() == live
    verdicts = {verdict.snapshot_id: verdict for verdict in verify_all(chain.pipeline.catalogue)}
    assert [verdicts[f"{v}_snapshot"].status for v in ("v2", "v3")] == ["damaged"] * 2
    if words == "was altered":  # the plain copy is the same file
        assert "v2_snapshot, v3_snapshot" in str(verdicts["v1_snapshot"].findings[0])


def test_every_altered_byte_of_a_base_is_found(tmp_path: Path) -> None:
    """Each byte, with a bit changed, by the verification of the delta."""
    stored = tmp_path / "snapshots" / "v2" / "assets" / "database" / "a.db.rtd1"
    stored.parent.mkdir(parents=True)
    plain = tmp_path / "plain.db"
    with closing(sqlite3.connect(plain)) as database:
        database.execute("PRAGMA page_size = 512")
        database.execute("CREATE TABLE t(x)")
        database.execute("INSERT INTO t VALUES (1)")
        database.commit()
    content = plain.read_bytes()
    new = content[:-1] + b"x"
    base = tmp_path / "bases" / f"{hashlib.sha256(content).hexdigest()}.db"
    base.parent.mkdir()
    base.write_bytes(content)
    write_delta(stored, content, new, "v1")
    digest = hashlib.sha256(new).hexdigest()
    delta = StoredDelta(
        base_sha256=base.stem, base_snapshot_id="v1", sha256=hashlib.sha256(stored.read_bytes()).hexdigest(),
        size=stored.stat().st_size,
    )  # fmt: skip
    record = AssetRecord(
        key="database", relative_path="", kind="sqlite", exists=True, size=len(new), sha256=digest, mode=0o600,
        content_digest=digest, delta=delta,
    )  # fmt: skip
    assert SQLITE.verify(record, stored, Meter(ignore, "verify", "", 0)) == []
    for position in range(len(content)):
        base.write_bytes(content[:position] + bytes([content[position] ^ 1 << position % 8]) + content[position + 1 :])
        (finding,) = SQLITE.verify(record, stored, Meter(ignore, "verify", "", 0))
        assert (finding.expected, str(base) in finding.what) == (base.stem, True)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "other"])
def test_damaged_delta_is_found(chain: Project, damage: str) -> None:
    """The other snapshots on the base stay intact."""
    catalogue = chain.pipeline.catalogue
    paths = [catalogue.path(f"{v}_snapshot") / "assets" / "database" / "app.db.rtd1" for v in ("v2", "v3")]
    actions: dict[str, Callable[[], Any]] = {
        "flip": lambda: flip_bit(paths[1]),
        "truncate": lambda: os.truncate(paths[1], 50),
        "remove": paths[1].unlink,
        "other": lambda: paths[1].write_bytes(paths[0].read_bytes()),
    }
    actions[damage]()
    assert [verdict.status for verdict in verify_all(catalogue)] == ["verified", "verified", "damaged"]
    with pytest.raises(StageFailed, match="refused, nothing was changed"):
        require_intact(catalogue, catalogue.get("v3_snapshot"))
    require_intact(catalogue, catalogue.get("v2_snapshot"))


FORGED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "damaged": lambda record: record.update(damaged=True),
    "plugin": lambda record: record.update(plugin="other"),
    "a file": lambda record: record.update(kind="file", contentDigest=None),
    "absent": lambda record: record.update(exists=False),
    "base": lambda record: record["delta"].update(baseSha256="../../x"),
    "base in capitals": lambda record: record["delta"].update(baseSha256=record["delta"]["baseSha256"].upper()),
    "another base": lambda record: record["delta"].update(baseSha256="0" * 64),
    "snapshot": lambda record: record["delta"].update(baseSnapshotId="../x"),
    "another snapshot": lambda record: record["delta"].update(baseSnapshotId="v0"),
    "digest of the delta": lambda record: record["delta"].update(sha256="x"),
    "size of the delta": lambda record: record["delta"].update(size=1),
    "size": lambda record: record.update(size=4096),
    "digest": lambda record: record.update(sha256="0" * 64, contentDigest="0" * 64),
    "no digest": lambda record: record.update(sha256=None, contentDigest=None),
    "pending with a digest": lambda record: record.update(pending=True),
    "pending without a delta": lambda record: record.update(pending=True, delta=None),
    "mode": lambda record: record.update(mode=1 << 20),
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_record_of_a_delta_is_refused(chain: Project, name: str) -> None:
    """All checksums are right, and the values are none that a capture writes: damaged, and a sentence."""
    folder = chain.pipeline.catalogue.path("v3_snapshot")
    document = read_snapshot(folder)
    FORGED[name](document["assets"][0])
    write_snapshot(folder, forge(document))
    live = chain.content()
    (verdict,) = verify_all(chain.pipeline.catalogue, "v3_snapshot")
    assert verdict.status == "damaged"
    outcome = chain.roll_back("v3_snapshot")
    assert outcome.status == "failed"
    assert chain.content() == live


def test_delta_in_an_older_format_is_refused(chain: Project) -> None:
    """Format 2 has none: an earlier version would restore the delta file as the database."""
    folder = chain.pipeline.catalogue.path("v3_snapshot")
    document = read_snapshot(folder) | {"formatVersion": 2}
    write_snapshot(folder, forge(document))
    with pytest.raises(StageFailed, match="format 2 and a delta, which only format 3 has"):
        chain.pipeline.catalogue.get("v3_snapshot")


def test_pending_delta_is_verified_and_compared(chain: Project) -> None:
    """Its whole digest is not known yet: delta and base are, and they determine every byte."""
    folder = chain.pipeline.catalogue.path("v3_snapshot")
    document = read_snapshot(folder)
    document["assets"][0] |= {"pending": True, "sha256": None, "contentDigest": None}
    write_snapshot(folder, forge(document))
    (verdict,) = verify_all(chain.pipeline.catalogue, "v3_snapshot")
    assert (verdict.status, verdict.findings) == ("verified", [])
    flip_bit(base_of(chain))
    (verdict,) = verify_all(chain.pipeline.catalogue, "v3_snapshot")
    assert verdict.status == "damaged"


def test_copy_of_a_snapshot_with_a_delta_keeps_the_delta(chain: Project) -> None:
    """A derived snapshot has the delta of its source, and is restored."""
    catalogue = chain.pipeline.catalogue
    source = catalogue.get("v3_snapshot")
    request = CaptureRequest(snapshot_id="amended", release_id=None, kind="safety", retention_limit=5)
    made = derive_snapshot(catalogue, source, {StoredFile("mcp"): Replacement(data=b"{}")}, request)
    assert made.assets[0] == source.assets[0]
    assert made.format_version == 3
    rows = chain.rows()
    assert [verdict.status for verdict in verify_all(catalogue, "amended")] == ["verified"]
    chain.damage_rows()
    assert chain.roll_back("amended").status == "restored"
    assert chain.rows() == rows
    assert chain.mcp.read_bytes() == b"{}"
    assert evolve(made.assets[0]) == catalogue.get("amended").assets[0]
