"""Make an in-toto Statement (v1) with the test-result predicate (v0.1): the results of the gates, and the digests.

github.com/in-toto/attestation specifies both below ``spec/``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import asdict, frozen

from release_tasks.archive.attestation.signing import Signer, signer_of
from release_tasks.config.kinds import flatten
from release_tasks.config.schema import Settings
from release_tasks.core.canonical import InvalidDocument, canonical_bytes
from release_tasks.core.digests import sha256_bytes, sha256_file
from release_tasks.core.records import AttestationReference, Manifest, SnapshotMetadata

__all__ = [
    "PREDICATE_TYPE",
    "STATEMENT_TYPE",
    "Attester",
    "gates_digest",
    "require_subjects",
    "subjects_of",
    "verdict_of",
]

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://in-toto.io/attestation/test-result/v0.1"
_WHOLE_RELEASE = "release.prepare"  # the failed test when every gate passed and the release is blocked


@frozen
class Attester:
    """Makes the statements of one configuration; with a signing key, in a signed envelope."""

    settings: Settings
    signer: Signer | None

    @classmethod
    def of(cls, settings: Settings) -> Attester:
        """Return the attester of this configuration; raises UsageError when its key cannot be used."""
        return cls(settings, signer_of(settings))

    @property
    def reference(self) -> AttestationReference:
        """The manifest's reference to its statement."""
        return AttestationReference(key_id=self.signer.key_id if self.signer else None)

    def line(
        self, manifest: Manifest, data: bytes, snapshot: SnapshotMetadata | None = None, folder: Path | None = None
    ) -> bytes:
        """Return the statement about ``manifest`` (its file contains ``data``) and the snapshot in ``folder``."""
        predicate = verdict_of(manifest)
        predicate["configuration"] = [{"name": "release.gates", "digest": {"sha256": gates_digest(self.settings)}}]
        url = _run_url()
        if url is not None:
            predicate["url"] = url
        metadata_digest = sha256_file(folder / "metadata.json") if folder is not None else None
        document = {
            "_type": STATEMENT_TYPE,
            "subject": subjects_of(manifest, sha256_bytes(data), snapshot, metadata_digest),
            "predicateType": PREDICATE_TYPE,
            "predicate": predicate,
        }
        statement = canonical_bytes(document)
        return (statement if self.signer is None else canonical_bytes(self.signer.envelope(statement))) + b"\n"


def subjects_of(
    manifest: Manifest, digest: str, snapshot: SnapshotMetadata | None, metadata_digest: str | None
) -> list[dict[str, Any]]:
    """Return the subjects of the statement with their digests: manifest, snapshot, and the files in the snapshot.

    ``digest`` is the digest of the manifest's file, ``metadata_digest`` that of the snapshot's metadata.json. The
    digest and the metadata of the snapshot cover folders. The commit is a subject only when the worktree was clean.
    """
    found = {f"manifests/{manifest.release_id}.json": digest}
    if manifest.snapshot is not None:
        found[manifest.snapshot.snapshot_id] = snapshot.digest if snapshot else manifest.snapshot.digest
    if snapshot is not None and metadata_digest is not None:
        path = f"snapshots/{snapshot.snapshot_id}"
        found[f"{path}/metadata.json"] = metadata_digest
        for asset in snapshot.assets:
            stored = asset.sha256 if asset.delta is None else asset.delta.sha256
            if asset.entries is None and asset.exists and stored is not None:
                found[f"{path}/{asset.relative_path}"] = stored
            if asset.delta is not None:
                found[f"bases/{asset.delta.base_sha256}.db"] = asset.delta.base_sha256
    subjects: list[dict[str, Any]] = [{"name": name, "digest": {"sha256": value}} for name, value in found.items()]
    if manifest.git_commit is not None and manifest.git_dirty is False:
        subjects.append({"name": "git", "digest": {"gitCommit": manifest.git_commit}})
    return subjects


def require_subjects(statement: Mapping[str, Any]) -> dict[str, str]:
    """Return the digest of each subject by name, as ``sha256:...``; raises InvalidDocument for another document."""
    subjects = statement.get("subject")
    if statement.get("_type") != STATEMENT_TYPE:
        raise InvalidDocument("it is not an in-toto Statement")
    attested: dict[str, str] = {}
    for subject in subjects if isinstance(subjects, list) else []:
        name = subject.get("name") if isinstance(subject, dict) else None
        digests = subject.get("digest") if isinstance(subject, dict) else None
        if not isinstance(name, str) or not isinstance(digests, dict) or len(digests) != 1 or name in attested:
            raise InvalidDocument("one of its subjects is invalid")
        ((algorithm, digest),) = digests.items()
        attested[name] = f"{algorithm}:{digest}"
    return attested


def verdict_of(manifest: Manifest) -> dict[str, Any]:
    """Return the part of the predicate that comes from the manifest: the result, and the gates by result."""
    checks = manifest.preflight.checks
    failed = [check.id for check in checks if check.blocks]
    warned = [check.id for check in checks if check.status != "passed" and check.advisory]
    if manifest.status == "blocked":
        result, failed = "FAILED", failed or [_WHOLE_RELEASE]
    else:
        result = "WARNED" if warned else "PASSED"
    return {
        "result": result,
        "passedTests": [check.id for check in checks if check.status == "passed"],
        "warnedTests": warned,
        "failedTests": failed,
    }


def gates_digest(settings: Settings) -> str:
    """Return a digest of the effective ``release.gates``: equal gates give an equal digest, in any folder."""

    def plain(_: Any, attribute: Any, value: Any) -> Any:
        if attribute is not None and attribute.name == "equals":
            return repr(value)  # any YAML value, including dates, and numbers as keys
        return os.path.relpath(value, settings.project) if isinstance(value, Path) else value

    gates = {name: flatten(gate, settings.kinds.gates) for name, gate in settings.release.gates.items()}
    return sha256_bytes(canonical_bytes({name: asdict(gate, value_serializer=plain) for name, gate in gates.items()}))


def _run_url() -> str | None:
    """Return the URL of the CI run that prepares this release, or None when the environment has no such URL."""
    server, repository, run = (os.environ.get(f"GITHUB_{name}") for name in ("SERVER_URL", "REPOSITORY", "RUN_ID"))
    if os.environ.get("GITHUB_ACTIONS") == "true" and server and repository and run:
        return f"{server}/{repository}/actions/runs/{run}"
    return os.environ.get("CI_JOB_URL") if os.environ.get("GITLAB_CI") == "true" else None
