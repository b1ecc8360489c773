"""Verify that each release matches its statement, and that a trusted key signed the statement."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve, field, frozen

from release_tasks.archive.attestation.signing import open_envelope, trusted_keys
from release_tasks.archive.attestation.statement import (
    PREDICATE_TYPE,
    require_subjects,
    subjects_of,
    verdict_of,
)
from release_tasks.archive.pipeline import ManifestFile, Pipeline
from release_tasks.config.schema import Settings
from release_tasks.core.canonical import InvalidDocument, excerpt_line, parse_object, read_document
from release_tasks.core.digests import sha256_file
from release_tasks.core.errors import StageError
from release_tasks.core.records import Manifest, SnapshotMetadata

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

__all__ = ["AttestationFinding", "AttestationVerdict", "verify_attestation", "verify_attestations"]


@frozen(kw_only=True)
class AttestationFinding:
    """One difference from a statement. ``file`` is relative to the pipeline folder."""

    file: str
    what: str
    attested: str | None = None
    found: str | None = None

    def __str__(self) -> str:
        message = f"{excerpt_line(self.file)}: {excerpt_line(self.what, 1000)}"
        if self.attested is None and self.found is None:
            return message
        attested, found = (excerpt_line(value or "nothing") for value in (self.attested, self.found))
        return f"{message} (attested {attested}, found {found})"


@frozen(kw_only=True)
class AttestationVerdict:
    """The result for one release.

    ``unchecked``: the statement is signed, but no key is configured to check the signature. ``none``: the release has
    no statement, because an older version or the older tool wrote it.
    """

    release_id: str
    status: str  # signed | unchecked | unsigned | none | damaged
    key_id: str | None = None
    findings: list[AttestationFinding] = field(factory=list)


def verify_attestations(
    settings: Settings, pipeline: Pipeline, snapshot_id: str | None = None
) -> list[AttestationVerdict]:
    """Verify the statement of every release, oldest first; with ``snapshot_id``, only of releases with this snapshot.

    Raises UsageError when signing is configured and no key can check the signatures.
    """
    keys = trusted_keys(settings)
    verdicts: list[AttestationVerdict] = []
    first_signed: str | None = None
    for file in pipeline.read_manifests():
        verdict = verify_attestation(pipeline, file, keys)
        if verdict.status == "signed":
            first_signed = first_signed or file.release_id
        elif verdict.status in ("unsigned", "none") and first_signed is not None:
            # A program that can write to this folder can forge a manifest and an unsigned statement with any date.
            problem = f"is not signed, although the earlier release {first_signed} is"
            finding = AttestationFinding(file=f"manifests/{file.release_id}.json", what=problem)
            verdict = evolve(verdict, status="damaged", findings=[finding])
        named = file.manifest.snapshot if file.manifest is not None else None
        if snapshot_id is None or (named is not None and named.snapshot_id == snapshot_id):
            verdicts.append(verdict)
    return verdicts


def verify_attestation(
    pipeline: Pipeline, file: ManifestFile, keys: Mapping[str, Ed25519PublicKey]
) -> AttestationVerdict:
    """Verify the statement of one release, signed by one of ``keys``."""
    path = pipeline.statement_path(file.release_id)
    expected = file.manifest.attestation if file.manifest is not None else None
    try:
        document = read_document(path)
        is_signed = "payloadType" in document
        payload, key_id = open_envelope(document, keys) if is_signed else (None, None)
        statement = document if payload is None else parse_object(payload, "its payload")
        attested = _attested(statement)
    except FileNotFoundError:
        if expected is None:
            return AttestationVerdict(release_id=file.release_id, status="none")
        return _damaged(file, AttestationFinding(file=_shown(path), what="is missing"))
    except InvalidDocument as error:
        return _damaged(file, AttestationFinding(file=_shown(path), what=f"is refused: {error}"))
    findings = _differences(pipeline, file, statement, attested)
    if expected is not None and expected.key_id is not None and not is_signed:
        findings.append(
            AttestationFinding(file=_shown(path), what="is not signed", attested=expected.key_id, found="no signature")
        )
    if findings:
        return _damaged(file, *findings)
    status = "unsigned" if not is_signed else "signed" if key_id is not None else "unchecked"
    return AttestationVerdict(release_id=file.release_id, status=status, key_id=key_id)


def _damaged(file: ManifestFile, *findings: AttestationFinding) -> AttestationVerdict:
    return AttestationVerdict(release_id=file.release_id, status="damaged", findings=list(findings))


def _attested(statement: Mapping[str, Any]) -> dict[str, str]:
    """Return the digest of each subject by name; raises InvalidDocument when this is no statement on a release."""
    if statement.get("predicateType") != PREDICATE_TYPE or not isinstance(statement.get("predicate"), dict):
        raise InvalidDocument("it is not an in-toto Statement with test results")
    return require_subjects(statement)


def _differences(
    pipeline: Pipeline, file: ManifestFile, statement: Mapping[str, Any], attested: dict[str, str]
) -> list[AttestationFinding]:
    """Compare the statement with the files as they are now. Ignore a snapshot that retention has removed."""
    name = f"manifests/{file.release_id}.json"
    path = pipeline.manifest_path(file.release_id)
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):  # opening a pipe would wait for its writer
            raise OSError(f"{path.name} is not a regular file")
        digest = sha256_file(path)
    except (OSError, StageError) as error:
        return [AttestationFinding(file=name, what=f"cannot be read: {error}", attested=attested.get(name))]
    if attested.get(name) != f"sha256:{digest}":
        return [
            AttestationFinding(file=name, what="was altered", attested=attested.get(name), found=f"sha256:{digest}")
        ]
    if file.manifest is None:
        return [AttestationFinding(file=name, what=f"is refused: {file.reason}")]
    findings = []
    snapshot, metadata_digest = _snapshot_of(pipeline, file.manifest)
    subjects = subjects_of(file.manifest, digest, snapshot, metadata_digest)
    expected = {s["name"]: f"{algorithm}:{value}" for s in subjects for algorithm, value in s["digest"].items()}
    for name in [*expected, *(name for name in attested if name not in expected)]:
        is_gone = snapshot is None and name.startswith(("snapshots/", "bases/"))
        if not is_gone and attested.get(name) != expected.get(name):
            problem, found = "differs from the statement of the release", expected.get(name)
            findings.append(AttestationFinding(file=name, what=problem, attested=attested.get(name), found=found))
    for key, value in verdict_of(file.manifest).items():
        stated = statement["predicate"].get(key)
        if stated != value:
            problem = f"{key} differs from the manifest"
            path = pipeline.statement_path(file.release_id)
            findings.append(AttestationFinding(file=_shown(path), what=problem, attested=str(stated), found=str(value)))
    return findings


def _snapshot_of(pipeline: Pipeline, manifest: Manifest) -> tuple[SnapshotMetadata | None, str | None]:
    """Return the snapshot's current metadata and its digest, or None for both when the snapshot cannot be read.

    The verification of snapshots reports an unreadable snapshot.
    """
    if manifest.snapshot is None:
        return None, None
    try:
        metadata = pipeline.catalogue.get(manifest.snapshot.snapshot_id)
        return metadata, sha256_file(pipeline.catalogue.path(metadata.snapshot_id) / "metadata.json")
    except (StageError, OSError):
        return None, None


def _shown(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
