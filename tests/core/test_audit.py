"""The audit log: events are never lost, and every change to a recorded event is detected."""

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
from release_tasks.core.printable import one_line
from release_tasks.core.records import AuditAnchor


def lines_of(log: AuditLog) -> list[bytes]:
    return log.path.read_bytes().splitlines(keepends=True)


@pytest.mark.smoke
def test_every_event_has_the_hash_of_the_event_before(filled: AuditLog) -> None:
    """``hash`` is the sha256 of the canonical record without ``hash``, so anyone can check the chain."""
    before = GENESIS
    for number, line in enumerate(lines_of(filled), start=1):
        record = json.loads(line)
        assert {"seq", "time", "event", "actor", "host", "status", "detail", "prev", "hash"} <= record.keys()
        assert {"releaseId", "snapshotId"} <= record.keys()
        digest = record.pop("hash")
        assert (record["seq"], record["prev"]) == (number, before)
        assert sha256_bytes(canonical_bytes(record)) == digest
        before = digest


def test_append_returns_the_position_of_the_event(log: AuditLog) -> None:
    """The log reports the same anchor afterwards."""
    assert log.anchor() is None
    first = log.append("a", status="ok")
    second = log.append("b", status="ok")
    assert (first.seq, second.seq) == (1, 2)
    assert log.anchor() == second
    assert log.verify([("manifest v1", first), ("manifest v2", second)]).intact


def test_reading_creates_nothing(log: AuditLog) -> None:
    """Reading a log that does not exist creates no file and no folder."""
    assert log.verify().intact
    assert log.anchor() is None
    assert not log.path.parent.exists()


def test_log_is_private(log: AuditLog) -> None:
    """The file has mode 0600 and its folder 0700, whatever the umask is."""
    before = os.umask(0)
    try:
        log.append("a", status="ok")
    finally:
        os.umask(before)
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(log.path.parent.stat().st_mode) == 0o700


def test_every_changed_byte_is_detected(filled: AuditLog) -> None:
    """With any byte replaced by another the log is not intact."""
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


def test_every_removed_or_inserted_byte_is_detected(filled: AuditLog) -> None:
    """Except for the last newline: a crash can leave a complete record without it."""
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
def test_removed_line_is_detected(filled: AuditLog, line: int) -> None:
    """The first problem names the line at which the chain breaks."""
    lines = lines_of(filled)
    del lines[line]
    filled.path.write_bytes(b"".join(lines))
    verdict = filled.verify()
    assert not verdict.intact
    assert verdict.problems[0].line == line + 1


@pytest.mark.parametrize("line", [0, 1, 2, 3])
def test_repeated_line_is_detected(filled: AuditLog, line: int) -> None:
    """A record must not appear twice."""
    lines = lines_of(filled)
    lines.insert(line, lines[line])
    filled.path.write_bytes(b"".join(lines))
    assert filled.verify().problems[0].line == line + 2


@pytest.mark.parametrize("line", [0, 1, 2])
def test_swapped_lines_are_detected(filled: AuditLog, line: int) -> None:
    """The order of the records is part of the chain."""
    lines = lines_of(filled)
    lines[line], lines[line + 1] = lines[line + 1], lines[line]
    filled.path.write_bytes(b"".join(lines))
    assert not filled.verify().intact


@pytest.mark.parametrize("line", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("inserted", [b"\n", b"{}\n", b"anything\n"])
def test_inserted_line_is_detected(filled: AuditLog, line: int, inserted: bytes) -> None:
    """A line that is no record is named by its number, wherever it is."""
    lines = lines_of(filled)
    lines.insert(line, inserted)
    filled.path.write_bytes(b"".join(lines))
    assert line + 1 in [finding.line for finding in filled.verify().problems]


def test_record_of_another_log_is_detected(filled: AuditLog, tmp_path: Path) -> None:
    """A valid record with the right number does not match the chain."""
    other = AuditLog(tmp_path / "other.log")
    for number in range(4):
        other.append("rollback", status="restored", detail=f"forged {number}")
    lines = lines_of(filled)
    lines[2] = lines_of(other)[2]
    filled.path.write_bytes(b"".join(lines))
    assert filled.verify().problems[0].line == 3


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_truncated_log_is_detected_by_its_anchors(filled: AuditLog, count: int) -> None:
    """The chain alone cannot show that its end is missing; anchors elsewhere can."""
    anchor = filled.anchor()
    assert anchor is not None
    filled.path.write_bytes(b"".join(lines_of(filled)[:count]))
    verdict = filled.verify([("manifest v1", anchor)])
    assert not verdict.intact
    assert "manifest v1" in str(verdict.problems[0])


def test_removed_log_is_detected_by_its_anchors(filled: AuditLog) -> None:
    """A missing log is a truncated log."""
    anchor = filled.anchor()
    assert anchor is not None
    filled.path.unlink()
    assert not filled.verify([("manifest v1", anchor)]).intact


def test_rewritten_log_is_detected_by_its_anchors(filled: AuditLog) -> None:
    """A new chain of the same length does not match the anchor of the manifest."""
    anchor = filled.anchor()
    assert anchor is not None
    filled.path.unlink()
    for number in range(4):
        filled.append("rollback", status="restored", detail=f"nicer {number}")
    assert filled.verify().intact
    assert not filled.verify([("manifest v1", anchor)]).intact


def test_torn_line_is_set_aside(filled: AuditLog) -> None:
    """After a crash during a write of any length the chain continues and records the fragment."""
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


def test_complete_record_without_its_newline_counts(filled: AuditLog) -> None:
    """The record is complete, so it counts before and after the next append."""
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
def test_changed_fragment_is_detected(filled: AuditLog, how: str) -> None:
    """The record after a torn line has its length and digest, so the fragment is part of the chain."""
    with filled.path.open("ab") as file:
        file.write(b'{"actor":"mallory"')
    filled.append("after", status="ok")
    lines = lines_of(filled)
    lines[4:5] = [] if how == "removed" else [lines[4].replace(b"mallory", b"someone")]
    filled.path.write_bytes(b"".join(lines))
    assert not filled.verify().intact


LEGACY = b'{"event":"rollback","ok":true}\n{"event":"rollback","ok":false}\n'


@pytest.mark.parametrize(
    "older",
    [LEGACY, LEGACY[:-1], b"one line\n", b"one line without end", LEGACY * 2000, b"\xff\x00\n\n\n"],
    ids=["lines", "no-newline", "one", "one-open", "over-64-KiB", "binary"],
)
def test_lines_of_the_older_tool_are_kept_and_adopted(log: AuditLog, older: bytes) -> None:
    """The lines stay unchanged; the chain starts after them and records their length and digest."""
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


def test_log_of_the_older_tool_is_intact_before_the_first_event(log: AuditLog) -> None:
    """Lines of the older tool are a note; with an anchor they are a broken chain, because a record is missing."""
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
def test_changed_lines_of_the_older_tool_are_detected(log: AuditLog, how: str) -> None:
    """Once adopted, they are part of the chain."""
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


def test_foreign_lines_at_the_end_are_detected_and_the_chain_continues(filled: AuditLog) -> None:
    """They stay a problem after the next append, which follows the last record."""
    with filled.path.open("ab") as file:
        file.write(b"all is well\nreally\n")
    assert not filled.verify().intact
    assert filled.append("after", status="ok").seq == 6
    verdict = filled.verify()
    assert [finding.line for finding in verdict.problems] == [5, 6]
    assert verdict.events[-2]["event"] == "audit.foreign"


def test_event_larger_than_the_tail_buffer_is_found(log: AuditLog) -> None:
    """The last record is found, whatever its length."""
    log.append("big", status="ok", note="x" * 200_000)
    assert log.append("small", status="ok").seq == 2
    assert log.verify().intact


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(detail=st.text(st.characters()), more=st.dictionaries(st.just("note"), st.text(st.characters())))
def test_any_text_can_be_recorded(log: AuditLog, detail: str, more: dict[str, str]) -> None:
    """Newlines, NUL, any alphabet and undecodable file names are read back; the sentence on one printable line."""
    log.append("event", status="ok", detail=detail, **more)
    verdict = log.verify()
    assert verdict.intact
    assert verdict.events[-1]["detail"] == one_line(detail)
    assert verdict.events[-1].get("note") == more.get("note")


def test_link_in_place_of_the_log_is_refused(log: AuditLog, tmp_path: Path) -> None:
    """An event is never written through a link."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.touch()
    log.path.parent.mkdir()
    log.path.symlink_to(elsewhere)
    with pytest.raises(OSError):
        log.append("a", status="ok")
    assert elsewhere.read_bytes() == b""


def test_anchor_that_does_not_match_is_named(filled: AuditLog) -> None:
    """The problem names the record and the source of the anchor."""
    verdict = filled.verify([("snapshot v1_snapshot", AuditAnchor(seq=2, hash="0" * 64))])
    assert str(verdict.problems[0]) == "record 2 was replaced: snapshot v1_snapshot contains another hash of it"


@pytest.mark.parametrize("seq", [10**300 - 1, 2**53 - 1, 2**52, 0, -5, True])
def test_a_planted_number_does_not_stop_the_log(filled: AuditLog, seq: int) -> None:
    """A record of its own making is reported; the events after it continue the chain before it and can be read."""
    last = filled.anchor()
    assert last is not None
    record = {"seq": seq, "prev": last.hash, "event": "x", "status": "s"}
    planted = canonical_bytes({**record, "hash": sha256_bytes(canonical_bytes(record))})
    filled.path.write_bytes(filled.path.read_bytes() + planted + b"\n")
    assert filled.anchor() == last
    anchors = [("a manifest", filled.append("after", status="ok")) for _ in range(3)]
    assert anchors[0][1].seq in (last.seq + 1, last.seq + 2)  # an event records bytes that are no record
    verdict = filled.verify(anchors)
    assert [finding.line for finding in verdict.problems] == [last.seq + 1]
    assert [event["event"] for event in verdict.events][-3:] == ["after"] * 3
