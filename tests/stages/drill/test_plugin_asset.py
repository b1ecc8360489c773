"""Drills of an asset that a plugin captured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from release_tasks.stages.drill.engine import run_drill
from tests.support.project import Project

pytestmark = pytest.mark.slow

Install = Callable[..., None]


@pytest.fixture
def custom(project: Project, install_kind: Install) -> Any:
    """Return a project whose mcp.json the plugin ``custom`` captured."""
    project.overrides["assets.mcp"] = {"python": "custom", "path": "state/mcp.json"}
    install_kind()
    project.capture()
    return project


def test_drill_checks_the_restored_copy_and_touches_nothing_live(
    custom: Project, install_kind: Install, live_tree: Callable[..., dict[str, Any]]
) -> None:
    """With the plugin, without it, and with a plugin that rejects the restored copy."""
    seen = custom.folder / "seen"
    asked = f"open({str(seen)!r}, 'a').write(f'{{source}}\\n')\nopen(copy, 'wb').write(open(source, 'rb').read())"
    install_kind(asked)
    besides = (seen, custom.folder / "site")
    before = live_tree(custom, *besides)
    outcome = run_drill(custom.settings)
    assert (outcome.status, outcome.diagnostics) == ("passed", [])
    assert live_tree(custom, *besides) == before
    assert all("release-drill-" in line for line in seen.read_text().splitlines())
    install_kind(check="return ['record 3 is torn']")
    outcome = run_drill(custom.settings)
    assert (outcome.status, outcome.diagnostics[0]) == ("failed", "mcp: record 3 is torn.")
    (custom.folder / "site" / "custom_kind-1.0.dist-info" / "entry_points.txt").write_text("[console_scripts]\n")
    outcome = run_drill(custom.settings)
    assert outcome.status == "passed"
    assert "mcp was restored as recorded, and not checked further: no installed package" in outcome.diagnostics[0]
