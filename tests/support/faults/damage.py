"""A project whose stored files go wrong, in every way a file can, and what must not change when a command meets that.

The digests of a forged document are made here as docs/formats.md says, not with the code that is under test.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

import release_tasks
from release_tasks.archive.pipeline import Pipeline
from release_tasks.core.records import RollbackOutcome
from release_tasks.stages.rollback.engine import RollbackRequest, rollback
from tests.support.project import Project

__all__ = [
    "DEVICES",
    "IN_PLACE",
    "NEEDS_ROOT",
    "WRONG_DOCUMENTS",
    "Watched",
    "edited",
    "edits",
    "forge",
    "listing",
    "places",
    "reseal",
    "scratch_folder",
]

Damage = Callable[[Path], None]
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root makes devices")


class Watched:
    """A project with the equal snapshots v0 and v1 whose live state is another, and whatever must stay as it is."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.folder: Path = project.folder
        self.new = project.content()
        for release in ("v0", "v1"):
            project.capture(release)
        project.damage()
        (self.folder / "neighbour").mkdir()
        (self.folder / "neighbour" / "file").write_text("nobody's asset")
        section = {"tasks": {"executor_class": "release_tasks.executor.StageExecutor"}, "release": project.raw}
        (self.folder / "invoke.yaml").write_text(json.dumps(section))
        (self.folder / "tasks.py").write_text("from release_tasks import ns\n")
        self.old = project.content()
        self.settings = project.settings
        self.pipeline = Pipeline(self.settings.release.root)
        self.template = self.folder.with_name(self.folder.name + "-template")
        self.keep()

    @property
    def snapshot(self) -> Path:
        """The folder of the snapshot that is damaged."""
        return self.pipeline.catalogue.path("v1_snapshot")

    @property
    def metadata(self) -> Path:
        """Its metadata.json."""
        return self.snapshot / "metadata.json"

    def keep(self) -> None:
        """Make what is here now what ``fresh`` brings back."""
        shutil.rmtree(self.template, ignore_errors=True)
        shutil.copytree(self.folder, self.template, symlinks=True)

    def fresh(self) -> None:
        """Bring everything back as it was before the first damage."""
        shutil.rmtree(self.folder)
        shutil.copytree(self.template, self.folder, symlinks=True)

    def mend(self) -> None:
        """Bring the snapshots back as they were, and leave the rest, which no refusal may have changed."""
        shutil.rmtree(self.pipeline.catalogue.store.folder)
        shutil.copytree(
            self.template / self.pipeline.catalogue.store.folder.relative_to(self.folder),
            self.pipeline.catalogue.store.folder,
            symlinks=True,
        )

    def live(self) -> dict[str, Any]:
        """Everything in the project's folder that is not the pipeline's."""
        return {path: kept for path, kept in listing(self.folder).items() if path.partition("/")[0] != "pipeline"}

    def is_whole(self) -> str:
        """Say ``old`` or ``new`` when every asset is, else what there is."""
        now = self.project.content()
        return "old" if now == self.old else "new" if now == self.new else f"a mix: {now}"

    def roll(self, snapshot_id: str | None = "v1_snapshot", **flags: Any) -> RollbackOutcome:
        """Roll back to the damaged snapshot."""
        return rollback(self.settings, RollbackRequest(snapshot_id=snapshot_id, **flags))

    def refused(self, case: object) -> str:
        """Hold that a rollback is refused, on record, with not an inode or a time changed; returns the sentence."""
        live, stored = self.live(), listing(self.pipeline.catalogue.store.folder)
        outcome = self.roll()
        assert (outcome.status, outcome.safety_snapshot_id, outcome.restored_assets) == ("failed", None, []), case
        assert self.live() == live, case
        assert listing(self.pipeline.catalogue.store.folder) == stored, case
        assert self.last_event() == ("rollback.refused", "failed", outcome.diagnostics[0]), case
        assert not self.pipeline.journal_path.exists(), case
        assert self.strays() == [], case
        return outcome.diagnostics[0]

    def strays(self) -> list[str]:
        """Names that nobody but a run that ended early could have left."""
        found = [path.relative_to(self.folder) for path in self.folder.rglob("*")]
        return [str(path) for path in found if path.name.startswith(".") or path.name.endswith(".tmp")]

    def last_event(self) -> tuple[str, str, str]:
        """The newest event of an audit log that holds, as event, status and detail."""
        verdict = self.pipeline.audit.verify()
        assert verdict.intact, verdict.problems
        event = verdict.events[-1]
        return event["event"], event["status"], event["detail"]

    def inv(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the real ``inv`` in the project; it must end within a minute, and never with a traceback."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("INVOKE_", "PYTHON"))}
        package = str(Path(release_tasks.__file__).parent.parent)
        done = subprocess.run(
            [sys.executable, "-m", "invoke", *words],
            cwd=self.folder,
            env={**kept, "PYTHONPATH": package, "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in done.stderr + done.stdout, done
        return done


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder that is gone afterwards, in memory where there is such a place."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="release-tasks-", dir=shared if shared.is_dir() else None) as name:
        yield Path(name)


def listing(root: Path) -> dict[str, Any]:
    """Everything at and below a folder: mode, inode, owner, time, and bytes or link target."""
    found: dict[str, Any] = {}
    for path in [root, *sorted(root.rglob("*"))]:
        info = os.lstat(path)
        kept: Any = None
        if stat.S_ISREG(info.st_mode):
            kept = path.read_bytes()
        elif stat.S_ISLNK(info.st_mode):
            kept = os.readlink(path)
        found[str(path.relative_to(root))] = (info.st_mode, info.st_ino, info.st_uid, info.st_mtime_ns, kept)
    return found


def _elsewhere(path: Path) -> Path:
    pipeline = next(folder for folder in path.parents if folder.name == "pipeline")
    return pipeline.parent / "neighbour" / "moved"


def _link_to_the_same(path: Path) -> None:
    away = _elsewhere(path)
    shutil.rmtree(away, ignore_errors=True)
    away.unlink(missing_ok=True)
    path.rename(away)
    path.symlink_to(away)


def _instead(make: Callable[[Path], Any]) -> Damage:
    def replace(path: Path) -> None:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        make(path)

    return replace


def _socket(path: Path) -> None:
    # A socket's path has at most 107 bytes, a test's folder more.
    here = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"/proc/self/fd/{here}/{path.name}")
    finally:
        os.close(here)


def _device(kind: int, major: int, minor: int) -> Damage:
    return _instead(lambda path: os.mknod(path, kind | 0o600, os.makedev(major, minor)))


# What can stand where a file or folder should be.
IN_PLACE: dict[str, Damage] = {
    "a link to the same elsewhere": _link_to_the_same,
    "a link to nowhere": _instead(lambda path: path.symlink_to("nowhere")),
    "a link to itself": _instead(lambda path: path.symlink_to(path.name)),
    "a named pipe": _instead(os.mkfifo),
    "a socket": _instead(_socket),
}
DEVICES: dict[str, Damage] = {
    "a device that is empty": _device(stat.S_IFCHR, 1, 3),
    "a device without end": _device(stat.S_IFCHR, 1, 5),
    "a terminal": _device(stat.S_IFCHR, 5, 0),
    "a disk": _device(stat.S_IFBLK, 7, 250),
}


def _add(text: bytes) -> Damage:
    """Write a key more into the outermost object, as text."""
    return lambda path: _write(path, b"{" + text + b"," + path.read_bytes().lstrip()[1:])


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _double_a_key(path: Path) -> None:
    first = next(iter(json.loads(path.read_bytes()).items()))
    _add(json.dumps({first[0]: first[1]})[1:-1].encode())(path)


# What can be wrong with a file of JSON whatever it says: no reader may take any of these.
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
    "a key twice": _double_a_key,
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
    "a folder": _instead(os.mkdir),
    **IN_PLACE,
}


def reseal(document: dict[str, Any]) -> dict[str, Any]:
    """Give a document the checksum that belongs to what it says now."""
    unsealed = {key: value for key, value in document.items() if key != "checksum"}
    return {**unsealed, "checksum": _sha256(unsealed)}


def forge(document: dict[str, Any]) -> dict[str, Any]:
    """Give metadata every digest that belongs to what it says now, as somebody would who has read the formats."""
    document = copy.deepcopy(document)
    assets = document.get("assets")
    if isinstance(assets, list) and all(isinstance(asset, dict) for asset in assets):
        for asset in assets:
            if asset.get("kind") == "directory" and isinstance(asset.get("entries"), list):
                asset["sha256"] = _sha256(asset["entries"])
        names = ("key", "kind", "exists", "size", "mode", "damaged")
        records = [
            {**{name: asset.get(name) for name in names}, "digest": asset.get("contentDigest") or asset.get("sha256")}
            for asset in sorted(assets, key=lambda asset: str(asset.get("key")))
        ]
        document["digest"] = _sha256(records)
    return reseal(document)


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of every value at any depth: the keys and indexes that lead to it."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*above, key)
        yield from places(inner, (*above, key))


_TEXTS = ["", ".", "..", "../../neighbour/file", "/etc/passwd", "a\x00b", "\ud800", "x" * 5000, "assets/mcp/mcp.json"]
_NUMBERS = [0, 1, -1, 384, 0o4777, 2**31, 2**63, 10**299, -0.5, 1e300]
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.sampled_from([*_TEXTS, *_NUMBERS]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@st.composite
def edits(draw: st.DrawFn, document: dict[str, Any]) -> list[tuple[tuple[Any, ...], str, Any]]:
    """Draw one to three edits of a document: a place, what happens there, and with which value."""
    found = list(places(document))
    other = st.sampled_from(found).map(lambda place: _at(document, place))
    edit = st.tuples(st.sampled_from(found), st.sampled_from(["set", "set", "set", "drop", "double"]), _VALUES | other)
    return draw(st.lists(edit, min_size=1, max_size=3))


def edited(document: dict[str, Any], changes: list[tuple[tuple[Any, ...], str, Any]]) -> dict[str, Any]:
    """Return a copy with the edits made, as far as the places are still there after those before."""
    document = copy.deepcopy(document)
    for place, how, value in changes:
        try:
            target = _at(document, place[:-1])
            if how == "set":
                target[place[-1]] = copy.deepcopy(value)
            elif how == "drop":
                del target[place[-1]]
            elif isinstance(target, list):
                target.append(copy.deepcopy(target[place[-1]]))
        except (KeyError, IndexError, TypeError):
            continue
    return document


def _at(value: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        value = value[key]
    return value
