"""Keys for the tests of statements, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat


class Key:
    """A key pair in two files, as ``openssl genpkey`` and ``openssl pkey -pubout`` write them."""

    def __init__(self, folder: Path, name: str) -> None:
        key = Ed25519PrivateKey.generate()
        self.private, self.public = folder / f"{name}.key", folder / f"{name}.pub"
        self.text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        self.private.write_text(self.text)
        public = key.public_key()
        self.public.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


@pytest.fixture
def make_key(tmp_path: Path) -> Callable[[str], Key]:
    """Return a maker of key pairs: ``make_key("name").private``."""
    return lambda name: Key(tmp_path, name)
