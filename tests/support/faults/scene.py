"""A damaged project with a snapshot to go back to, laid out anew for each point, and what must hold afterwards."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from release_tasks.archive.attestation.verification import verify_attestations
from release_tasks.archive.verify import verify_all
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.stages.rollback.recovery import recover
from release_tasks.tasks.flags import with_flags
from tests.support.faults.ledger import generation
from tests.support.faults.service import Service
from tests.support.faults.stages import passed_preflight, prepare
from tests.support.faults.tracing import Driver
from tests.support.project import Project

__all__ = ["BarredScene", "OverlayScene", "Scene", "change_config", "damage_header"]


class Scene:
    """``old`` is the damaged state, ``new`` the snapshot's; ``fresh`` brings ``old`` back for the next point.

    With a service its rows go on changing, so that a state is told by the marker in the ledger and by whether the
    balances are what the ledger says. ``releases`` are prepared before the damage; without any there is one snapshot.
    """

    outcomes = ("restored", "noop")  # how a rollback on this scene may end

    def __init__(
        self,
        project: Project,
        driver: Driver,
        *,
        service: Service | None = None,
        damage: Callable[[Any], None] | None = None,
        releases: Iterable[str] = (),
    ) -> None:
        self.project, self.driver, self.service = project, driver, service
        self.template = project.folder.with_name(project.folder.name + "-template")
        self._mounted: Path | None = None
        new = project.content()
        for release in releases:
            assert self._prepare(release) == "ready"
        if not releases:
            project.capture()
        project.damage()
        if damage is not None:
            damage(project)
        shutil.copytree(project.folder, self.template, symlinks=True)  # before anybody reads and folds a WAL in
        self.old, self.new = self._as_seen(self._content()), self._as_seen(new)

    @property
    def places(self) -> list[Path]:
        """The folders in which a call counts as a point."""
        return [self.project.folder]

    def fresh(self) -> None:
        """Lay out the old state anew, with the service at work on it."""
        if self.service is not None:
            self.service.let_go()
        self.lay_out()
        if self.service is not None:
            self.service.open(self.project.database)

    def lay_out(self) -> None:
        """Lay out the old state anew."""
        shutil.rmtree(self.project.folder, ignore_errors=True)
        shutil.copytree(self.template, self.project.folder, symlinks=True)

    def close(self) -> None:
        """Take away what is mounted."""
        if self._mounted is not None:
            _call(["umount", "-l", str(self._mounted)])
            self._mounted = None

    def mount(self, place: Path, *options: str) -> None:
        """Mount something at ``place`` until ``close``."""
        _call(["mount", *options, str(place)])
        self._mounted = place

    def job(self, stage: str, *, mutant: str | None = None, **options: Any) -> dict[str, Any]:
        """Return what the driver is told to run."""
        folder = str(self.project.folder)
        return {"stage": stage, "raw": self.project.raw, "folder": folder, "options": options, "mutant": mutant}

    def state(self) -> str:
        """Say ``old``, ``new`` or what is mixed."""
        now = self._as_seen(self._content())
        if now == self.old:
            return "old"
        return "new" if now == self.new else f"MIXED: {_differences(now, self.old, self.new)}"

    def check_in_turn(self, number: int, point: object) -> str:
        """Hold what is promised when the next command is a recover, a rollback, or a recover without the snapshot."""
        if number % 3 == 1:
            return self.check_undone(point)
        return self.check_rollback(point, directly=number % 3 == 2)

    def check_rollback(self, point: object, *, directly: bool = False) -> str:
        """Hold everything that is promised after a rollback or recovery that was cut short; returns the state found.

        The next command is ``recover``, or with ``directly`` the next rollback.
        """
        settings = self.project.settings
        found = "" if directly else self.check_recovered(point)
        outcome = rollback(settings, RollbackRequest())
        assert outcome.status in self.outcomes, (point, outcome)
        # What the service has written since a restore would be lost with a second one.
        assert outcome.status == "noop" or found != "new", (point, outcome)
        expected = "old" if outcome.status == "failed" else "new"
        assert self.state() == expected, (point, self.state())
        self.hold_pipeline(point)
        return found or expected

    def check_undone(self, point: object) -> str:
        """Hold that an interrupted rollback whose snapshot is lost meanwhile is undone; returns the state found."""
        pipeline, settings = self.project.pipeline, self.project.settings
        has_begun = pipeline.journal_path.exists()
        target = pipeline.catalogue.latest()
        (pipeline.catalogue.path(target.snapshot_id) / target.asset("mcp").relative_path).write_bytes(b"lost")
        recover(settings)
        found = self.state()
        assert found == "old" or (found == "new" and not has_begun), (point, found)
        assert recover(settings).status == "clean", point
        verdict = pipeline.audit.verify(pipeline.anchors())
        assert verdict.intact and self.project.strays() == [], (point, verdict.problems, self.project.strays())
        return found

    def check_recovered(self, point: object) -> str:
        """Hold that ``recover`` ends in all old or all new and has nothing left to do; returns which."""
        settings = self.project.settings
        recover(settings)
        found = self.state()
        assert found in ("old", "new"), (point, found)
        assert recover(settings).status == "clean", point
        self.hold_pipeline(point)
        return found

    def check_prepare(self, point: object) -> None:
        """Hold everything that is promised after a prepare that was cut short: nothing lost, nothing half there."""
        settings = self.project.settings
        recover(settings)
        assert self.state() == "old", (point, self.state())
        self.hold_pipeline(point)
        assert self._prepare("later") == "ready", point
        self.hold_pipeline(point)
        assert self.project.pipeline.latest_ready().release_id == "later", point
        outcome = rollback(settings, RollbackRequest())
        assert outcome.status in ("restored", "noop"), (point, outcome)
        assert self.state() == "old", (point, self.state())

    def reported(self) -> dict[str, bytes]:
        """Return everything that a command which ended well has told: log, state, manifests, the names of snapshots."""
        pipeline = self.project.pipeline
        files = [pipeline.audit.path, pipeline.state_path, pipeline.journal_path, *pipeline.manifests.glob("*.json")]
        told = {str(path): path.read_bytes() for path in files if path.exists()}
        published = [snapshot.snapshot_id.encode() for snapshot in pipeline.catalogue.published()[0]]
        return {**told, "snapshots": b" ".join(published)}

    def hold_pipeline(self, point: object) -> None:
        """Chain intact, every snapshot verified, every release with snapshot and statement, nothing left over."""
        pipeline = self.project.pipeline
        assert not pipeline.journal_path.exists(), point
        verdict = pipeline.audit.verify(pipeline.anchors())
        assert verdict.intact, (point, verdict.problems)
        verdicts = verify_all(pipeline.catalogue)
        assert {each.status for each in verdicts} <= {"verified"}, (point, verdicts)
        manifests = pipeline.read_manifests()
        assert all(file.manifest for file in manifests), (point, manifests)
        attested = verify_attestations(self.project.settings, self.project.pipeline)
        assert {each.status for each in attested} <= {"unsigned"}, (point, attested)
        latest = pipeline.latest_ready()
        known = {each.snapshot_id for each in verdicts}
        assert latest is None or latest.snapshot.snapshot_id in known, (point, latest, known)
        self._hold_databases(point)
        assert self.project.strays() == [], point

    def _hold_databases(self, point: object) -> None:
        """The live database is sound, and every captured one holds all rows of one moment."""
        catalogue = self.project.pipeline.catalogue
        copies = [
            catalogue.path(snapshot.snapshot_id) / record.relative_path
            for snapshot in catalogue.published()[0]
            if (record := snapshot.asset("database")) is not None and record.exists and not record.damaged
        ]
        for path in [self.project.database, *copies]:
            if not _begins_like_a_database(path):
                assert self._content() == self.old, (point, path)  # it was damaged before
                continue
            assert _is_sound(path), (point, path)
            is_readable = not isinstance(self.old["rows"], bytes)
            told = generation(*_rows_of(path))
            assert told in ("old", "new") or not is_readable, (point, path, told)

    def _prepare(self, release_id: str) -> str:
        return prepare(with_flags(self.project.settings, retention=2), passed_preflight(), release_id).status

    def _content(self) -> dict[str, Any]:
        """Everything that a restore is about; bytes stand for the rows of a database that cannot be read."""
        if _begins_like_a_database(self.project.database):
            content: dict[str, Any] = self.project.content()
            return content
        rows, self.project.rows = self.project.rows, self.project.database.read_bytes
        try:
            content = self.project.content()
        finally:
            self.project.rows = rows
        return content

    def _as_seen(self, content: dict[str, Any]) -> dict[str, Any]:
        if self.service is None or isinstance(content["rows"], bytes):
            return content
        return {**content, "rows": generation(*content["rows"])}


class OverlayScene(Scene):
    """The state is an overlay's lower layer, as in a container: its folders cannot be renamed, so they are mirrored."""

    def lay_out(self) -> None:
        self.close()
        super().lay_out()
        state = self.project.state
        lower = state.with_name("lower")
        state.rename(lower)
        for folder in (state, state.with_name("upper"), state.with_name("work")):
            folder.mkdir()
        layers = f"lowerdir={lower},upperdir={state.with_name('upper')},workdir={state.with_name('work')}"
        self.mount(state, "-t", "overlay", "overlay", "-o", layers)


class BarredScene(Scene):
    """A file that should go cannot be removed, for it is a mount point: every rollback fails and is undone."""

    outcomes = ("failed",)

    def lay_out(self) -> None:
        self.close()
        super().lay_out()
        self.mount(self.project.extra, "--bind", str(self.project.extra))


def change_config(project: Project) -> None:
    """Put another config where the damage removed it, so that a release of the old state can be prepared."""
    project.mcp.write_text('{"mcpServers": {"other": {}}}')


def damage_header(project: Project) -> None:
    """Zero the header of the live database and leave the WAL of another one beside it."""
    other = project.folder / "other.db"
    database = sqlite3.connect(other)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("CREATE TABLE strange(x)")
    database.execute("INSERT INTO strange VALUES (1)")
    database.commit()
    shutil.copy(f"{other}-wal", f"{project.database}-wal")
    database.close()
    other.unlink()
    with project.database.open("r+b") as file:
        file.write(bytes(100))


def _begins_like_a_database(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(6) == b"SQLite"


def _is_sound(path: Path) -> bool:
    database = sqlite3.connect(path, timeout=30)
    try:
        return database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    finally:
        database.close()


def _rows_of(path: Path) -> tuple[Any, Any]:
    database = sqlite3.connect(path, timeout=30, isolation_level=None)
    try:
        database.execute("BEGIN")
        return (
            database.execute("SELECT id, balance FROM accounts").fetchall(),
            database.execute("SELECT id, a, b, amount FROM ledger").fetchall(),
        )
    finally:
        database.close()


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


def _differences(now: Any, old: Any, new: Any) -> str:
    """Say of each part whether it is old, new or neither."""
    told = [f"rows {_which(now['rows'], old['rows'], new['rows'])}"]
    for path in sorted({*old["files"], *new["files"], *now["files"]}):
        states = [each["files"].get(path) for each in (now, old, new)]
        if states[1] != states[2] or states[0] != states[1]:
            told.append(f"{path} {_which(*states)}")
    return ", ".join(told)


def _which(now: object, old: object, new: object) -> str:
    return "old" if now == old else "new" if now == new else "neither"
