"""Signed releases at the command line: refused keys, verified and damaged releases."""

from __future__ import annotations

import subprocess

import pytest

from tests.support.invoke_project import InvokeProject

pytestmark = pytest.mark.slow


@pytest.fixture
def signing(scratch: InvokeProject) -> InvokeProject:
    """Return a project that signs with its own key."""
    subprocess.run("openssl genpkey -algorithm ed25519 -out release.key".split(), cwd=scratch.root, check=True)
    scratch.variables["RELEASE_KEY"] = "release.key"
    scratch.configuration["release"]["attestation"] = {"key_env": "RELEASE_KEY"}
    return scratch


@pytest.mark.parametrize("value", [None, "nonesuch.key", "state.txt"])
def test_an_unusable_key_is_refused_before_any_gate(signing: InvokeProject, value: str | None) -> None:
    """Exit 2, one message, and nothing is written."""
    del signing.variables["RELEASE_KEY"]
    if value is not None:
        signing.variables["RELEASE_KEY"] = value
    done = signing.run("release.prepare")
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1), done
    assert "RELEASE_KEY" in done.stderr
    assert (signing.gate_runs(), (signing.root / "pipeline" / "manifests").exists()) == (0, False)


def test_verify_reports_the_signer_and_later_changes(signing: InvokeProject) -> None:
    """Exit 0 and the key; after a change exit 1 and the file with both digests."""
    manifest = signing.document("release.prepare", "--release-id", "v1")
    key_id = manifest["attestation"]["keyId"]
    found = signing.document("release.verify")
    assert (found["status"], found["attestations"]) == (
        "verified",
        [{"releaseId": "v1", "status": "signed", "keyId": key_id, "findings": []}],
    )
    assert f"SIGNED  release v1, key {key_id}" in signing.run("release.verify").stdout
    path = signing.root / "pipeline" / "manifests" / "v1.json"
    path.write_text(path.read_text().replace('"2.1"', '"2.2"'))
    found = signing.document("release.verify", code=1)
    (finding,) = found["attestations"][0]["findings"]
    assert (found["status"], finding["file"]) == ("damaged", "manifests/v1.json")
    reported = signing.run("release.verify").stdout
    assert f"attested {finding['attested']}" in reported and f"found {finding['found']}" in reported


def test_a_blocked_attempt_is_signed_and_can_be_prepared_again(signing: InvokeProject) -> None:
    """Each attempt has its own statement."""
    signing.configuration["release"]["gates"]["bad"] = {"command": "false"}
    assert signing.document("release.prepare", "--release-id", "v1", code=1)["attestation"]["keyId"]
    del signing.configuration["release"]["gates"]["bad"]
    assert signing.document("release.prepare", "--release-id", "v1")["status"] == "ready"
    names = sorted(path.name for path in (signing.root / "pipeline" / "manifests").glob("v1*"))
    assert names == ["v1.json", "v1.json.intoto.jsonl", "v1~1.json", "v1~1.json.intoto.jsonl"]
    assert signing.document("release.verify")["status"] == "verified"
