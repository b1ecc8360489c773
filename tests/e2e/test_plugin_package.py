"""The package of tests/plugin_package, built and installed, in real ``inv`` processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.invoke_project import InvokeProject

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PACKAGE = Path(__file__).parents[1] / "plugin_package"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
OFFLINE = ["--no-index", "--no-deps"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the installed wheel of the package; no network is used."""
    folder = tmp_path_factory.mktemp("plugin")
    sources = shutil.copytree(PACKAGE, folder / "sources", ignore=shutil.ignore_patterns("__pycache__"))
    wheels, target = folder / "wheels", folder / "site"
    for command in (
        [*PIP, "wheel", *OFFLINE, "--no-build-isolation", "-w", str(wheels), str(sources)],
        [*PIP, "install", *OFFLINE, "--target", str(target), "--find-links", str(wheels), "jsonl-queue"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr
    return target


class Queued:
    """A scratch project whose state is a queue that a real process writes."""

    def __init__(self, scratch: InvokeProject, site: Path) -> None:
        self.scratch = scratch
        self.queue = scratch.root / "state" / "queue.jsonl"
        self.queue.parent.mkdir()
        self.without = scratch.variables
        self.with_plugin = {**scratch.variables, "PYTHONPATH": f"{site}{os.pathsep}{scratch.variables['PYTHONPATH']}"}
        self.install(True)
        release = scratch.configuration["release"]
        release["assets"]["queue"] = {"python": "jsonl-queue", "path": "state/queue.jsonl", "with": {"wait": 20}}
        release["gates"] = {"depth": {"python": "queue-depth", "with": {"path": "state/queue.jsonl", "most": 10**6}}}
        self.writer: subprocess.Popen[str] | None = None

    def install(self, is_installed: bool) -> None:
        """Make the plugin available to later commands, or not."""
        self.scratch.variables = self.with_plugin if is_installed else self.without

    def start(self) -> None:
        """Start the writer; return when its first record is written."""
        command = [sys.executable, "-m", "jsonl_queue.writer", str(self.queue)]
        self.writer = subprocess.Popen(command, env=self.with_plugin, stdout=subprocess.PIPE, text=True)
        assert self.writer.stdout is not None and self.writer.stdout.readline() == "writing\n"

    def stop(self) -> None:
        """Stop the writer between two records."""
        if self.writer is not None:
            self.writer.terminate()
            self.writer.communicate(timeout=20)
            assert self.writer.returncode == 0
            self.writer = None

    @property
    def stored(self) -> Path:
        """Return the queue in the latest release snapshot."""
        manifest = json.loads((self.scratch.root / "pipeline" / "manifests" / "latest.json").read_text())
        folder = self.scratch.root / "pipeline" / "snapshots" / manifest["snapshot"]["snapshotId"]
        return Path(folder, "assets", "queue", "queue.jsonl")

    def prepare(self, release_id: str) -> int:
        """Prepare a release and return the number of complete records in its snapshot."""
        document = self.scratch.document("release.prepare", "--release-id", release_id)
        assert document["status"] == "ready", document
        return complete_records(self.stored)


def complete_records(path: Path) -> int:
    """Return the number of records in a queue; all must be complete and in order, checked without the plugin."""
    data = path.read_bytes()
    assert data.endswith(b"\n")
    numbers = [json.loads(line)["number"] for line in data.splitlines()]
    assert numbers == list(range(1, len(numbers) + 1))
    return len(numbers)


@pytest.fixture
def queued(scratch: InvokeProject, site: Path) -> Iterator[Queued]:
    """Return the project while its writer runs."""
    project = Queued(scratch, site)
    project.start()
    yield project
    project.stop()


def test_the_runbook_with_a_plugin_under_a_writer(queued: Queued) -> None:
    """The queue is captured under the writer, damaged, restored, left alone, verified and rehearsed."""
    scratch = queued.scratch
    counts = [queued.prepare(f"v{number}") for number in (1, 2, 3)]
    assert counts == sorted(counts) and counts[0] < counts[-1]
    assert scratch.document("release.verify")["status"] == "verified"

    drilled = scratch.document("release.drill")
    assert (drilled["status"], drilled["diagnostics"]) == ("passed", [])

    queued.stop()
    stored = queued.stored.read_bytes()
    damaged = queued.queue.read_bytes()[:-9] + b'{"number": 1'
    queued.queue.write_bytes(damaged)
    (scratch.root / "state.txt").write_text("two")
    failed = scratch.document("gate.run", "depth", code=1)["checks"][0]
    assert (failed["status"], failed["diagnostics"]["next"]) == ("failed", f"wc -l {queued.queue}")
    planned = scratch.document("release.rollback", "--plan")
    assert {change["key"]: change["action"] for change in planned["changes"]} == {
        "state": "restore",
        "queue": "restore",
    }

    restored = scratch.document("release.rollback")
    assert (restored["status"], restored["restoredAssets"]) == ("restored", ["state", "queue"])
    assert queued.queue.read_bytes() == stored
    # The reason why the damaged queue was stored as a plain copy.
    assert any("is not a record" in line for line in restored["diagnostics"])
    safety = scratch.root / "pipeline" / "snapshots" / restored["safetySnapshotId"]
    assert (safety / "assets" / "queue" / "queue.jsonl").read_bytes() == damaged

    queued.start()
    queued.stop()
    written = queued.queue.read_bytes()
    assert len(written) > len(stored)
    assert scratch.document("release.rollback")["status"] == "noop"
    assert queued.queue.read_bytes() == written
    assert scratch.document("release.verify")["status"] == "verified"
    shown = scratch.document("release.status")["plugins"]
    assert shown == [{"asset": "queue", "plugin": "jsonl-queue", "package": "jsonl-queue 1.2", "problem": None}]


def test_without_the_plugin_only_prepare_is_blocked(queued: Queued) -> None:
    """prepare is blocked with the command to type; rollback, verify and drill work without the plugin and say so."""
    scratch = queued.scratch
    count = queued.prepare("v1")
    queued.stop()
    stored = queued.stored.read_bytes()
    queued.install(False)
    blocked = scratch.document("release.prepare", "--release-id", "v2", code=1)
    assert blocked["status"] == "blocked"
    install = f"Type: {sys.executable} -m pip install PACKAGE"
    assert any("offers the gate 'queue-depth'" in line for line in blocked["diagnostics"])
    assert any("offers the asset kind 'jsonl-queue'" in line and install in line for line in blocked["diagnostics"])
    assert install in scratch.run("release.status").stdout

    queued.queue.write_text("ruin")
    restored = scratch.document("release.rollback")
    assert restored["status"] == "restored"
    assert any("contains a plain copy" in line for line in restored["diagnostics"])
    assert queued.queue.read_bytes() == stored and complete_records(queued.queue) == count
    verdicts = scratch.document("release.verify")["snapshots"]
    assert [verdict["status"] for verdict in verdicts] == ["verified", "verified"]
    assert "its plugin could not check it" in verdicts[0]["notes"][0]
    drilled = scratch.document("release.drill")
    assert drilled["status"] == "passed" and "not checked further" in drilled["diagnostics"][0]
    assert scratch.run("release.rollback", "--snapshot", restored["safetySnapshotId"]).returncode == 0
    assert queued.queue.read_text() == "ruin"


LOUD = """
import os, subprocess
from release_tasks.plugins import Verdict

print("from the import")

def check(context):
    print("from Python")
    os.write(1, b"from below Python")
    subprocess.run(["echo", "from a child"])
    return Verdict(passed=True, detail="fine")
"""


def test_output_of_a_plugin_never_reaches_the_document(
    scratch: InvokeProject, tmp_path: Path, environment: Callable[..., dict[str, str]]
) -> None:
    """With ``--json`` stdout is exactly one document, also when a child or C code prints."""
    info = tmp_path / "loud" / "loud-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: loud\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[release_tasks.gates]\nloud = loud:check\n")
    (tmp_path / "loud" / "loud.py").write_text(LOUD)
    scratch.variables = environment(tmp_path, tmp_path / "loud")
    scratch.configuration["release"]["gates"] = {"loud": {"python": "loud"}}
    done = scratch.run("gate.run", "loud", "--json")
    assert done.returncode == 0, done
    assert json.loads(done.stdout)["checks"][0]["detail"] == "fine"
    for words in ("from the import", "from Python", "from below Python", "from a child"):
        assert words in done.stderr
    shown = scratch.run("gate.run", "loud")
    assert (shown.returncode, "from a child" in shown.stdout) == (0, True)
