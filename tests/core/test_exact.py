"""Names, ids, digests, times and statuses of our own documents stay; texts have no secrets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from release_tasks.core.audit import AuditLog
from release_tasks.core.exact import document_without_secrets
from release_tasks.core.redact import REDACTED

_ID = "sk-gateway-20261130041727_snapshot_20261130041728"
_EXACT = {
    "releaseId": "database-20261130041727",
    "snapshotId": _ID,
    "removedSnapshots": [_ID],
    "restoredAssets": ["database"],
    "failedChecks": ["database"],
    "digest": "20261130" * 8,
    "checksum": "20261130" * 8,
    "manifestPath": f"/srv/database/{_ID}.json",
    "generatedAt": "2026-11-30T04:17:27.123Z",
    "status": "restored",
    "releases": [{"releaseId": "database", "sequence": 3}],
    "assets": {"database": {"key": "database", "status": "restored"}},
}


@pytest.mark.parametrize(
    "password", ["database", "data_base", "checksum", "restored", "20261130", "removedRows", "snapshot"]
)
def test_what_is_typed_is_exact(monkeypatch: pytest.MonkeyPatch, password: str) -> None:
    """Whatever word a secret variable has, and although an id has the form of a token."""
    monkeypatch.setenv("DB_PASSWORD", password)
    assert document_without_secrets(_EXACT) == _EXACT


def test_texts_are_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sentences, lists of them, texts below other names, and names and values from a gate."""
    monkeypatch.setenv("DB_PASSWORD", "data_base")
    token = "ghp_" + "a1B2" * 9
    document = {
        "detail": f"data_base, {token}",
        "diagnostics": ["the data_base"],
        "status": f"down: {token}",
        "removedRows": {"data_base": {token: 3}},
        "checks": [{"id": "data_base", "diagnostics": {"data_base": "data_base", "status": "data_base"}}],
    }
    assert document_without_secrets(document) == {
        "detail": f"{REDACTED}, {REDACTED}",
        "diagnostics": [f"the {REDACTED}"],
        "status": f"down: {REDACTED}",
        "removedRows": {"data_base": {REDACTED: 3}},
        "checks": [{"id": "data_base", "diagnostics": {REDACTED: REDACTED, "status": REDACTED}}],
    }


def test_an_audit_event_has_all_its_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rollback compares the digest and the checksum of its snapshot with those of the event."""
    monkeypatch.setenv("DB_PASSWORD", "contentDigest")
    log = AuditLog(tmp_path / "log")
    log.append(
        "rollback.finished",
        status="restored",
        detail="the contentDigest",
        contentDigest="a" * 64,
        restoredAssets=["db"],
    )
    event = json.loads(log.path.read_bytes())
    assert (
        event["contentDigest"] == "a" * 64
        and event["restoredAssets"] == ["db"]
        and event["detail"] == f"the {REDACTED}"
    )
