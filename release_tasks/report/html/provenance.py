"""What the page was made from: the manifest with its digest, the statement beside it, the versions at work."""

from __future__ import annotations

import platform

from release_tasks.archive.attestation.verification import AttestationVerdict, verify_attestations
from release_tasks.archive.pipeline import ManifestFile, Pipeline
from release_tasks.config.schema import Settings
from release_tasks.core.digests import sha256_file
from release_tasks.core.errors import StageError, describe_error
from release_tasks.core.version import __version__
from release_tasks.report.html.notifications import text
from release_tasks.report.html.page import Provenance, Tone

__all__ = ["provenance_of"]

_ATTESTED: dict[str, tuple[Tone, str]] = {
    "signed": ("good", "The statement beside it is signed by a key that is trusted here, and matches."),
    "unchecked": (
        "warn",
        "The statement beside it matches; it is signed, and no key is configured here to check that by.",
    ),
    "unsigned": ("quiet", "The statement beside it matches. It is not signed."),
    "none": ("quiet", "There is no statement beside it."),
    "damaged": ("bad", "The statement beside it and what it is about do not match."),
}


def provenance_of(settings: Settings, pipeline: Pipeline, file: ManifestFile) -> Provenance:
    """Return what the page was made from, and by what; what cannot be read is said."""
    import apsw

    path = pipeline.manifest_path(file.release_id)
    digest, problem = None, ""
    try:
        digest = sha256_file(path)
    except OSError as error:
        problem = describe_error(error)
    tone, attested, findings = _attested(settings, pipeline, file.release_id)
    versions = [
        ("release-tasks", __version__),
        ("Python", platform.python_version()),
        ("SQLite", apsw.sqlitelibversion()),
    ]
    if file.manifest is not None:
        versions.append(("manifest format", str(file.manifest.manifest_version)))
    return Provenance(
        manifest_path=str(path),
        manifest_digest=digest,
        manifest_problem=text(problem),
        attested_tone=tone,
        attested=attested,
        attested_findings=findings,
        versions=versions,
    )


def _attested(settings: Settings, pipeline: Pipeline, release_id: str) -> tuple[Tone, str, list[str]]:
    try:
        verdicts = verify_attestations(settings, pipeline)
    except (StageError, OSError) as error:
        return "warn", f"The statement beside it was not checked: {text(describe_error(error), 500)}", []
    verdict = next((found for found in verdicts if found.release_id == release_id), None)
    if verdict is None:
        verdict = AttestationVerdict(release_id=release_id, status="none")
    tone, sentence = _ATTESTED[verdict.status]
    return tone, sentence, [text(str(finding), 500) for finding in verdict.findings[:5]]
