"""The append-only log: every attempt leaves a line, and every line carries the hash of the one before it.

One record a line, canonical JSON; ``hash`` is the SHA-256 of the record without it, ``prev`` the hash of the
record before. The file is only ever appended to, so it works with ``chattr +a``.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

from release_tasks.core.canonical import InvalidDocument, canonical_bytes, parse_object
from release_tasks.core.clock import timestamp
from release_tasks.core.digests import sha256_bytes
from release_tasks.core.durable import fsync_directory, make_private_directory
from release_tasks.core.errors import with_path
from release_tasks.core.records import AuditAnchor

__all__ = ["GENESIS", "AuditFinding", "AuditLog", "AuditVerdict", "actor"]

GENESIS = "0" * 64
_SETS_ASIDE = ("audit.torn", "audit.adopted", "audit.foreign")
_TAIL_BYTES = 64 << 10
_BEGINNING = AuditAnchor(seq=0, hash=GENESIS)


@frozen
class AuditFinding:
    """Something wrong in the log. ``line`` counts from 1; 0 is the file as a whole. ``last`` ends a run of lines."""

    line: int
    what: str
    last: int = 0

    def __str__(self) -> str:
        if self.last > self.line:
            return f"lines {self.line} to {self.last}: {self.what}"
        return f"line {self.line}: {self.what}" if self.line else self.what


@frozen(kw_only=True)
class AuditVerdict:
    """What a reading of the whole log found. ``notes`` are crashes that were set aside, not tampering."""

    events: list[dict[str, Any]] = field(factory=list)
    problems: list[AuditFinding] = field(factory=list)
    notes: list[AuditFinding] = field(factory=list)

    @property
    def intact(self) -> bool:
        """Whether the chain holds from its first record to its last."""
        return not self.problems


@frozen(kw_only=True)
class _Tail:
    anchor: AuditAnchor
    leftover: bytes  # what follows the last record
    ends_with_newline: bool


class AuditLog:
    """The log at ``path``; every method opens the file anew, so several processes may share it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(
        self,
        event: str,
        *,
        status: str,
        detail: str = "",
        release_id: str | None = None,
        snapshot_id: str | None = None,
        **more: Any,
    ) -> AuditAnchor:
        """Write one event and return its anchor, once it is on disk.

        Raises OSError when it cannot be written whole; a torn line is set aside by the next append.
        """
        record = _record(event, status, detail, **more)
        if release_id is not None:
            record["releaseId"] = release_id
        if snapshot_id is not None:
            record["snapshotId"] = snapshot_id
        make_private_directory(self.path.parent)
        # The lock is held from reading the tail through the fsync, or two runs would share one prev.
        with self._opened(os.O_RDWR | os.O_APPEND | os.O_CREAT, fcntl.LOCK_EX) as fd:
            tail = _read_tail(fd)
            if tail.anchor.seq == 0:
                # The process that created the file may have been killed before it flushed the name.
                fsync_directory(self.path.parent)
            data, anchor = b"" if tail.ends_with_newline else b"\n", tail.anchor
            if tail.leftover:
                line, anchor = _sealed(_leftover_record(tail), anchor)
                data += line
            line, anchor = _sealed(record, anchor)
            data += line
            written = os.write(fd, data)
            os.fsync(fd)
            if written != len(data):
                raise OSError(f"only {written} of {len(data)} bytes of an audit event could be written to {self.path}")
        return anchor

    def anchor(self) -> AuditAnchor | None:
        """Return the last record's anchor, or None when the log holds no record yet."""
        try:
            with self._opened(os.O_RDONLY, fcntl.LOCK_SH) as fd:
                tail = _read_tail(fd)
        except FileNotFoundError:
            return None
        return tail.anchor if tail.anchor.seq else None

    def verify(self, anchors: Iterable[tuple[str, AuditAnchor]] = ()) -> AuditVerdict:
        """Read the whole log and check every record, and each (source, anchor) against it."""
        try:
            with self._opened(os.O_RDONLY, fcntl.LOCK_SH) as fd:
                data = _read_all(fd)
        except FileNotFoundError:
            data = b""
        reading = _Reading()
        reading.read(data)
        for source, anchor in anchors:
            reading.compare(source, anchor)
        return reading.verdict

    @contextlib.contextmanager
    def _opened(self, flags: int, lock: int) -> Iterator[int]:
        fd = os.open(self.path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with with_path(self.path):
                fcntl.flock(fd, lock)
                yield fd
        finally:
            os.close(fd)


def _record(event: str, status: str, detail: str, **more: Any) -> dict[str, Any]:
    host = socket.gethostname()
    return {"event": event, "actor": actor(), "host": host, "status": status, "detail": detail, **more}


def _sealed(record: dict[str, Any], before: AuditAnchor) -> tuple[bytes, AuditAnchor]:
    record = {**record, "time": timestamp(), "seq": before.seq + 1, "prev": before.hash}
    digest = sha256_bytes(canonical_bytes(record))
    return canonical_bytes({**record, "hash": digest}) + b"\n", AuditAnchor(seq=before.seq + 1, hash=digest)


def _parse_record(line: bytes) -> dict[str, Any] | None:
    """Return the record on ``line`` if it is one of ours, unaltered, down to its spelling."""
    try:
        record = parse_object(line, "line")
    except InvalidDocument:
        return None
    if not isinstance(record.get("seq"), int) or not isinstance(record.get("prev"), str):
        return None
    unsealed = {key: value for key, value in record.items() if key != "hash"}
    try:
        if sha256_bytes(canonical_bytes(unsealed)) != record.get("hash") or canonical_bytes(record) != line:
            return None
    except ValueError:
        return None
    return record


def _read_tail(fd: int) -> _Tail:
    size = os.fstat(fd).st_size
    start = max(0, size - _TAIL_BYTES)
    tail = _last_record(os.pread(fd, size - start, start))
    return _last_record(_read_all(fd)) if tail.anchor.seq == 0 and start > 0 else tail


def _last_record(data: bytes) -> _Tail:
    """Find the last record in ``data``; what follows it was left by a crash or written by another program."""
    complete = data.endswith(b"\n") or not data
    lines = data.split(b"\n")
    if complete:
        lines.pop()
    for index in range(len(lines) - 1, -1, -1):
        record = _parse_record(lines[index])
        if record is not None:
            after = lines[index + 1 :]
            leftover = b"\n".join(after) + (b"\n" if complete and after else b"")
            anchor = AuditAnchor(seq=record["seq"], hash=record["hash"])
            return _Tail(anchor=anchor, leftover=leftover, ends_with_newline=complete)
    return _Tail(anchor=_BEGINNING, leftover=data, ends_with_newline=complete)


def _leftover_record(tail: _Tail) -> dict[str, Any]:
    torn = not tail.ends_with_newline and b"\n" not in tail.leftover and _may_be_torn(tail.leftover)
    if tail.anchor.seq == 0 and not torn:
        event, detail = "audit.adopted", "the log that was here before this chain began"
    elif torn:
        event, detail = "audit.torn", "a line that a crash left unfinished was set aside"
    else:
        event, detail = "audit.foreign", "lines that are no records of this log were found"
    return _record(event, "noted", detail, bytes=len(tail.leftover), sha256=sha256_bytes(tail.leftover))


def _may_be_torn(fragment: bytes) -> bool:
    """Say whether a crash can have left this: it leaves the beginning of a line, so never a whole object."""
    try:
        return not isinstance(json.JSONDecoder().raw_decode(fragment.decode("latin-1"))[0], dict)
    except (ValueError, RecursionError):
        return True


@define
class _Reading:
    """One pass over the log, line by line; ``verdict`` is what it found so far."""

    verdict: AuditVerdict = field(factory=AuditVerdict)
    before: AuditAnchor = _BEGINNING
    in_place: AuditAnchor = _BEGINNING  # the last record that stood where it belongs
    pending: list[tuple[int, bytes]] = field(factory=list)  # lines that are not records, until a record explains them
    unexplained: int = 0  # how many of them no record explained

    def read(self, data: bytes) -> None:
        """Take every line; one without its newline counts too, unless a crash cut more off it than that."""
        *lines, unfinished = data.split(b"\n")
        if unfinished and not _may_be_torn(unfinished):
            lines.append(unfinished)
            unfinished = b""
        for number, line in enumerate(lines, start=1):
            record = _parse_record(line)
            if record is None:
                self.pending.append((number, line))
            else:
                self._take(number, record)
        self._explain_pending(None)
        if unfinished:
            self.verdict.notes.append(AuditFinding(len(lines) + 1, "unfinished line, left by a crash"))

    def compare(self, source: str, anchor: AuditAnchor) -> None:
        """Check that the record is there after which ``source`` was written."""
        seen = {(event["seq"], event["hash"]) for event in self.verdict.events}
        seq, problem = anchor.seq, ""
        if (seq, anchor.hash) in seen:
            return
        if not seen or seq > max(number for number, _ in seen) + self.unexplained:
            problem = f"the log is cut short: {source} was written when it held record {seq}"
        elif any(number == seq for number, _ in seen):
            problem = f"record {seq} is not the one that {source} was written after"
        else:
            problem = f"record {seq}, after which {source} was written, is gone"
        self.verdict.problems.append(AuditFinding(0, problem))

    def _take(self, number: int, record: dict[str, Any]) -> None:
        """Check that the record on line ``number`` follows: the one before it, or the last one in its place."""
        if not self.pending and record.get("event") in _SETS_ASIDE:
            what = f"what record {record['seq']} found before it and set aside is gone"
            self.verdict.problems.append(AuditFinding(number, what))
        self._explain_pending(record)
        seq, before = record["seq"], self.before
        follows = any(seq == a.seq + 1 and record["prev"] == a.hash for a in (before, self.in_place))
        # Altered lines before it are named already, and they are why it does not follow.
        if follows or 0 < seq - before.seq - 1 <= self.unexplained:
            self.in_place = AuditAnchor(seq=seq, hash=record["hash"])
        elif seq == before.seq + 1:
            self.verdict.problems.append(AuditFinding(number, f"record {seq} does not follow the one before it"))
        else:
            what = f"record {seq} follows {before.seq}: one was removed, doubled or moved"
            self.verdict.problems.append(AuditFinding(number, what))
        self.verdict.events.append(record)
        self.before = AuditAnchor(seq=seq, hash=record["hash"])

    def _explain_pending(self, record: dict[str, Any] | None) -> None:
        """Judge lines that are not records by what the record after them says about them."""
        after, lines = record or {}, self.pending
        self.pending = []
        if after.get("event") == "audit.torn" and lines and _describes(after, lines[-1][1]):
            number, _ = lines.pop()
            self.verdict.notes.append(AuditFinding(number, "unfinished line, left by a crash and set aside"))
        elif after.get("event") == "audit.adopted" and after.get("seq") == 1 and lines:
            body = b"\n".join(line for _, line in lines)
            # Without a newline at its end it was adopted by a newline; an empty line at its end was its own.
            if _describes(after, body + b"\n") or (lines[-1][1] and _describes(after, body)):
                what = "1 line" if len(lines) == 1 else f"{len(lines)} lines"
                what += " from before this chain began, unaltered since"
                self.verdict.notes.append(AuditFinding(lines[0][0], what))
                lines = []
        elif record is None and not self.verdict.events and lines and all(_is_of_older_tool(line) for _, line in lines):
            # A log that was emptied of records and filled with such lines is missed by every anchor.
            what = "no record of this log yet: lines of the older tool, which the first event adopts"
            self.verdict.notes.append(AuditFinding(lines[0][0], what, last=lines[-1][0]))
            lines = []
        self.unexplained = len(lines)
        what = "altered, or no record of this log"
        if lines and not self.verdict.events:
            # A record explains them only together, and there may be thousands.
            self.verdict.problems.append(AuditFinding(lines[0][0], what, last=lines[-1][0]))
        else:
            self.verdict.problems.extend(AuditFinding(number, what) for number, _ in lines)


def _is_of_older_tool(line: bytes) -> bool:
    """Say whether a line is an object without any link of a chain; no altered record of ours loses all three."""
    try:
        return not {"seq", "prev", "hash"} & parse_object(line, "line").keys()
    except InvalidDocument:
        return False


def _describes(record: dict[str, Any], body: bytes) -> bool:
    return record.get("bytes") == len(body) and record.get("sha256") == sha256_bytes(body)


def _read_all(fd: int) -> bytes:
    with open(fd, "rb", closefd=False) as file:
        file.seek(0)
        return file.read()


def actor() -> str:
    """Return who types: the person behind sudo, if there is one."""
    name = os.environ.get("SUDO_USER")
    if name:
        return name
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
