"""The append-only audit log. Each line is one record and contains the hash of the previous record.

A record is canonical JSON. ``hash`` is the SHA-256 of the record without the key ``hash``, ``prev`` is the hash of the
previous record. The file is only appended to, so it works with ``chattr +a``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import pwd
import socket
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

from release_tasks.core.canonical import InvalidDocument, canonical_bytes, parse_object
from release_tasks.core.clock import timestamp
from release_tasks.core.digests import sha256_bytes
from release_tasks.core.durable import fsync_directory, make_private_directory
from release_tasks.core.errors import with_path
from release_tasks.core.exact import document_without_secrets
from release_tasks.core.flocks import lock_within
from release_tasks.core.printable import one_line
from release_tasks.core.records import AuditAnchor
from release_tasks.core.units import show_size

__all__ = ["GENESIS", "AuditFinding", "AuditLog", "AuditVerdict", "actor"]

GENESIS = "0" * 64
_LEFTOVER_EVENTS = ("audit.torn", "audit.adopted", "audit.foreign")
_TAIL_BYTES = 64 << 10
_MOST_BYTES = 256 << 20  # of a log; 400,000 events
_MOST_LINES = 2_000_000  # lines of a byte take more memory than their bytes
_MOST_EVENTS = 1 << 53  # JSON numbers of other programs are exact up to here
_MOST_CONTINUED = 1 << 52  # no event has this number; one that was planted does not choose the numbers after it
_LOCK_SECONDS = 10.0  # other commands hold the lock for the time of one write
_NEXT_LOCK_SECONDS = 0.5
_NOT_A_FILE = "It should be a file and is not. Move it away, or put the log in its place"
_START = AuditAnchor(seq=0, hash=GENESIS)


@frozen
class AuditFinding:
    """A problem in the log. ``line`` counts from 1; 0 is the whole file. ``last`` is the last of several lines."""

    line: int
    what: str
    last: int = 0

    def __str__(self) -> str:
        if self.last > self.line:
            return f"lines {self.line} to {self.last}: {self.what}"
        return f"line {self.line}: {self.what}" if self.line else self.what


@frozen(kw_only=True)
class AuditVerdict:
    """The result of reading the whole log. ``notes`` are findings that do not mean tampering, such as a crash."""

    events: list[dict[str, Any]] = field(factory=list)
    problems: list[AuditFinding] = field(factory=list)
    notes: list[AuditFinding] = field(factory=list)

    @property
    def intact(self) -> bool:
        """Whether the hash chain is valid from the first record to the last."""
        return not self.problems


@frozen(kw_only=True)
class _Tail:
    anchor: AuditAnchor
    leftover: bytes  # the bytes after the last record
    ends_with_newline: bool


class AuditLog:
    """The log at ``path``. Every method opens the file again, so several processes can use it.

    Every method raises OSError for a log that is no regular file, is too large to be read, or stays locked.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seconds = _LOCK_SECONDS  # how long the next call waits for the lock

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
        """Write one event to disk and return its anchor.

        Raises OSError when the event cannot be written completely. The next append then records the incomplete line in
        an ``audit.torn`` event.
        """
        record = _record(event, status, one_line(detail), **more)
        if release_id is not None:
            record["releaseId"] = release_id
        if snapshot_id is not None:
            record["snapshotId"] = snapshot_id
        make_private_directory(self.path.parent)
        # Hold the lock from reading the tail through the fsync; otherwise two runs would write the same prev.
        with self._opened(os.O_RDWR | os.O_APPEND | os.O_CREAT, fcntl.LOCK_EX) as fd:
            tail = _read_tail(fd)
            if tail.anchor.seq == 0:
                # The process that created the file may have been killed before it flushed the folder.
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
        """Return the anchor of the last record, or None when the log has no record yet."""
        try:
            with self._opened(os.O_RDONLY, fcntl.LOCK_SH) as fd:
                tail = _read_tail(fd)
        except FileNotFoundError:
            return None
        return tail.anchor if tail.anchor.seq else None

    def verify(self, anchors: Iterable[tuple[str, AuditAnchor]] = ()) -> AuditVerdict:
        """Read the whole log, check every record, and check that the record of each (source, anchor) exists."""
        try:
            data = self.content()[0]
        except FileNotFoundError:
            data = b""
        verification = _Verification()
        verification.read(data)
        for source, anchor in anchors:
            verification.compare(source, anchor)
        return verification.verdict

    def content(self) -> tuple[bytes, os.stat_result]:
        """Return the bytes of the log, and the result of fstat."""
        with self._opened(os.O_RDONLY, fcntl.LOCK_SH) as fd:
            return _read_all(fd), os.fstat(fd)

    @contextlib.contextmanager
    def _opened(self, flags: int, lock: int) -> Iterator[int]:
        with with_path(self.path):
            fd = self._open(flags)
        try:
            with with_path(self.path):
                # After a signal or a time-out, such as in the record of that end, wait no second time.
                seconds, self._seconds = self._seconds, _NEXT_LOCK_SECONDS
                lock_within(fd, lock, seconds)
                self._seconds = _LOCK_SECONDS
                yield fd
        finally:
            os.close(fd)

    def _open(self, flags: int) -> int:
        """Open the log, without waiting for the other end of a pipe or for the holder of a lease."""
        flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            fd = os.open(self.path, flags, 0o600)
        except BlockingIOError:
            raise OSError(errno.EWOULDBLOCK, "Another process holds a lease on it. End that process") from None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise OSError(error.errno, _NOT_A_FILE) from None
            raise
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(errno.EINVAL, _NOT_A_FILE)
        return fd


def _record(event: str, status: str, detail: str, **more: Any) -> dict[str, Any]:
    host = socket.gethostname()
    redacted = document_without_secrets({"detail": detail, **more})
    return {"event": event, "actor": actor(), "host": host, "status": status, **redacted}


def _sealed(record: dict[str, Any], before: AuditAnchor) -> tuple[bytes, AuditAnchor]:
    record = {**record, "time": timestamp(), "seq": before.seq + 1, "prev": before.hash}
    digest = sha256_bytes(canonical_bytes(record))
    return canonical_bytes({**record, "hash": digest}) + b"\n", AuditAnchor(seq=before.seq + 1, hash=digest)


def _parse_record(line: bytes) -> dict[str, Any] | None:
    """Return the record on ``line``, or None when ``line`` is not an unaltered record in canonical form."""
    try:
        record = parse_object(line, "line")
    except InvalidDocument:
        return None
    seq = record.get("seq")
    if type(seq) is not int or not 0 < seq < _MOST_EVENTS or not isinstance(record.get("prev"), str):
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
    """Find the last record in ``data``. Bytes after it were left by a crash or written by another program."""
    complete = data.endswith(b"\n") or not data
    lines = data.split(b"\n")
    if complete:
        lines.pop()
    for index in range(len(lines) - 1, -1, -1):
        record = _parse_record(lines[index])
        if record is not None and record["seq"] < _MOST_CONTINUED:
            after = lines[index + 1 :]
            while after and (found := _parse_record(after[0])) is not None and found["seq"] >= _MOST_CONTINUED:
                after.pop(0)  # reported as a record out of place
            leftover = b"\n".join(after) + (b"\n" if complete and after else b"")
            anchor = AuditAnchor(seq=record["seq"], hash=record["hash"])
            return _Tail(anchor=anchor, leftover=leftover, ends_with_newline=complete)
    return _Tail(anchor=_START, leftover=data, ends_with_newline=complete)


def _leftover_record(tail: _Tail) -> dict[str, Any]:
    torn = not tail.ends_with_newline and b"\n" not in tail.leftover and _may_be_torn(tail.leftover)
    if tail.anchor.seq == 0 and not torn:
        event, detail = "audit.adopted", "the lines before this record are an earlier log"
    elif torn:
        event, detail = "audit.torn", "the line before this record is incomplete, left by a crash"
    else:
        event, detail = "audit.foreign", "the lines before this record are not records of this log"
    return _record(event, "noted", detail, bytes=len(tail.leftover), sha256=sha256_bytes(tail.leftover))


def _may_be_torn(fragment: bytes) -> bool:
    """Return whether ``fragment`` can come from a crash: a crash leaves the start of a line, never a whole object."""
    try:
        return not isinstance(json.JSONDecoder().raw_decode(fragment.decode("latin-1"))[0], dict)
    except (ValueError, RecursionError):
        return True


@define
class _Verification:
    """Checks the log line by line; ``verdict`` is the result so far."""

    verdict: AuditVerdict = field(factory=AuditVerdict)
    before: AuditAnchor = _START
    in_place: AuditAnchor = _START  # the last record with a valid position in the chain
    pending: list[tuple[int, bytes]] = field(factory=list)  # lines that are not records, until a record explains them
    unexplained: int = 0  # the number of such lines that no record explained

    def read(self, data: bytes) -> None:
        """Check every line.

        A last line without a newline is checked too when it starts with a whole JSON object; otherwise a crash left it.
        """
        *lines, incomplete = data.split(b"\n")
        if incomplete and not _may_be_torn(incomplete):
            lines.append(incomplete)
            incomplete = b""
        for number, line in enumerate(lines, start=1):
            record = _parse_record(line)
            if record is None:
                self.pending.append((number, line))
            else:
                self._check_record(number, record)
        self._explain_pending(None)
        if incomplete:
            self.verdict.notes.append(AuditFinding(len(lines) + 1, "incomplete line, left by a crash"))

    def compare(self, source: str, anchor: AuditAnchor) -> None:
        """Check that the log has the record of ``anchor``, which ``source`` contains."""
        seen = {(event["seq"], event["hash"]) for event in self.verdict.events}
        seq, problem = anchor.seq, ""
        if (seq, anchor.hash) in seen:
            return
        if not seen or seq > max(number for number, _ in seen) + self.unexplained:
            problem = f"the end of the log is missing: {source} was written after record {seq}"
        elif any(number == seq for number, _ in seen):
            problem = f"record {seq} was replaced: {source} contains another hash of it"
        else:
            problem = f"record {seq} is missing: {source} was written after it"
        self.verdict.problems.append(AuditFinding(0, problem))

    def _check_record(self, number: int, record: dict[str, Any]) -> None:
        """Check that the record on line ``number`` follows the previous record or the last record ``in_place``."""
        if not self.pending and record.get("event") in _LEFTOVER_EVENTS:
            problem = f"the lines that record {record['seq']} found before it are missing"
            self.verdict.problems.append(AuditFinding(number, problem))
        self._explain_pending(record)
        seq, before = record["seq"], self.before
        follows = any(seq == a.seq + 1 and record["prev"] == a.hash for a in (before, self.in_place))
        # Do not report a gap that altered lines explain: each altered line is reported already.
        if follows or 0 < seq - before.seq - 1 <= self.unexplained:
            self.in_place = AuditAnchor(seq=seq, hash=record["hash"])
        elif seq == before.seq + 1:
            problem = f"record {seq} does not contain the hash of the previous record"
            self.verdict.problems.append(AuditFinding(number, problem))
        else:
            problem = f"record {seq} follows record {before.seq}: a record was removed, duplicated or moved"
            self.verdict.problems.append(AuditFinding(number, problem))
        self.verdict.events.append(record)
        self.before = AuditAnchor(seq=seq, hash=record["hash"])

    def _explain_pending(self, record: dict[str, Any] | None) -> None:
        """Report the pending lines as notes when ``record``, which follows them, explains them, else as problems."""
        after, lines = record or {}, self.pending
        self.pending = []
        if after.get("event") == "audit.torn" and lines and _describes(after, lines[-1][1]):
            number, _ = lines.pop()
            self.verdict.notes.append(AuditFinding(number, "incomplete line, left by a crash and recorded since"))
        elif after.get("event") == "audit.adopted" and after.get("seq") == 1 and lines:
            body = b"\n".join(line for _, line in lines)
            # The adopted log may have had no newline at its end. An empty last line belonged to the adopted log.
            if _describes(after, body + b"\n") or (lines[-1][1] and _describes(after, body)):
                count = "1 line" if len(lines) == 1 else f"{len(lines)} lines"
                self.verdict.notes.append(AuditFinding(lines[0][0], f"{count} of an earlier log, unaltered"))
                lines = []
        elif record is None and not self.verdict.events and lines and all(_is_of_older_tool(line) for _, line in lines):
            # If the records of a log were replaced by such lines, ``compare`` reports every anchor.
            note = "lines of the older tool; the first event adopts them"
            self.verdict.notes.append(AuditFinding(lines[0][0], note, last=lines[-1][0]))
            lines = []
        self.unexplained = len(lines)
        problem = "altered, or not a record of this log"
        if lines and not self.verdict.events:
            # One finding for all lines: there may be thousands of them.
            self.verdict.problems.append(AuditFinding(lines[0][0], problem, last=lines[-1][0]))
        else:
            self.verdict.problems.extend(AuditFinding(number, problem) for number, _ in lines)


def _is_of_older_tool(line: bytes) -> bool:
    """Return whether a line is a JSON object with none of the three chain keys; an altered record still has one."""
    try:
        return not {"seq", "prev", "hash"} & parse_object(line, "line").keys()
    except InvalidDocument:
        return False


def _describes(record: dict[str, Any], body: bytes) -> bool:
    return record.get("bytes") == len(body) and record.get("sha256") == sha256_bytes(body)


def _read_all(fd: int) -> bytes:
    problem = f"It has more than {show_size(_MOST_BYTES)} or {_MOST_LINES} lines, so it is not read. Move it away"
    if os.fstat(fd).st_size > _MOST_BYTES:
        raise OSError(errno.EFBIG, problem)
    with open(fd, "rb", closefd=False) as file:
        file.seek(0)
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES or data.count(b"\n") > _MOST_LINES:
        raise OSError(errno.EFBIG, problem)
    return data


def actor() -> str:
    """Return the name of the user, or under sudo the name of the user who called sudo."""
    name = os.environ.get("SUDO_USER")
    if name:
        return name
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
