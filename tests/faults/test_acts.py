"""What a bad release can do to the live state, and the rollback after it: all of the snapshot, or nothing touched."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
from attrs import define, field

from release_tasks.core.durable import remove_tree
from release_tasks.core.records import RollbackOutcome
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from release_tasks.stages.rollback.plan import plan_rollback
from tests.support.faults.mounts import Mounts
from tests.support.files import make_socket
from tests.support.project import Project

_USER = 1000  # without the rights of root

# Each act runs as a process of its own with the path of the state folder; it ends when its stdin is closed.
_CHURN = """
import os, sys, itertools, threading
from pathlib import Path
state = Path(sys.argv[1])
os.chdir(state / "identity")
def folders():
    for number in itertools.count():
        name = f"churn-{number % 50}"
        try:
            os.mkdir(name); open(name + "/file", "w").close(); os.mkdir(name + "/inner")
            os.rmdir(name + "/inner"); os.unlink(name + "/file"); os.rmdir(name)
        except OSError:
            pass
def files():
    for number in itertools.count():
        with open(f"file-{number % 50}", "w") as file:
            file.write("x" * (number % 3000))
        if number % 3 == 0:
            os.rename(f"file-{number % 50}", f"renamed-{number % 7}")
def grow():
    with open("endless", "ab", buffering=0) as file:
        while True:
            file.write(b"x" * 5000)
            if file.tell() > 20_000_000:
                file.truncate(0)
for number in range(40):
    Path(f"first-{number}").mkdir()
threads = [threading.Thread(target=work, daemon=True) for work in (folders, files, grow)]
[thread.start() for thread in threads]
print("ready", flush=True)
sys.stdin.read()
"""
_APPEND = """
import sys, threading
def append():
    with open(sys.argv[1] + "/mcp.json", "ab", buffering=0) as file:
        while True:
            file.write(b"more" * 1000)
            if file.tell() > 50_000_000:
                file.truncate(0)
threading.Thread(target=append, daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"""
_REPLACE = """
import os, sys, threading
path = sys.argv[1] + "/mcp.json"
def replace():
    while True:
        with open(path + "~", "w") as file:
            file.write("half")
        os.rename(path + "~", path)
        os.unlink(path)
threading.Thread(target=replace, daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"""
_WORKING_FOLDER = """
import os, sys
os.chdir(sys.argv[1] + "/identity")
open("intruder", "w").close()
print("ready", flush=True)
sys.stdin.read()
"""
_LEASE = """
import fcntl, os, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
fcntl.fcntl(os.open(sys.argv[1] + "/mcp.json", os.O_RDWR), fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("ready", flush=True)
sys.stdin.read()
"""


@define
class Scene:
    """A project with the snapshot v1, and what an act needs to be undone after the test."""

    project: Project
    mounts: Mounts
    processes: list[subprocess.Popen[str]] = field(factory=list)

    @property
    def state(self) -> Path:
        return self.project.state

    @property
    def identity(self) -> Path:
        return self.project.identity

    @property
    def mcp(self) -> Path:
        return self.project.mcp

    @property
    def database(self) -> Path:
        return self.project.database

    def start(self, script: str) -> None:
        """Start a process that goes on during the rollback."""
        command = [sys.executable, "-c", script, str(self.state)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

    def stop(self) -> None:
        """End the processes."""
        for process in self.processes:
            process.communicate(timeout=30)
        self.processes.clear()

    def live(self) -> dict[str, object]:
        """Return every name below the state with mode, inode and size, without what SQLite makes when it reads."""
        found: dict[str, object] = {}
        for folder, folders, files in os.walk(self.state):
            for name in folders + files:
                path = os.path.join(folder, name)
                info = os.lstat(path)
                if not name.endswith("-shm") and not (name.endswith("-wal") and info.st_size == 0):
                    found[path] = (info.st_mode, info.st_ino, info.st_uid, info.st_size if name in files else 0)
        return found


Act = Callable[[Scene], object]


def replaced(name: Literal["identity", "mcp", "database"], make: Callable[[Path], object]) -> Act:
    """Return an act that puts something else in the place of an asset."""

    def act(scene: Scene) -> None:
        path: Path = getattr(scene.project, name)
        remove_tree(path)
        make(path)

    return act


def link_outside(path: Path) -> None:
    target = path.parent.parent / f"outside-{path.name}"
    target.mkdir()
    (target / "file").write_text("not of this asset")
    path.symlink_to(target)


def folder_with_file(path: Path) -> None:
    path.mkdir()
    (path / "file").write_text("x")


def other_database(page_size: int, mode: str = "delete") -> Callable[[Path], None]:
    def make(path: Path) -> None:
        for suffix in ("-wal", "-shm", "-journal"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        database = sqlite3.connect(path)
        database.execute(f"PRAGMA page_size = {page_size}")
        database.execute(f"PRAGMA journal_mode = {mode}")
        database.execute("CREATE TABLE other(x)")
        database.execute("INSERT INTO other VALUES (1)")
        database.commit()
        database.close()

    return make


def wal_alone(scene: Scene) -> None:
    database = sqlite3.connect(scene.database)
    database.execute("PRAGMA journal_mode = wal")
    database.execute("UPDATE accounts SET balance = 0")
    database.commit()
    wal = Path(f"{scene.database}-wal").read_bytes()
    database.close()
    scene.database.unlink()
    Path(f"{scene.database}-wal").write_bytes(wal)


def journal_of_another_database(scene: Scene) -> None:
    other = scene.project.folder / "other.db"
    database = sqlite3.connect(other)
    database.execute("CREATE TABLE t(x)")
    database.execute("INSERT INTO t VALUES (zeroblob(50000))")
    database.commit()
    database.execute("PRAGMA cache_size = 1")
    database.execute("UPDATE t SET x = zeroblob(60000)")
    journal = Path(f"{other}-journal").read_bytes()
    database.close()
    scene.project.damage_rows()
    Path(f"{scene.database}-journal").write_bytes(journal)


def names(scene: Scene) -> None:
    for name in (b"caf\xe9", b"new\nline", b"a" * 255, "\u00e9".encode() * 127, b" ", b"-rf", b"\xff" * 200):
        (scene.identity / os.fsdecode(name)).write_text("x")
        (scene.identity / os.fsdecode(name[:200] + b".d")).mkdir()
    scene.identity.joinpath("identity.json").unlink()


def nested(depth: int, name: str) -> Act:
    def act(scene: Scene) -> None:
        folder = os.open(scene.identity, os.O_RDONLY)
        for _ in range(depth):
            os.mkdir(name, dir_fd=folder)
            inner = os.open(name, os.O_RDONLY, dir_fd=folder)
            os.close(folder)
            folder = inner
        os.close(os.open("bottom", os.O_WRONLY | os.O_CREAT, dir_fd=folder))
        os.close(folder)

    return act


def many_names(scene: Scene) -> None:
    folder = os.open(scene.identity / "keys", os.O_RDONLY)
    for number in range(200_000 if "EVERY_CALL" in os.environ else 20_000):
        os.close(os.open(f"name-{number}", os.O_WRONLY | os.O_CREAT, dir_fd=folder))
    os.close(folder)


def loops(scene: Scene) -> None:
    (scene.identity / "loop").symlink_to("loop")
    (scene.identity / "up").symlink_to("..")
    (scene.identity / "keys" / "round").symlink_to("../up/identity")
    (scene.identity / "identity.json").unlink()
    (scene.identity / "identity.json").symlink_to("identity.json")


def special_files(scene: Scene) -> None:
    for number in range(60):
        os.mkfifo(scene.identity / f"pipe-{number}")
    make_socket(scene.identity / "keys" / "socket")
    (scene.identity / "identity.json").unlink()


def hard_links(scene: Scene) -> None:
    os.link(scene.identity / "identity.json", scene.identity / "second")
    os.link(scene.mcp, scene.identity / "third")
    scene.mcp.write_text("through both names")


def odd_modes(scene: Scene) -> None:
    os.chmod(scene.identity / "identity.json", 0o6777)
    os.chmod(scene.identity / "keys", 0o3777)
    os.chmod(scene.identity, 0o7000)
    os.chmod(scene.mcp, 0)
    os.chmod(scene.database, 0o400)


def swapped(scene: Scene) -> None:
    scene.mcp.rename(scene.state / "between")
    scene.identity.rename(scene.mcp)
    (scene.state / "between").rename(scene.identity)


def moved_into_itself(scene: Scene) -> None:
    scene.identity.rename(scene.state / "old")
    scene.identity.mkdir()
    (scene.state / "old").rename(scene.identity / "old")


def sparse(scene: Scene) -> None:
    with scene.mcp.open("wb") as file:
        file.truncate((4 if "EVERY_CALL" in os.environ else 1) << 30)


def truncated(scene: Scene) -> None:
    scene.project.damage_rows()
    os.truncate(scene.database, scene.database.stat().st_size - 1000)


def parent_removed(scene: Scene) -> None:
    remove_tree(scene.state)


def parent_is_a_file(scene: Scene) -> None:
    remove_tree(scene.state)
    scene.state.write_text("x")


def parent_is_a_link(scene: Scene) -> None:
    scene.state.rename(scene.project.folder / "moved")
    scene.state.symlink_to("moved")
    scene.project.damage()


def parent_becomes_a_link_to(target: str) -> Act:
    def act(scene: Scene) -> None:
        remove_tree(scene.state)
        scene.state.symlink_to(target)

    return act


def closed(name: str) -> Act:
    def act(scene: Scene) -> None:
        (scene.identity / "identity.json").write_text("bad")
        scene.mcp.write_text("bad")
        os.chmod(scene.state / name, 0)

    return act


def read_only_parent(scene: Scene) -> None:
    scene.project.damage()
    os.chmod(scene.state, 0o500)


def bind_mount(scene: Scene) -> None:
    other = scene.project.folder / "other"
    shutil.copytree(scene.identity, other, symlinks=True)
    (other / "identity.json").write_text("mounted over it")
    scene.mounts.run(["mount", "--bind", str(other), str(scene.identity)], ["umount", "-l", str(scene.identity)])


def bind_mount_with_socket(scene: Scene) -> None:
    bind_mount(scene)
    make_socket(scene.identity / "socket")


def mounted(name: Literal["identity", "mcp", "database"]) -> Act:
    """Return an act that mounts a volume with data in it at the name of an asset."""

    def act(scene: Scene) -> None:
        path: Path = getattr(scene.project, name)
        scene.project.damage()
        remove_tree(path)
        scene.mounts.tmpfs(path, "1m")
        (path / "data").write_text("precious")

    return act


def read_only_at(name: Literal["identity", "mcp"]) -> Act:
    def act(scene: Scene) -> None:
        scene.project.damage()
        scene.mcp.write_text("bad")
        scene.mounts.read_only(getattr(scene.project, name))

    return act


def flagged_in_mount(flag: str) -> Act:
    def act(scene: Scene) -> None:
        bind_mount(scene)
        scene.mcp.write_text("bad")
        path = str(scene.identity / "keys" / "private.pem")
        scene.mounts.run(["chattr", f"+{flag}", path], ["chattr", f"-{flag}", path])

    return act


def mount_in_mount(scene: Scene) -> None:
    bind_mount(scene)
    scene.mcp.write_text("bad")
    scene.mounts.tmpfs(scene.identity / "inner", "1m")


def mount_in_mount_at_known_folder(scene: Scene) -> None:
    bind_mount(scene)
    scene.mounts.tmpfs(scene.identity / "keys", "1m")


def small_mount(option: str) -> Act:
    def act(scene: Scene) -> None:
        scene.mcp.write_text("bad")
        command = ["mount", "-t", "tmpfs", "-o", option, "none", str(scene.identity)]
        scene.mounts.run(command, ["umount", "-l", str(scene.identity)])
        (scene.identity / "bad").write_text("bad")

    return act


def read_only_mount(scene: Scene) -> None:
    state = str(scene.state)
    scene.project.damage()
    scene.mounts.run(["mount", "--bind", state, state], ["umount", "-l", state])
    scene.mounts.run(["mount", "-o", "remount,bind,ro", state], ["true"])


def mount_vanished(scene: Scene) -> None:
    """The state was on a volume of its own: what is left is the empty mount point."""
    good = scene.project.folder / "volume"
    shutil.copytree(scene.state, good, symlinks=True)
    remove_tree(scene.state)
    scene.state.mkdir()


def full_disk(scene: Scene) -> None:
    small_state(scene, 4 << 20)
    with contextlib.suppress(OSError), (scene.state / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def full_inode_table(scene: Scene) -> None:
    small_state(scene, 1 << 20)
    (scene.state / "fillers").mkdir()
    with contextlib.suppress(OSError):
        for number in range(100_000):
            (scene.state / "fillers" / str(number)).touch()


def small_state(scene: Scene, size: int) -> None:
    """Move the state to a small disk, with every file changed."""
    scene.project.damage()
    saved = scene.project.folder / "saved"
    shutil.copytree(scene.state, saved, symlinks=True)
    scene.mounts.ext4(scene.state, size)
    shutil.copytree(saved, scene.state, symlinks=True, dirs_exist_ok=True)


def flagged(name: Literal["state", "identity", "mcp"], flag: str) -> Act:
    def act(scene: Scene) -> None:
        scene.project.damage_rows()
        (scene.identity / "identity.json").write_text("bad")
        scene.mcp.write_text("bad")
        path: Path = getattr(scene.project, name)
        scene.mounts.run(["chattr", f"+{flag}", str(path)], ["chattr", f"-{flag}", str(path)])

    return act


# What a rollback after each act must end as; with "failed", the live state is as the act left it.
ACTS: dict[str, tuple[Act, Literal["restored", "failed"]]] = {
    "folder removed": (lambda scene: remove_tree(scene.identity), "restored"),
    "folder emptied": (replaced("identity", os.mkdir), "restored"),
    "folder becomes a link to a folder": (replaced("identity", link_outside), "restored"),
    "folder becomes a link to itself": (replaced("identity", lambda p: p.symlink_to(p.name)), "restored"),
    "folder becomes a pipe": (replaced("identity", os.mkfifo), "restored"),
    "folder becomes a socket": (replaced("identity", make_socket), "restored"),
    "folder becomes a file": (replaced("identity", lambda p: p.write_text("x")), "restored"),
    "folder moved into itself": (moved_into_itself, "restored"),
    "file removed": (lambda scene: scene.mcp.unlink(), "restored"),
    "file becomes a link": (replaced("mcp", link_outside), "restored"),
    "file becomes a dangling link": (replaced("mcp", lambda p: p.symlink_to("/nowhere/at/all")), "restored"),
    "file becomes a pipe": (replaced("mcp", os.mkfifo), "restored"),
    "file becomes a socket": (replaced("mcp", make_socket), "restored"),
    "file becomes a folder": (replaced("mcp", folder_with_file), "restored"),
    "database removed, its WAL left": (wal_alone, "restored"),
    "database becomes a link": (replaced("database", link_outside), "restored"),
    "database becomes a dangling link": (replaced("database", lambda p: p.symlink_to("nowhere")), "restored"),
    "database becomes a pipe": (replaced("database", os.mkfifo), "restored"),
    "database becomes a socket": (replaced("database", make_socket), "restored"),
    "database becomes a folder": (replaced("database", folder_with_file), "restored"),
    "database becomes garbage": (replaced("database", lambda p: p.write_bytes(b"garbage" * 5000)), "restored"),
    "database becomes empty": (replaced("database", lambda p: p.touch()), "restored"),
    "database becomes another one": (replaced("database", other_database(4096)), "restored"),
    "database becomes one of another page size": (replaced("database", other_database(512)), "restored"),
    "database in WAL mode and of another page size": (replaced("database", other_database(65536, "wal")), "restored"),
    "database truncated": (truncated, "restored"),
    "journal of another database": (journal_of_another_database, "restored"),
    "assets swapped": (swapped, "restored"),
    "odd names": (names, "restored"),
    "paths beyond PATH_MAX": (nested(40, "n" * 255), "restored"),
    "loops of links": (loops, "restored"),
    "pipes and a socket": (special_files, "restored"),
    "hard links": (hard_links, "restored"),
    "odd modes": (odd_modes, "restored"),
    "parent removed": (parent_removed, "restored"),
    "parent becomes a file": (parent_is_a_file, "failed"),
    "parent becomes a link": (parent_is_a_link, "restored"),
    "parent becomes a link to nothing": (parent_becomes_a_link_to("nothing"), "failed"),
    "parent becomes a loop of links": (parent_becomes_a_link_to("state"), "failed"),
    "folder is a working folder": (lambda scene: scene.start(_WORKING_FOLDER), "restored"),
    "file is leased": (lambda scene: scene.start(_LEASE), "restored"),
    "folder churns": (lambda scene: scene.start(_CHURN), "restored"),
    "file grows without end": (lambda scene: scene.start(_APPEND), "restored"),
}
SLOW_ACTS: dict[str, tuple[Act, Literal["restored", "failed"]]] = {
    "3,000 levels": (nested(3000, "level"), "restored"),
    "many names": (many_names, "restored"),
    "sparse file": (sparse, "restored"),
}
ROOT_ACTS: dict[str, tuple[Act, Literal["restored", "failed"]]] = {
    "folder becomes a device": (replaced("identity", lambda p: os.mknod(p, 0o20600, os.makedev(1, 5))), "restored"),
    "file becomes a device": (replaced("mcp", lambda p: os.mknod(p, 0o20600, os.makedev(1, 5))), "restored"),
    "database becomes a device": (replaced("database", lambda p: os.mknod(p, 0o20600, os.makedev(1, 5))), "restored"),
    "folder owned by another user": (lambda scene: os.chown(scene.identity, 12345, 54321), "restored"),
    "mount over the folder": (bind_mount, "restored"),
    "mount with a socket over the folder": (bind_mount_with_socket, "failed"),
    "mount in a mounted folder": (mount_in_mount, "failed"),
    "mount at a known folder in a mounted folder": (mount_in_mount_at_known_folder, "restored"),
    "immutable file in a mounted folder": (flagged_in_mount("i"), "failed"),
    "append-only file in a mounted folder": (flagged_in_mount("a"), "failed"),
    "read-only mount over the folder": (read_only_at("identity"), "failed"),
    "read-only mount over the file": (read_only_at("mcp"), "failed"),
    "mount with little space over the folder": (small_mount("size=4k"), "failed"),
    "mount with few inodes over the folder": (small_mount("nr_inodes=3"), "failed"),
    "volume over the folder": (mounted("identity"), "restored"),
    "volume at the name of the file": (mounted("mcp"), "failed"),
    "volume at the name of the database": (mounted("database"), "failed"),
    "volume vanished": (mount_vanished, "restored"),
    "state becomes read-only": (read_only_mount, "failed"),
    "disk full": (full_disk, "failed"),
    "inode table full": (full_inode_table, "failed"),
    "folder is immutable": (flagged("identity", "i"), "failed"),
    "file is immutable": (flagged("mcp", "i"), "failed"),
    "parent is immutable": (flagged("state", "i"), "failed"),
    "file is append-only": (flagged("mcp", "a"), "failed"),
    "folder is append-only": (flagged("identity", "a"), "failed"),
    "parent is append-only": (flagged("state", "a"), "failed"),
}


# Acts with the rights of a service that is not root: modes mean something to it.
USER_ACTS: dict[str, tuple[Act, Literal["restored", "failed"]]] = {
    "mode 000 in the folder": (closed("identity/keys"), "restored"),
    "mode 000 of a file in the folder": (closed("identity/keys/private.pem"), "restored"),
    "mode 000 of the folder": (closed("identity"), "restored"),
    "mode 000 of the file": (closed("mcp.json"), "restored"),
    "mode 000 of the database": (closed("app.db"), "failed"),
    "mode 000 of the parent": (closed("."), "restored"),
    "folder that cannot be listed": (lambda scene: os.chmod(scene.identity / "keys", 0o300), "restored"),
    "read-only folder": (lambda scene: os.chmod(scene.identity, 0o500), "restored"),
    "read-only parent": (read_only_parent, "restored"),
}


@pytest.fixture
def scene(project: Project, mounts: Mounts) -> Iterator[Scene]:
    """The project, its snapshot taken."""
    project.capture()
    made = Scene(project, mounts)
    with contextlib.ExitStack() as undo:
        undo.callback(remove_tree, project.folder)  # pytest cannot remove trees of 3,000 levels
        undo.callback(mounts.clear)
        undo.callback(made.stop)
        yield made


def end(scene: Scene, act: Act, expected: Literal["restored", "failed"]) -> RollbackOutcome:
    """Act, roll back, and fail unless the rollback ends as expected, with the state that belongs to that end."""
    good = scene.project.content()
    act(scene)
    before = scene.live() if expected == "failed" else None
    outcome = rollback(scene.project.settings, RollbackRequest())
    scene.stop()
    assert outcome.status == expected, outcome
    assert not scene.project.pipeline.journal_path.exists()
    if expected == "restored":
        assert scene.project.content() == good
    else:
        assert scene.live() == before
        assert outcome.safety_snapshot_id is None
        assert len(outcome.diagnostics[0]) > 40, outcome.diagnostics
        assert "undone" not in outcome.diagnostics[0], outcome.diagnostics
    return outcome


@pytest.mark.slow
@pytest.mark.parametrize("name", ACTS)
@pytest.mark.timeout(120)
def test_after_an_act_of_a_bad_release(scene: Scene, name: str) -> None:
    """A rollback ends restored, or failed with the live state untouched."""
    end(scene, *ACTS[name])


@pytest.mark.parametrize(
    "name", ["parent becomes a file", "parent becomes a link to nothing", "parent becomes a loop of links"]
)
def test_plan_foresees_a_parent_that_is_not_a_folder(scene: Scene, name: str) -> None:
    """With the command that moves it away; then the rollback succeeds."""
    good = scene.project.content()
    ACTS[name][0](scene)
    move = f"mv -T {scene.state} {scene.state}.before"
    assert any(move in line for line in plan_rollback(scene.project.settings).diagnostics)
    subprocess.run(shlex.split(move), check=True)
    assert rollback(scene.project.settings, RollbackRequest()).status == "restored"
    assert scene.project.content() == good


@pytest.mark.timeout(120)
def test_file_that_comes_and_goes_all_the_time_does_not_prevent_a_rollback(scene: Scene) -> None:
    """A process makes, replaces and removes the file by its name, also during the swap.

    The swap is completed. Its outcome is ``failed`` when the process has changed the restored file since.
    """
    good = scene.project.content()
    scene.start(_REPLACE)
    (scene.identity / "identity.json").write_text("bad")
    outcome = rollback(scene.project.settings, RollbackRequest())
    assert outcome.safety_snapshot_id is not None and "undone" not in outcome.diagnostics[0], outcome
    scene.stop()
    assert rollback(scene.project.settings, RollbackRequest(force=True)).status in ("restored", "noop")
    assert scene.project.content() == good


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", SLOW_ACTS)
def test_after_a_large_act_of_a_bad_release(scene: Scene, name: str) -> None:
    """The same with trees and files beyond usual limits."""
    end(scene, *SLOW_ACTS[name])


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.timeout(120)
@pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: mounts, devices and file flags: they need root")
@pytest.mark.parametrize("name", ROOT_ACTS)
def test_after_an_act_with_the_rights_of_root(scene: Scene, name: str) -> None:
    """The same with mounts, devices, owners and file flags."""
    end(scene, *ROOT_ACTS[name])


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", USER_ACTS)
def test_after_an_act_on_modes(name: str) -> None:
    """The same as a user who is not root, to whom modes mean something."""
    folder = Path(tempfile.mkdtemp(prefix="release-tasks-"))
    try:
        os.chown(folder, _USER, _USER) if os.geteuid() == 0 else None
        as_user(lambda: end_in(folder, *USER_ACTS[name]))
    finally:
        remove_tree(folder)


def end_in(folder: Path, act: Act, expected: Literal["restored", "failed"]) -> None:
    project = Project(folder)
    project.capture()
    end(Scene(project, Mounts(folder)), act, expected)


def as_user(work: Callable[[], None]) -> None:
    """Run ``work`` in a child with the rights of a user; its failure fails the test."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(_USER)
                os.setuid(_USER)
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
