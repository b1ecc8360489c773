"""Ed25519 key pairs for the tests of signed statements."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

__all__ = ["KeyPair", "MakeKey"]


class KeyPair:
    """A key pair in two files, as ``openssl genpkey`` and ``openssl pkey -pubout`` write them."""

    def __init__(self, folder: Path, name: str) -> None:
        key = Ed25519PrivateKey.generate()
        self.private, self.public = folder / f"{name}.key", folder / f"{name}.pub"
        self.text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        self.private.write_text(self.text)
        public = key.public_key()
        self.public.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


MakeKey: TypeAlias = Callable[[str], KeyPair]
