"""Read and write the pipeline folder: manifests, snapshots, the rollback state, the audit log."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from release_tasks.archive.catalogue import Catalogue
from release_tasks.archive.legacy import readable_manifest
from release_tasks.archive.recorded import read_recorded
from release_tasks.archive.seal import is_sealed, sealed_document
from release_tasks.archive.stores.local import LocalStore
from release_tasks.archive.verdicts import Verdicts, read_verdicts
from release_tasks.core.audit import AuditLog
from release_tasks.core.canonical import InvalidDocument, excerpt_line, pretty_bytes, read_document
from release_tasks.core.codec import decode, encode
from release_tasks.core.digests import sha256_bytes
from release_tasks.core.durable import fsync_directory, write_atomic
from release_tasks.core.errors import StageError, StageFailed, UsageError
from release_tasks.core.ids import is_valid_id, require_id
from release_tasks.core.owned import require_own
from release_tasks.core.records import SEQUENCE_LIMIT, AuditAnchor, Baseline, Manifest, RollbackState, SnapshotMetadata
from release_tasks.core.redact import Redactor
from release_tasks.core.typed import typed

__all__ = ["MANIFEST_VERSION", "ManifestFile", "Pipeline", "manifest_bytes"]

MANIFEST_VERSION = 1
_STATEMENT = ".intoto.jsonl"  # in-toto's suffix for attestations; the name of the attested file is before it


@frozen
class ManifestFile:
    """The manifest file of a release. When it cannot be read, ``manifest`` is None and ``reason`` is the error."""

    release_id: str
    manifest: Manifest | None
    reason: str = ""


class Pipeline:
    """The folder ``release.root``. Files and folders are created by the first write.

    Raises ForeignFolder in a run as root when another user can change the folder.
    """

    def __init__(self, root: Path) -> None:
        require_own(root, "release.root")
        self.root = root
        self.audit = AuditLog(root / "rollback-audit.log")
        self.catalogue = Catalogue(LocalStore(root / "snapshots"), self.audit)
        self.drill_audit = AuditLog(root / "drill-audit.log")
        self.drills = root / "drills"
        self.state_path = root / "rollback-state.json"
        self.journal_path = root / "rollback-journal.json"
        self.manifests = root / "manifests"
        self.logs = root / "logs"

    def read_state(self) -> RollbackState | None:
        """Return the last rollback, or None; raises StageFailed when the file is unreadable."""
        try:
            document = read_document(self.state_path)
            _require_unaltered(document, self.state_path.name)
            return decode(RollbackState, document, self.state_path.name)
        except FileNotFoundError:
            return None
        except InvalidDocument as error:
            raise StageFailed(f"The rollback state is unreadable: {error}.") from error

    def known_state(self) -> RollbackState | None:
        """Return the last rollback, or None when there is none or its file is unreadable."""
        with contextlib.suppress(StageFailed):
            return self.read_state()
        return None

    def has_journal(self) -> bool:
        """Return whether a journal exists: a swap runs or was interrupted. A dangling link counts as a journal."""
        return os.path.lexists(self.journal_path)

    def write_state(self, state: RollbackState) -> None:
        """Replace the rollback state, durably."""
        state = evolve(state, detail=Redactor.of_process().redact_text(state.detail))
        write_atomic(self.state_path, pretty_bytes(sealed_document(encode(state))))

    def manifest_path(self, release_id: str) -> Path:
        """Return the path of the manifest of a release; raises UsageError for an invalid id."""
        if release_id == "latest":
            raise UsageError("The release id 'latest' is reserved for the latest ready release. Choose another id.")
        return self.manifests / f"{require_id(release_id, 'release id')}.json"

    def statement_path(self, release_id: str) -> Path:
        """Return the path of the statement about a release; raises UsageError for an invalid id."""
        return _statement_of(self.manifest_path(release_id))

    def read_manifests(self) -> list[ManifestFile]:
        """Return the manifest of every release: unreadable manifests first, then the others, oldest first."""
        found: list[ManifestFile] = []
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self.manifests):
                release_id = name.removesuffix(".json")
                if name.endswith(".json") and name != "latest.json" and is_valid_id(release_id):
                    found.append(self._read_manifest(release_id))
        return sorted(found, key=_sort_key)

    def latest_ready(self) -> Manifest | None:
        """Return the latest ready release, as ``latest.json`` records it, or None."""
        try:
            manifest = _decode_manifest(self.manifests / "latest.json")
        except (FileNotFoundError, InvalidDocument):
            return None
        return manifest if manifest.status == "ready" else None  # the older tool wrote blocked releases to it too

    def manifest_file(self, release_id: str) -> ManifestFile | None:
        """Return the manifest of a release, readable or not; None when it does not exist or the id is invalid."""
        try:
            exists = os.path.lexists(self.manifest_path(release_id))
        except UsageError:
            return None
        return self._read_manifest(release_id) if exists else None

    def find_manifest(self, release_id: str) -> ManifestFile:
        """Return the manifest of a release, readable or not; raises UsageError, which names the known releases."""
        self.manifest_path(release_id)
        files = self.read_manifests()
        found = next((file for file in files if file.release_id == release_id), None)
        if found is None:
            if files:
                latest = ", ".join(file.release_id for file in files[-5:])
                hint = f"The latest releases are {latest}. To list more: {typed('release.status', '--limit', '100')}"
            else:
                hint = f"No release exists yet. To create one: {typed('release.prepare')}"
            raise UsageError(f"There is no release {release_id!r}. {hint}")
        return found

    def get_manifest(self, release_id: str) -> Manifest:
        """Return the manifest of a release; raises UsageError when there is none, StageFailed when it is unreadable."""
        found = self.find_manifest(release_id)
        if found.manifest is None:
            raise StageFailed(
                f"The manifest of {release_id} cannot be read: {found.reason}. "
                f"To list the releases: {typed('release.status')}"
            )
        return found.manifest

    def baseline_of(self, snapshot: SnapshotMetadata | None) -> Baseline | None:
        """Return the baseline of the release that took ``snapshot``, else of the latest ready one; None without one."""
        manifest = self.latest_ready()
        if snapshot is not None and snapshot.release_id is not None:
            with contextlib.suppress(StageError):
                manifest = self.get_manifest(snapshot.release_id)
        return manifest.baseline if manifest is not None else None

    def is_before_first(self, snapshot: SnapshotMetadata) -> bool:
        """Return whether ``snapshot`` is the state before the first deployment, when there was no service."""
        if snapshot.release_id is not None:
            with contextlib.suppress(StageError):
                return self.get_manifest(snapshot.release_id).first_deployment
        return False

    def newer_than(self, release_id: str | None) -> str:
        """Return the id of the latest ready release unless it is ``release_id``; empty when there is no other."""
        latest = self.latest_ready()
        return latest.release_id if latest is not None and latest.release_id != release_id else ""

    def write_statement(self, release_id: str, line: bytes) -> None:
        """Write the statement about a release.

        Call it before ``write_manifest``: if the process is killed between them, ``clean_up`` removes the statement.
        """
        write_atomic(self.statement_path(release_id), line)

    def write_manifest(self, manifest: Manifest) -> None:
        """Write the manifest of a release; for a ready release also ``latest.json``."""
        data = manifest_bytes(manifest)
        write_atomic(self.manifest_path(manifest.release_id), data)
        if manifest.status == "ready":
            write_atomic(self.manifests / "latest.json", data)

    def record_published(self, manifest: Manifest) -> None:
        """Record that a release exists: from now on its manifest, its statement and its snapshot must exist."""
        assert manifest.snapshot is not None
        digest = sha256_bytes(self.manifest_path(manifest.release_id).read_bytes())
        self.audit.append(
            "prepare.published",
            status="published",
            release_id=manifest.release_id,
            snapshot_id=manifest.snapshot.snapshot_id,
            manifestDigest=digest,
        )

    def set_aside(self, release_id: str) -> None:
        """Rename manifest and statement of an earlier attempt, if there is one, to names that are no release ids."""
        path = self.manifest_path(release_id)
        if not path.exists():
            return
        attempt = 1
        while (aside := path.with_name(f"{release_id}~{attempt}.json")).exists():
            attempt += 1
        # Rename the manifest last: until then, ``clean_up`` renames the statement back.
        with contextlib.suppress(FileNotFoundError):
            os.rename(_statement_of(path), _statement_of(aside))
        os.rename(path, aside)
        fsync_directory(path.parent)

    def next_sequence(self) -> int:
        """Return the sequence for a new manifest: one more than the highest of those that the audit log knows.

        When it knows none of them, all count: the log was lost, or an earlier tool wrote them. Raises OSError.
        """
        manifests = [file.manifest for file in self.read_manifests() if file.manifest is not None]
        prepared = read_recorded(self.audit.verify().events).prepared
        known = [manifest for manifest in manifests if manifest.release_id in prepared]
        return max((manifest.sequence for manifest in known or manifests), default=0) + 1

    def lineage(self) -> str:
        """Return the sequence of the latest release snapshot and of the latest ready manifest, as ``3/3``."""
        snapshots = [s.sequence for s in self.catalogue.published()[0] if s.kind == "release"]
        manifests = [manifest.sequence for manifest in self._ready_manifests()]
        return f"{max(snapshots, default=0)}/{max(manifests, default=0)}"

    def was_prepared_since(self, lineage: str | None) -> bool:
        """Return whether a release was prepared after ``lineage``, so that one of the sequences has increased."""
        try:
            before = [int(number) for number in (lineage or "").split("/")]
        except ValueError:
            return True
        now = [int(number) for number in self.lineage().split("/")]
        return len(before) != len(now) or any(later > earlier for later, earlier in zip(now, before, strict=True))

    def protected_snapshots(self) -> set[str]:
        """Return the ids of the snapshots that retention must not remove.

        They are the snapshot of the current deployment, the snapshots of the last rollback and the snapshot of the last
        known good state, with the earlier one. When latest.json cannot be read, the latest ready manifest is the
        current deployment. When the rollback state or the audit log cannot be read, every snapshot is protected.
        """
        protected: set[str] = set()
        snapshots = self.catalogue.published()[0]
        latest = self.latest_ready() or next(reversed(self._ready_manifests()), None)
        if latest is not None and latest.snapshot is not None:
            protected.add(latest.snapshot.snapshot_id)
        try:
            state, verdicts = self.read_state(), read_verdicts(self.audit.verify().events, snapshots)
        except (StageFailed, OSError):
            return protected | {snapshot.snapshot_id for snapshot in snapshots}
        protected |= {each.snapshot_id for each in (verdicts.good, verdicts.earlier) if each is not None}
        if state is not None:
            names = (state.snapshot_id, state.safety_snapshot_id, state.restored_snapshot_id)
            protected |= {name for name in names if name}
        return protected

    def verdicts(self) -> Verdicts:
        """Return the verdicts on the releases, as the audit log records them. Raises OSError."""
        return read_verdicts(self.audit.verify().events, self.catalogue.published()[0])

    def clean_up(self) -> list[str]:
        """Finish or remove the leftovers of an interrupted prepare and temporary files; return the removed names.

        The caller must hold the lock.
        """
        committed = {m.snapshot.snapshot_id: m for m in self._ready_manifests() if m.snapshot is not None}
        self._record_interrupted(committed)
        removed = self.catalogue.store.clean_up(committed)
        with contextlib.suppress(OSError):  # the next prepare fails for the same reason and reports it
            # A prepare may have been killed between its manifest and latest.json.
            ready, latest = self._ready_manifests(), self.latest_ready()
            if ready and (latest is None or latest.sequence < ready[-1].sequence):
                write_atomic(self.manifests / "latest.json", manifest_bytes(ready[-1]))
        for path in self._temporary_files():
            path.unlink(missing_ok=True)
            removed.append(path.name)
        return removed + self._resolve_statements() + self.remove_unneeded_bases()

    def unneeded_bases(self) -> set[str]:
        """Return the digests of the bases that no delta needs.

        Empty while that is unknown: during a swap, while a snapshot is unfinished, and when one cannot be read, which
        may need any of them.
        """
        bases = self.catalogue.bases
        if not bases.digests() or self.has_journal() or self.catalogue.store.leftovers():
            return set()
        snapshots, unreadable = self.catalogue.published()
        return set() if unreadable else bases.unneeded(snapshots)

    def remove_unneeded_bases(self) -> list[str]:
        """Remove the bases that no delta needs, and return their names. The caller must hold the lock."""
        with contextlib.suppress(OSError):  # they take space, and the next clean-up removes them
            return self.catalogue.bases.remove(self.unneeded_bases())
        return []

    def _record_interrupted(self, committed: Mapping[str, Manifest]) -> None:
        """Record the releases whose snapshots are complete and not published yet, unless the log has them already."""
        unpublished = [m for name, m in committed.items() if self.catalogue.store.partial_path(name).is_dir()]
        if unpublished:
            recorded = read_recorded(self.audit.verify().events)
            for manifest in unpublished:
                assert manifest.snapshot is not None
                is_prepared = recorded.prepared.get(manifest.release_id) == manifest.snapshot.snapshot_id
                if is_prepared and manifest.release_id not in recorded.releases:
                    self.record_published(manifest)

    def has_leftovers(self) -> bool:
        """Return whether an interrupted run or a current run has unfinished files here."""
        return bool(
            self.catalogue.store.leftovers()
            or self._temporary_files()
            or self._unmatched_statements()
            or self.unneeded_bases()
        )

    def _unmatched_statements(self) -> list[Path]:
        """Return the statements without a manifest: it was never written, or is not renamed yet (``set_aside``)."""
        names = self._manifest_names()
        found = (name for name in names if name.endswith(_STATEMENT) and name.removesuffix(_STATEMENT) not in names)
        return sorted(self.manifests / name for name in found)

    def _manifest_names(self) -> set[str]:
        """Return every name in the folder of the manifests.

        Listing the folder is safer than a stat of each manifest: on a failing disk, a manifest whose stat fails still
        exists, and its statement must stay. A dangling link also counts as a manifest.
        """
        try:
            return set(os.listdir(self.manifests))
        except (FileNotFoundError, NotADirectoryError):
            return set()

    def _resolve_statements(self) -> list[str]:
        """Rename or remove the unmatched statements, and return the names of the removed ones.

        A statement that was renamed without its manifest gets its name back.
        """
        removed: list[str] = []
        names = self._manifest_names()
        for path in self._unmatched_statements():
            manifest = path.with_name(path.name.partition("~")[0] + ".json")
            original = _statement_of(manifest)
            if "~" in path.name and manifest.name in names and original.name not in names:
                os.rename(path, original)
            else:
                path.unlink()
                removed.append(path.name)
        return removed

    def _temporary_files(self) -> list[Path]:
        return [
            path
            for folder in (self.root, self.manifests, self.catalogue.store.folder)
            for path in folder.glob(".*.tmp")
        ]

    def anchors(self) -> list[tuple[str, AuditAnchor]]:
        """Return every recorded audit anchor, with the name of the document that contains it."""
        anchors: list[tuple[str, AuditAnchor]] = []
        for snapshot in self.catalogue.published()[0]:
            if snapshot.audit is not None:
                anchors.append((f"snapshot {snapshot.snapshot_id}", snapshot.audit))
        for file in self.read_manifests():
            if file.manifest is not None and file.manifest.audit is not None:
                anchors.append((f"manifest {file.release_id}", file.manifest.audit))
        state = self.known_state()
        if state is not None and state.audit is not None:
            anchors.append(("the rollback state", state.audit))
        return anchors

    def _ready_manifests(self) -> list[Manifest]:
        return [file.manifest for file in self.read_manifests() if file.manifest and file.manifest.status == "ready"]

    def _read_manifest(self, release_id: str) -> ManifestFile:
        try:
            manifest = _decode_manifest(self.manifests / f"{release_id}.json")
            if manifest.release_id != release_id:
                raise InvalidDocument(f"{release_id}.json belongs to release {excerpt_line(manifest.release_id)!r}")
            return ManifestFile(release_id, manifest)
        except (FileNotFoundError, InvalidDocument) as error:
            return ManifestFile(release_id, None, str(error))


def manifest_bytes(manifest: Manifest) -> bytes:
    """Return the content of a manifest's file."""
    return pretty_bytes(sealed_document(encode(manifest)))


def _statement_of(manifest: Path) -> Path:
    return manifest.with_name(manifest.name + _STATEMENT)


def _sort_key(file: ManifestFile) -> tuple[int, str, str]:
    if file.manifest is None:
        return -1, "", file.release_id
    return file.manifest.sequence, file.manifest.generated_at, file.release_id


def _require_unaltered(document: dict[str, Any], name: str) -> None:
    # Documents of the older tool have neither key. Without the check of "audit", removing the checksum would pass.
    if {"checksum", "audit"} & document.keys() and not is_sealed(document):
        raise InvalidDocument(f"{name} was altered: its checksum does not match")


def _decode_manifest(path: Path) -> Manifest:
    document = read_document(path)
    version = document.get("manifestVersion")
    if type(version) is not int or version < 1:
        raise InvalidDocument(f"{path.name} has no valid manifestVersion")
    if version > MANIFEST_VERSION:
        raise InvalidDocument(
            f"{path.name} has version {version}; this version of release-tasks reads up to {MANIFEST_VERSION}"
        )
    _require_unaltered(document, path.name)
    manifest = decode(Manifest, readable_manifest(document), path.name)
    if not 0 <= manifest.sequence < SEQUENCE_LIMIT or (
        manifest.snapshot is not None and not is_valid_id(manifest.snapshot.snapshot_id)
    ):
        raise InvalidDocument(f"{path.name} has an invalid sequence or snapshotId")
    return manifest
