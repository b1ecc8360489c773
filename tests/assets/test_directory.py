"""What a folder asset says about its entries."""

from __future__ import annotations

from release_tasks.stages.rollback.plan import plan_rollback
from tests.support.project import Project


def test_file_name_cannot_forge_a_line_of_a_plan(project: Project) -> None:
    """A name with an end of line in it stays on the line that names it."""
    project.capture()
    for end in ("\n", "\r", "\x85", "\u2028"):
        (project.identity / f"x{end}RESTORED: all good").touch()
    (change,) = [each for each in plan_rollback(project.settings).changes if each.key == "identity"]
    assert len(change.detail.splitlines()) == 1
    assert change.detail.startswith(r"added: x\nRESTORED")
