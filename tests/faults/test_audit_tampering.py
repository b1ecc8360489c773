"""Every change of a log that real stages wrote is found, and the finding names the line.

The log contains lines of an older tool, a torn line and an event of every kind. Changes that no reader can find are
asserted too.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from attrs import evolve, frozen

from release_tasks.archive.pipeline import Pipeline
from release_tasks.core.audit import AuditLog, AuditVerdict
from release_tasks.core.canonical import canonical_bytes
from release_tasks.core.digests import sha256_bytes
from release_tasks.core.errors import UsageError
from release_tasks.core.records import AuditAnchor
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.stages.rollback.recovery import recover
from release_tasks.tasks.project import load_settings
from tests.support.commands import run_inv, write_project_files
from tests.support.faults.stages import passed_preflight, prepare

ReportPoints = Callable[[int], None]

OLDER_TOOL = b'{"event":"rollback","ok":true}\nrestored on a Sunday\n{"event":"rollback","ok":false}\n'

CONFIGURATION: dict[str, Any] = {
    "root": "pipeline",
    "app": {"name": "demo", "version": "1.0"},
    "gates": {"always": {"command": "true"}},
    "assets": {"state": {"file": "state.txt"}, "extra": {"file": "extra.txt", "required": False}},
    "restart": {"settle": "100ms"},
}

# Interrupted rollbacks, one for each line on stdin: killed at the step of that name, or without space for their audit
# event ("torn"). Each runs in a child, so that the packages are imported once.
INTERRUPTED = """
import json, os, resource, signal, sys
from pathlib import Path
from release_tasks.tasks.project import load_settings
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
settings = load_settings({"release": json.loads(sys.argv[2])}, Path(sys.argv[1]))
with_restart = {**json.loads(sys.argv[2]), "restart": {"command": "true"}}
def run(moment):
    if moment == "torn":
        limit = settings.release.root.joinpath("rollback-audit.log").stat().st_size + 40
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        rollback(settings, RollbackRequest(snapshot_id="nowhere"))
    def progress(step):
        if str(step) == moment:
            os.kill(os.getpid(), signal.SIGKILL)
    rollback(load_settings({"release": with_restart}, Path(sys.argv[1])), RollbackRequest(force=True), progress)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        try:
            run(line.strip())
        finally:
            os._exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@frozen(kw_only=True, slots=False)
class OriginalLog:
    """A log that real stages wrote, its anchors, and copies of the log after each earlier stage."""

    folder: Path
    data: bytes
    anchors: list[tuple[str, AuditAnchor]]
    earlier: list[bytes]

    @property
    def lines(self) -> list[bytes]:
        return self.data.splitlines(keepends=True)

    @functools.cached_property
    def kinds(self) -> list[str]:
        """The kind of each line: the name of an event, ``older`` or ``fragment``."""
        found = [json.loads(line)["event"] if b'"hash"' in line else "" for line in self.lines]
        return [kind or ("older" if index < 3 else "fragment") for index, kind in enumerate(found)]

    def number(self, kind: str) -> int:
        return self.kinds.index(kind) + 1

    @functools.cached_property
    def anchored(self) -> int:
        """The number of the latest record with an anchor outside the log."""
        return max(anchor.seq for _, anchor in self.anchors)

    def covered_with(self, line: int) -> set[int]:
        """Return the lines that a finding may name when ``line`` is altered: all lines that one record covers."""
        kind = self.kinds[line - 1]
        if kind in ("older", "audit.adopted"):
            return set(range(1, self.number("audit.adopted") + 1))
        return {line - 1, line} if kind == "audit.torn" else {line}

    def next_in_chain(self, line: int) -> set[int]:
        """Return the line after ``line`` in the chain; a fragment is part of the chain only by the record after it."""
        following = line + 1
        return {following, following + 1} if self.kinds[line:following] == ["fragment"] else {following}


@contextlib.contextmanager
def interrupting(folder: Path) -> Iterator[Callable[[str], int]]:
    """Yield a function that interrupts a rollback at a step and returns its exit code."""
    command = [sys.executable, "-c", INTERRUPTED, str(folder), json.dumps(CONFIGURATION)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None

        def interrupt(moment: str) -> int:
            assert process.stdin is not None and process.stdout is not None
            print(moment, file=process.stdin, flush=True)
            return int(process.stdout.readline())

        yield interrupt
        process.stdin.close()


def write_every_event(folder: Path) -> Iterator[None]:
    """Run the stages one after the other; yields after each."""
    settings = load_settings({"release": CONFIGURATION}, folder)
    state = folder / "state.txt"

    def prepare_release(release_id: str, content: str | None, status: str) -> None:
        state.unlink(missing_ok=True)
        if content is not None:
            state.write_text(content)
        assert prepare(settings, passed_preflight(), release_id).status == status

    def roll_back(snapshot: str | None = None) -> str:
        return rollback(settings, RollbackRequest(snapshot_id=snapshot)).status

    with interrupting(folder) as interrupt:
        prepare_release("v1", "one", "ready")
        yield
        prepare_release("v2", None, "blocked")
        yield
        assert (roll_back(), roll_back()) == ("restored", "noop")
        yield
        assert interrupt("torn") == 7
        with pytest.raises(UsageError):
            roll_back("nowhere")
        prepare_release("v3", "three", "ready")
        yield
        for moment, status in (("stage", "failed"), ("restart", "restored")):
            assert interrupt(moment) == -signal.SIGKILL
            assert recover(settings).status == "discarded"
            event = Pipeline(settings.release.root).audit.verify().events[-1]
            assert (event["event"], event["status"]) == ("rollback.recovered", status)
            yield
        prepare_release("v4", "four", "ready")
        yield
        with pytest.raises(UsageError):
            roll_back("nowhere")
        yield


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> OriginalLog:
    """Return a real log with every kind of event; the last event is after the latest anchor."""
    folder = tmp_path_factory.mktemp("project")
    write_project_files(folder, CONFIGURATION)
    pipeline = Pipeline(folder / "pipeline")
    pipeline.root.mkdir(mode=0o700)
    pipeline.audit.path.write_bytes(OLDER_TOOL)
    copies = [pipeline.audit.path.read_bytes() for _ in write_every_event(folder)]
    return OriginalLog(folder=folder, data=copies[-1], anchors=pipeline.anchors(), earlier=copies[:-1])


class TamperedLog:
    """A file with any content that is read as the log; counts the readings."""

    def __init__(self, path: Path, anchors: list[tuple[str, AuditAnchor]]) -> None:
        self.log = AuditLog(path)
        self.anchors = anchors
        self.readings = 0
        path.touch()

    def read(self, data: bytes, anchors: list[tuple[str, AuditAnchor]] | None = None) -> AuditVerdict:
        self.readings += 1
        with self.log.path.open("r+b", buffering=0) as file:
            os.pwrite(file.fileno(), data, 0)
            os.ftruncate(file.fileno(), len(data))
        return self.log.verify(self.anchors if anchors is None else anchors)

    def named(self, data: bytes) -> set[int]:
        """Return the lines that the findings name; fails when nothing is found."""
        verdict = self.read(data)
        assert not verdict.intact
        return lines_named(verdict)


def lines_named(verdict: AuditVerdict) -> set[int]:
    runs = (range(f.line, max(f.line, f.last) + 1) for f in verdict.problems if f.line)
    return {line for run in runs for line in run}


@pytest.fixture
def tampered(original: OriginalLog, tmp_path: Path) -> TamperedLog:
    """Return a file for altered copies of the original log."""
    return TamperedLog(tmp_path / "rollback-audit.log", original.anchors)


def joined(lines: list[bytes]) -> bytes:
    return b"".join(lines)


@pytest.mark.slow
def test_original_log_is_intact_and_has_every_kind_of_event(original: OriginalLog, tampered: TamperedLog) -> None:
    """It has at least twelve events, and anchors of every kind."""
    verdict = tampered.read(original.data)
    assert verdict.intact, verdict.problems
    assert [note.line for note in verdict.notes] == [1, original.number("fragment")]
    assert len(verdict.events) >= 12
    found = {(event["event"], event["status"]) for event in verdict.events}
    assert found == {
        ("audit.adopted", "noted"),
        ("audit.torn", "noted"),
        ("prepare.ready", "ready"),
        ("prepare.published", "published"),
        ("snapshot.taken", "taken"),
        ("prepare.blocked", "blocked"),
        ("rollback.started", "in_progress"),
        ("rollback.finished", "restored"),
        ("rollback.finished", "noop"),
        ("rollback.refused", "refused"),
        ("rollback.recovered", "failed"),
        ("rollback.recovered", "restored"),
    }
    assert {source.split()[0] for source, _ in original.anchors} == {"snapshot", "manifest", "the"}
    assert original.anchored == len(verdict.events) - 2


def positions(original: OriginalLog) -> Iterator[tuple[int, int, int]]:
    """Yield every byte with its position and its line."""
    line = 1
    for position, byte in enumerate(original.data):
        yield position, line, byte
        line += byte == 0x0A


def check_change(original: OriginalLog, tampered: TamperedLog, position: int, line: int, other: int) -> None:
    data = bytearray(original.data)
    changes_newline = 0x0A in (data[position], other)
    data[position] = other
    named = tampered.named(bytes(data))
    assert line in named, (position, other, named)
    allowed = original.covered_with(line) | (
        original.next_in_chain(line) | original.next_in_chain(line + 1) if changes_newline else set()
    )
    assert named <= allowed, (position, other, line, named)


def test_changed_byte_is_found_with_its_line(original: OriginalLog, tampered: TamperedLog) -> None:
    """All newlines and a sample of the other bytes; the slow tests change every byte."""
    chooser = random.Random(3)
    for position, line, byte in positions(original):
        if byte == 0x0A or chooser.random() < 0.08:
            check_change(original, tampered, position, line, byte ^ chooser.randrange(1, 256))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("change", ["one bit", "newline"])
def test_every_changed_byte_is_found_with_its_line(
    original: OriginalLog, tampered: TamperedLog, report_points: ReportPoints, change: str
) -> None:
    """Each byte is changed twice: one bit is flipped, and it becomes a newline (a newline becomes another byte)."""
    for position, line, byte in positions(original):
        other = byte ^ (1 << position % 8) if change == "one bit" else 0x0A if byte != 0x0A else 0x0D
        check_change(original, tampered, position, line, other)
    report_points(tampered.readings)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_byte_of_a_line_changed_to_every_other_byte_is_found(
    original: OriginalLog, tampered: TamperedLog, report_points: ReportPoints
) -> None:
    """All 255 other values of each byte: in a line of an older tool, and in a log of one refused rollback."""
    head = evolve(original, data=joined(original.lines[: original.number("audit.adopted")]))
    log = AuditLog(tampered.log.path.with_name("refused") / "rollback-audit.log")
    settings = load_settings({"release": {**CONFIGURATION, "root": str(log.path.parent)}}, original.folder)
    with pytest.raises(UsageError):
        rollback(settings, RollbackRequest(snapshot_id="nowhere"))
    tampered.anchors = []
    for short in (head, evolve(original, data=log.path.read_bytes())):
        for position, line, byte in positions(short):
            for other in range(256) if line == 1 else ():
                if other != byte:
                    check_change(short, tampered, position, line, other)
    report_points(tampered.readings)


def test_inserted_or_removed_byte_is_found_with_its_line(original: OriginalLog, tampered: TamperedLog) -> None:
    """One byte more or less at any position; only the last newline may be missing after a crash."""
    chooser = random.Random(4)
    for position, line, byte in positions(original):
        if byte != 0x0A and chooser.random() > 0.04:
            continue
        allowed = original.covered_with(line) | original.next_in_chain(line) | original.next_in_chain(line + 1)
        shorter = original.data[:position] + original.data[position + 1 :]
        if position < len(original.data) - 1:
            assert line in tampered.named(shorter) <= allowed
        longer = original.data[:position] + bytes([chooser.choice(b' \n0"}')]) + original.data[position:]
        named = tampered.named(longer)
        assert named & {line, line + 1} and named <= allowed, (position, named)


def test_removed_line_is_found_at_its_position(original: OriginalLog, tampered: TamperedLog) -> None:
    """The finding names the first record after the gap, or the lines that the missing record covered."""
    for line, kind in enumerate(original.kinds, start=1):
        if line == len(original.lines):
            continue  # the last event is after the latest anchor: see the tests of changes that cannot be found
        lines = original.lines
        del lines[line - 1]
        expected = {line}
        if kind in ("older", "audit.adopted"):
            expected = set(range(1, original.number("audit.adopted") - (kind == "older")))
        elif kind == "audit.torn":
            expected = {line - 1}
        elif original.kinds[line] == "fragment":
            expected = {line + 1}
        assert tampered.named(joined(lines)) == expected, (line, kind)


def test_doubled_line_is_found_at_its_copy(original: OriginalLog, tampered: TamperedLog) -> None:
    """The finding names the copy; of two equal fragments the record covers the second."""
    for line, kind in enumerate(original.kinds, start=1):
        lines = original.lines
        lines.insert(line, lines[line - 1])
        expected = {line + 1}
        if kind == "older":
            expected = set(range(1, original.number("audit.adopted") + 1))
        elif kind == "fragment":
            expected = {line}
        assert tampered.named(joined(lines)) == expected, (line, kind)


def test_swapped_lines_are_found_at_their_positions(
    original: OriginalLog, tampered: TamperedLog, report_points: ReportPoints
) -> None:
    """Every pair: findings name the two positions or the next lines in the chain, and no other line."""
    count = len(original.lines)
    for first in range(1, count + 1):
        for second in range(first + 1, count + 1):
            lines = original.lines
            lines[first - 1], lines[second - 1] = lines[second - 1], lines[first - 1]
            named = tampered.named(joined(lines))
            near = {first, second} | original.next_in_chain(first) | original.next_in_chain(second)
            allowed = {line for position in near if position <= count for line in original.covered_with(position)}
            assert named <= allowed and named & original.covered_with(first), (first, second, named)
    report_points(tampered.readings)


@pytest.fixture
def foreign_lines(tmp_path: Path) -> list[bytes]:
    """Return the lines of another intact chain, and lines of no chain."""
    other = AuditLog(tmp_path / "other.log")
    for number in range(20):
        other.append("rollback.finished", status="restored", detail=f"nicer {number}")
    return [*other.path.read_bytes().splitlines(keepends=True), b"\n", b"{}\n", b"\xff\x00\n", b"all is well\n"]


@pytest.mark.slow
def test_inserted_line_is_found_at_its_position(
    original: OriginalLog, tampered: TamperedLog, foreign_lines: list[bytes], report_points: ReportPoints
) -> None:
    """Lines of the same log, of another chain and of no chain: at every position the finding names only that line."""
    adopted, fragment = original.number("audit.adopted"), original.number("fragment")
    for position in range(1, len(original.lines) + 2):
        for inserted in [*original.lines, *foreign_lines]:
            lines = original.lines
            lines.insert(position - 1, inserted)
            named = tampered.named(joined(lines))
            if position <= adopted:
                assert named and named <= set(range(1, adopted + 2)), (position, inserted, named)
            elif position == fragment + 1:  # between a fragment and its record
                assert named and named <= {position - 1, position, position + 1, position + 2}, (
                    position,
                    inserted,
                    named,
                )
            elif inserted in lines[position : position + 2]:  # of two equal lines the second is the copy
                assert named and named <= {position, position + 1, position + 2}, (position, inserted, named)
            else:
                assert named == {position}, (position, inserted, named)
    report_points(tampered.readings)


def test_forged_record_that_skips_a_number_is_found(original: OriginalLog, tampered: TamperedLog) -> None:
    """Its two hashes are correct; its number shows that a record is missing."""
    last = json.loads(original.lines[-1])
    forged = {**last, "seq": last["seq"] + 2, "prev": last["hash"]}
    del forged["hash"]
    forged["hash"] = sha256_bytes(canonical_bytes(forged))
    assert tampered.named(original.data + canonical_bytes(forged) + b"\n") == {len(original.lines) + 1}


def check_tail_cut(original: OriginalLog, tampered: TamperedLog, length: int) -> None:
    """Cut the file after ``length`` bytes, and check that every anchor of a missing record gives a finding."""
    verdict = tampered.read(original.data[:length])
    last = max((event["seq"] for event in verdict.events), default=0)
    missing = {(source, anchor.seq) for source, anchor in original.anchors if anchor.seq > last}
    messages = [finding.what for finding in verdict.problems if not finding.line]
    assert len(messages) == len(missing)
    for source, seq in missing:
        assert f"the end of the log is missing: {source} was written after record {seq}" in messages
    assert verdict.intact is not bool(missing)


def test_log_cut_at_a_line_is_found_by_every_anchor(original: OriginalLog, tampered: TamperedLog) -> None:
    """Cut at each line end, one byte before and one after it: the finding names the record and its anchors."""
    end = 0
    for line in original.lines:
        end += len(line)
        for length in (end - 1, end, end + 1):
            check_tail_cut(original, tampered, min(length, len(original.data)))
    check_tail_cut(original, tampered, 0)


@pytest.mark.slow
def test_log_cut_at_any_byte_is_found_by_every_anchor(
    original: OriginalLog, tampered: TamperedLog, report_points: ReportPoints
) -> None:
    """Every length of the file."""
    for length in range(len(original.data)):
        check_tail_cut(original, tampered, length)
    report_points(tampered.readings)


def check_head_cut(original: OriginalLog, tampered: TamperedLog, length: int) -> None:
    named = tampered.named(original.data[length:])
    assert not named or min(named) <= 2, (length, named)
    assert named <= {1, 2} | original.covered_with(1), (length, named)


def test_log_without_its_first_lines_is_found_at_its_start(original: OriginalLog, tampered: TamperedLog) -> None:
    """Cut before each line, one byte before and one after: the first remaining record does not start a chain."""
    end = 0
    for line in original.lines:
        end += len(line)
        for length in (end - 1, end, end + 1):
            check_head_cut(original, tampered, min(length, len(original.data)))


@pytest.mark.slow
def test_log_without_its_first_bytes_is_found_at_its_start(
    original: OriginalLog, tampered: TamperedLog, report_points: ReportPoints
) -> None:
    """Every number of missing bytes."""
    for length in range(1, len(original.data)):
        check_head_cut(original, tampered, length)
    report_points(tampered.readings)


@pytest.mark.parametrize("anchor_source", ["snapshot", "manifest", "the rollback state"])
def test_replacement_by_an_earlier_copy_is_found_by_each_kind_of_anchor(
    original: OriginalLog, tampered: TamperedLog, anchor_source: str
) -> None:
    """Snapshots, manifests and the rollback state each suffice, if they are later than the copy."""
    anchors = [(source, anchor) for source, anchor in original.anchors if source.startswith(anchor_source)]
    found = 0
    for copy in original.earlier:
        verdict = tampered.read(copy, anchors)
        newer = [source for source, anchor in anchors if anchor.seq > verdict.events[-1]["seq"]]
        assert verdict.intact is not bool(newer)
        for source, finding in zip(newer, verdict.problems, strict=True):
            assert source in str(finding) and "the end of the log is missing" in str(finding)
        found += bool(newer)
    assert found


def test_replacement_by_an_earlier_copy_is_found_after_new_events(original: OriginalLog, tampered: TamperedLog) -> None:
    """New events get the numbers of the missing events, and other hashes."""
    assert len(original.earlier) > 4
    for copy in original.earlier[:-1]:  # the last copy contains all anchored records
        tampered.read(copy)
        reached = 0
        while reached <= original.anchored:
            reached = tampered.log.append("rollback.refused", status="refused", detail="after the replacement").seq
        verdict = tampered.log.verify(original.anchors)
        last = max(event["seq"] for event in AuditLog(tampered.log.path).verify().events)
        kept = len(TamperedLog(tampered.log.path.with_name("copy"), []).read(copy).events)
        messages = sorted(finding.what for finding in verdict.problems)
        assert last > original.anchored
        assert messages == sorted(
            f"record {anchor.seq} was replaced: {source} contains another hash of it"
            for source, anchor in original.anchors
            if anchor.seq > kept
        )
        assert messages


def test_removed_log_is_found_before_and_after_the_next_event(original: OriginalLog, tampered: TamperedLog) -> None:
    """Every anchor gives a finding, also when a new chain has replaced the log."""
    tampered.log.path.unlink()
    assert len(tampered.log.verify(original.anchors).problems) == len(original.anchors)
    tampered.log.append("rollback.refused", status="refused")
    assert len(tampered.log.verify(original.anchors).problems) == len(original.anchors)


def test_altered_record_is_not_reported_as_a_log_cut_short(original: OriginalLog, tampered: TamperedLog) -> None:
    """The anchor of an altered record reports that the record is gone; the end of the log is not missing."""
    for source, anchor in original.anchors:
        line = next(n for n, text in enumerate(original.lines, 1) if f'"seq":{anchor.seq},'.encode() in text)
        lines = original.lines[:-1]  # so that one anchored record is the last
        lines[line - 1] = lines[line - 1].replace(b'"seq"', b'"Seq"')
        messages = [str(finding) for finding in tampered.read(joined(lines)).problems]
        assert f"line {line}: altered, or not a record of this log" in messages
        assert f"record {anchor.seq} is missing: {source} was written after it" in messages
        assert not any("the end of the log is missing" in message for message in messages)


def test_events_after_the_latest_anchor_can_be_removed_unnoticed(original: OriginalLog, tampered: TamperedLog) -> None:
    """By design: the chain does not record its end, and the last event has no anchor."""
    lines = original.lines
    assert original.kinds[-1] == "rollback.refused"
    assert tampered.read(joined(lines[:-1])).intact
    half = tampered.read(original.data[: -len(lines[-1]) // 2])
    assert half.intact
    assert [note.line for note in half.notes][-1] == len(lines)


def test_missing_last_newline_is_not_a_finding(original: OriginalLog, tampered: TamperedLog) -> None:
    """By design: it may be missing after a crash, the record is complete, and the next event adds it."""
    verdict = tampered.read(original.data[:-1])
    assert verdict.intact
    assert len(verdict.events) == len(tampered.read(original.data).events)
    assert verdict.notes == tampered.read(original.data).notes


def test_unfinished_line_can_be_changed_until_the_next_event(original: OriginalLog, tampered: TamperedLog) -> None:
    """By design: only the next event records the fragment of a crash; no record is lost."""
    fragment = original.lines[-1][:50]
    whole = joined(original.lines[:-1])
    assert tampered.read(whole + fragment).intact
    assert tampered.read(whole + fragment.swapcase()).intact


@pytest.mark.parametrize("more", [b"x", b" ", b"\r", b"}", b"\0"])
def test_complete_record_with_extra_bytes_is_not_a_torn_line(
    original: OriginalLog, tampered: TamperedLog, more: bytes
) -> None:
    """A crash leaves the start of a line; a changed last newline is tampering, also after the next event."""
    changed = original.data[:-1] + more
    assert tampered.named(changed) == {len(original.lines)}
    tampered.log.append("rollback.refused", status="refused")
    verdict = tampered.log.verify(original.anchors)
    assert lines_named(verdict) == {len(original.lines)}
    assert verdict.events[-2]["event"] == "audit.foreign"


def test_line_of_an_older_tool_without_newline_is_adopted(tampered: TamperedLog) -> None:
    """A complete object is not torn, and before the first record it is not foreign."""
    tampered.read(OLDER_TOOL.splitlines()[0], [])
    tampered.log.append("rollback.refused", status="refused")
    verdict = tampered.log.verify()
    assert verdict.intact
    assert [event["event"] for event in verdict.events] == ["audit.adopted", "rollback.refused"]


def test_crash_while_a_torn_line_is_recorded_is_not_tampering(original: OriginalLog, tampered: TamperedLog) -> None:
    """The record of the fragment is valid without its newline and without the event after it."""
    end = original.number("audit.torn")
    whole = joined(original.lines[:end])
    assert tampered.read(whole[:-1], []).intact
    tampered.log.append("rollback.refused", status="refused")
    verdict = tampered.log.verify()
    assert verdict.intact and len(verdict.notes) == 2
    tampered.read(whole + b'{"actor":"ro', [])
    tampered.log.append("rollback.refused", status="refused")
    verdict = tampered.log.verify()
    assert verdict.intact and len(verdict.notes) == 3


class AuditCommand:
    """``inv release.audit`` in the project of the original log."""

    def __init__(self, original: OriginalLog) -> None:
        self.folder = original.folder
        self.log = original.folder / "pipeline" / "rollback-audit.log"

    def run(self, data: bytes | None, *flags: str) -> subprocess.CompletedProcess[str]:
        """Replace the log by ``data`` (None: remove it) and run the command."""
        self.log.unlink(missing_ok=True)
        if data is not None:
            self.log.write_bytes(data)
        return run_inv(self.folder, "release.audit", *flags)


@pytest.fixture
def audit_command(original: OriginalLog) -> Iterator[AuditCommand]:
    """Return the command in the project of the original log; the log is restored after the test."""
    command = AuditCommand(original)
    yield command
    command.log.write_bytes(original.data)


def altered(original: OriginalLog) -> tuple[bytes, str]:
    """Return the log with one altered event, and the message that names its line."""
    number = next(n for n, text in enumerate(original.lines, 1) if b'"noop"' in text)
    data = original.data.replace(b'"status":"noop"', b'"status":"nope"')
    assert data != original.data
    return data, f"line {number}: altered, or not a record of this log"


def test_inv_names_the_altered_line_and_ends_with_1(original: OriginalLog, audit_command: AuditCommand) -> None:
    """The output for people contains the verdict and the line."""
    data, message = altered(original)
    done = audit_command.run(data)
    assert done.returncode == 1
    assert message in done.stdout
    assert "BROKEN" in done.stdout and "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("change", ["altered", "removed", "doubled", "inserted", "cut", "earlier", "gone", "unchanged"])
def test_inv_ends_with_1_for_every_kind_of_tampering(
    original: OriginalLog, audit_command: AuditCommand, change: str
) -> None:
    """The text and the JSON name the line, or the record and its anchor; an unchanged log ends with 0."""
    line, lines = original.number("prepare.blocked"), original.lines
    cut_short = f"the end of the log is missing: manifest v4 was written after record {original.anchored}"
    data, message = {
        "altered": altered(original),
        "removed": (joined(lines[: line - 1] + lines[line:]), f"line {line}: record"),
        "doubled": (joined([*lines[:line], lines[line - 1], *lines[line:]]), f"line {line + 1}: record"),
        "inserted": (
            joined([*lines[:line], b"all is well\n", *lines[line:]]),
            f"line {line + 1}: altered",
        ),
        "cut": (joined(lines[:line]), cut_short),
        "earlier": (original.earlier[0], cut_short),
        "gone": (None, cut_short),
        "unchanged": (original.data, "incomplete line, left by a crash and recorded since"),
    }[change]
    code = 0 if change == "unchanged" else 1
    done = audit_command.run(data)
    assert done.returncode == code
    assert message in " ".join(done.stdout.split())
    done = audit_command.run(data, "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, document["status"]) == (code, "broken" if code else "intact")
    assert any(message in entry for entry in document["problems" if code else "notes"])


class SetAttribute(Protocol):
    """Set an attribute of a file with chattr: ``a`` (append-only) or ``i`` (immutable)."""

    def __call__(self, path: Path, attribute: str) -> None: ...


@pytest.fixture
def set_attribute(tmp_path: Path) -> Iterator[SetAttribute]:
    """Return a function that sets an attribute of a file; the attribute is removed after the test."""
    made: list[tuple[Path, str]] = []

    def set_one(path: Path, attribute: str) -> None:
        if os.geteuid() != 0:
            pytest.skip("NOT TESTED: the attributes of chattr need root")
        try:
            done = subprocess.run(["chattr", f"+{attribute}", str(path)], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("NOT TESTED: there is no chattr here (Debian: apt install e2fsprogs)")
        if done.returncode != 0:
            pytest.skip(f"NOT TESTED: this filesystem has no attributes: {done.stderr.strip()}")
        made.append((path, attribute))

    yield set_one
    for path, attribute in made:
        subprocess.run(["chattr", f"-{attribute}", str(path)], check=True)


@pytest.mark.root
@pytest.mark.slow
def test_every_stage_works_on_an_append_only_log(tmp_path: Path, set_attribute: SetAttribute) -> None:
    """Prepare, rollback and recover, also after kills and a torn line, never rewrite a byte."""
    pipeline = Pipeline(tmp_path / "pipeline")
    pipeline.root.mkdir(mode=0o700)
    pipeline.audit.path.write_bytes(OLDER_TOOL)
    set_attribute(pipeline.audit.path, "a")
    before = OLDER_TOOL
    for _ in write_every_event(tmp_path):
        now = pipeline.audit.path.read_bytes()
        assert now.startswith(before) and len(now) > len(before)
        before = now
    verdict = pipeline.audit.verify(pipeline.anchors())
    assert verdict.intact and len(verdict.events) >= 12
    with pytest.raises(PermissionError):
        pipeline.audit.path.write_bytes(b"")


@pytest.mark.root
def test_immutable_log_can_be_verified(
    original: OriginalLog, tampered: TamperedLog, set_attribute: SetAttribute
) -> None:
    """To verify the log needs read access only, as on a read-only disk."""
    tampered.read(original.data)
    set_attribute(tampered.log.path, "i")
    assert tampered.log.verify(original.anchors).intact
    anchor = tampered.log.anchor()
    assert anchor is not None and anchor.seq == original.anchored + 2
