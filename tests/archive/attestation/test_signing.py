"""Signed statements: only a release that one of our keys signed, and that is as it was signed, is believed."""

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
from release_tasks.core.records import Check, Manifest, PreflightReport
from release_tasks.stages.preflight.engine import run_preflight
from tests.support.faults.stages import prepare
from tests.support.project import Project

PASSED = Check(id="build", subsystem="build", status="passed", detail="exit 0")


def release(project: Project, release_id: str = "v1") -> Manifest:
    report = PreflightReport(passed=True, checks=[PASSED], failed_checks=[])
    return prepare(project.settings, report, release_id)


def envelope(project: Project, release_id: str = "v1") -> dict[str, Any]:
    document: dict[str, Any] = json.loads(project.pipeline.statement_path(release_id).read_bytes())
    return document


def write(project: Project, document: dict[str, Any], release_id: str = "v1") -> None:
    project.pipeline.statement_path(release_id).write_bytes(canonical_bytes(document) + b"\n")


def verdicts(project: Project) -> dict[str, AttestationVerdict]:
    return {each.release_id: each for each in verify_attestations(project.settings, project.pipeline)}


@pytest.fixture
def key(make_key: Callable[[str], Any]) -> Any:
    return make_key("ours")


@pytest.fixture
def signed(project: Project, key: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A project that signs with a key in a file and believes its public half."""
    monkeypatch.setenv("RELEASE_KEY", str(key.private))
    project.overrides["attestation"] = {"key_env": "RELEASE_KEY", "public_keys": [str(key.public)]}
    return project


def test_the_bytes_that_are_signed_are_those_of_the_specification() -> None:
    """Its own example, protocol.md."""
    expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert pre_authentication("http://example.com/HelloWorld", b"hello world") == expected


def test_a_signed_release_is_verified_by_its_public_key(signed: Any, key: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that has only that."""
    manifest = release(signed)
    monkeypatch.delenv("RELEASE_KEY")
    found = verdicts(signed)["v1"]
    assert manifest.attestation is not None
    assert (found.status, found.key_id) == ("signed", manifest.attestation.key_id)
    assert envelope(signed)["signatures"][0]["keyid"] == found.key_id


@pytest.mark.slow
def test_the_id_of_a_key_is_what_openssl_and_sha256sum_make_of_it(signed: Any, key: Any) -> None:
    """As docs/ci.md says."""
    manifest = release(signed)
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-in", str(key.public), "-outform", "DER"], capture_output=True, check=True
    ).stdout
    printed = subprocess.run(["sha256sum"], input=der, capture_output=True, check=True).stdout.decode().split()[0]
    assert manifest.attestation is not None and manifest.attestation.key_id == printed


@pytest.mark.slow
def test_openssl_verifies_the_signature_without_us(signed: Any, key: Any, tmp_path: Path) -> None:
    """Over the bytes of the specification, with the public key alone."""
    release(signed)
    document = envelope(signed)
    payload = base64.b64decode(document["payload"])
    (tmp_path / "message").write_bytes(b"DSSEv1 28 application/vnd.in-toto+json %d %s" % (len(payload), payload))
    (tmp_path / "signature").write_bytes(base64.b64decode(document["signatures"][0]["sig"]))
    command = "openssl pkeyutl -verify -rawin -pubin -inkey ours.pub -in message -sigfile signature"
    done = subprocess.run(command.split(), cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "Signature Verified Successfully\n"), done


@pytest.mark.slow
def test_the_key_pair_that_the_documentation_makes_works(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The very commands of docs/ci.md."""
    page = (Path(__file__).parents[3] / "docs" / "ci.md").read_text()
    commands = [line for line in page.splitlines() if line.startswith("openssl ")]
    assert [command.split()[1] for command in commands] == ["genpkey", "pkey"]
    for command in commands:
        subprocess.run(command, shell=True, cwd=project.folder, check=True)
    monkeypatch.setenv("RELEASE_KEY", "release.key")
    project.overrides["attestation"] = {"key_env": "RELEASE_KEY", "public_keys": ["release.pub"]}
    release(project)
    assert verdicts(project)["v1"].status == "signed"


def test_the_key_may_stand_in_the_variable_itself(signed: Any, key: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the secret stores of CI hand it over; nothing of it is written anywhere."""
    monkeypatch.setenv("RELEASE_KEY", key.text)
    release(signed)
    assert verdicts(signed)["v1"].status == "signed"
    secret = key.text.splitlines()[1]
    written = [path for path in signed.pipeline.root.rglob("*") if path.is_file()]
    assert written and not [path for path in written if secret.encode() in path.read_bytes()]


def test_without_public_keys_the_private_one_is_enough(signed: Any) -> None:
    """Its public half is derived from it."""
    del signed.overrides["attestation"]["public_keys"]
    release(signed)
    assert verdicts(signed)["v1"].status == "signed"


def test_where_no_key_is_configured_a_signature_is_not_checked(signed: Any) -> None:
    """It is said so; digests are compared all the same."""
    release(signed)
    del signed.overrides["attestation"]
    assert verdicts(signed)["v1"].status == "unchecked"
    signed.pipeline.manifest_path("v1").write_bytes(b"{}")
    assert verdicts(signed)["v1"].status == "damaged"


def test_releases_of_an_earlier_key_stay_believed(
    signed: Any, make_key: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as its public half is named."""
    release(signed, "v1")
    newer = make_key("newer")
    monkeypatch.setenv("RELEASE_KEY", str(newer.private))
    signed.overrides["attestation"]["public_keys"].append(str(newer.public))
    release(signed, "v2")
    assert [each.status for each in verdicts(signed).values()] == ["signed", "signed"]
    signed.overrides["attestation"]["public_keys"].pop(0)
    assert [each.status for each in verdicts(signed).values()] == ["damaged", "signed"]


def payload_changed(document: dict[str, Any]) -> None:
    payload = base64.b64decode(document["payload"]).replace(b'"PASSED"', b'"passed"')
    document["payload"] = base64.b64encode(payload).decode()


ALTERATIONS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "payload": (payload_changed, "is not valid for any trusted key"),
    "type": (lambda d: d.update(payloadType="application/json"), "its payloadType is 'application/json'"),
    "signature of another": (lambda d: d["signatures"][0].update(sig="AAAA"), "is not valid for any trusted key"),
    "signature no base64": (lambda d: d["signatures"][0].update(sig="?"), "invalid base64"),
    "no signatures": (lambda d: d.update(signatures=[]), "signature (key none)"),
    "signatures of no form": (lambda d: d.update(signatures=[1, {}, {"sig": 7}]), "is not valid for any trusted key"),
    "payload of no form": (lambda d: d.update(payload=7), "it is no DSSE envelope"),
    "payload no base64": (lambda d: d.update(payload="%%%"), "invalid base64"),
}


@pytest.mark.parametrize("alteration", list(ALTERATIONS))
def test_an_envelope_that_was_altered_is_refused(signed: Any, alteration: str) -> None:
    """One finding, which names the file."""
    change, sentence = ALTERATIONS[alteration]
    release(signed)
    document = envelope(signed)
    change(document)
    write(signed, document)
    (finding,) = verdicts(signed)["v1"].findings
    assert finding.file == "manifests/v1.json.intoto.jsonl"
    assert sentence in finding.what, finding.what


@given(position=st.integers(0), bit=st.integers(0, 7))
def test_no_bit_of_a_payload_may_change(position: int, bit: int) -> None:
    """Whatever a bit turns it into."""
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


def test_either_base64_and_any_key_id_is_accepted(signed: Any) -> None:
    """The specification asks that of verifiers: the id is a hint that nobody signed."""
    release(signed)
    document = envelope(signed)
    document["signatures"][0]["sig"] = document["signatures"][0]["sig"].translate(str.maketrans("+/", "-_"))
    document["payload"] = document["payload"].translate(str.maketrans("+/", "-_"))
    document["signatures"][0]["keyid"] = "another"
    write(signed, document)
    assert verdicts(signed)["v1"].status == "signed"


def test_the_signature_of_a_stranger_is_a_finding(
    signed: Any, make_key: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Well signed, by nobody we believe; both keys are named."""
    stranger = make_key("stranger")
    monkeypatch.setenv("RELEASE_KEY", str(stranger.private))
    manifest = release(signed)
    monkeypatch.delenv("RELEASE_KEY")
    (finding,) = verdicts(signed)["v1"].findings
    assert manifest.attestation is not None and str(manifest.attestation.key_id) in finding.what


def test_an_envelope_cannot_be_replaced_by_an_unsigned_statement(signed: Any) -> None:
    """The manifest says that it was signed."""
    release(signed)
    write(signed, json.loads(base64.b64decode(envelope(signed)["payload"])))
    (finding,) = verdicts(signed)["v1"].findings
    assert finding.what == "is not signed" and finding.attested is not None


def test_after_a_signed_release_an_unsigned_one_is_a_finding(signed: Any) -> None:
    """Whoever forges one would also write that it never was signed. Those before the first key are none."""
    attestation = signed.overrides.pop("attestation")
    release(signed, "before")
    signed.overrides["attestation"] = attestation
    release(signed, "v1")
    del signed.overrides["attestation"]
    release(signed, "v2")
    manifest = release(signed, "v3")
    signed.pipeline.statement_path("v3").unlink()
    signed.pipeline.manifest_path("v3").write_bytes(manifest_bytes(evolve(manifest, attestation=None)))
    signed.overrides["attestation"] = attestation
    found = verdicts(signed)
    assert [found[name].status for name in ("before", "v1", "v2", "v3")] == ["unsigned", "signed", "damaged", "damaged"]
    assert "although the earlier release v1 is" in str(found["v2"].findings[0])


def test_a_key_of_another_release_does_not_move_along(signed: Any) -> None:
    """A good envelope beside the wrong manifest."""
    release(signed, "v1")
    release(signed, "v2")
    write(signed, envelope(signed, "v1"), "v2")
    assert verdicts(signed)["v2"].status == "damaged"


def written(folder: Path, key: Any, encryption: KeySerializationEncryption) -> str:
    (folder / "x.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    return "x.key"


def encrypted(folder: Path) -> str:
    return written(folder, Ed25519PrivateKey.generate(), BestAvailableEncryption(b"secret"))


def of_another_kind(folder: Path) -> str:
    return written(folder, Ed448PrivateKey.generate(), NoEncryption())


BAD_KEYS: dict[str, tuple[Callable[[Path], str | None], str]] = {
    "not set": (lambda folder: None, "the variable RELEASE_KEY, which is not set"),
    "empty": (lambda folder: " ", "is not set"),
    "no file": (lambda folder: "nonesuch.key", "The key file that RELEASE_KEY names cannot be read: No such file"),
    "a folder": (lambda folder: str(folder), "Is a directory"),
    "the key itself, not in PEM": (lambda folder: "MC4CAQAwBQYDK2VwBCIEIOnm", "No such file"),
    "a broken text": (lambda folder: "-----BEGIN PRIVATE KEY-----\nAAAA\n", "the key in RELEASE_KEY cannot be used"),
    "encrypted": (encrypted, "it is encrypted"),
    "of another kind": (of_another_kind, "it is not an Ed25519 key"),
}


@pytest.mark.parametrize("kind", list(BAD_KEYS))
def test_a_key_that_cannot_be_used_ends_with_2_before_anything(
    project: Project, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """One sentence that names the variable and what to type, and never shows what it holds."""
    make, sentence = BAD_KEYS[kind]
    value = make(project.folder)
    if value is None:
        monkeypatch.delenv("RELEASE_KEY", raising=False)
    else:
        monkeypatch.setenv("RELEASE_KEY", value)
    project.overrides["attestation.key_env"] = "RELEASE_KEY"
    with pytest.raises(UsageError) as error:
        release(project)
    assert error.value.exit_code == ExitCode.USAGE
    assert sentence in error.value.message, error.value.message
    assert "MC4C" not in error.value.message and "AAAA" not in error.value.message
    assert not project.pipeline.root.exists()


def test_a_private_key_among_the_public_ones_is_refused(signed: Any, key: Any) -> None:
    """It would be committed with the configuration."""
    signed.overrides["attestation"]["public_keys"] = [str(key.private)]
    with pytest.raises(UsageError, match="it is not a public key in PEM"):
        verify_attestations(signed.settings, signed.pipeline)


def test_signing_configured_and_no_key_to_check_by_is_a_mistake(signed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unchecked must not look like verified."""
    monkeypatch.delenv("RELEASE_KEY")
    del signed.overrides["attestation"]["public_keys"]
    with pytest.raises(UsageError, match="Signatures cannot be checked"):
        verify_attestations(signed.settings, signed.pipeline)


def test_without_the_library_a_sentence_says_what_to_install(signed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra: only those who sign need it."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    for use, more in ((signer_of, ()), (verify_attestations, (signed.pipeline,))):
        with pytest.raises(UsageError, match=r"pip install 'release-tasks\[sign\]'"):
            use(signed.settings, *more)


def test_the_key_is_in_no_output_of_a_gate(signed: Any, key: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its variable is called: neither in the result nor in the log."""
    monkeypatch.setenv("MATERIAL", key.text)
    signed.overrides["attestation"]["key_env"] = "MATERIAL"
    signed.overrides["gates"] = {"curious": {"command": 'echo "$MATERIAL"; exit 1'}}
    run = run_preflight(signed.settings, release_id="v1")
    told = str(run.report) + (run.log_directory / "curious.log").read_text()
    assert "[REDACTED]" in told
    assert not [line for line in key.text.splitlines()[1:-1] if line in told]
