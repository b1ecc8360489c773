"""The audit log: what was written stays, and what was changed is found."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from release_tasks.core.audit import GENESIS, AuditLog
from release_tasks.core.canonical import canonical_bytes
from release_tasks.core.digests import sha256_bytes
from release_tasks.core.records import AuditAnchor


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    """Return a log that has no file yet."""
    return AuditLog(tmp_path / "pipeline" / "rollback-audit.log")


@pytest.fixture
def filled(log: AuditLog) -> AuditLog:
    """Return a log of four records."""
    for number in range(4):
        log.append("rollback", status="restored", detail=f"number {number}", release_id="v1", snapshot_id="v1_snapshot")
    return log


def lines_of(log: AuditLog) -> list[bytes]:
    return log.path.read_bytes().splitlines(keepends=True)


@pytest.mark.smoke
def test_every_event_carries_the_hash_of_the_one_before(filled: AuditLog) -> None:
    """The chain can be checked by hand: sha256 over the canonical record without its hash."""
    before = GENESIS
    for number, line in enumerate(lines_of(filled), start=1):
        record = json.loads(line)
        assert {"seq", "time", "event", "actor", "host", "status", "detail", "prev", "hash"} <= record.keys()
        assert {"releaseId", "snapshotId"} <= record.keys()
        digest = record.pop("hash")
        assert (record["seq"], record["prev"]) == (number, before)
        assert sha256_bytes(canonical_bytes(record)) == digest
        before = digest


def test_append_returns_where_the_event_stands(log: AuditLog) -> None:
    """The anchor of an append is the one that the log reports afterwards."""
    assert log.anchor() is None
    first = log.append("a", status="ok")
    second = log.append("b", status="ok")
    assert (first.seq, second.seq) == (1, 2)
    assert log.anchor() == second
    assert log.verify([("manifest v1", first), ("manifest v2", second)]).intact


def test_reading_creates_nothing(log: AuditLog) -> None:
    """Looking at a log that is not there leaves no file and no folder."""
    assert log.verify().intact
    assert log.anchor() is None
    assert not log.path.parent.exists()


def test_log_is_readable_by_its_owner_alone(log: AuditLog) -> None:
    """The file is 0600 and its folder 0700, whatever the umask says."""
    before = os.umask(0)
    try:
        log.append("a", status="ok")
    finally:
        os.umask(before)
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(log.path.parent.stat().st_mode) == 0o700


def test_every_changed_byte_is_found(filled: AuditLog) -> None:
    """Whatever byte is replaced by whatever other, the log does not count as intact."""
    filled.path.write_bytes(b"".join(lines_of(filled)[:2]))
    data = filled.path.read_bytes()
    anchor = filled.anchor()
    assert anchor is not None
    with filled.path.open("r+b", buffering=0) as file:
        for position, byte in enumerate(data):
            for other in {byte ^ 1, 0x20, 0x0A} - {byte}:
                os.pwrite(file.fileno(), bytes([other]), position)
                assert not filled.verify([("manifest v1", anchor)]).intact, (position, other)
            os.pwrite(file.fileno(), bytes([byte]), position)
    assert filled.verify([("manifest v1", anchor)]).intact


def test_every_byte_removed_or_inserted_is_found(filled: AuditLog) -> None:
    """A byte more or less is found, but for the last newline: a crash can leave a whole record without it."""
    filled.path.write_bytes(b"".join(lines_of(filled)[:2]))
    data = filled.path.read_bytes()
    anchor = filled.anchor()
    assert anchor is not None
    for position in range(0, len(data) - 1, 3):
        filled.path.write_bytes(data[:position] + data[position + 1 :])
        assert not filled.verify([("manifest v1", anchor)]).intact, position
        filled.path.write_bytes(data[:position] + b" " + data[position:])
        assert not filled.verify([("manifest v1", anchor)]).intact, position


@pytest.mark.parametrize("line", [0, 1, 2])
def test_a_removed_line_is_found(filled: AuditLog, line: int) -> None:
    """The first finding names the line at which the chain breaks."""
    lines = lines_of(filled)
    del lines[line]
    filled.path.write_bytes(b"".join(lines))
    verdict = filled.verify()
    assert not verdict.intact
    assert verdict.problems[0].line == line + 1


@pytest.mark.parametrize("line", [0, 1, 2, 3])
def test_a_doubled_line_is_found(filled: AuditLog, line: int) -> None:
    """A record cannot stand twice."""
    lines = lines_of(filled)
    lines.insert(line, lines[line])
    filled.path.write_bytes(b"".join(lines))
    assert filled.verify().problems[0].line == line + 2


@pytest.mark.parametrize("line", [0, 1, 2])
def test_swapped_lines_are_found(filled: AuditLog, line: int) -> None:
    """Records cannot change places."""
    lines = lines_of(filled)
    lines[line], lines[line + 1] = lines[line + 1], lines[line]
    filled.path.write_bytes(b"".join(lines))
    assert not filled.verify().intact


@pytest.mark.parametrize("line", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("inserted", [b"\n", b"{}\n", b"anything\n"])
def test_an_inserted_line_is_found(filled: AuditLog, line: int, inserted: bytes) -> None:
    """A line that is no record of ours is named by its number, wherever it stands."""
    lines = lines_of(filled)
    lines.insert(line, inserted)
    filled.path.write_bytes(b"".join(lines))
    assert line + 1 in [finding.line for finding in filled.verify().problems]


def test_a_record_of_another_chain_is_found(filled: AuditLog, tmp_path: Path) -> None:
    """A well-formed record with the right number, taken from another log, does not fit."""
    other = AuditLog(tmp_path / "other.log")
    for number in range(4):
        other.append("rollback", status="restored", detail=f"forged {number}")
    lines = lines_of(filled)
    lines[2] = lines_of(other)[2]
    filled.path.write_bytes(b"".join(lines))
    assert filled.verify().problems[0].line == 3


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
def test_a_log_cut_short_is_found_by_its_anchors(filled: AuditLog, kept: int) -> None:
    """The chain alone cannot show that its end is missing; what was written elsewhere can."""
    anchor = filled.anchor()
    assert anchor is not None
    filled.path.write_bytes(b"".join(lines_of(filled)[:kept]))
    verdict = filled.verify([("manifest v1", anchor)])
    assert not verdict.intact
    assert "manifest v1" in str(verdict.problems[0])


def test_a_log_that_was_removed_is_found_by_its_anchors(filled: AuditLog) -> None:
    """No log at all is a log cut short."""
    anchor = filled.anchor()
    assert anchor is not None
    filled.path.unlink()
    assert not filled.verify([("manifest v1", anchor)]).intact


def test_a_log_written_anew_is_found_by_its_anchors(filled: AuditLog) -> None:
    """A fresh chain of the same length is not the chain that the manifest saw."""
    anchor = filled.anchor()
    assert anchor is not None
    filled.path.unlink()
    for number in range(4):
        filled.append("rollback", status="restored", detail=f"nicer {number}")
    assert filled.verify().intact
    assert not filled.verify([("manifest v1", anchor)]).intact


def test_a_torn_line_is_set_aside_wherever_it_was_torn(filled: AuditLog) -> None:
    """After a crash in the middle of a write, the chain goes on and names the fragment."""
    lines = lines_of(filled)
    head, last = b"".join(lines[:-1]), lines[-1]
    for length in range(1, len(last) - 1, 7):
        filled.path.write_bytes(head + last[:length])
        assert filled.verify().intact
        filled.append("after", status="ok")
        verdict = filled.verify()
        assert verdict.intact, length
        assert [note.line for note in verdict.notes] == [4]
        torn = verdict.events[-2]
        assert (torn["event"], torn["bytes"], torn["sha256"]) == ("audit.torn", length, sha256_bytes(last[:length]))


def test_a_complete_record_without_its_newline_is_adopted(filled: AuditLog) -> None:
    """Nothing of it is missing, so it counts, before and after the next append."""
    filled.path.write_bytes(filled.path.read_bytes()[:-1])
    assert len(filled.verify().events) == 4
    assert filled.append("after", status="ok").seq == 5
    verdict = filled.verify()
    assert verdict.intact and not verdict.notes
    assert len(verdict.events) == 5


@pytest.mark.parametrize(
    "how",
    [
        "altered",
        "removed",
    ],
)
def test_a_fragment_that_was_set_aside_cannot_be_changed(filled: AuditLog, how: str) -> None:
    """The record after a torn line names its length and digest, so the fragment belongs to the chain."""
    with filled.path.open("ab") as file:
        file.write(b'{"actor":"mallory"')
    filled.append("after", status="ok")
    lines = lines_of(filled)
    lines[4:5] = [] if how == "removed" else [lines[4].replace(b"mallory", b"nobody!")]
    filled.path.write_bytes(b"".join(lines))
    assert not filled.verify().intact


LEGACY = b'{"event":"rollback","ok":true}\n{"event":"rollback","ok":false}\n'


@pytest.mark.parametrize(
    "older",
    [LEGACY, LEGACY[:-1], b"one line\n", b"one line without end", LEGACY * 2000, b"\xff\x00\n\n\n"],
    ids=["lines", "no-newline", "one", "one-open", "over-64-KiB", "binary"],
)
def test_lines_of_the_older_tool_are_kept_and_adopted(log: AuditLog, older: bytes) -> None:
    """They stay as they are; the chain begins after them and names their length and digest."""
    log.path.parent.mkdir()
    log.path.write_bytes(older)
    log.append("first", status="ok")
    log.append("second", status="ok")
    assert log.path.read_bytes().startswith(older)
    verdict = log.verify()
    assert verdict.intact
    assert verdict.events[0]["bytes"] == len(older)
    assert verdict.events[0]["sha256"] == sha256_bytes(older)
    assert [event["event"] for event in verdict.events[1:]] == ["first", "second"]


def test_the_older_tools_log_is_no_broken_one_before_the_first_event(log: AuditLog) -> None:
    """Whoever moves over is not told of a broken chain; whoever had one is: an anchor misses its record."""
    log.path.parent.mkdir()
    log.path.write_bytes(LEGACY)
    verdict = log.verify()
    assert (verdict.intact, [str(note) for note in verdict.notes]) == (
        True,
        ["lines 1 to 2: lines of the older tool; the first event adopts them"],
    )
    assert not log.verify([("manifest v1", AuditAnchor(seq=1, hash="0" * 64))]).intact
    log.path.write_bytes(LEGACY + b"no object\n")
    assert not log.verify().intact


@pytest.mark.parametrize(
    "how",
    [
        "altered",
        "one line removed",
        "all removed",
    ],
)
def test_adopted_lines_cannot_be_changed(log: AuditLog, how: str) -> None:
    """What the older tool recorded is part of the record from then on."""
    log.path.parent.mkdir()
    log.path.write_bytes(LEGACY)
    log.append("first", status="ok")
    lines = lines_of(log)
    changed = {
        "altered": [lines[0].replace(b"true", b"null"), *lines[1:]],
        "one line removed": lines[1:],
        "all removed": lines[2:],
    }
    log.path.write_bytes(b"".join(changed[how]))
    assert not log.verify().intact


def test_foreign_lines_at_the_end_are_found_and_the_chain_goes_on(filled: AuditLog) -> None:
    """A line by another hand stays a problem after the next append, which still follows the last record."""
    with filled.path.open("ab") as file:
        file.write(b"all is well\nreally\n")
    assert not filled.verify().intact
    assert filled.append("after", status="ok").seq == 6
    verdict = filled.verify()
    assert [finding.line for finding in verdict.problems] == [5, 6]
    assert verdict.events[-2]["event"] == "audit.foreign"


def test_an_event_larger_than_the_tail_that_is_read_first_is_followed(log: AuditLog) -> None:
    """The last record is found however long it is."""
    log.append("big", status="ok", detail="x" * 200_000)
    assert log.append("small", status="ok").seq == 2
    assert log.verify().intact


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(detail=st.text(st.characters()), more=st.dictionaries(st.just("note"), st.text(st.characters())))
def test_any_text_can_be_recorded(log: AuditLog, detail: str, more: dict[str, str]) -> None:
    """Newlines, NUL, any alphabet and undecodable file names come back as they were."""
    log.append("event", status="ok", detail=detail, **more)
    verdict = log.verify()
    assert verdict.intact
    assert verdict.events[-1]["detail"] == detail
    assert verdict.events[-1].get("note") == more.get("note")


def test_a_link_in_place_of_the_log_is_refused(log: AuditLog, tmp_path: Path) -> None:
    """Events are never written through a link to somewhere else."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.touch()
    log.path.parent.mkdir()
    log.path.symlink_to(elsewhere)
    with pytest.raises(OSError):
        log.append("a", status="ok")
    assert elsewhere.read_bytes() == b""


def test_an_anchor_for_another_record_is_named(filled: AuditLog) -> None:
    """The finding says which record and which witness disagree."""
    verdict = filled.verify([("snapshot v1_snapshot", AuditAnchor(seq=2, hash="0" * 64))])
    assert str(verdict.problems[0]) == "record 2 was replaced: snapshot v1_snapshot contains another hash of it"
