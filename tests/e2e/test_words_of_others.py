"""Real commands in a project in which every word of others is hostile: no output of theirs obeys one."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from release_tasks.core.lock import FileLock
from tests.support.foreign_words import HOSTILE, faults_of, hidden
from tests.support.health import Health
from tests.support.invoke_project import InvokeProject
from tests.support.terminal import Shown

pytestmark = pytest.mark.slow

TEXTS = {key: text for key, text in HOSTILE.items() if "\0" not in text}
WORD = TEXTS["cursor up"] + TEXTS["newline"]


def encoded(text: str) -> bytes:
    """Return the bytes of a text; a single surrogate, which no file name has, as its UTF-8."""
    with contextlib.suppress(UnicodeEncodeError):
        return text.encode("utf-8", "surrogateescape")
    return text.encode("utf-8", "surrogatepass")


@pytest.fixture
def service() -> Iterator[Health]:
    """Return a healthy service, all of whose words are hostile."""
    health = Health()
    texts = [text.encode("utf-8", "replace").decode() for text in TEXTS.values()]
    health.body = {"status": "ok", "version": texts, "parts": {text: {"status": "degraded"} for text in texts}}
    yield health
    health.close()


@pytest.fixture
def project(scratch: InvokeProject, service: Health) -> InvokeProject:
    """Return a project with a ready release; its gates, files, tables, service and git are hostile."""
    root = scratch.root
    (root / "words").write_bytes(b"\n".join(map(encoded, TEXTS.values())))
    (root / "words.json").write_text(json.dumps({text: [text] for text in TEXTS.values()}))
    (root / "identity").mkdir()
    with sqlite3.connect(root / "app.db") as database:
        for number, text in enumerate(TEXTS.values()):
            name = text.encode("utf-8", "replace").decode().replace('"', '""')
            database.execute(f'CREATE TABLE "{number} {name}" ("{name}" DEFAULT 1, b)')
            database.execute(f'INSERT INTO "{number} {name}" (b) VALUES (1)')
    database.close()
    release = scratch.configuration["release"]
    release["health"].update(url=service.url)
    release["gates"] = {
        "prints": {"command": "cat words"},
        "fails": {"command": "cat words; exit 3", "advisory": True},
        "json": {"mcp": "words.json", "advisory": True},
        "asks": {"http": service.url, "expect": {"json": "version.0", "equals": "1"}, "advisory": True},
    }
    release["assets"] = {
        "database": {"sqlite": "app.db"},
        "identity": {"directory": "identity"},
        "words": {"file": "words.json"},
    }
    release["app"]["version"] = {"file": "version.json", "key": "version"}
    (root / "version.json").write_text('{"version": "1.0"}')
    (root / ".git").write_text(f"gitdir: /nowhere/{WORD}\n")
    scratch.variables["SUDO_USER"] = WORD
    return scratch


def change(project: InvokeProject) -> None:
    """Change the state as a hostile service would, after the release."""
    for text in TEXTS.values():
        with contextlib.suppress(FileNotFoundError, OSError):
            Path(os.fsdecode(os.fsencode(project.root / "identity") + b"/" + encoded(text))).write_text("x")
    with sqlite3.connect(project.root / "app.db") as database:
        for (name,) in database.execute("SELECT name FROM sqlite_schema").fetchall():
            quoted = name.replace('"', '""')
            database.execute(f'INSERT INTO "{quoted}" (b) VALUES (2)')
    database.close()
    (project.root / "words.json").write_text(json.dumps({f"{text} ": text for text in TEXTS.values()}))


def records(project: InvokeProject) -> None:
    """Write records into the pipeline folder as a person without the lock could."""
    pipeline = project.root / "pipeline"
    manifest = json.loads((pipeline / "manifests" / "v1.json").read_bytes())
    forged = {key: WORD if isinstance(value, str) else value for key, value in manifest.items()}
    (pipeline / "manifests" / "v0.json").write_text(json.dumps(forged))
    snapshot = next((pipeline / "snapshots").iterdir())
    for name in (f"v0{WORD}".replace("/", ""), "v0_snapshot_0"):
        shutil.copytree(snapshot, pipeline / "snapshots" / name)
        metadata = json.loads((pipeline / "snapshots" / name / "metadata.json").read_bytes())
        metadata = {key: WORD if isinstance(value, str) else value for key, value in metadata.items()}
        (pipeline / "snapshots" / name / "metadata.json").write_text(json.dumps(metadata))
    with (pipeline / "rollback-audit.log").open("a") as log:
        log.write(json.dumps({"seq": 9, "time": WORD, "event": WORD, "status": WORD, "actor": WORD}) + "\n")


def sentences_of(value: Any, key: str = "") -> Iterator[str]:
    """Yield the sentences of a document."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from sentences_of(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from sentences_of(inner, key)
    elif isinstance(value, str) and key in ("detail", "diagnostics", "message", "reason", "problems", "next"):
        yield value


@pytest.mark.timeout(600)
def test_no_command_obeys_words_of_others(
    project: InvokeProject, service: Health, on_terminal: Callable[..., Shown]
) -> None:
    """In a pipe, on a terminal and as documents."""

    def run(words: str, *codes: int) -> None:
        done = project.run(*words.split())
        assert done.returncode in codes, (words, done)
        for printed in (done.stdout, done.stderr):
            assert faults_of(printed) == [], (words, printed)
        if "--json" in words:
            sentences = list(sentences_of(json.loads(done.stdout)))
            assert sentences and not any(map(hidden, sentences)), words
            assert all("\n" not in sentence for sentence in sentences), words

    def run_on_terminal(words: str, *codes: int) -> None:
        shown = on_terminal(project, words)
        assert shown.end() in codes, (words, shown.lines())
        assert faults_of(shown.data.decode(), is_terminal=True) == [], (words, shown.lines())

    run("release.preflight", 0)
    run_on_terminal("release.prepare --release-id v1", 0)
    change(project)
    run("release.prepare --release-id v2 --json", 0)
    run_on_terminal("release.diff v1 v2", 0)
    change(project)
    target = next(name for name in sorted(os.listdir(project.root / "pipeline/snapshots")) if name.startswith("v1_"))
    run_on_terminal(f"release.rollback --plan --snapshot {target}", 0)
    run(f"release.rollback --plan --snapshot {target} --json", 0)
    run_on_terminal(f"release.rollback --snapshot {target} --restart-command false", 1)
    change(project)
    project.configuration["release"]["restart"] = {"command": "cat words; exit 1", "settle": "300ms"}
    run(f"release.rollback --snapshot {target} --force", 1)
    service.body = {"ok": False, "error": {"message": WORD, "code": WORD}}
    run_on_terminal("release.diagnose", 1)
    records(project)
    for words in ("release.status", "release.diagnose", "release.verify", "release.audit"):
        run_on_terminal(words, 0, 1)
        run(words, 0, 1)
    run("release.status --json", 0, 1)
    run("release.report --release-id v1", 0)


def test_a_wrong_version_is_refused_and_stops_no_way_back(project: InvokeProject) -> None:
    """Preflight and prepare name it in one line; status, diagnosis and rollback work."""
    assert project.run("release.prepare", "--release-id", "v1").returncode == 0
    (project.root / "version.json").write_text(json.dumps({"version": WORD}))
    for words in (["release.preflight"], ["release.prepare"], ["release.prepare", "--release-id", "v2"]):
        done = project.run(*words)
        assert done.returncode == 1 and faults_of(done.stdout + done.stderr) == [], done
        assert "release.app.version is not one printable line" in done.stderr, done
    assert project.run("release.status").returncode == 0
    assert project.run("release.rollback", "--force").returncode == 0


def test_the_holder_of_the_lock_is_text(project: InvokeProject) -> None:
    """Another person may have written its record."""
    project.write()
    root = project.root / "pipeline"
    with FileLock(root / "lock").held():
        (root / "lock.json").write_text(json.dumps({"pid": 1, "host": WORD, "command": WORD, "since": WORD}))
        for words in (["release.prepare"], ["release.rollback"], ["release.status"]):
            done = project.run(*words)
            assert done.returncode == (0 if words == ["release.status"] else 75), done
            assert faults_of(done.stdout + done.stderr) == [], done


def test_the_process_that_holds_a_database_is_text(project: InvokeProject) -> None:
    """Its command line has any bytes."""
    assert project.run("release.prepare", "--release-id", "v1").returncode == 0
    change(project)
    code = "import sqlite3, sys; d = sqlite3.connect('app.db', isolation_level=None); d.execute('BEGIN EXCLUSIVE');"
    code += " print(flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, WORD], cwd=project.root, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdin is not None and holder.stdout is not None
    try:
        holder.stdout.readline()
        done = project.run("release.rollback", "--lock-wait", "200ms")
    finally:
        holder.communicate()
    assert done.returncode == 1 and str(holder.pid) in done.stdout + done.stderr, done
    assert faults_of(done.stdout + done.stderr) == [], done
