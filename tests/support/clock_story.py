"""Releases, rollbacks, a crash, drills and watches in one process, while the wall clock changes at every step.

Run as ``python -m tests.support.clock_story FOLDER CLOCK NUMBER``: at each step the clock is set to the next of
OFFSETS, beginning with number NUMBER, so that all numbers together set every step to every offset. Prints the number of
steps.
"""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

from release_tasks.archive.verify import verify_all
from release_tasks.core.events import Event, SampleTaken, StepBegan
from release_tasks.report.html.page import find_release, gather
from release_tasks.report.html.render import render
from release_tasks.report.status import overview
from release_tasks.stages.diagnose.guide import diagnose_service
from release_tasks.stages.drill.engine import run_drill
from release_tasks.stages.rollback.recovery import recover
from release_tasks.stages.watch.watching import watch_release
from tests.support.clocks import HOUR, YEAR
from tests.support.fake_clock import set_clock
from tests.support.faults.stages import passed_preflight, prepare
from tests.support.health import Health
from tests.support.project import Project
from tests.support.rollback import audit_events, roll_back, safety_id
from tests.support.swap_crash import crash_in_mid_swap

__all__ = ["OFFSETS"]

OFFSETS = (0.0, -HOUR, YEAR, -YEAR, HOUR)


class Story:
    """The steps of one story, and what must be true after each command."""

    def __init__(self, folder: Path, clock: Path, number: int) -> None:
        self.clock = clock
        self.steps = number
        self.health = Health()
        self.project = Project(folder)
        self.project.overrides["retention"] = 2
        self.project.overrides["health"] = {"url": self.health.url, "interval": "20ms", "passes_after_restore": 1}
        self.project.overrides["watch"] = {"for": "1s", "interval": "250ms", "min_samples": 3}

    def step(self, event: Event | None = None) -> None:
        """Set the clock at the start of a step, at a sample, and between two commands."""
        if event is None or isinstance(event, StepBegan | SampleTaken):
            self.steps += 1
            set_clock(self.clock, OFFSETS[self.steps % len(OFFSETS)])

    def state(self) -> tuple[int, str]:
        """Return what differs between the releases: a value of the database, and a file."""
        with sqlite3.connect(self.project.database) as database:
            ((balance,),) = database.execute("SELECT balance FROM accounts WHERE id = 0")
        database.close()
        return balance, (self.project.identity / "identity.json").read_text()

    def release(self, name: str, balance: int) -> str:
        """Change the state, prepare a release of it, and return the id of its snapshot."""
        with sqlite3.connect(self.project.database) as database:
            database.execute("UPDATE accounts SET balance = ?", (balance,))
        database.close()
        (self.project.identity / "identity.json").write_text(name)
        manifest = prepare(self.project.settings, passed_preflight(), name, self.step)
        assert manifest.status == "ready" and manifest.snapshot is not None, manifest.diagnostics
        assert all(phase.duration_ms is None or 0 <= phase.duration_ms < 60_000 for phase in manifest.phases)
        latest = self.project.pipeline.latest_ready()
        assert latest is not None and latest.release_id == name
        self.step()
        return manifest.snapshot.snapshot_id

    def restore(self, snapshot_id: str, expected: tuple[int, str]) -> str:
        """Roll back, check the state, and return the id of the safety snapshot."""
        outcome = roll_back(self.project, snapshot_id, emit=self.step)
        assert outcome.status == "restored", outcome.diagnostics
        assert self.state() == expected
        self.step()
        return safety_id(outcome)

    def look(self) -> None:
        """Run every command that only looks."""
        settings = self.project.settings
        current = overview(settings, 10)["current"]
        assert current is not None and (current["ageSeconds"] is None or current["ageSeconds"] >= 0)
        self.step()
        _, diagnosis = diagnose_service(settings)
        assert not [finding for finding in diagnosis.findings if "chain" in str(finding)]
        self.step()
        assert all(verdict.status == "verified" for verdict in verify_all(self.project.pipeline.catalogue))
        assert render(gather(settings, find_release(self.project.pipeline, None)))
        self.step()

    def run(self) -> None:
        """Run every command at least once, with the clock changed in it and after it."""
        first = self.release("v1", 1)
        second = self.release("v2", 2)
        safety = self.restore(first, (1, "v1"))
        self.look()
        self.restore(safety, (2, "v2"))
        drill = run_drill(self.project.settings, snapshot_id=second, emit=self.step)
        assert drill.status == "passed" and 0 <= drill.duration_ms < 60_000, drill.diagnostics
        self.step()
        (self.project.identity / "identity.json").write_text("broken")
        crash_in_mid_swap(self.project, "rename_into_place", 1, after=True)
        self.step()
        recover(self.project.settings, emit=self.step)
        assert self.state() == (2, "v2")
        self.step()
        report = watch_release(self.project.settings, emit=self.step)
        assert report.status == "healthy", report.reasons
        self.step()
        self.look()
        snapshots = self.project.pipeline.catalogue.published()[0]
        assert [s.release_id for s in snapshots if s.kind == "release"] == ["v1", "v2"]
        third = self.release("v3", 3)
        snapshots = self.project.pipeline.catalogue.published()[0]
        kept = [s.release_id for s in snapshots if s.kind == "release"]
        assert kept[-2:] == ["v2", "v3"], kept
        assert len({s.snapshot_id for s in snapshots}) == len(snapshots)
        self.project.damage_rows()
        self.restore(third, (3, "v3"))
        assert audit_events(self.project)


def main(folder: str, clock: str, number: str) -> None:
    """Run one story."""
    story = Story(Path(folder), Path(clock), int(number))
    try:
        story.run()
    finally:
        story.health.close()
    print(story.steps - int(number))


if __name__ == "__main__":
    main(*sys.argv[1:])
