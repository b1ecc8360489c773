"""What the page was made from: the manifest with its digest, the statement beside it, the versions at work."""

from __future__ import annotations

import platform

from attrs import frozen

from release_tasks.archive.attestation.verification import AttestationVerdict, verify_attestations
from release_tasks.archive.pipeline import ManifestFile, Pipeline
from release_tasks.config.schema import Settings
from release_tasks.core.digests import sha256_file
from release_tasks.core.errors import StageError, describe_error
from release_tasks.core.version import __version__
from release_tasks.report.html.values import text
from release_tasks.report.words import Meaning

__all__ = ["Provenance", "provenance_of"]

_ATTESTED: dict[str, tuple[Meaning, str]] = {
    "signed": ("good", "The statement beside it is signed by a key that is trusted here, and matches."),
    "unchecked": (
        "warn",
        "The statement beside it matches; it is signed, and no key is configured here to check that by.",
    ),
    "unsigned": ("quiet", "The statement beside it matches. It is not signed."),
    "none": ("quiet", "There is no statement beside it."),
    "damaged": ("bad", "The statement beside it and what it is about do not match."),
}


@frozen(kw_only=True)
class Provenance:
    """What the page was made from, and by what; ``digest`` is that of the manifest, or why it has none."""

    path: str
    digest: str
    is_digested: bool
    attested_tone: Meaning
    attested: str
    findings: list[str]
    versions: dict[str, str]


def provenance_of(settings: Settings, pipeline: Pipeline, file: ManifestFile) -> Provenance:
    """Return what the page was made from, and by what; what cannot be read is said."""
    import apsw

    path = pipeline.manifest_path(file.release_id)
    try:
        digest, is_digested = sha256_file(path), True
    except OSError as error:
        digest, is_digested = text(describe_error(error)) or "unknown", False
    verdict = AttestationVerdict(release_id=file.release_id, status="none")
    try:
        verdict = next((v for v in verify_attestations(settings) if v.release_id == file.release_id), verdict)
        tone, attested = _ATTESTED[verdict.status]
    except (StageError, OSError) as error:
        tone, attested = "warn", f"The statement beside it was not checked: {text(describe_error(error), 500)}"
    versions = {
        "release-tasks": __version__,
        "Python": platform.python_version(),
        "SQLite": apsw.sqlitelibversion(),
    }
    if file.manifest is not None:
        versions["manifest format"] = str(file.manifest.manifest_version)
    return Provenance(
        path=str(path),
        digest=digest,
        is_digested=is_digested,
        attested_tone=tone,
        attested=attested,
        findings=[text(finding, 500) for finding in verdict.findings[:5]],
        versions=versions,
    )
