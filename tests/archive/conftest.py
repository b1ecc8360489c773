"""Fixtures of the archive's tests."""

from __future__ import annotations

import pytest

from release_tasks.archive.catalogue import Catalogue
from tests.support.project import Project


@pytest.fixture
def catalogue(project: Project) -> Catalogue:
    """Return a catalogue with one snapshot, v1_snapshot."""
    project.capture()
    return project.pipeline.catalogue
