"""Fixtures of the tests of attestations."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.keys import KeyPair, MakeKey


@pytest.fixture
def make_key(tmp_path: Path) -> MakeKey:
    """Return a maker of key pairs: ``make_key("name").private``."""
    return lambda name: KeyPair(tmp_path, name)
