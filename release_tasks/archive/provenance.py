"""Compare a snapshot with the audit log, and with the signed statements where keys are configured.

The digests inside a snapshot show that its bytes are as recorded there. A person who can write the pipeline folder can
replace the record together with the bytes; the log and the statements are the other witnesses. A signature covers the
log too: the signed manifest of a release contains the hash of its event, and each event contains the hash of the event
before it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from attrs import evolve, frozen

from release_tasks.archive import legacy
from release_tasks.archive.attestation.captured import read_signed_digests
from release_tasks.archive.attestation.signing import trusted_keys
from release_tasks.archive.attestation.verification import AttestationFinding, AttestationVerdict, verify_attestation
from release_tasks.archive.pipeline import ManifestFile, Pipeline
from release_tasks.archive.recorded import RecordedSnapshot, RecordedSnapshots, read_recorded
from release_tasks.archive.verify import SnapshotVerdict
from release_tasks.assets.findings import AssetFinding
from release_tasks.config.schema import Settings
from release_tasks.core.canonical import InvalidDocument, excerpt_line
from release_tasks.core.digests import sha256_file
from release_tasks.core.errors import StageError, StageFailed, UsageError, describe_error
from release_tasks.core.records import Manifest, RollbackJournal, SnapshotMetadata
from release_tasks.core.typed import typed

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

__all__ = ["Provenance", "RecordFinding", "with_records"]

_MAX_OTHERS = 3
_MAX_SEARCHED = 20  # snapshots that are compared with their records, to name others to an operator
_LOG = "the audit log"


@frozen(kw_only=True)
class RecordFinding:
    """One disagreement between a snapshot and its records.

    ``differs``: a record contradicts the snapshot, so the snapshot is never restored. ``missing``: a record that must
    exist is missing. ``unsigned``: no trusted key signed the snapshot, and none had to. An operator can restore a
    snapshot with only these two.
    """

    kind: Literal["differs", "missing", "unsigned"]
    what: str
    recorded: str | None = None
    found: str | None = None

    def __str__(self) -> str:
        if self.recorded is None:
            return self.what
        return f"{self.what} (recorded {excerpt_line(self.recorded)}, found {excerpt_line(self.found or 'nothing')})"


class Provenance:
    """The records of one pipeline folder, read once. ``is_signed``: keys are configured."""

    def __init__(self, settings: Settings, pipeline: Pipeline) -> None:
        self._settings = settings
        self._pipeline = pipeline
        attestation = settings.release.attestation
        self.is_signed = bool(attestation.key_env or attestation.public_keys)

    @cached_property
    def recorded(self) -> RecordedSnapshots:
        """What the audit log says. Raises OSError."""
        return read_recorded(self._pipeline.audit.verify().events)

    @cached_property
    def _keys(self) -> dict[str, Ed25519PublicKey]:
        return trusted_keys(self._settings) if self.is_signed else {}

    def require(
        self, snapshot: SnapshotMetadata, *, requested: str | None = None, command: str, unverified: bool = False
    ) -> list[str]:
        """Raise StageFailed unless the records agree with ``snapshot``; return notes for the operator.

        ``requested`` is the id that was typed, ``command`` restores the snapshot without complete records. With
        ``unverified`` only a contradiction is an error. Raises UsageError when no key can check a signature, OSError.
        """
        try:
            findings = self.find(snapshot, requested)
        except UsageError as error:
            if not unverified:
                anyway = f"To restore without a check of signatures: {command}"
                raise UsageError(f"{error.message} Nothing was changed. {anyway}") from None
            findings = [
                *self.compare_with_log(snapshot, requested),
                RecordFinding(kind="unsigned", what="no key can check its signature"),
            ]
        is_contradicted = any(finding.kind == "differs" for finding in findings)
        if not findings:
            return []
        if unverified and not is_contradicted:
            return [f"{snapshot.snapshot_id} was restored without complete records: {'; '.join(map(str, findings))}."]
        sentences = [f"Snapshot {snapshot.snapshot_id} is refused, nothing was changed: {findings[0]}."]
        sentences += [f"Also {finding}." for finding in findings[1:]]
        others = self._others(snapshot)
        if others:
            best = typed("release.rollback", "--snapshot", others[0])
            sentences.append(
                f"The records agree with {', '.join(others)}. To restore the latest of them, type `{best}`."
            )
        sentences.append(f"To list what is missing or was replaced, type `{typed('release.verify')}`.")
        if not is_contradicted:
            sentences.append(f"To restore {snapshot.snapshot_id} anyway, if you know where it comes from: {command}")
        raise StageFailed(" ".join(sentences))

    def require_latest(self, snapshot: SnapshotMetadata) -> None:
        """Raise StageFailed unless ``snapshot`` is the one of the latest release that the log knows.

        For a rollback without an id: with the latest snapshot gone, or altered so that it does not count as the latest,
        another state would be restored. Retention never removes the latest one, so its events are no excuse.
        """
        problem = self.latest_problem(snapshot)
        if problem:
            anyway = typed("release.rollback", "--snapshot", snapshot.snapshot_id)
            what, _, why = problem.partition(": ")
            raise StageFailed(
                f"{what}, nothing was changed: {why} Bring it back, or restore {snapshot.snapshot_id} with `{anyway}`. "
                f"To list what is missing or was altered, type `{typed('release.verify')}`."
            )

    def latest_problem(self, snapshot: SnapshotMetadata) -> str:
        """Return a sentence when ``snapshot`` is not the one of the latest release of the log; else an empty text."""
        found = self.latest_release
        if found is None or found == (snapshot.release_id, snapshot.snapshot_id):
            return ""
        release_id, latest = found
        is_there = latest in {each.snapshot_id for each in self._pipeline.catalogue.published()[0]}
        return (
            f"The latest snapshot {'was altered' if is_there else 'is missing'}: the audit log has {latest} of release "
            f"{release_id} as the latest one, and a rollback without an id would restore {snapshot.snapshot_id}."
        )

    def hidden_latest(self) -> tuple[str, str]:
        """Return the snapshot of the latest release, and why a rollback without an id would restore another one.

        Two empty texts when it would restore it, or would be refused for another reason.
        """
        releases = [each for each in self._pipeline.catalogue.published()[0] if each.kind == "release"]
        problem = self.latest_problem(releases[-1]) if releases else ""
        return (self.latest_release[1], problem) if problem and self.latest_release is not None else ("", "")

    @cached_property
    def latest_release(self) -> tuple[str, str] | None:
        """The id and the snapshot of the latest release that the log knows; None when it knows none."""
        published = {**self.recorded.releases, **self.recorded.withdrawn}
        for release_id in reversed(list(self.recorded.prepared)):
            snapshot_id = published.get(release_id)
            if snapshot_id is not None and not self._is_withdrawn(release_id, snapshot_id):
                return release_id, snapshot_id
        return None

    def _is_withdrawn(self, release_id: str, snapshot_id: str | None) -> bool:
        """Return whether the log says that a release was withdrawn, and no file contradicts it."""
        if release_id not in self.recorded.withdrawn:
            return False
        file = self._pipeline.manifest_file(release_id)
        if file is None:  # a withdrawal removes the statement, too
            is_stated = os.path.lexists(self._pipeline.statement_path(release_id))
        else:
            is_stated = file.manifest is None or file.manifest.status == "ready"
            if self.is_signed and not is_stated:
                is_stated = verify_attestation(self._pipeline, file, self._keys).status == "damaged"
        return not is_stated and snapshot_id not in self._pipeline.catalogue.store.list()

    def require_release(self, manifest: Manifest, *, is_latest: bool = False, may_lack_records: bool = False) -> None:
        """Raise StageFailed unless the log, and where keys are configured a statement, agree with ``manifest``.

        ``is_latest``: it is that of latest.json. With ``may_lack_records`` only a contradiction is an error. Raises
        UsageError when no key can check a signature, OSError.
        """
        findings = self.compare_release(manifest, is_latest=is_latest)
        if may_lack_records:
            findings = [finding for finding in findings if finding.kind == "differs"]
        if findings:
            choose = typed("release.rollback", "--snapshot", "ID")
            raise StageFailed(
                f"Release {excerpt_line(manifest.release_id)} is refused, nothing was changed: "
                f"{'. Also '.join(map(str, findings))}. To list what was altered, type `{typed('release.verify')}`. "
                f"To restore a snapshot of your choice: {choose}"
            )

    def compare_release(self, manifest: Manifest, *, is_latest: bool = False) -> list[RecordFinding]:
        """Return where the log and the statement disagree with ``manifest``, which names the snapshot to restore."""
        release_id = manifest.release_id
        file = self._pipeline.manifest_file(release_id)
        if file is None or file.manifest != manifest:
            what = f"latest.json is not a copy of manifests/{excerpt_line(release_id)}.json"
            return [RecordFinding(kind="differs", what=what)]
        if not self.recorded.prepared:  # an older tool wrote all releases
            return []
        latest = self.latest_release
        if is_latest and latest is not None and latest[0] != release_id:
            what = f"latest.json is not the latest release of {_LOG}"
            return [RecordFinding(kind="differs", what=what, recorded=latest[0], found=release_id)]
        found = manifest.snapshot.snapshot_id if manifest.snapshot is not None else None
        if release_id not in self.recorded.prepared:  # of an older tool, unless it names a snapshot of this package
            is_known = self.recorded.find(found or "") is not None
            return [RecordFinding(kind="differs", what=f"{_LOG} has no event of it")] if is_known else []
        is_withdrawn = self._is_withdrawn(release_id, self.recorded.prepared[release_id])
        recorded = None if is_withdrawn else self.recorded.prepared[release_id]
        if recorded != found:
            what = f"its manifest names another snapshot than {_LOG}"
            return [RecordFinding(kind="differs", what=what, recorded=recorded or "no snapshot", found=found)]
        taken = self.recorded.by_id.get(found or "")
        findings = self._compare_manifest(file)
        if not findings and self.is_signed:
            verdict = verify_attestation(self._pipeline, file, self._keys)
            findings = [RecordFinding(kind="differs", what=str(each)) for each in verdict.findings]
            is_covered = taken is not None and self._is_covered(taken)
            if verdict.status != "signed" and not findings and not is_covered:
                findings = [RecordFinding(kind="unsigned", what=f"no trusted key signed release {release_id}")]
        return findings

    def require_journal(self, journal: RollbackJournal, *, unverified: bool = False) -> None:
        """Raise StageFailed when the log has no unfinished rollback that can have written ``journal``."""
        started = self.recorded.rollbacks.get(journal.rollback_id)
        if unverified or (self.recorded.open_rollback == journal.rollback_id and started == journal.snapshot_id):
            return
        problem = f"the audit log has no rollback {journal.rollback_id} to {journal.snapshot_id}"
        if started == journal.snapshot_id:
            problem = f"the audit log says that rollback {journal.rollback_id} ended, or that another one ran since"
        raise StageFailed(
            f"The journal {self._pipeline.journal_path} is refused: {problem}, so a rollback may not have written it. "
            f"Find out who wrote it. To do what it says nevertheless: {typed('release.recover', '--unverified')}"
        )

    def find(self, snapshot: SnapshotMetadata, requested: str | None = None) -> list[RecordFinding]:
        """Return every disagreement; raises UsageError when no key can check a signature, OSError."""
        return self.compare_with_log(snapshot, requested) + self.compare_with_signature(snapshot)

    def refusal(self, snapshot: SnapshotMetadata) -> str:
        """Return why a rollback would refuse ``snapshot`` because of its records; empty when it would not."""
        try:
            return "; ".join(map(str, self.find(snapshot)))
        except (StageError, OSError) as error:
            return describe_error(error)

    def release_refusals(self, manifest: Manifest, *, is_latest: bool = False) -> list[str]:
        """Return why ``manifest`` does not agree with its records; a missing signature alone is no reason."""
        try:
            return [
                str(finding)
                for finding in self.compare_release(manifest, is_latest=is_latest)
                if finding.kind != "unsigned"
            ]
        except (StageError, OSError) as error:
            return [describe_error(error)]

    def compare_with_log(self, snapshot: SnapshotMetadata, requested: str | None = None) -> list[RecordFinding]:
        """Compare a snapshot with its event; ``requested`` is the removed equal snapshot that was typed, if any."""
        recorded = self.recorded.find(snapshot.snapshot_id)
        if legacy.is_legacy(snapshot):  # it is older than the log, and is restored with --force only
            return self._compare_legacy(snapshot, recorded)
        if recorded is None:
            return [RecordFinding(kind="missing", what=f"{_LOG} has no event of it")]
        if recorded.digest not in (None, snapshot.digest):
            what = f"its digest differs from the one in {_LOG}"
            return [RecordFinding(kind="differs", what=what, recorded=recorded.digest, found=snapshot.digest)]
        if recorded.checksum not in (None, snapshot.checksum):
            what = f"the checksum of its metadata differs from the one in {_LOG}"
            return [RecordFinding(kind="differs", what=what, recorded=recorded.checksum, found=snapshot.checksum)]
        findings = []
        removed = self.recorded.removed.get(snapshot.snapshot_id)
        if removed is not None and snapshot.snapshot_id in self._pipeline.catalogue.store.list():
            what = f"{_LOG} says that retention removed it on {removed}, and it is here again"
            findings.append(RecordFinding(kind="missing", what=what))
        if snapshot.release_id is not None:
            findings += self._compare_anchor(snapshot, recorded)
        if requested not in (None, snapshot.snapshot_id):
            findings += self._compare_alias(str(requested), snapshot)
        return findings

    def _compare_anchor(self, snapshot: SnapshotMetadata, recorded: RecordedSnapshot) -> list[RecordFinding]:
        """Compare the event of a release with the one that its manifest names; a signature covers the manifest."""
        file = self._pipeline.manifest_file(str(snapshot.release_id))
        manifest = file.manifest if file is not None else None
        if file is None or manifest is None:
            return []
        if snapshot.kind == "release" and manifest.audit not in (None, recorded.anchor):
            assert manifest.audit is not None
            what = f"the event of release {snapshot.release_id} is not the one that its manifest names"
            return [RecordFinding(kind="missing", what=what, recorded=manifest.audit.hash, found=recorded.anchor.hash)]
        return self._compare_manifest(file)

    def _compare_manifest(self, file: ManifestFile) -> list[RecordFinding]:
        """Compare a manifest with the events of its release: a restart and the health check depend on it."""
        manifest, name = file.manifest, f"manifests/{excerpt_line(file.release_id)}.json"
        if manifest is None:
            return []
        expected = self.recorded.manifests.get(file.release_id)
        found = sha256_file(self._pipeline.manifest_path(file.release_id))
        advice = "move it away to restore the snapshot without it"
        if expected not in (None, found):
            what = f"{name} was altered ({advice})"
            return [RecordFinding(kind="differs", what=what, recorded=expected, found=found)]
        taken = self.recorded.by_id.get(self.recorded.prepared.get(file.release_id) or "")
        if manifest.first_deployment and not (taken is not None and taken.is_first):
            what = f"{name} says that the release was the first deployment, and {_LOG} does not ({advice})"
            return [RecordFinding(kind="differs", what=what)]
        return []

    def _compare_legacy(self, snapshot: SnapshotMetadata, recorded: RecordedSnapshot | None) -> list[RecordFinding]:
        """A snapshot that this package took has digests. Without them, it was altered."""
        what = "it has no digests, as if an older tool had taken it"
        if recorded is not None and (recorded.is_capture or recorded.digest or recorded.checksum):
            what += f", and {_LOG} has its event"
            return [RecordFinding(kind="differs", what=what, recorded=recorded.digest, found=None)]
        for file in self._pipeline.read_manifests():
            named = file.manifest.snapshot if file.manifest is not None else None
            if named is not None and named.snapshot_id == snapshot.snapshot_id and named.digest:
                what += f", and manifests/{excerpt_line(file.release_id)}.json has its digest"
                return [RecordFinding(kind="differs", what=what, recorded=named.digest, found=None)]
        return []

    def _compare_alias(self, requested: str, snapshot: SnapshotMetadata) -> list[RecordFinding]:
        before = self.recorded.find(requested)
        if before is not None and before.digest not in (None, snapshot.digest):
            what = f"it stands for {requested}, whose digest in {_LOG} is another one"
            return [RecordFinding(kind="differs", what=what, recorded=before.digest, found=snapshot.digest)]
        if not self.recorded.follows(requested, snapshot.snapshot_id):
            what = f"{_LOG} does not say that it stands for {requested}"
            return [RecordFinding(kind="missing", what=what)]
        return []

    def compare_with_signature(self, snapshot: SnapshotMetadata) -> list[RecordFinding]:
        """Return why no signature proves ``snapshot``; empty where one does, and where no keys are configured."""
        if not self.is_signed:
            return []
        findings = self._compare_statement(snapshot)
        is_unsigned = all(finding.kind == "unsigned" for finding in findings)
        recorded = self.recorded.find(snapshot.snapshot_id)
        if findings and is_unsigned and recorded is not None and self._is_covered(recorded):
            return []
        return findings

    def _compare_statement(self, snapshot: SnapshotMetadata) -> list[RecordFinding]:
        if legacy.is_legacy(snapshot):
            return [RecordFinding(kind="unsigned", what="an older tool took it, and no trusted key signed it")]
        if snapshot.kind == "release":
            return self._compare_release(snapshot)
        folder = self._pipeline.catalogue.path(snapshot.snapshot_id)
        try:
            signed = read_signed_digests(folder, snapshot.snapshot_id, self._keys)
        except InvalidDocument as error:
            return [RecordFinding(kind="missing", what=f"its statement is refused: {error}")]
        if signed is None:
            return [RecordFinding(kind="unsigned", what="no trusted key signed it")]
        found = (f"sha256:{snapshot.digest}", f"sha256:{sha256_file(folder / 'metadata.json')}")
        return [
            RecordFinding(kind="differs", what="it differs from its signed statement", recorded=attested, found=digest)
            for attested, digest in zip(signed, found, strict=True)
            if attested != digest
        ]

    def _compare_release(self, snapshot: SnapshotMetadata) -> list[RecordFinding]:
        release_id = str(snapshot.release_id)
        file = self._pipeline.manifest_file(release_id)
        if file is None:
            return [RecordFinding(kind="missing", what=f"manifests/{excerpt_line(release_id)}.json is missing")]
        verdict = verify_attestation(self._pipeline, file, self._keys)
        manifest = file.manifest
        if manifest is not None and (
            manifest.snapshot is None or manifest.snapshot.snapshot_id != snapshot.snapshot_id
        ):
            return [RecordFinding(kind="missing", what=f"the manifest of {release_id} names another snapshot")]
        if verdict.status == "damaged":
            return [_of_statement(finding, snapshot) for finding in verdict.findings]
        if verdict.status != "signed":
            return [RecordFinding(kind="unsigned", what=f"no trusted key signed release {release_id}")]
        return []

    def _is_covered(self, recorded: RecordedSnapshot) -> bool:
        """Return whether the signed manifest of a later release proves the event of a snapshot."""
        if recorded.digest is None:
            return False
        for file in reversed(self._pipeline.read_manifests()):
            anchor = file.manifest.audit if file.manifest is not None else None
            if anchor is None or not self.recorded.is_before(recorded.anchor, anchor):
                continue
            if verify_attestation(self._pipeline, file, self._keys).status == "signed":
                return True
        return False

    def _others(self, snapshot: SnapshotMetadata) -> list[str]:
        """Return a few other snapshots whose records agree, the latest first; those of releases before others."""
        published = [each for each in self._pipeline.catalogue.published()[0] if not legacy.is_legacy(each)]
        published.reverse()
        latest_first = sorted(published, key=lambda each: each.kind != "release")[:_MAX_SEARCHED]
        agreeing: list[str] = []
        for each in latest_first:
            if each.snapshot_id != snapshot.snapshot_id and len(agreeing) < _MAX_OTHERS and not self.find(each):
                agreeing.append(each.snapshot_id)
        return agreeing

    def missing_snapshots(self) -> list[tuple[str, RecordFinding]]:
        """Return the snapshots that the log has and the store lacks, although retention did not remove them."""
        what = f"is missing: {_LOG} has its event, and no event of its removal"
        if not self._lost(self.recorded):
            return []
        # Another command may have published or removed a snapshot since the log was read.
        lost = self._lost(read_recorded(self._pipeline.audit.verify().events))
        return [(snapshot_id, RecordFinding(kind="missing", what=what)) for snapshot_id in lost]

    def _lost(self, recorded: RecordedSnapshots) -> list[str]:
        store = self._pipeline.catalogue.store
        snapshots, unreadable = self._pipeline.catalogue.published()  # an empty folder is no snapshot
        stored = {each.snapshot_id for each in snapshots} | {each.snapshot_id for each in unreadable}
        needed = dict.fromkeys([*recorded.releases.values(), *sorted(recorded.safety)])
        return [
            name
            for name in needed
            if name not in stored and name not in recorded.removed and not store.partial_path(name).exists()
        ]

    def missing_releases(self) -> list[AttestationVerdict]:
        """Return the releases that the log has, without a manifest or without a statement, and a wrong latest.json."""
        files = {file.release_id: file for file in self._pipeline.read_manifests()}
        verdicts = []
        for release_id in self.recorded.releases:
            manifest = files[release_id].manifest if release_id in files else None
            name = f"manifests/{release_id}.json"
            if release_id not in files:
                verdicts.append(_damaged(release_id, name, f"is missing: {_LOG} has the event of this release"))
            elif manifest is not None and manifest.attestation is None:
                path = self._pipeline.statement_path(release_id)
                if not os.path.lexists(path):
                    what = f"is missing: {_LOG} has the event of this release"
                    verdicts.append(_damaged(release_id, f"manifests/{path.name}", what))
        return verdicts + self._wrong_latest()

    def _wrong_latest(self) -> list[AttestationVerdict]:
        ready = [
            file.manifest
            for file in self._pipeline.read_manifests()
            if file.manifest is not None and file.manifest.release_id in self.recorded.releases
        ]
        if not ready or self._pipeline.latest_ready() == ready[-1]:
            return []
        what = f"is not a copy of the manifest of the latest ready release, {ready[-1].release_id}"
        return [_damaged("latest", "manifests/latest.json", what)]


def with_records(verdict: SnapshotVerdict, records: Iterable[RecordFinding]) -> SnapshotVerdict:
    """Return the verdict on the bytes of a snapshot with what its ``records`` say: a disagreement is damage.

    That no key signed a snapshot is a note.
    """
    findings = [
        AssetFinding(key="*", what=each.what, expected=each.recorded, found=each.found)
        for each in records
        if each.kind != "unsigned"
    ]
    notes = [f"A rollback needs --unverified: {each.what}." for each in records if each.kind == "unsigned"]
    status = "damaged" if findings else verdict.status
    return evolve(verdict, status=status, findings=verdict.findings + findings, notes=verdict.notes + notes)


def _damaged(release_id: str, file: str, what: str) -> AttestationVerdict:
    finding = AttestationFinding(file=file, what=what)
    return AttestationVerdict(release_id=release_id, status="damaged", findings=[finding])


def _of_statement(finding: AttestationFinding, snapshot: SnapshotMetadata) -> RecordFinding:
    """Return a finding on the statement of a release as one on its snapshot."""
    is_of_snapshot = snapshot.snapshot_id in finding.file and finding.attested is not None
    return RecordFinding(
        kind="differs" if is_of_snapshot else "missing",
        what=f"{excerpt_line(finding.file)} {finding.what}",
        recorded=finding.attested,
        found=finding.found,
    )
