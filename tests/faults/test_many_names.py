"""A folder with more names than one document could contain is prepared, planned, drilled and rolled back."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from release_tasks.archive.verify import verify_all
from release_tasks.core.canonical import MAX_BYTES
from release_tasks.stages.drill.engine import run_drill
from release_tasks.stages.rollback.plan import plan_rollback
from tests.support.faults.stages import passed_preflight, prepare
from tests.support.project import Project

# With EVERY_CALL=1 the folder has 200,000 names. Else each name has 240 bytes that are no UTF-8. JSON escapes each with
# six characters, so that 12,000 names are already more than a document may have.
_IS_THOROUGH = os.environ.get("EVERY_CALL") == "1"
_COUNT = 200_000 if _IS_THOROUGH else 12_000
_SUFFIX = b"" if _IS_THOROUGH else b"\xe9" * 240


def name(number: int) -> bytes:
    return b"%06d" % number + _SUFFIX


@pytest.mark.slow
@pytest.mark.timeout(3000 if _IS_THOROUGH else 300)
def test_number_of_names_is_no_limit(memory: Path) -> None:
    """Format 1 refused this folder at 16 MiB of metadata, after all was copied."""
    (memory / "project").mkdir()
    project = Project(memory / "project", cache_settings=True)
    folder = os.fsencode(project.identity / "many")
    os.mkdir(folder)
    for number in range(_COUNT):
        os.close(os.open(folder + b"/" + name(number), os.O_CREAT | os.O_WRONLY, 0o640))
    manifest = prepare(project.settings, passed_preflight(), "v1")
    assert manifest.status == "ready", manifest.diagnostics
    assert manifest.snapshot is not None
    stored = project.pipeline.catalogue.path(manifest.snapshot.snapshot_id)
    assert (stored / "entries" / "identity.jsonl").stat().st_size > MAX_BYTES
    assert (stored / "metadata.json").stat().st_size < 10_000
    shutil.rmtree(folder)
    (project.identity / "intruder").touch()
    plan = plan_rollback(project.settings)
    assert plan.keys("restore") == ["identity"]
    assert project.roll_back().status == "restored"
    listed = os.listdir(folder)
    assert (len(listed), set(listed)) == (_COUNT, {name(number) for number in range(_COUNT)})
    assert not (project.identity / "intruder").exists()
    assert run_drill(project.settings).status == "passed"
    assert {verdict.status for verdict in verify_all(project.pipeline.catalogue)} == {"verified"}
    assert json.loads((stored / "metadata.json").read_text())["formatVersion"] == 2
