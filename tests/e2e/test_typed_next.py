"""Each printed command is typed in the state that printed it: it exists, it is complete, and it ends as documented.

A state is a project that the library has brought so far, and command lines that print in it. Each printed command is
typed in the same folder, with the files of the state as they were printed.
"""

from __future__ import annotations

import contextlib
import functools
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field, frozen
from invoke import Collection

from release_tasks.api import load_project, prepare_release, roll_back
from release_tasks.config.schema import Settings
from release_tasks.pairing.channels import Channel
from release_tasks.pairing.policy import Pairing
from release_tasks.tasks.suite import suite
from tests.support.crash import crash_after_journal_writes
from tests.support.forked_inv import Ended, ForkedInv
from tests.support.health import Health
from tests.support.invoke_project import InvokeProject
from tests.support.lock_holder import lock_holder
from tests.support.printed_commands import PrintedCommand, commands_in, texts_of
from tests.support.snapshots import flip_bit

CLOSED = "http://127.0.0.1:9/health"  # no service answers
PROGRAMS = {"inv": "invoke", "release-tasks": "release_tasks.tasks.program"}
RENAMED = """
from invoke import Collection
from release_tasks import ns as suite
ns = Collection()
ns.add_collection(suite.collections["release"], name="ops")
"""
# Invoke ends with 1 when it cannot parse a command line, as a task does for a negative answer.
MISTYPED = re.compile("No idea what|needed value|did not receive|ambiguous")
# What a person types for a placeholder, and short times for long ones.
FILLED = {
    "URL": CLOSED,
    "CMD": "true",
    "ID": "v1",
    "TASK": "release.status",
    "FOLDER": "project",
    "10m": "100ms",
    "5m": "1s",
}


@define
class Scene:
    """A project in one state.

    ``held`` is entered while a command line runs, such as a lock of another process; ``values`` replace placeholders.
    """

    project: InvokeProject
    health: Health
    form: str
    warm: ForkedInv | None
    held: Callable[[], AbstractContextManager[object]] = nullcontext
    values: dict[str, str] = field(factory=lambda: dict(FILLED))

    @property
    def root(self) -> Path:
        return self.project.root

    @property
    def release(self) -> dict[str, Any]:
        release: dict[str, Any] = self.project.configuration["release"]
        return release

    @property
    def namespace(self) -> Collection:
        """All names of tasks that may be printed."""
        names = Collection(*suite().collections.values())
        if self.form == "renamed":
            names.add_collection(suite().collections["release"], name="ops")
        return names

    def settings(self) -> Settings:
        """Write the configuration, and return it as the tasks read it."""
        self.project.write()
        return load_project(self.root)

    def prepare(self, release_id: str = "v1") -> str:
        """Prepare a release; return the id of its snapshot."""
        manifest = prepare_release(self.settings(), release_id=release_id)
        assert manifest.snapshot is not None, manifest
        return manifest.snapshot.snapshot_id

    def prepare_and_change(self) -> str:
        """Prepare release v1, then change the state."""
        snapshot = self.prepare()
        (self.root / "state.txt").write_text("two")
        return snapshot

    def write_row(self) -> None:
        """Write to the database, as a service does."""
        with contextlib.closing(sqlite3.connect(self.root / "app.db")) as database, database:
            database.execute("CREATE TABLE IF NOT EXISTS messages(id INTEGER PRIMARY KEY)")
            database.execute("INSERT INTO messages DEFAULT VALUES")

    def type(self, line: str) -> Ended:
        """Type a line in the folder of the project: in a shell, or in the warm interpreter."""
        with self.held():
            if self.warm is not None:
                program, *words = shlex.split(line)
                done = self.warm.run(self.root, *words, program=program)
            else:
                done = self._type_in_a_shell(line)
        assert "Traceback" not in done.out + done.err, done
        return done

    def _type_in_a_shell(self, line: str) -> Ended:
        done = subprocess.run(
            ["/bin/sh", "-c", line],
            cwd=self.root,
            env=self.project.variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return Ended(done.returncode, done.stdout, done.stderr, [])

    def own(self, line: str) -> str:
        """Return a command line of the suite in the form of this project."""
        if line.startswith("release-tasks "):
            return line
        if self.form == "inv":
            return f"inv {line}"
        is_renamed = self.form == "renamed" and line.startswith("release.")
        return f"inv ops.{line.removeprefix('release.')}" if is_renamed else f"release-tasks {line}"

    def filled(self, line: str) -> str:
        """Return a printed line with a value for each placeholder."""
        return re.sub(r"(?<![^ ])\w+(?![^ ])", lambda word: self.values.get(word[0], word[0]), line)

    def printed_by(self, line: str) -> list[PrintedCommand]:
        """Run a command line, and return the commands that it prints, or writes into a page."""
        done = self.type(self.own(line))
        pages = (re.sub("<[^>]+>", "`", unescape(page.read_text())) for page in self.root.rglob("*.html"))
        texts = [*texts_of(done.out), done.err, *pages]
        return [command for text in texts for command in commands_in(text, self.namespace)]


@frozen
class State:
    """A state: how it is made, which command lines print in it, and commands that they must print."""

    make: Callable[[Scene], object]
    lines: tuple[str, ...]
    shows: tuple[str, ...]


MakeScene = Callable[..., Scene]
STATES: dict[str, State] = {}


def state(*lines: str, shows: str) -> Callable[[Callable[[Scene], object]], Callable[[Scene], object]]:
    """Return a decorator that adds a state. ``shows`` has commands of the suite, separated by commas."""

    def add(make: Callable[[Scene], object]) -> Callable[[Scene], object]:
        STATES[make.__name__] = State(make, lines, tuple(filter(None, shows.split(", "))))
        return make

    return add


@state("release-tasks release.status", "release-tasks release.prepare --json", shows="TASK")
def no_project(scene: Scene) -> None:
    scene.project.write()
    (scene.root / "project").mkdir()
    (scene.root / "invoke.yaml").rename(scene.root / "project" / "invoke.yaml")


@state("release.status", "release.prepare --json", "release.watch", "gateway.start --json", shows="")
def wrong_configuration(scene: Scene) -> None:
    scene.release["gates"] = {"compile": {"comand": "true"}}
    scene.project.write()


@state("release.status", shows="release.prepare")
def nothing_prepared(scene: Scene) -> None:
    scene.settings()


@state("release.diagnose", "release.rollback --json", "release.drill", "release.diff v1 v2", shows="release.prepare")
def no_release(scene: Scene) -> None:
    scene.settings()


@state("release.prepare --release-id v1", "release.diagnose --json", shows="gate.run compile, release.prepare")
def blocked_by_a_command(scene: Scene) -> None:
    scene.release["gates"] = {"compile": {"command": "false"}}
    scene.settings()


@state("release.prepare --json", "release.diagnose", shows="gate.run healthz, release.prepare --first")
def blocked_by_health(scene: Scene) -> None:
    scene.release["health"].update(url=CLOSED, deadline="100ms")
    scene.release["gates"] = {"healthz": {"http": "health"}}
    scene.settings()


@state("release.prepare", "release.diagnose --json", shows="gate.run servers")
def blocked_by_mcp(scene: Scene) -> None:
    (scene.root / "mcp.json").write_text('{"mcpServers": {"files": {"args": []}}}')
    scene.release["gates"] = {"servers": {"mcp": "mcp.json"}, "compile": {"command": "true"}}
    scene.settings()


@state("release.prepare --json", "release.preflight", "release.diagnose", shows="release.preflight")
def blocked_by_a_missing_asset(scene: Scene) -> None:
    scene.release["assets"]["other"] = {"file": "other.txt"}
    scene.settings()


@state(
    "release.preflight release.prepare --release-id v1",
    "release.status",
    "release.prepare --release-id v1",
    "release.report",
    "release.diff v1 v9",
    shows="release.rollback --snapshot, release.drill --snapshot",
)
def ready(scene: Scene) -> None:
    scene.settings()


@state(
    "release.rollback --plan", "release.rollback --snapshot v9", "release.rollback", shows="release.rollback --snapshot"
)
def changed(scene: Scene) -> None:
    scene.prepare_and_change()


@state("release.rollback", "release.diagnose", "release.report --json", shows="release.rollback --snapshot --force")
def restored(scene: Scene) -> None:
    scene.release["assets"]["app"] = {"sqlite": "app.db"}
    scene.write_row()
    scene.prepare_and_change()
    roll_back(scene.settings())
    scene.write_row()


@state(
    "release.rollback",
    "release.rollback --json",
    "release.diagnose",
    shows="release.rollback --snapshot --restart-command",
)
def unhealthy_after_a_rollback(scene: Scene) -> None:
    scene.prepare_and_change()
    scene.release["health"].update(url=CLOSED, deadline="100ms")
    scene.settings()


@state("release.diagnose", "release.status", "release.prepare", "release.watch", shows="release.recover")
def interrupted(scene: Scene) -> None:
    scene.release["assets"]["app"] = {"sqlite": "app.db"}
    scene.write_row()
    scene.prepare_and_change()
    scene.write_row()
    with crash_after_journal_writes(1):
        roll_back(scene.settings())


@state("release.status", "release.rollback", "release.verify", "release.diagnose --json", shows="release.verify")
def damaged_snapshot(scene: Scene) -> None:
    snapshot = scene.prepare_and_change()
    flip_bit(next((scene.root / "pipeline" / "snapshots" / snapshot / "assets").rglob("state.txt")))


@state("release.prepare", "release.rollback --json", "release.recover", shows="release.prepare")
def locked(scene: Scene) -> None:
    scene.prepare_and_change()
    scene.held = functools.partial(lock_holder, scene.root / "pipeline")


@state("release.audit", "release.diagnose", "release.status", shows="release.audit")
def broken_chain(scene: Scene) -> None:
    scene.prepare_and_change()
    log = scene.root / "pipeline" / "rollback-audit.log"
    log.write_text(log.read_text().replace('"v1"', '"v2"'))


@state("release.watch", "release.diagnose", shows="release.rollback --snapshot")
def unhealthy_after_a_deploy(scene: Scene) -> None:
    scene.release["health"].update(url=scene.health.url, deadline="100ms")
    scene.prepare_and_change()
    scene.health.status = 503


@state(
    "pairing.list telegram",
    "pairing.approve telegram AAAABBBB",
    "pairing.reject telegram AAAABBBB --json",
    "release.diagnose",
    shows="pairing.approve telegram CODE, pairing.list telegram",
)
def pairing_pending(scene: Scene) -> None:
    request = Pairing(scene.settings().pairing).request(Channel.TELEGRAM, "4711").request
    assert request is not None
    scene.values["CODE"] = request.code


@state("release.diagnose", "pairing.list telegram", shows="pairing.list telegram")
def damaged_pairing_store(scene: Scene) -> None:
    credentials = scene.settings().pairing.credentials
    credentials.mkdir(parents=True)
    (credentials / "telegram-pairing.json").write_text('{"requests": ')


@state("release.diagnose", "release.recover", "release.rollback --json", "release.report", shows="release.recover")
def damaged_journal(scene: Scene) -> None:
    scene.prepare_and_change()
    (scene.root / "pipeline" / "rollback-journal.json").write_text("{}")


@state("release.prepare", shows="release.watch --health-url")
def never_judged_without_a_health_url(scene: Scene) -> None:
    scene.prepare_and_change()


@state("release.prepare", "release.diagnose", "release.watch", shows="release.watch")
def never_judged(scene: Scene) -> None:
    scene.release["health"].update(url=scene.health.url)
    scene.prepare_and_change()
    scene.prepare("v2")


@state("release.diagnose", "release.rollback", shows="release.preflight --only --strict")
def degraded(scene: Scene) -> None:
    scene.release["health"].update(url=scene.health.url)
    scene.release["gates"] = {"healthz": {"http": "health"}}
    scene.prepare_and_change()
    scene.health.body = {"ok": True, "data": {"status": "degraded", "queue": {"status": "degraded"}}}


@state("release.prepare", "release.diagnose", shows="gate.run healthz")
def no_health_url(scene: Scene) -> None:
    scene.release["gates"] = {"healthz": {"http": "health"}}
    scene.settings()


@state("gateway.status", "gateway.break mcp --json", shows="gateway.start")
def gateway_stopped(scene: Scene) -> None:
    scene.settings()


@state(
    "release.status",
    "release.prepare --first",
    "release.rollback --plan",
    "release.rollback",
    shows="release.rollback --snapshot",
)
def first_deployment(scene: Scene) -> None:
    (scene.root / "state.txt").unlink()
    prepare_release(scene.settings(), release_id="v1", first=True)
    (scene.root / "state.txt").write_text("one")


def typed_in_copies(scene: Scene, commands: list[PrintedCommand], saved: Path) -> Iterator[str]:
    """Type each command in a fresh copy of the state; yield what is wrong with it."""
    shutil.copytree(scene.root, saved, symlinks=True)
    for command in commands:
        done = scene.type(scene.filled(command.line))
        if done.code not in (0, 1, 75) or MISTYPED.search(done.out + done.err):
            yield f"{command.line}: {done.code} {done.out}{done.err}"
        if command.kind[0] == "gateway.start":
            scene.type(scene.own("gateway.stop"))
        shutil.rmtree(scene.root)
        shutil.copytree(saved, scene.root, symlinks=True)
    shutil.rmtree(saved)


def check(scene: Scene, name: str) -> None:
    """Let a state print its commands, and type each once; commands that differ in an id are the same."""
    state = STATES[name]
    state.make(scene)
    typed: set[tuple[str, ...]] = set()
    wrong: list[str] = []
    for line in state.lines:
        printed = {command.kind: command for command in scene.printed_by(line) if command.kind not in typed}
        typed |= set(printed)
        wrong += typed_in_copies(scene, list(printed.values()), scene.root.with_name("saved"))
    assert wrong == []
    of_suite = {re.sub(r"^ops\.", "release.", " ".join(kind)) for kind in typed}
    assert of_suite >= set(state.shows), of_suite


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory, environment: Callable[..., dict[str, str]]) -> Iterator[ForkedInv]:
    """Return an interpreter that has loaded the suite: a new one for each of a hundred lines takes a minute."""
    folder = tmp_path_factory.mktemp("warm")
    with ForkedInv(with_programs(environment(folder), folder)) as inv:
        yield inv


def with_programs(variables: dict[str, str], folder: Path) -> dict[str, str]:
    """Write ``inv`` and ``release-tasks`` with the package under test; return an environment that finds them."""
    programs = folder / "programs"
    programs.mkdir()
    for program, module in PROGRAMS.items():
        (programs / program).write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        (programs / program).chmod(0o755)
    return {**variables, "PATH": f"{programs}:{variables['PATH']}"}


@pytest.fixture
def scene_in(health: Health, free_port: int, tmp_path: Path, environment: Callable[..., dict[str, str]]) -> MakeScene:
    """Return a maker of a project in which commands are typed in one form; a space in its path must be quoted."""
    root = tmp_path / "the project"
    root.mkdir()
    scratch = InvokeProject(root, with_programs(environment(tmp_path), tmp_path), [])
    scratch.configuration["gateway"] = {"port": free_port, "root": "home"}
    scratch.configuration["release"]["watch"] = {"for": "300ms", "interval": "50ms", "min_samples": 2}
    scratch.configuration["release"]["gates"] = {"compile": {"command": "true"}}

    def make(form: str, warm: ForkedInv | None = None) -> Scene:
        if form == "renamed":
            (scratch.root / "tasks.py").write_text(RENAMED)
        elif form == "release-tasks":
            (scratch.root / "tasks.py").unlink()
        return Scene(scratch, health, form, warm)

    return make


@pytest.mark.parametrize(
    "form", ["inv", *(pytest.param(form, marks=pytest.mark.slow) for form in ("release-tasks", "renamed"))]
)
def test_a_command_is_typed_in_a_shell(scene_in: MakeScene, form: str) -> None:
    """The programs themselves, in each of the three forms."""
    check(scene_in(form), "nothing_prepared")


@pytest.mark.slow
@pytest.mark.parametrize("name", STATES)
def test_each_command_is_typed_in_its_state(scene_in: MakeScene, warm: ForkedInv, name: str) -> None:
    """With ``inv`` in a project with the names of the suite."""
    check(scene_in("inv", warm), name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["blocked_by_health", "restored", "interrupted", "pairing_pending"])
@pytest.mark.parametrize("form", ["release-tasks", "renamed"])
def test_each_command_has_the_names_of_its_project(scene_in: MakeScene, warm: ForkedInv, form: str, name: str) -> None:
    """With ``release-tasks`` in a folder without a tasks.py, and where the project has only release.*, as ops.*."""
    check(scene_in(form, warm), name)
