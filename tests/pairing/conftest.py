"""A pairing with clocks that tests set, and its own credentials folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from release_tasks.config.schema import PairingConfig
from release_tasks.pairing.policy import Pairing
from tests.support.clocks import Clocks


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    """Return the path of the credentials folder, which does not exist yet."""
    return tmp_path / "memory" / "credentials"


@pytest.fixture
def make_pairing(credentials: Path, clocks: Clocks) -> Callable[..., Pairing]:
    """Return a maker of pairings on one credentials folder: ``make_pairing(ttl=60.0, max_pending=1)``."""

    def make(**options: Any) -> Pairing:
        return Pairing(PairingConfig(credentials=credentials, **options), clocks)

    return make


@pytest.fixture
def pairing(make_pairing: Callable[..., Pairing]) -> Pairing:
    return make_pairing()


@pytest.fixture
def put(credentials: Path) -> Callable[[str, Any], Path]:
    """Return a function that writes a store file, as bytes or as JSON, as another program would."""

    def write(name: str, content: Any) -> Path:
        credentials.mkdir(parents=True, exist_ok=True)
        path = credentials / name
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    return write


@pytest.fixture
def stored(credentials: Path) -> Callable[[str], Any]:
    """Return a reader of a store file, as another program would read it."""

    def read(name: str) -> Any:
        return json.loads((credentials / name).read_text(encoding="utf-8"))

    return read
