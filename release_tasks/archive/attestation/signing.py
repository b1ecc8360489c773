"""Sign and verify DSSE envelopes with Ed25519 (github.com/secure-systems-lab/dsse, protocol.md and envelope.md)."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from release_tasks.config.schema import Settings
from release_tasks.core.canonical import InvalidDocument, excerpt_line
from release_tasks.core.errors import UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = [
    "PAYLOAD_TYPE",
    "Signer",
    "available_signer",
    "open_envelope",
    "pre_authentication",
    "signer_of",
    "trusted_keys",
]

PAYLOAD_TYPE = "application/vnd.in-toto+json"
_MAX_KEY_BYTES = 64 << 10
_KEYGEN_COMMAND = "openssl genpkey -algorithm ed25519 -out release.key"


@frozen
class Signer:
    """A private key. ``key_id`` is the SHA-256 of its public key as DER (SubjectPublicKeyInfo)."""

    key: Ed25519PrivateKey
    key_id: str

    def envelope(self, payload: bytes) -> dict[str, Any]:
        """Return a signed DSSE envelope with ``payload``."""
        signature = self.key.sign(pre_authentication(PAYLOAD_TYPE, payload))
        return {
            "payloadType": PAYLOAD_TYPE,
            "payload": base64.b64encode(payload).decode(),
            "signatures": [{"keyid": self.key_id, "sig": base64.b64encode(signature).decode()}],
        }


def pre_authentication(payload_type: str, payload: bytes) -> bytes:
    """Return the bytes to sign: type and payload, each after its length.

    With the lengths, no other split into type and payload gives the same bytes.
    """
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def signer_of(settings: Settings) -> Signer | None:
    """Return the signer of statements, or None when no key is configured.

    Raises UsageError when the variable that ``release.attestation.key_env`` names contains no private Ed25519 key.
    """
    name = settings.release.attestation.key_env
    if not name:
        return None
    value = os.environ.get(name, "")
    if not value.strip():
        raise UsageError(
            f"Statements cannot be signed: release.attestation.key_env names the variable {name}, which is not set. "
            f"Set it to a private Ed25519 key in PEM, or to the path of one. To make a key: {_KEYGEN_COMMAND}"
        )
    from_text = "-----BEGIN" in value
    data = value.encode("utf-8", "surrogateescape") if from_text else _read(settings.project / value, name)
    with _key_errors(f"the key in {name}" if from_text else f"the key in the file that {name} names"):
        return _signer(data)


def available_signer(settings: Settings) -> Signer | None:
    """Return the signer when its key is here and can be used. A rollback works without it."""
    with contextlib.suppress(UsageError):
        return signer_of(settings)
    return None


def trusted_keys(settings: Settings) -> dict[str, Ed25519PublicKey]:
    """Return the public keys that can verify envelopes, by key id; no keys when signing is not configured.

    Raises UsageError when a key cannot be used, or when signing is configured without any key to verify with.
    """
    config = settings.release.attestation
    keys: dict[str, Ed25519PublicKey] = {}
    for path in config.public_keys:
        with _key_errors(f"release.attestation.public_keys: {path}"):
            key = _public_key(_read(path, f"release.attestation.public_keys ({path})"))
            keys[_key_id(key)] = key
    if config.key_env and (os.environ.get(config.key_env) or not keys):
        if not os.environ.get(config.key_env):
            raise UsageError(
                f"Signatures cannot be checked: release.attestation.public_keys names no key, and {config.key_env} is "
                "not set. Set that variable, or add the public key to release.attestation.public_keys. To make the "
                "public key: openssl pkey -in release.key -pubout -out release.pub"
            )
        signer = signer_of(settings)
        assert signer is not None
        keys[signer.key_id] = signer.key.public_key()
    return keys


def open_envelope(envelope: Mapping[str, Any], keys: Mapping[str, Ed25519PublicKey]) -> tuple[bytes, str | None]:
    """Return the payload of an envelope and the id of the key that signed it; without ``keys`` nothing is checked.

    Raises InvalidDocument when ``envelope`` is not a DSSE envelope, or has no valid signature of a key in ``keys``.
    """
    payload_type, payload, signatures = (envelope.get(name) for name in ("payloadType", "payload", "signatures"))
    if payload_type != PAYLOAD_TYPE:
        raise InvalidDocument(f"its payloadType is {excerpt_line(str(payload_type))!r}, expected {PAYLOAD_TYPE}")
    if not isinstance(payload, str) or not isinstance(signatures, list):
        raise InvalidDocument("it is not a DSSE envelope")
    data = _base64(payload)
    if not keys:
        return data, None
    from cryptography.exceptions import InvalidSignature

    # The key id in the envelope is only a hint, and it is not signed: try every key.
    message = pre_authentication(PAYLOAD_TYPE, data)
    for signature in signatures:
        text = signature.get("sig") if isinstance(signature, dict) else None
        signed = _base64(text) if isinstance(text, str) else b""
        for key_id, key in keys.items():
            with contextlib.suppress(InvalidSignature):
                key.verify(signed, message)
                return data, key_id
    claimed = [str(signature.get("keyid")) for signature in signatures if isinstance(signature, dict)]
    raise InvalidDocument(
        f"its signature (key {excerpt_line(', '.join(claimed), 150) or 'none'}) is not valid for any trusted key "
        f"({', '.join(keys)})"
    )


def _base64(text: str) -> bytes:
    """Decode standard and URL-safe base64; the specification requires both of verifiers."""
    try:
        return base64.b64decode(text.translate(str.maketrans("-_", "+/")), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidDocument("it contains invalid base64") from None


def _read(path: Path, source: str) -> bytes:
    # Do not show the value of the variable: it may be the key itself in an unknown format.
    try:
        with path.open("rb") as file:
            return file.read(_MAX_KEY_BYTES)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "invalid path"
        raise UsageError(f"The key file that {source} names cannot be read: {reason}.") from None


@contextlib.contextmanager
def _key_errors(what: str) -> Iterator[None]:
    """Turn an error of the cryptography library into a UsageError about the key ``what``."""
    try:
        yield
    except ImportError:
        raise UsageError("Signatures need the package cryptography: pip install 'release-tasks[sign]'") from None
    except TypeError:
        raise UsageError(
            f"{what} cannot be used: it is encrypted. Use a key without a passphrase. To make one: {_KEYGEN_COMMAND}"
        ) from None
    except ValueError as error:
        raise UsageError(f"{what} cannot be used: {error}. To make a key: {_KEYGEN_COMMAND}") from None


def _signer(data: bytes) -> Signer:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("it is not a private key in PEM") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("it is not an Ed25519 key")
    return Signer(key, _key_id(key.public_key()))


def _public_key(data: bytes) -> Ed25519PublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("it is not a public key in PEM") from None
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("it is not an Ed25519 key")
    return key


def _key_id(key: Ed25519PublicKey) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
