"""A pairing with clocks that tests set, on a credentials folder of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from release_tasks.config.schema import PairingConfig
from release_tasks.pairing.codes import Moment
from release_tasks.pairing.policy import Pairing


class Clocks:
    """The two clocks of a machine: time passes on both, and the wall clock can be set besides."""

    def __init__(self) -> None:
        self.wall = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=timezone.utc)
        self.uptime_ms = 5_000_000
        self.boot_id = "00000000-0000-4000-8000-000000000001"

    def __call__(self) -> Moment:
        return Moment(wall=self.wall, boot_id=self.boot_id, uptime_ms=self.uptime_ms)

    def pass_time(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.uptime_ms += int(seconds * 1000)

    def set_wall(self, seconds: float) -> None:
        """Move the wall clock by that much, forward or back, while no time passes."""
        self.wall += timedelta(seconds=seconds)

    def reboot(self) -> None:
        self.boot_id = self.boot_id[:-1] + str(int(self.boot_id[-1]) + 1)
        self.uptime_ms = 0


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    """The credentials folder, not made yet."""
    return tmp_path / "memory" / "credentials"


@pytest.fixture
def make_pairing(credentials: Path, clocks: Clocks) -> Callable[..., Pairing]:
    """Return a maker of pairings on the one credentials folder: ``make_pairing(ttl=60.0, max_pending=1)``."""

    def make(**options: Any) -> Pairing:
        return Pairing(PairingConfig(credentials=credentials, **options), clocks)

    return make


@pytest.fixture
def pairing(make_pairing: Callable[..., Pairing]) -> Pairing:
    return make_pairing()


@pytest.fixture
def put(credentials: Path) -> Callable[[str, Any], Path]:
    """Return a function that writes a store file, as bytes or as JSON, the way another program would."""

    def write(name: str, content: Any) -> Path:
        credentials.mkdir(parents=True, exist_ok=True)
        path = credentials / name
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    return write


@pytest.fixture
def stored(credentials: Path) -> Callable[[str], Any]:
    """Return a reader of a store file, as any other program would read it."""

    def read(name: str) -> Any:
        return json.loads((credentials / name).read_text(encoding="utf-8"))

    return read
