"""Fixtures: the recipes, and a machine on which their jobs run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.support.service_host import RECIPES, ServiceHost


@pytest.fixture
def recipe() -> Callable[[str], Any]:
    """Return a reader of recipes: ``recipe("github.yml")``."""
    return lambda name: YAML(typ="safe").load((RECIPES / name).read_text())


@pytest.fixture
def idle_host(tmp_path: Path, free_port: int) -> ServiceHost:
    """Return a machine without a running service."""
    return ServiceHost(tmp_path, free_port)


@pytest.fixture
def host(idle_host: ServiceHost) -> Iterator[ServiceHost]:
    """Return a machine on which the gateway runs."""
    started = idle_host.run("inv gateway.start")
    assert started.returncode == 0, started
    yield idle_host
    assert idle_host.run("inv gateway.stop").returncode == 0
