"""A project with damaged stored files, the kinds of damage, and the checks of what a refusal must not change."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from release_tasks.archive.pipeline import Pipeline
from release_tasks.core.records import RollbackOutcome
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from tests.support.commands import run_inv, write_project_files
from tests.support.files import listing, make_socket
from tests.support.project import Project
from tests.support.stored_snapshots import read_snapshot, write_snapshot

__all__ = [
    "DEVICES",
    "IN_PLACE",
    "WRONG_DOCUMENTS",
    "DamagedProject",
    "edited",
    "edits",
    "paths_in",
    "scratch_folder",
    "value_at",
]

Damage = Callable[[Path], None]


class DamagedProject:
    """A project with the equal snapshots v0 and v1, of which a test damages v1, and another live state.

    ``new`` is the content of the snapshots, ``old`` the live content before a rollback.
    """

    def __init__(self, project: Project) -> None:
        self.project = project
        self.folder: Path = project.folder
        self.new = project.content()
        for release in ("v0", "v1"):
            project.capture(release)
        project.damage()
        (self.folder / "neighbour").mkdir()
        (self.folder / "neighbour" / "file").write_text("no asset")
        write_project_files(self.folder, project.raw)
        self.old = project.content()
        self.settings = project.settings
        self.pipeline = Pipeline(self.settings.release.root)
        self.template = self.folder.with_name(self.folder.name + "-template")
        self.save_template()

    @property
    def snapshot(self) -> Path:
        """The folder of the snapshot that is damaged."""
        return self.pipeline.catalogue.path("v1_snapshot")

    @property
    def metadata(self) -> Path:
        """Its metadata.json."""
        return self.snapshot / "metadata.json"

    def document(self) -> dict[str, Any]:
        """Return its metadata, with the entries of its folders."""
        return read_snapshot(self.snapshot)

    def write(self, document: dict[str, Any]) -> None:
        """Write its metadata, with the entries of its folders."""
        write_snapshot(self.snapshot, document)

    def save_template(self) -> None:
        """Save the present content of the folder as the template of ``reset``."""
        shutil.rmtree(self.template, ignore_errors=True)
        shutil.copytree(self.folder, self.template, symlinks=True)

    def reset(self) -> None:
        """Bring the whole folder back to the template."""
        shutil.rmtree(self.folder)
        shutil.copytree(self.template, self.folder, symlinks=True)

    def repair_snapshots(self) -> None:
        """Bring the snapshots back to the template, and nothing else: a refusal must not have changed anything else."""
        shutil.rmtree(self.pipeline.catalogue.store.folder)
        shutil.copytree(
            self.template / self.pipeline.catalogue.store.folder.relative_to(self.folder),
            self.pipeline.catalogue.store.folder,
            symlinks=True,
        )

    def live(self) -> dict[str, Any]:
        """Return a listing of the project's folder without the pipeline."""
        return {path: info for path, info in listing(self.folder).items() if path.partition("/")[0] != "pipeline"}

    def state(self) -> str:
        """Return ``old`` or ``new`` when all assets have that state, else a description of the mix."""
        now = self.project.content()
        return "old" if now == self.old else "new" if now == self.new else f"a mix: {now}"

    def roll_back(self, snapshot_id: str | None = "v1_snapshot", *, force: bool = False) -> RollbackOutcome:
        """Roll back to the damaged snapshot."""
        return rollback(self.settings, RollbackRequest(snapshot_id=snapshot_id, force=force))

    def assert_refused(self, case: object) -> str:
        """Fail unless a rollback is refused and audited, with no inode or time changed; returns the message."""
        live, stored = self.live(), listing(self.pipeline.catalogue.store.folder)
        outcome = self.roll_back()
        assert (outcome.status, outcome.safety_snapshot_id, outcome.restored_assets) == ("failed", None, []), case
        assert self.live() == live, case
        assert listing(self.pipeline.catalogue.store.folder) == stored, case
        assert self.last_event() == ("rollback.refused", "failed", outcome.diagnostics[0]), case
        assert not self.pipeline.journal_path.exists(), case
        assert self.leftovers() == [], case
        return outcome.diagnostics[0]

    def leftovers(self) -> list[str]:
        """Return the temporary files of interrupted runs."""
        names = ((path.name, path.relative_to(self.folder)) for path in self.folder.rglob("*"))
        hidden = [str(path) for name, path in names if name.startswith(".") and name != ".gitignore"]
        return hidden + [str(path.relative_to(self.folder)) for path in self.folder.rglob("[!.]*.tmp")]

    def last_event(self) -> tuple[str, str, str]:
        """Return event, status and detail of the latest audit event; fails when the log is not intact."""
        verdict = self.pipeline.audit.verify()
        assert verdict.intact, verdict.problems
        event = verdict.events[-1]
        return event["event"], event["status"], event["detail"]

    def inv(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the real ``inv`` in the project; it must end within a minute and print no traceback."""
        return run_inv(self.folder, *words)


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a folder, in memory where possible, and remove it."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="release-tasks-", dir=shared if shared.is_dir() else None) as name:
        yield Path(name)


def _outside_pipeline(path: Path) -> Path:
    pipeline = next(folder for folder in path.parents if folder.name == "pipeline")
    return pipeline.parent / "neighbour" / "moved"


def _move_and_link(path: Path) -> None:
    target = _outside_pipeline(path)
    shutil.rmtree(target, ignore_errors=True)
    target.unlink(missing_ok=True)
    path.rename(target)
    path.symlink_to(target)


def _replace_with(make: Callable[[Path], Any]) -> Damage:
    def replace(path: Path) -> None:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        make(path)

    return replace


def _device(kind: int, major: int, minor: int) -> Damage:
    return _replace_with(lambda path: os.mknod(path, kind | 0o600, os.makedev(major, minor)))


# What can be found in place of a file or folder.
IN_PLACE: dict[str, Damage] = {
    "a link to the moved original": _move_and_link,
    "a link to nowhere": _replace_with(lambda path: path.symlink_to("nowhere")),
    "a link to itself": _replace_with(lambda path: path.symlink_to(path.name)),
    "a named pipe": _replace_with(os.mkfifo),
    "a socket": _replace_with(make_socket),
}
DEVICES: dict[str, Damage] = {
    "a device that is empty": _device(stat.S_IFCHR, 1, 3),
    "a device without end": _device(stat.S_IFCHR, 1, 5),
    "a terminal": _device(stat.S_IFCHR, 5, 0),
    "a disk": _device(stat.S_IFBLK, 7, 250),
}


def _add(text: bytes) -> Damage:
    """Add a key to the outermost object, as text."""
    return lambda path: _write(path, b"{" + text + b"," + path.read_bytes().lstrip()[1:])


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _repeat_a_key(path: Path) -> None:
    first = next(iter(json.loads(path.read_bytes()).items()))
    _add(json.dumps({first[0]: first[1]})[1:-1].encode())(path)


# Damage that makes any JSON file invalid: no reader may accept it.
WRONG_DOCUMENTS: dict[str, Damage] = {
    "no bytes": lambda path: _write(path, b""),
    "half of it": lambda path: _write(path, path.read_bytes()[: path.stat().st_size // 2]),
    "its last byte missing": lambda path: _write(path, path.read_bytes().rstrip()[:-1]),
    "something after it": lambda path: _write(path, path.read_bytes() + b"{}"),
    "zeros": lambda path: _write(path, bytes(path.stat().st_size)),
    "a byte order mark": lambda path: _write(path, b"\xef\xbb\xbf" + path.read_bytes()),
    "UTF-16": lambda path: _write(path, path.read_text().encode("utf-16")),
    "a byte that is not UTF-8": _add(b'"note": "\xff"'),
    "a surrogate in UTF-8": _add(b'"note": "\xed\xa0\x80"'),
    "NaN": _add(b'"note": NaN'),
    "-Infinity": _add(b'"note": -Infinity'),
    "1e999": _add(b'"note": 1e999'),
    "a number of 4000 digits": _add(b'"note": ' + b"9" * 4000),
    "a number of a million digits": _add(b'"note": -' + b"9" * 1_000_000),
    "a key twice": _repeat_a_key,
    "a key twice, far down": _add(b'"note": {"a": [{"b": 1, "b": 1}]}'),
    "a long key twice": _add(b'"%(k)s": 1, "%(k)s": 2' % {b"k": b"k" * 1_000_000}),
    "100,000 levels": _add(b'"note": ' + b"[" * 100_000 + b"]" * 100_000),
    "100,000 levels of objects": _add(b'"note": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "65 levels": _add(b'"note": ' + b"[" * 65 + b"]" * 65),
    "five million lists": lambda path: _add(b'"note": [' + b"[]," * 5_000_000 + b"0]")(path),
    "100 MiB": lambda path: os.truncate(path, 100 << 20),
    "a list": lambda path: _write(path, b"[" + path.read_bytes() + b"]"),
    "null": lambda path: _write(path, b"null"),
    "an object without keys": lambda path: _write(path, b"{}"),
    "a folder": _replace_with(os.mkdir),
    **IN_PLACE,
}


def paths_in(value: Any, parents: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value at any depth: its keys and indexes."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*parents, key)
        yield from paths_in(inner, (*parents, key))


_TEXTS = ["", ".", "..", "../../neighbour/file", "/etc/passwd", "a\x00b", "\ud800", "x" * 5000, "assets/mcp/mcp.json"]
_NUMBERS = [0, 1, -1, 384, 0o4777, 2**31, 2**63, 10**299, -0.5, 1e300]
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.sampled_from([*_TEXTS, *_NUMBERS]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@st.composite
def edits(draw: st.DrawFn, document: dict[str, Any]) -> list[tuple[tuple[Any, ...], str, Any]]:
    """Draw one to three edits of a document: a path, an operation (set, drop, double) and a value."""
    found = list(paths_in(document))
    other = st.sampled_from(found).map(lambda path: value_at(document, path))
    edit = st.tuples(st.sampled_from(found), st.sampled_from(["set", "set", "set", "drop", "double"]), _VALUES | other)
    return draw(st.lists(edit, min_size=1, max_size=3))


def edited(document: dict[str, Any], changes: list[tuple[tuple[Any, ...], str, Any]]) -> dict[str, Any]:
    """Return a copy with the edits applied; an edit of a path that no longer exists is skipped."""
    document = copy.deepcopy(document)
    for path, how, value in changes:
        try:
            target = value_at(document, path[:-1])
            if how == "set":
                target[path[-1]] = copy.deepcopy(value)
            elif how == "drop":
                del target[path[-1]]
            elif isinstance(target, list):
                target.append(copy.deepcopy(target[path[-1]]))
        except (KeyError, IndexError, TypeError):
            continue
    return document


def value_at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value
