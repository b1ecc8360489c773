"""An attacker who can write below ``release.root``, knows every format, and has no key of the project."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.support.stored_snapshots import canonical, forge, read_snapshot, replace_snapshot, reseal, sha256_of

__all__ = ["FORGED", "Forger"]

FORGED = b'{"mcpServers": {"evil": {"command": "sh"}}}'
Event = dict[str, Any]


class Forger:
    """Writes to the pipeline folder ``root``; uses no code under test."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log = root / "rollback-audit.log"
        self.snapshots = root / "snapshots"
        self.manifests = root / "manifests"

    def snapshot_of(self, release_id: str) -> str:
        """Return the id of the snapshot of a release, as its event says."""
        return next(str(e["snapshotId"]) for e in self.events() if e.get("releaseId") == release_id)

    def safety(self) -> str:
        """Return the id of the latest safety snapshot."""
        return max(path.name for path in self.snapshots.glob("safety_snapshot_*"))

    def statement(self, release_id: str) -> Path:
        """Return the path of the statement of a release."""
        return self.manifests / f"{release_id}.json.intoto.jsonl"

    def replace_asset(self, snapshot_id: str, content: bytes = FORGED) -> Event:
        """Replace a stored file and seal the snapshot anew; return its metadata."""
        folder = self.snapshots / snapshot_id
        (folder / "assets" / "mcp" / "mcp.json").write_bytes(content)
        document = read_snapshot(folder)
        record = next(asset for asset in document["assets"] if asset["key"] == "mcp")
        record.update(size=len(content), sha256=sha256_bytes(content))
        return self.write(snapshot_id, forge(document))

    def write(self, snapshot_id: str, document: Event) -> Event:
        """Write the metadata of a snapshot, sealed."""
        replace_snapshot(self.snapshots / snapshot_id, reseal(document))
        written: Event = json.loads((self.snapshots / snapshot_id / "metadata.json").read_bytes())
        return written

    def copy(self, source: str, target: str, **values: Any) -> Event:
        """Copy a snapshot to another id, with some values of its metadata replaced, and seal the copy."""
        shutil.rmtree(self.snapshots / target, ignore_errors=True)
        shutil.copytree(self.snapshots / source, self.snapshots / target, symlinks=True)
        document = {**read_snapshot(self.snapshots / target), "snapshotId": target, **values}
        return self.write(target, document)

    def remove(self, *snapshot_ids: str) -> None:
        """Remove snapshots."""
        for snapshot_id in snapshot_ids:
            shutil.rmtree(self.snapshots / snapshot_id)

    def remove_release(self, release_id: str) -> None:
        """Remove all files of a release."""
        self.remove(self.snapshot_of(release_id))
        (self.manifests / f"{release_id}.json").unlink()
        self.statement(release_id).unlink()

    def events(self) -> list[Event]:
        """Return the records of the log."""
        return [json.loads(line) for line in self.log.read_bytes().splitlines()]

    def rewrite_log(self, change: Callable[[Event], Event | None]) -> None:
        """Rewrite the whole log as a valid chain: ``change`` returns the new event, or None to leave it out."""
        before = "0" * 64
        lines: list[bytes] = []
        for event in filter(None, map(change, self.events())):
            record = {key: value for key, value in event.items() if key != "hash"} | {"seq": len(lines) + 1}
            record["prev"] = before
            before = sha256_of(record)
            lines.append(canonical({**record, "hash": before}) + b"\n")
        self.log.write_bytes(b"".join(lines))

    def tell_log(self, document: Event) -> None:
        """Rewrite the log as if it had recorded the present metadata of a snapshot from the start."""

        def altered(event: Event) -> Event:
            is_its_own = event.get("snapshotId") == document["snapshotId"] and "digest" in event
            sealed = {"digest": document["digest"], "checksum": document["checksum"]}
            return {**event, **sealed} if is_its_own else event

        self.rewrite_log(altered)

    def tell_manifests(self) -> None:
        """Rewrite the log as if it had recorded the present manifests from the start."""

        def altered(event: Event) -> Event:
            path = self.manifests / f"{event.get('releaseId')}.json"
            if "manifestDigest" not in event or not path.exists():
                return event
            return {**event, "manifestDigest": sha256_bytes(path.read_bytes())}

        self.rewrite_log(altered)

    def alter(self, path: Path, **values: Any) -> None:
        """Change values of a document that is no snapshot, and seal it anew."""
        path.write_text(json.dumps(reseal_plain({**json.loads(path.read_bytes()), **values})))

    def append(self, **values: Any) -> None:
        """Append an event; the chain stays valid."""
        extra = {"actor": "root", "host": "host", "detail": "", "time": "2026-11-29T00:00:00.000Z", **values}
        pending: Iterator[Event] = iter([extra])
        with self.log.open("ab") as file:
            file.write(canonical(next(pending)) + b"\n")
        self.rewrite_log(lambda event: event)

    def cut_log(self, event: str, **values: str) -> None:
        """Cut the log before the first event with this name and these values."""
        lines = self.log.read_bytes().splitlines(keepends=True)
        for index, record in enumerate(self.events()):
            if record["event"] == event and all(record.get(key) == value for key, value in values.items()):
                self.log.write_bytes(b"".join(lines[:index]))
                return
        raise AssertionError(f"the log has no {event} with {values}")

    def seal(self, path: Path) -> None:
        """Write the checksum of a document that is no snapshot anew."""
        path.write_text(json.dumps(reseal_plain(json.loads(path.read_bytes()))))

    def reanchor(self) -> None:
        """Write the last position of the log into every manifest and snapshot, sealed: all anchors agree again."""
        last = self.events()[-1]
        anchor = {"seq": last["seq"], "hash": last["hash"]}
        for path in [*self.manifests.glob("*.json"), self.root / "rollback-state.json"]:
            if path.exists():
                path.write_text(json.dumps(reseal_plain({**json.loads(path.read_bytes()), "audit": anchor})))


def sha256_bytes(data: bytes) -> str:
    """Return the SHA-256 of bytes."""
    import hashlib

    return hashlib.sha256(data).hexdigest()


def reseal_plain(document: Event) -> Event:
    """Return a document that is no snapshot with the checksum of its present content."""
    unsealed = {key: value for key, value in document.items() if key != "checksum"}
    return {**unsealed, "checksum": sha256_of(unsealed)}
