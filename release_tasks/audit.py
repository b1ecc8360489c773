"""The append-only log: every attempt leaves a line, and every line carries the hash of the one before it.

One record a line, canonical JSON; ``hash`` is the SHA-256 of the record without it, ``prev`` the hash of the
record before. The file is only ever appended to, so it works with ``chattr +a``.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from attrs import field, frozen

from release_tasks.records import AuditAnchor
from release_tasks.storage.canonical import InvalidDocument, canonical_bytes, parse_object
from release_tasks.storage.clock import timestamp
from release_tasks.storage.digests import sha256_bytes
from release_tasks.storage.durable import fsync_directory, make_private_directory

__all__ = ["GENESIS", "AuditLog", "AuditVerdict", "Finding"]

GENESIS = "0" * 64
_SETS_ASIDE = ("audit.torn", "audit.adopted", "audit.foreign")
_TAIL_BYTES = 64 << 10


@frozen
class Finding:
    """Something wrong in the log. ``line`` counts from 1; 0 is the file as a whole."""

    line: int
    what: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.what}" if self.line else self.what


@frozen(kw_only=True)
class AuditVerdict:
    """What a reading of the whole log found. ``notes`` are crashes that were set aside, not tampering."""

    events: list[dict[str, Any]] = field(factory=list)
    problems: list[Finding] = field(factory=list)
    notes: list[Finding] = field(factory=list)

    @property
    def intact(self) -> bool:
        """Whether the chain holds from its first record to its last."""
        return not self.problems


@frozen(kw_only=True)
class _Tail:
    seq: int
    hash: str
    leftover: bytes  # what stands after the last record and belongs to none
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
        """Write one event and return where it stands, once it is on disk.

        Raises OSError when it cannot be written whole; a torn line is set aside by the next append.
        """
        record: dict[str, Any] = {
            "event": event,
            "actor": _actor(),
            "host": socket.gethostname(),
            "status": status,
            "detail": detail,
            **more,
        }
        if release_id is not None:
            record["releaseId"] = release_id
        if snapshot_id is not None:
            record["snapshotId"] = snapshot_id
        # The lock is held from reading the tail through the fsync, or two runs would share one prev.
        with self._locked() as fd:
            tail = _read_tail(fd)
            data, anchor = b"" if tail.ends_with_newline else b"\n", AuditAnchor(seq=tail.seq, hash=tail.hash)
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
        """Return where the log stands, or None when it holds no record yet."""
        if not self.path.exists():
            return None
        with self._locked() as fd:
            tail = _read_tail(fd)
        return AuditAnchor(seq=tail.seq, hash=tail.hash) if tail.seq else None

    def verify(self, anchors: Iterable[tuple[str, AuditAnchor]] = ()) -> AuditVerdict:
        """Read the whole log and check every record, and each (source, anchor) against it."""
        data = b""
        if self.path.exists():
            with self._locked() as fd:
                data = _read_all(fd)
        verdict = _verify_chain(data)
        hashes = {event["seq"]: event["hash"] for event in verdict.events}
        for source, anchor in anchors:
            if anchor.seq not in hashes:
                verdict.problems.append(
                    Finding(0, f"the log is cut short: {source} was written when it held record {anchor.seq}")
                )
            elif hashes[anchor.seq] != anchor.hash:
                verdict.problems.append(
                    Finding(0, f"record {anchor.seq} is not the one that {source} was written after")
                )
        return verdict

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        make_private_directory(self.path.parent)
        created = not self.path.exists()
        fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if created:
                fsync_directory(self.path.parent)
            yield fd
        finally:
            os.close(fd)


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
    if tail is None or (tail.seq == 0 and start > 0):
        tail = _last_record(_read_all(fd))
    assert tail is not None
    return tail


def _last_record(data: bytes) -> _Tail | None:
    """Find the last record in ``data``; what follows it is left over from a crash or another hand."""
    complete = data.endswith(b"\n") or not data
    lines = data.split(b"\n")
    if complete:
        lines.pop()
    for index in range(len(lines) - 1, -1, -1):
        record = _parse_record(lines[index])
        if record is not None:
            after = lines[index + 1 :]
            leftover = b"\n".join(after) + (b"\n" if complete and after else b"")
            return _Tail(seq=record["seq"], hash=record["hash"], leftover=leftover, ends_with_newline=complete)
    return _Tail(seq=0, hash=GENESIS, leftover=data, ends_with_newline=complete)


def _leftover_record(tail: _Tail) -> dict[str, Any]:
    torn = not tail.ends_with_newline and tail.leftover.count(b"\n") == 0
    if tail.seq == 0 and not torn:
        event, detail = "audit.adopted", "the log that was here before this chain began"
    elif torn:
        event, detail = "audit.torn", "a line that a crash left unfinished was set aside"
    else:
        event, detail = "audit.foreign", "lines that are no records of this log were found"
    return {
        "event": event,
        "actor": _actor(),
        "host": socket.gethostname(),
        "status": "noted",
        "detail": detail,
        "bytes": len(tail.leftover),
        "sha256": sha256_bytes(tail.leftover),
    }


def _verify_chain(data: bytes) -> AuditVerdict:
    verdict = AuditVerdict()
    before = AuditAnchor(seq=0, hash=GENESIS)
    pending: list[tuple[int, bytes]] = []
    lines = data.split(b"\n")
    unfinished = lines.pop()
    for number, line in enumerate(lines, start=1):
        record = _parse_record(line)
        if record is None:
            pending.append((number, line))
            continue
        _explain_pending(verdict, pending, record)
        if record["seq"] != before.seq + 1:
            verdict.problems.append(
                Finding(number, f"record {record['seq']} follows {before.seq}: one was removed, doubled or moved")
            )
        elif record["prev"] != before.hash:
            verdict.problems.append(Finding(number, f"record {record['seq']} does not follow the one before it"))
        verdict.events.append(record)
        before = AuditAnchor(seq=record["seq"], hash=record["hash"])
    _explain_pending(verdict, pending, None)
    if unfinished:
        adopted = _parse_record(unfinished)
        if adopted is not None and adopted["seq"] == before.seq + 1 and adopted["prev"] == before.hash:
            verdict.events.append(adopted)
        else:
            verdict.notes.append(Finding(len(lines) + 1, "unfinished line, left by a crash"))
    return verdict


def _explain_pending(verdict: AuditVerdict, pending: list[tuple[int, bytes]], record: dict[str, Any] | None) -> None:
    """Decide over lines that are no records by what the record after them says of them."""
    if not pending:
        if record is not None and record.get("event") in _SETS_ASIDE:
            verdict.problems.append(Finding(0, f"what record {record['seq']} found here and set aside is gone"))
        return
    body = b"\n".join(line for _, line in pending)
    first = pending[0][0]
    told = record or {}
    as_lines = sha256_bytes(body + b"\n") == told.get("sha256") and told.get("bytes") == len(body) + 1
    as_fragment = sha256_bytes(body) == told.get("sha256") and told.get("bytes") == len(body)
    if told.get("event") == "audit.torn" and as_fragment and len(pending) == 1:
        verdict.notes.append(Finding(first, "unfinished line, left by a crash and set aside"))
    elif told.get("event") == "audit.adopted" and told.get("seq") == 1 and (as_lines or as_fragment):
        verdict.notes.append(Finding(first, f"{len(pending)} lines from before this chain began, unaltered since"))
    else:
        for number, _ in pending:
            verdict.problems.append(Finding(number, "altered, or no record of this log"))
    pending.clear()


def _read_all(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    chunks: list[bytes] = []
    offset = 0
    while offset < size:
        chunk = os.pread(fd, min(1 << 20, size - offset), offset)
        if not chunk:
            break
        chunks.append(chunk)
        offset += len(chunk)
    return b"".join(chunks)


def _actor() -> str:
    name = os.environ.get("SUDO_USER")
    if name:
        return name
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
