"""A released project with a health and a reliability endpoint whose answers tests set."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.health import Health
from tests.support.project import Project
from tests.support.released_service import ReleasedService


@pytest.fixture
def service(project: Project, health: Health, make_health: Callable[[], Health]) -> ReleasedService:
    """Return a service whose first release is ready."""
    made = ReleasedService(project, health, make_health())
    assert made.release().status == "ready"
    return made
