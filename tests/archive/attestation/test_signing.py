"""Signed statements: a release counts as signed only when a known key signed it and nothing changed since."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from release_tasks.archive.attestation.signing import Signer, open_envelope, pre_authentication, signer_of
from release_tasks.archive.attestation.verification import AttestationVerdict, verify_attestations
from release_tasks.archive.pipeline import manifest_bytes
from release_tasks.core.canonical import InvalidDocument, canonical_bytes
from release_tasks.core.errors import ExitCode, UsageError
from release_tasks.stages.preflight.engine import run_preflight
from tests.support.keys import KeyPair, MakeKey
from tests.support.project import Project
from tests.support.releases import release


def envelope(project: Project, release_id: str = "v1") -> dict[str, Any]:
    """Return the signed statement of a release as JSON."""
    document: dict[str, Any] = json.loads(project.pipeline.statement_path(release_id).read_bytes())
    return document


def write_envelope(project: Project, document: dict[str, Any], release_id: str = "v1") -> None:
    project.pipeline.statement_path(release_id).write_bytes(canonical_bytes(document) + b"\n")


def verdicts(project: Project) -> dict[str, AttestationVerdict]:
    return {each.release_id: each for each in verify_attestations(project.settings, project.pipeline)}


@pytest.fixture
def key(make_key: MakeKey) -> KeyPair:
    """Return the key pair that signs the releases of a test."""
    return make_key("ours")


@pytest.fixture
def signing_project(project: Project, key: KeyPair, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return a project that signs with a private key in a file and trusts its public key."""
    monkeypatch.setenv("RELEASE_KEY", str(key.private))
    project.overrides["attestation"] = {"key_env": "RELEASE_KEY", "public_keys": [str(key.public)]}
    return project


def test_signed_bytes_follow_the_specification() -> None:
    """The example of protocol.md gives the same bytes."""
    expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert pre_authentication("http://example.com/HelloWorld", b"hello world") == expected


def test_signed_release_is_verified_with_the_public_key_alone(
    signing_project: Project, key: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine that verifies does not need the private key."""
    manifest = release(signing_project)
    monkeypatch.delenv("RELEASE_KEY")
    found = verdicts(signing_project)["v1"]
    assert manifest.attestation is not None
    assert (found.status, found.key_id) == ("signed", manifest.attestation.key_id)
    assert envelope(signing_project)["signatures"][0]["keyid"] == found.key_id


@pytest.mark.slow
def test_key_id_is_the_sha256_of_the_der_public_key(signing_project: Project, key: KeyPair) -> None:
    """openssl and sha256sum compute the same id, as docs/ci.md says."""
    manifest = release(signing_project)
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-in", str(key.public), "-outform", "DER"], capture_output=True, check=True
    ).stdout
    printed = subprocess.run(["sha256sum"], input=der, capture_output=True, check=True).stdout.decode().split()[0]
    assert manifest.attestation is not None and manifest.attestation.key_id == printed


@pytest.mark.slow
def test_openssl_verifies_the_signature(signing_project: Project, key: KeyPair, tmp_path: Path) -> None:
    """openssl needs the bytes of the specification and the public key only."""
    release(signing_project)
    document = envelope(signing_project)
    payload = base64.b64decode(document["payload"])
    (tmp_path / "message").write_bytes(b"DSSEv1 28 application/vnd.in-toto+json %d %s" % (len(payload), payload))
    (tmp_path / "signature").write_bytes(base64.b64decode(document["signatures"][0]["sig"]))
    command = "openssl pkeyutl -verify -rawin -pubin -inkey ours.pub -in message -sigfile signature"
    done = subprocess.run(command.split(), cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "Signature Verified Successfully\n"), done


@pytest.mark.slow
def test_key_pair_made_by_the_documented_commands_works(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands of docs/ci.md are run as they are."""
    page = (Path(__file__).parents[3] / "docs" / "ci.md").read_text()
    commands = [line for line in page.splitlines() if line.startswith("openssl ")]
    assert [command.split()[1] for command in commands] == ["genpkey", "pkey"]
    for command in commands:
        subprocess.run(command, shell=True, cwd=project.folder, check=True)
    monkeypatch.setenv("RELEASE_KEY", "release.key")
    project.overrides["attestation"] = {"key_env": "RELEASE_KEY", "public_keys": ["release.pub"]}
    release(project)
    assert verdicts(project)["v1"].status == "signed"


def test_key_may_be_the_value_of_the_variable(
    signing_project: Project, key: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Secret stores of CI pass it this way; no part of it is written to a file."""
    monkeypatch.setenv("RELEASE_KEY", key.text)
    release(signing_project)
    assert verdicts(signing_project)["v1"].status == "signed"
    secret = key.text.splitlines()[1]
    files = [path for path in signing_project.pipeline.root.rglob("*") if path.is_file()]
    assert files and not [path for path in files if secret.encode() in path.read_bytes()]


def test_private_key_is_enough_to_verify(signing_project: Project) -> None:
    """Its public key is derived."""
    del signing_project.overrides["attestation"]["public_keys"]
    release(signing_project)
    assert verdicts(signing_project)["v1"].status == "signed"


def test_signature_is_unchecked_without_a_configured_key(signing_project: Project) -> None:
    """The verdict says so; digests are compared all the same."""
    release(signing_project)
    del signing_project.overrides["attestation"]
    assert verdicts(signing_project)["v1"].status == "unchecked"
    signing_project.pipeline.manifest_path("v1").write_bytes(b"{}")
    assert verdicts(signing_project)["v1"].status == "damaged"


def test_releases_signed_with_an_earlier_key_stay_valid(
    signing_project: Project, make_key: MakeKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as its public key is configured."""
    release(signing_project, "v1")
    newer = make_key("newer")
    monkeypatch.setenv("RELEASE_KEY", str(newer.private))
    signing_project.overrides["attestation"]["public_keys"].append(str(newer.public))
    release(signing_project, "v2")
    assert [each.status for each in verdicts(signing_project).values()] == ["signed", "signed"]
    signing_project.overrides["attestation"]["public_keys"].pop(0)
    assert [each.status for each in verdicts(signing_project).values()] == ["damaged", "signed"]


def change_payload(document: dict[str, Any]) -> None:
    payload = base64.b64decode(document["payload"]).replace(b'"PASSED"', b'"passed"')
    document["payload"] = base64.b64encode(payload).decode()


ALTERATIONS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "payload": (change_payload, "is not valid for any trusted key"),
    "type": (lambda d: d.update(payloadType="application/json"), "its payloadType is 'application/json'"),
    "signature of another": (lambda d: d["signatures"][0].update(sig="AAAA"), "is not valid for any trusted key"),
    "signature no base64": (lambda d: d["signatures"][0].update(sig="?"), "invalid base64"),
    "no signatures": (lambda d: d.update(signatures=[]), "signature (key none)"),
    "signatures of no form": (lambda d: d.update(signatures=[1, {}, {"sig": 7}]), "is not valid for any trusted key"),
    "payload of no form": (lambda d: d.update(payload=7), "it is not a DSSE envelope"),
    "payload no base64": (lambda d: d.update(payload="%%%"), "invalid base64"),
}


@pytest.mark.parametrize("alteration", list(ALTERATIONS))
def test_altered_envelope_is_refused(signing_project: Project, alteration: str) -> None:
    """The verdict has one finding, which names the file."""
    change, expected = ALTERATIONS[alteration]
    release(signing_project)
    document = envelope(signing_project)
    change(document)
    write_envelope(signing_project, document)
    (finding,) = verdicts(signing_project)["v1"].findings
    assert finding.file == "manifests/v1.json.intoto.jsonl"
    assert expected in finding.what, finding.what


@given(position=st.integers(0), bit=st.integers(0, 7))
def test_every_changed_bit_of_payload_or_signature_is_refused(position: int, bit: int) -> None:
    """The envelope is refused for any position and bit."""
    signer = Signer(Ed25519PrivateKey.from_private_bytes(bytes(32)), "id")
    document = signer.envelope(b'{"some": "statement"}')
    keys = {"id": signer.key.public_key()}
    assert open_envelope(document, keys) == (b'{"some": "statement"}', "id")
    for name in ("payload", "sig"):
        place = document if name == "payload" else document["signatures"][0]
        data = bytearray(base64.b64decode(place[name]))
        data[position % len(data)] ^= 1 << bit
        changed = base64.b64encode(data).decode()
        other = (
            {**document, "payload": changed} if name == "payload" else {**document, "signatures": [{"sig": changed}]}
        )
        with pytest.raises(InvalidDocument):
            open_envelope(other, keys)


def test_both_base64_alphabets_and_any_key_id_are_accepted(signing_project: Project) -> None:
    """The specification requires this of verifiers: the id is an unsigned hint."""
    release(signing_project)
    document = envelope(signing_project)
    document["signatures"][0]["sig"] = document["signatures"][0]["sig"].translate(str.maketrans("+/", "-_"))
    document["payload"] = document["payload"].translate(str.maketrans("+/", "-_"))
    document["signatures"][0]["keyid"] = "another"
    write_envelope(signing_project, document)
    assert verdicts(signing_project)["v1"].status == "signed"


def test_signature_by_an_unknown_key_is_a_finding(
    signing_project: Project, make_key: MakeKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signature is valid, but its key is not configured; the finding names the key."""
    unknown = make_key("unknown")
    monkeypatch.setenv("RELEASE_KEY", str(unknown.private))
    manifest = release(signing_project)
    monkeypatch.delenv("RELEASE_KEY")
    (finding,) = verdicts(signing_project)["v1"].findings
    assert manifest.attestation is not None and str(manifest.attestation.key_id) in finding.what


def test_unsigned_statement_in_place_of_the_envelope_is_a_finding(signing_project: Project) -> None:
    """The manifest records that the release was signed."""
    release(signing_project)
    write_envelope(signing_project, json.loads(base64.b64decode(envelope(signing_project)["payload"])))
    (finding,) = verdicts(signing_project)["v1"].findings
    assert finding.what == "is not signed" and finding.attested is not None


def test_unsigned_release_after_a_signed_one_is_a_finding(signing_project: Project) -> None:
    """A forger would also write that the release was never signed. Releases before the first key are no findings."""
    attestation = signing_project.overrides.pop("attestation")
    release(signing_project, "before")
    signing_project.overrides["attestation"] = attestation
    release(signing_project, "v1")
    del signing_project.overrides["attestation"]
    release(signing_project, "v2")
    manifest = release(signing_project, "v3")
    signing_project.pipeline.statement_path("v3").unlink()
    signing_project.pipeline.manifest_path("v3").write_bytes(manifest_bytes(evolve(manifest, attestation=None)))
    signing_project.overrides["attestation"] = attestation
    found = verdicts(signing_project)
    assert [found[name].status for name in ("before", "v1", "v2", "v3")] == ["unsigned", "signed", "damaged", "damaged"]
    assert "although the earlier release v1 is" in str(found["v2"].findings[0])


def test_envelope_of_another_release_is_a_finding(signing_project: Project) -> None:
    """The envelope is valid, but the manifest is another."""
    release(signing_project, "v1")
    release(signing_project, "v2")
    write_envelope(signing_project, envelope(signing_project, "v1"), "v2")
    assert verdicts(signing_project)["v2"].status == "damaged"


def write_key(folder: Path, key: Ed25519PrivateKey | Ed448PrivateKey, encryption: KeySerializationEncryption) -> str:
    (folder / "x.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    return "x.key"


def encrypted_key(folder: Path) -> str:
    return write_key(folder, Ed25519PrivateKey.generate(), BestAvailableEncryption(b"secret"))


def ed448_key(folder: Path) -> str:
    return write_key(folder, Ed448PrivateKey.generate(), NoEncryption())


BAD_KEYS: dict[str, tuple[Callable[[Path], str | None], str]] = {
    "not set": (lambda folder: None, "the variable RELEASE_KEY, which is not set"),
    "empty": (lambda folder: " ", "is not set"),
    "no file": (lambda folder: "nonesuch.key", "The key file that RELEASE_KEY names cannot be read: No such file"),
    "a folder": (lambda folder: str(folder), "Is a directory"),
    "the key itself, not in PEM": (lambda folder: "MC4CAQAwBQYDK2VwBCIEIOnm", "No such file"),
    "a broken text": (lambda folder: "-----BEGIN PRIVATE KEY-----\nAAAA\n", "the key in RELEASE_KEY cannot be used"),
    "encrypted": (encrypted_key, "it is encrypted"),
    "of another kind": (ed448_key, "it is not an Ed25519 key"),
}


@pytest.mark.parametrize("kind", list(BAD_KEYS))
def test_unusable_key_ends_with_2_before_any_change(
    project: Project, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The message names the variable and what to type, and never shows the value."""
    make, expected = BAD_KEYS[kind]
    value = make(project.folder)
    if value is None:
        monkeypatch.delenv("RELEASE_KEY", raising=False)
    else:
        monkeypatch.setenv("RELEASE_KEY", value)
    project.overrides["attestation.key_env"] = "RELEASE_KEY"
    with pytest.raises(UsageError) as error:
        release(project)
    assert error.value.exit_code == ExitCode.USAGE
    assert expected in error.value.message, error.value.message
    assert "MC4C" not in error.value.message and "AAAA" not in error.value.message
    assert not project.pipeline.root.exists()


def test_private_key_configured_as_public_key_is_refused(signing_project: Project, key: KeyPair) -> None:
    """It would be committed with the configuration."""
    signing_project.overrides["attestation"]["public_keys"] = [str(key.private)]
    with pytest.raises(UsageError, match="it is not a public key in PEM"):
        verify_attestations(signing_project.settings, signing_project.pipeline)


def test_signing_without_a_key_to_verify_is_refused(signing_project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unchecked signature must differ from a verified one."""
    monkeypatch.delenv("RELEASE_KEY")
    del signing_project.overrides["attestation"]["public_keys"]
    with pytest.raises(UsageError, match="Signatures cannot be checked"):
        verify_attestations(signing_project.settings, signing_project.pipeline)


def test_missing_library_is_reported_with_the_command_to_install_it(
    signing_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only projects that sign need the extra."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    for use in (
        lambda: signer_of(signing_project.settings),
        lambda: verify_attestations(signing_project.settings, signing_project.pipeline),
    ):
        with pytest.raises(UsageError, match=r"pip install 'release-tasks\[sign\]'"):
            use()


def test_key_is_redacted_in_the_output_of_a_gate(
    signing_project: Project, key: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of the variable does not matter; result and log are redacted."""
    monkeypatch.setenv("MATERIAL", key.text)
    signing_project.overrides["attestation"]["key_env"] = "MATERIAL"
    signing_project.overrides["gates"] = {"curious": {"command": 'echo "$MATERIAL"; exit 1'}}
    run = run_preflight(signing_project.settings, release_id="v1")
    output = str(run.report) + (run.log_directory / "curious.log").read_text()
    assert "[REDACTED]" in output
    assert not [line for line in key.text.splitlines()[1:-1] if line in output]
