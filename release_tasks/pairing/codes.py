"""Pairing codes: made from a cryptographic source, told apart in constant time."""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Collection

__all__ = ["ALPHABET", "CODE_LENGTH", "is_same_code", "new_code", "plain_code"]

ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"  # without 0, 1, I and O, which people confuse
CODE_LENGTH = 8

_SEPARATORS = re.compile(r"[\s\u2010-\u2015-]")  # a phone turns a dash into one of the others


def new_code(taken: Collection[str]) -> str:
    """Return a code that is none of ``taken``."""
    while True:
        code = "".join(secrets.choice(ALPHABET) for _ in range(CODE_LENGTH))
        if code not in taken:
            return code


def plain_code(typed: str) -> str:
    """Return a code as it is compared: upper case, without spaces and dashes."""
    return _SEPARATORS.sub("", typed).upper()


def is_same_code(typed: str, code: str) -> bool:
    """Say whether both are the same code however they are typed; how long it takes tells nothing of ``code``."""
    return hmac.compare_digest(_compared(typed), _compared(code))


def _compared(code: str) -> bytes:
    # As bytes: compare_digest refuses text that is not ASCII.
    return plain_code(code).encode("utf-8", "surrogatepass")
