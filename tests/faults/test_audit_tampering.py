"""Tampering with a log that real stages wrote: every change is found, and the finding names the line.

The log holds an older tool's lines, a line that was torn and set aside, and an event of every kind. What no reader
could find is asserted as such.
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
from typing import Any

import pytest
from attrs import evolve, frozen

import release_tasks
from release_tasks.archive.pipeline import Pipeline
from release_tasks.core.audit import AuditLog, AuditVerdict
from release_tasks.core.canonical import canonical_bytes
from release_tasks.core.digests import sha256_bytes
from release_tasks.core.errors import UsageError
from release_tasks.core.records import AuditAnchor, PreflightReport
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.stages.rollback.recovery import recover
from release_tasks.tasks.project import load_settings
from tests.support.faults.stages import prepare

Tried = Callable[[int], None]

OLDER_TOOL = b'{"event":"rollback","ok":true}\nrestored by hand on a Sunday\n{"event":"rollback","ok":false}\n'

CONFIGURATION: dict[str, Any] = {
    "root": "pipeline",
    "app": {"name": "demo", "version": "1.0"},
    "gates": {"always": {"command": "true"}},
    "assets": {"state": {"file": "state.txt"}, "extra": {"file": "extra.txt", "required": False}},
    "restart": {"settle": "100ms"},
}

# Rollbacks that end in the middle, one for each line on stdin: killed when they say that word, or out of room for their
# audit event ("torn"). Each runs in a child, so that the packages are imported once.
BROKEN_OFF = """
import json, os, resource, signal, sys
from pathlib import Path
from release_tasks.tasks.project import load_settings
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
settings = load_settings({"release": json.loads(sys.argv[2])}, Path(sys.argv[1]))
restarting = {**json.loads(sys.argv[2]), "restart": {"command": "true"}}
def run(moment):
    if moment == "torn":
        limit = settings.release.root.joinpath("rollback-audit.log").stat().st_size + 40
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        rollback(settings, RollbackRequest(snapshot_id="nowhere"))
    def progress(step):
        if str(step) == moment:
            os.kill(os.getpid(), signal.SIGKILL)
    rollback(load_settings({"release": restarting}, Path(sys.argv[1])), RollbackRequest(force=True), progress)
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
class Record:
    """A log as real stages left it, what witnesses it, and copies of it from every moment before."""

    folder: Path
    data: bytes
    anchors: list[tuple[str, AuditAnchor]]
    earlier: list[bytes]

    @property
    def lines(self) -> list[bytes]:
        return self.data.splitlines(keepends=True)

    @functools.cached_property
    def kinds(self) -> list[str]:
        """What stands on each line: an event's name, ``older`` or ``fragment``."""
        found = [json.loads(line)["event"] if b'"hash"' in line else "" for line in self.lines]
        return [kind or ("older" if index < 3 else "fragment") for index, kind in enumerate(found)]

    def number(self, kind: str) -> int:
        return self.kinds.index(kind) + 1

    @functools.cached_property
    def anchored(self) -> int:
        """The newest record that something outside the log bears witness to."""
        return max(anchor.seq for _, anchor in self.anchors)

    def reach(self, line: int) -> set[int]:
        """The lines that cannot be told from ``line`` when it is altered: what one record vouches for, as a whole."""
        kind = self.kinds[line - 1]
        if kind in ("older", "audit.adopted"):
            return set(range(1, self.number("audit.adopted") + 1))
        return {line - 1, line} if kind == "audit.torn" else {line}

    def after(self, line: int) -> set[int]:
        """Where the chain goes on after ``line``; a fragment stands in the chain by the record after it alone."""
        following = line + 1
        return {following, following + 1} if self.kinds[line:following] == ["fragment"] else {following}


@contextlib.contextmanager
def breaking_off(folder: Path) -> Iterator[Callable[[str], int]]:
    """Return a function that breaks a rollback off at a moment and returns its exit code."""
    command = [sys.executable, "-c", BROKEN_OFF, str(folder), json.dumps(CONFIGURATION)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None

        def break_off(moment: str) -> int:
            assert process.stdin is not None and process.stdout is not None
            print(moment, file=process.stdin, flush=True)
            return int(process.stdout.readline())

        yield break_off
        process.stdin.close()


def write_every_event(folder: Path) -> Iterator[None]:
    """Run the stages one after the other; yields after each."""
    settings = load_settings({"release": CONFIGURATION}, folder)
    passed = PreflightReport(passed=True, checks=[], failed_checks=[])
    state = folder / "state.txt"

    def prepare_release(release_id: str, content: str | None, status: str) -> None:
        state.unlink(missing_ok=True)
        if content is not None:
            state.write_text(content)
        assert prepare(settings, passed, release_id).status == status

    def roll(snapshot: str | None = None) -> str:
        return rollback(settings, RollbackRequest(snapshot_id=snapshot)).status

    with breaking_off(folder) as break_off:
        yield prepare_release("v1", "one", "ready")
        yield prepare_release("v2", None, "blocked")
        assert (roll(), roll()) == ("restored", "noop")
        yield
        assert break_off("torn") == 7
        with pytest.raises(UsageError):
            roll("nowhere")
        yield prepare_release("v3", "three", "ready")
        for moment, status in (("stage", "failed"), ("restart", "restored")):
            assert break_off(moment) == -signal.SIGKILL
            assert recover(settings).status == "discarded"
            event = Pipeline(settings.release.root).audit.verify().events[-1]
            assert (event["event"], event["status"]) == ("rollback.recovered", status)
            yield
        yield prepare_release("v4", "four", "ready")
        with pytest.raises(UsageError):
            roll("nowhere")
        yield


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """Return a real log of every kind of event, its last one beyond the newest anchor."""
    folder = tmp_path_factory.mktemp("theirs")
    (folder / "tasks.py").write_text("from release_tasks import ns\n")
    configuration = {"tasks": {"executor_class": "release_tasks.executor.StageExecutor"}, "release": CONFIGURATION}
    (folder / "invoke.yaml").write_text(json.dumps(configuration))
    pipeline = Pipeline(folder / "pipeline")
    pipeline.root.mkdir(mode=0o700)
    pipeline.audit.path.write_bytes(OLDER_TOOL)
    copies = [pipeline.audit.path.read_bytes() for _ in write_every_event(folder)]
    return Record(folder=folder, data=copies[-1], anchors=pipeline.anchors(), earlier=copies[:-1])


class Specimen:
    """One file that is given any content and read as the log, and counts how often."""

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
        """The lines that the findings name; fails when nothing is found."""
        verdict = self.read(data)
        assert not verdict.intact
        return lines_named(verdict)


def lines_named(verdict: AuditVerdict) -> set[int]:
    runs = (range(f.line, max(f.line, f.last) + 1) for f in verdict.problems if f.line)
    return {line for run in runs for line in run}


@pytest.fixture
def specimen(record: Record, tmp_path: Path) -> Specimen:
    """Return a file to lay altered copies of the record in."""
    return Specimen(tmp_path / "rollback-audit.log", record.anchors)


def joined(lines: list[bytes]) -> bytes:
    return b"".join(lines)


def test_the_record_holds_every_kind_of_event_and_is_intact(record: Record, specimen: Specimen) -> None:
    """What the other tests tamper with is a whole log: at least twelve events, all kinds, anchors of all kinds."""
    verdict = specimen.read(record.data)
    assert verdict.intact, verdict.problems
    assert [note.line for note in verdict.notes] == [1, record.number("fragment")]
    assert len(verdict.events) >= 12
    told = {(event["event"], event["status"]) for event in verdict.events}
    assert told == {
        ("audit.adopted", "noted"),
        ("audit.torn", "noted"),
        ("prepare.ready", "ready"),
        ("prepare.blocked", "blocked"),
        ("rollback.started", "in_progress"),
        ("rollback.finished", "restored"),
        ("rollback.finished", "noop"),
        ("rollback.refused", "refused"),
        ("rollback.recovered", "failed"),
        ("rollback.recovered", "restored"),
    }
    assert {source.split()[0] for source, _ in record.anchors} == {"snapshot", "manifest", "the"}
    assert record.anchored == len(verdict.events) - 1


def positions(record: Record) -> Iterator[tuple[int, int, int]]:
    """Every byte: its position, the line that it belongs to, and itself."""
    line = 1
    for position, byte in enumerate(record.data):
        yield position, line, byte
        line += byte == 0x0A


def check_change(record: Record, specimen: Specimen, position: int, line: int, other: int) -> None:
    data = bytearray(record.data)
    touches_newline = 0x0A in (data[position], other)
    data[position] = other
    named = specimen.named(bytes(data))
    assert line in named, (position, other, named)
    reach = record.reach(line) | (record.after(line) | record.after(line + 1) if touches_newline else set())
    assert named <= reach, (position, other, line, named)


def test_a_changed_byte_is_found_and_its_line_is_named(record: Record, specimen: Specimen) -> None:
    """A sample over the whole file, every newline among it; the slow tests do every byte."""
    chance = random.Random(3)
    for position, line, byte in positions(record):
        if byte == 0x0A or chance.random() < 0.08:
            check_change(record, specimen, position, line, byte ^ chance.randrange(1, 256))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("change", ["one bit", "newline"])
def test_every_changed_byte_is_found_and_its_line_is_named(
    record: Record, specimen: Specimen, tried: Tried, change: str
) -> None:
    """Each position, once with one of its bits turned and once made a newline, or a newline made something else."""
    for position, line, byte in positions(record):
        other = byte ^ (1 << position % 8) if change == "one bit" else 0x0A if byte != 0x0A else 0x0D
        check_change(record, specimen, position, line, other)
    tried(specimen.readings)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_byte_of_a_line_changed_to_every_other_is_found(record: Record, specimen: Specimen, tried: Tried) -> None:
    """All 255 others at each position: of an older tool's line, and of a log that is one refused rollback."""
    head = evolve(record, data=joined(record.lines[: record.number("audit.adopted")]))
    log = AuditLog(specimen.log.path.with_name("refused") / "rollback-audit.log")
    settings = load_settings({"release": {**CONFIGURATION, "root": str(log.path.parent)}}, record.folder)
    with pytest.raises(UsageError):
        rollback(settings, RollbackRequest(snapshot_id="nowhere"))
    specimen.anchors = []
    for short in (head, evolve(record, data=log.path.read_bytes())):
        for position, line, byte in positions(short):
            for other in range(256) if line == 1 else ():
                if other != byte:
                    check_change(short, specimen, position, line, other)
    tried(specimen.readings)


def test_a_byte_put_in_or_taken_out_is_found_and_its_line_is_named(record: Record, specimen: Specimen) -> None:
    """One byte more or less anywhere; only a last newline can be missing by a crash."""
    chance = random.Random(4)
    for position, line, byte in positions(record):
        if byte != 0x0A and chance.random() > 0.04:
            continue
        reach = record.reach(line) | record.after(line) | record.after(line + 1)
        shorter = record.data[:position] + record.data[position + 1 :]
        if position < len(record.data) - 1:
            assert line in specimen.named(shorter) <= reach
        longer = record.data[:position] + bytes([chance.choice(b' \n0"}')]) + record.data[position:]
        named = specimen.named(longer)
        assert named & {line, line + 1} and named <= reach, (position, named)


def test_each_line_removed_is_found_where_it_stood(record: Record, specimen: Specimen) -> None:
    """The finding names the first record after the gap, or what the missing record had vouched for."""
    for line, kind in enumerate(record.kinds, start=1):
        if line == len(record.lines):
            continue  # the last one lies beyond the newest anchor: see the tests of what is not found
        lines = record.lines
        del lines[line - 1]
        expected = {line}
        if kind in ("older", "audit.adopted"):
            expected = set(range(1, record.number("audit.adopted") - (kind == "older")))
        elif kind == "audit.torn":
            expected = {line - 1}
        elif record.kinds[line] == "fragment":
            expected = {line + 1}
        assert specimen.named(joined(lines)) == expected, (line, kind)


def test_each_line_doubled_is_found_where_it_stands_again(record: Record, specimen: Specimen) -> None:
    """The copy is named; of two equal fragments the second is the one that its record vouches for."""
    for line, kind in enumerate(record.kinds, start=1):
        lines = record.lines
        lines.insert(line, lines[line - 1])
        expected = {line + 1}
        if kind == "older":
            expected = set(range(1, record.number("audit.adopted") + 1))
        elif kind == "fragment":
            expected = {line}
        assert specimen.named(joined(lines)) == expected, (line, kind)


def test_any_two_lines_swapped_are_found_where_they_stood(record: Record, specimen: Specimen, tried: Tried) -> None:
    """Every pair; findings name the two places, or the line after them where the chain goes on, and nothing else."""
    count = len(record.lines)
    for first in range(1, count + 1):
        for second in range(first + 1, count + 1):
            lines = record.lines
            lines[first - 1], lines[second - 1] = lines[second - 1], lines[first - 1]
            named = specimen.named(joined(lines))
            near = {first, second} | record.after(first) | record.after(second)
            reach = {line for place in near if place <= count for line in record.reach(place)}
            assert named <= reach and named & record.reach(first), (first, second, named)
    tried(specimen.readings)


@pytest.fixture
def foreign_lines(tmp_path: Path) -> list[bytes]:
    """Return the lines of another, whole chain, and lines that are none of any."""
    other = AuditLog(tmp_path / "other.log")
    for number in range(20):
        other.append("rollback.finished", status="restored", detail=f"nicer {number}")
    return [*other.path.read_bytes().splitlines(keepends=True), b"\n", b"{}\n", b"\xff\x00\n", b"all is well\n"]


@pytest.mark.slow
def test_any_line_inserted_anywhere_is_found_where_it_stands(
    record: Record, specimen: Specimen, foreign_lines: list[bytes], tried: Tried
) -> None:
    """The log's own lines, those of another chain, garbage: at every place the inserted line alone is named."""
    adopted, fragment = record.number("audit.adopted"), record.number("fragment")
    for place in range(1, len(record.lines) + 2):
        for inserted in [*record.lines, *foreign_lines]:
            lines = record.lines
            lines.insert(place - 1, inserted)
            named = specimen.named(joined(lines))
            if place <= adopted:
                assert named and named <= set(range(1, adopted + 2)), (place, inserted, named)
            elif place == fragment + 1:  # between a fragment and the record that vouches for it
                assert named and named <= {place - 1, place, place + 1, place + 2}, (place, inserted, named)
            elif inserted in lines[place : place + 2]:  # of two equal lines the second is the copy
                assert named and named <= {place, place + 1, place + 2}, (place, inserted, named)
            else:
                assert named == {place}, (place, inserted, named)
    tried(specimen.readings)


def test_a_forged_record_that_leaves_out_a_number_is_found(record: Record, specimen: Specimen) -> None:
    """It has the hash of the one before and a right one of its own; its number says that one is missing."""
    last = json.loads(record.lines[-1])
    forged = {**last, "seq": last["seq"] + 2, "prev": last["hash"]}
    del forged["hash"]
    forged["hash"] = sha256_bytes(canonical_bytes(forged))
    assert specimen.named(record.data + canonical_bytes(forged) + b"\n") == {len(record.lines) + 1}


def check_tail_cut(record: Record, specimen: Specimen, length: int) -> None:
    """Cut the file after ``length`` bytes: everything that saw a record that is gone says so."""
    verdict = specimen.read(record.data[:length])
    kept = max((event["seq"] for event in verdict.events), default=0)
    missing = {(source, anchor.seq) for source, anchor in record.anchors if anchor.seq > kept}
    told = [finding.what for finding in verdict.problems if not finding.line]
    assert len(told) == len(missing)
    for source, seq in missing:
        assert f"the end of the log is missing: {source} was written after record {seq}" in told
    assert verdict.intact is not bool(missing)


def test_a_log_cut_at_a_line_is_found_by_every_witness(record: Record, specimen: Specimen) -> None:
    """Cut after each line and a byte before and after it: the finding names the record and who had seen it."""
    end = 0
    for line in record.lines:
        end += len(line)
        for length in (end - 1, end, end + 1):
            check_tail_cut(record, specimen, min(length, len(record.data)))
    check_tail_cut(record, specimen, 0)


@pytest.mark.slow
def test_a_log_cut_at_any_byte_is_found_by_every_witness(record: Record, specimen: Specimen, tried: Tried) -> None:
    """The same at every byte."""
    for length in range(len(record.data)):
        check_tail_cut(record, specimen, length)
    tried(specimen.readings)


def check_head_cut(record: Record, specimen: Specimen, length: int) -> None:
    named = specimen.named(record.data[length:])
    assert not named or min(named) <= 2, (length, named)
    assert named <= {1, 2} | record.reach(1), (length, named)


def test_a_log_without_its_beginning_is_found_at_its_first_lines(record: Record, specimen: Specimen) -> None:
    """Cut before each line and a byte beside it: the first record that is left does not begin a chain."""
    end = 0
    for line in record.lines:
        end += len(line)
        for length in (end - 1, end, end + 1):
            check_head_cut(record, specimen, min(length, len(record.data)))


@pytest.mark.slow
def test_a_log_without_its_first_bytes_is_found_at_its_first_lines(
    record: Record, specimen: Specimen, tried: Tried
) -> None:
    """The same at every byte."""
    for length in range(1, len(record.data)):
        check_head_cut(record, specimen, length)
    tried(specimen.readings)


@pytest.mark.parametrize("witness", ["snapshot", "manifest", "the rollback state"])
def test_an_earlier_copy_in_its_place_is_found_by_each_kind_of_witness(
    record: Record, specimen: Specimen, witness: str
) -> None:
    """Snapshots, manifests and the rollback state each find it alone, if they were written after the copy."""
    anchors = [(source, anchor) for source, anchor in record.anchors if source.startswith(witness)]
    found = 0
    for copy in record.earlier:
        verdict = specimen.read(copy, anchors)
        newer = [source for source, anchor in anchors if anchor.seq > verdict.events[-1]["seq"]]
        assert verdict.intact is not bool(newer)
        for source, finding in zip(newer, verdict.problems, strict=True):
            assert source in str(finding) and "the end of the log is missing" in str(finding)
        found += bool(newer)
    assert found


def test_an_earlier_copy_is_found_also_when_the_log_went_on_from_it(record: Record, specimen: Specimen) -> None:
    """New events take the numbers of those that are gone, and do not have their hashes."""
    assert len(record.earlier) > 4
    for copy in record.earlier[:-1]:  # the last one holds all that anything has seen
        specimen.read(copy)
        reached = 0
        while reached <= record.anchored:
            reached = specimen.log.append("rollback.refused", status="refused", detail="as if nothing were").seq
        verdict = specimen.log.verify(record.anchors)
        last = max(event["seq"] for event in AuditLog(specimen.log.path).verify().events)
        kept = len(Specimen(specimen.log.path.with_name("copy"), []).read(copy).events)
        told = sorted(finding.what for finding in verdict.problems)
        assert last > record.anchored
        assert told == sorted(
            f"record {anchor.seq} was replaced: {source} contains another hash of it"
            for source, anchor in record.anchors
            if anchor.seq > kept
        )
        assert told


def test_a_log_that_was_removed_is_found_before_and_after_the_next_event(record: Record, specimen: Specimen) -> None:
    """Every witness says so; a new chain in its place is none that they have seen."""
    specimen.log.path.unlink()
    assert len(specimen.log.verify(record.anchors).problems) == len(record.anchors)
    specimen.log.append("rollback.refused", status="refused")
    assert len(specimen.log.verify(record.anchors).problems) == len(record.anchors)


def test_an_altered_record_is_not_called_a_log_cut_short(record: Record, specimen: Specimen) -> None:
    """Who had seen an altered record says that it is gone; the end of the log is where it was."""
    for source, anchor in record.anchors:
        line = next(n for n, text in enumerate(record.lines, 1) if f'"seq":{anchor.seq},'.encode() in text)
        lines = record.lines[:-1]  # so that one of them is the last
        lines[line - 1] = lines[line - 1].replace(b'"seq"', b'"Seq"')
        told = [str(finding) for finding in specimen.read(joined(lines)).problems]
        assert f"line {line}: altered, or not a record of this log" in told
        assert f"record {anchor.seq} is missing: {source} was written after it" in told
        assert not any("the end of the log is missing" in sentence for sentence in told)


def test_what_follows_the_newest_anchor_can_be_cut_off_unseen(record: Record, specimen: Specimen) -> None:
    """By design: a chain says nothing of its own end, and nothing else has seen the last event."""
    lines = record.lines
    assert record.kinds[-1] == "rollback.refused"
    assert specimen.read(joined(lines[:-1])).intact
    half = specimen.read(record.data[: -len(lines[-1]) // 2])
    assert half.intact
    assert [note.line for note in half.notes][-1] == len(lines)


def test_a_missing_last_newline_is_no_change(record: Record, specimen: Specimen) -> None:
    """By design: a crash can leave it away, nothing of the record is missing, and the next event puts it back."""
    verdict = specimen.read(record.data[:-1])
    assert verdict.intact
    assert len(verdict.events) == len(specimen.read(record.data).events)
    assert verdict.notes == specimen.read(record.data).notes


def test_an_unfinished_line_can_be_changed_until_it_is_set_aside(record: Record, specimen: Specimen) -> None:
    """By design: nothing vouches for the fragment of a crash before the next event does; no record is lost by it."""
    fragment = record.lines[-1][:50]
    whole = joined(record.lines[:-1])
    assert specimen.read(whole + fragment).intact
    assert specimen.read(whole + fragment.swapcase()).intact


@pytest.mark.parametrize("more", [b"x", b" ", b"\r", b"}", b"\0"])
def test_a_whole_record_with_more_on_its_line_is_never_taken_for_a_torn_one(
    record: Record, specimen: Specimen, more: bytes
) -> None:
    """A crash leaves the beginning of a line; the last newline changed is tampering, also after the next event."""
    changed = record.data[:-1] + more
    assert specimen.named(changed) == {len(record.lines)}
    specimen.log.append("rollback.refused", status="refused")
    verdict = specimen.log.verify(record.anchors)
    assert lines_named(verdict) == {len(record.lines)}
    assert verdict.events[-2]["event"] == "audit.foreign"


def test_the_only_line_of_an_older_tool_is_adopted_also_without_its_newline(specimen: Specimen) -> None:
    """A whole object was never torn, and before the first record it is not foreign either."""
    specimen.read(OLDER_TOOL.splitlines()[0], [])
    specimen.log.append("rollback.refused", status="refused")
    verdict = specimen.log.verify()
    assert verdict.intact
    assert [event["event"] for event in verdict.events] == ["audit.adopted", "rollback.refused"]


def test_a_crash_while_a_torn_line_is_set_aside_is_no_tampering(record: Record, specimen: Specimen) -> None:
    """The record that names the fragment counts, also when its newline and the event after it are missing."""
    end = record.number("audit.torn")
    whole = joined(record.lines[:end])
    assert specimen.read(whole[:-1], []).intact
    specimen.log.append("rollback.refused", status="refused")
    verdict = specimen.log.verify()
    assert verdict.intact and len(verdict.notes) == 2
    specimen.read(whole + b'{"actor":"ro', [])
    specimen.log.append("rollback.refused", status="refused")
    verdict = specimen.log.verify()
    assert verdict.intact and len(verdict.notes) == 3


class Project:
    """The folder in which the record was made, for real ``inv`` processes."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.log = record.folder / "pipeline" / "rollback-audit.log"
        package = Path(release_tasks.__file__).parent.parent
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("INVOKE_", "PYTHON"))}
        self.variables = {**kept, "PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1"}

    def audit(self, data: bytes | None, *flags: str) -> subprocess.CompletedProcess[str]:
        """Put ``data`` in the log's place (None: nothing) and run ``inv release.audit``."""
        self.log.unlink(missing_ok=True)
        if data is not None:
            self.log.write_bytes(data)
        command = [sys.executable, "-m", "invoke", "release.audit", *flags]
        return subprocess.run(
            command,
            cwd=self.record.folder,
            env=self.variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def theirs(record: Record) -> Iterator[Project]:
    """Return the project of the record; its log is put back after the test."""
    project = Project(record)
    yield project
    project.log.write_bytes(record.data)


def altered(record: Record) -> tuple[bytes, str]:
    """The record with one event called something else, and the sentence that names its line."""
    number = next(n for n, text in enumerate(record.lines, 1) if b'"noop"' in text)
    data = record.data.replace(b'"status":"noop"', b'"status":"nope"')
    assert data != record.data
    return data, f"line {number}: altered, or not a record of this log"


def test_inv_names_the_altered_line_and_ends_with_1(record: Record, theirs: Project) -> None:
    """What a person reads: the verdict and the line."""
    data, sentence = altered(record)
    done = theirs.audit(data)
    assert done.returncode == 1
    assert sentence in done.stdout
    assert "BROKEN" in done.stdout and "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("what", ["altered", "removed", "doubled", "inserted", "cut", "earlier", "gone", "untouched"])
def test_inv_ends_with_1_for_every_kind_of_tampering(record: Record, theirs: Project, what: str) -> None:
    """The line, or the record and its witness, is told to people and to machines; an untouched log ends with 0."""
    line, lines = record.number("prepare.blocked"), record.lines
    cut_short = f"the end of the log is missing: manifest v4 was written after record {record.anchored}"
    data, sentence = {
        "altered": altered(record),
        "removed": (joined(lines[: line - 1] + lines[line:]), f"line {line}: record"),
        "doubled": (joined([*lines[:line], lines[line - 1], *lines[line:]]), f"line {line + 1}: record"),
        "inserted": (
            joined([*lines[:line], b"all is well\n", *lines[line:]]),
            f"line {line + 1}: altered",
        ),
        "cut": (joined(lines[:line]), cut_short),
        "earlier": (record.earlier[0], cut_short),
        "gone": (None, cut_short),
        "untouched": (record.data, "incomplete line, left by a crash and recorded since"),
    }[what]
    code = 0 if what == "untouched" else 1
    done = theirs.audit(data)
    assert done.returncode == code
    assert sentence in " ".join(done.stdout.split())
    done = theirs.audit(data, "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, document["status"]) == (code, "broken" if code else "intact")
    assert any(sentence in told for told in document["problems" if code else "notes"])


@pytest.fixture
def append_only(tmp_path: Path) -> Iterator[Callable[[Path, str], None]]:
    """Return a function that sets an attribute of a file (``a`` or ``i``); it is taken off after the test."""
    made: list[tuple[Path, str]] = []

    def set_attribute(path: Path, attribute: str) -> None:
        if os.geteuid() != 0:
            pytest.skip("NOT TESTED: the attributes of chattr need root")
        try:
            done = subprocess.run(["chattr", f"+{attribute}", str(path)], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("NOT TESTED: there is no chattr here (Debian: apt install e2fsprogs)")
        if done.returncode != 0:
            pytest.skip(f"NOT TESTED: this filesystem has no attributes: {done.stderr.strip()}")
        made.append((path, attribute))

    yield set_attribute
    for path, attribute in made:
        subprocess.run(["chattr", f"-{attribute}", str(path)], check=True)


@pytest.mark.root
@pytest.mark.slow
def test_every_stage_works_on_an_append_only_log(tmp_path: Path, append_only: Callable[[Path, str], None]) -> None:
    """Prepare, rollback and recover, with kills and a torn line between them, never rewrite a byte."""
    pipeline = Pipeline(tmp_path / "pipeline")
    pipeline.root.mkdir(mode=0o700)
    pipeline.audit.path.write_bytes(OLDER_TOOL)
    append_only(pipeline.audit.path, "a")
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
def test_a_log_that_nobody_may_write_can_still_be_verified(
    record: Record, specimen: Specimen, append_only: Callable[[Path, str], None]
) -> None:
    """An immutable copy, a read-only disk: looking needs no more than reading."""
    specimen.read(record.data)
    append_only(specimen.log.path, "i")
    assert specimen.log.verify(record.anchors).intact
    anchor = specimen.log.anchor()
    assert anchor is not None and anchor.seq == record.anchored + 1
