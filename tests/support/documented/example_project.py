"""Projects in the documented states: a real service, real releases, and faults."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from invoke.config import Config

import release_tasks
from release_tasks.config.schema import PairingConfig
from release_tasks.gateway.paths import GatewayPaths
from release_tasks.gateway.process import start, status, stop
from release_tasks.pairing.channels import Channel
from release_tasks.pairing.policy import Pairing
from release_tasks.tasks.project import load_settings
from tests.support.documented.pages import REPOSITORY
from tests.support.documented.shell import Answer, Shell

__all__ = ["STAND_INS", "ExampleProject", "make_template"]

# Stand-ins for programs that must not act on this machine: they record each call.
STAND_INS = ("systemctl", "docker", "kubectl", "chattr", "pip", "npm", "fuser")
_STAND_IN = '#!/bin/sh\necho "${0##*/} $*" >> "$STAND_IN_LOG"\n'
_TASKS = '''
from invoke import task
from release_tasks import ns


@task(pre=[ns["release.prepare"]])
def deploy(ctx):
    """Deploy, once the release is ready and its snapshot is taken."""
    ctx.run("./deploy.sh")


ns.add_task(deploy)
'''
_RECOVER = [sys.executable, "-m", "release_tasks.tasks.program", "release.recover"]
_LOCK_HOLDER = """
import sys, time
from pathlib import Path
from release_tasks.core.lock import run_lock
with run_lock(Path(sys.argv[1]), "release.rollback"):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""
_HEALTH = """
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"ok": True, "data": {"status": "ok", "heartbeat": {"running": True}}}).encode())
    def log_message(self, *_):
        pass
server = HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
print("listening", flush=True)
server.serve_forever()
"""
_CRASH = """
import os, sys
import release_tasks.assets.sqlite.kind as kind
kind.restore_database = lambda *a: os._exit(9)
from release_tasks.tasks.program import main
sys.argv = ["release-tasks", "release.rollback", "--force"]
main()
"""


class ExampleProject:
    """One scratch project with its own port and shell; ``snapshot``, ``code`` and others fill in placeholders."""

    def __init__(self, folder: Path, template: Path | None = None) -> None:
        self.folder = folder
        self.root = folder / "project"
        self.home = self.root / "memory" / "gateway"
        self.pipeline = self.root / "memory" / "release-pipeline"
        self.log = folder / "stand-ins.log"
        self.port = _free_port()
        self._children: list[subprocess.Popen[str]] = []
        self._shell: Shell | None = None
        self._number = 0 if template is None else 50  # senders of a copied project must differ from the approved ones
        if template is None:
            self.root.mkdir(parents=True)
        else:
            shutil.copytree(template, self.root, symlinks=True)
        self._fill()

    def _fill(self) -> None:
        self.configure()
        (self.root / "tasks.py").write_text(_TASKS)
        stand_ins = self.folder / "bin"
        stand_ins.mkdir(exist_ok=True)
        for path in (*(stand_ins / name for name in STAND_INS), self.root / "deploy.sh"):
            path.write_text(_STAND_IN)
            path.chmod(0o755)
        self.log.touch()
        venv = self.root / ".venv"
        if not venv.is_symlink():
            venv.symlink_to(Path(sys.executable).parent.parent)

    def configure(self, **release: Any) -> None:
        """Write the invoke.yaml of this repository with quick gates, short times and its own port."""
        config = Config(lazy=True)
        raw = config._load_yaml(REPOSITORY / "invoke.yaml")  # Invoke's own YAML reader
        section = json.loads(json.dumps(raw["release"]).replace(":3100", f":{self.port}"))
        section["health"] |= {"deadline": "10s", "interval": "50ms", "passes_after_restore": 1}
        section["gates"]["build"] |= {"command": "echo built"}
        section["gates"]["tests"] |= {"command": "echo tested"}
        section["restart"] = {"command": None, "settle": "300ms"}
        for key, value in release.items():
            section[key] = {**section.get(key, {}), **value} if isinstance(value, dict) else value
        raw |= {"release": section, "gateway": {**raw["gateway"], "port": self.port}}
        (self.root / "invoke.yaml").write_text(json.dumps(raw))
        (self.root / "ci.yaml").write_text(json.dumps({"release": {"retention": 9}}))

    def gates(self) -> dict[str, Any]:
        """Return the configured gates."""
        gates: dict[str, Any] = json.loads((self.root / "invoke.yaml").read_text())["release"]["gates"]
        return gates

    @property
    def variables(self) -> dict[str, str]:
        """Return the environment of an operator: the tool on the PATH, stand-ins before everything else."""
        stored = {k: v for k, v in os.environ.items() if not k.startswith(("INVOKE_", "PYTHON", "GITHUB_", "CI_"))}
        path = [str(self.folder / "bin"), str(Path(sys.executable).parent), stored["PATH"]]
        package = str(Path(release_tasks.__file__).parent.parent)
        return {
            **stored,
            "HOME": str(self.folder),
            "PATH": os.pathsep.join(path),
            "PYTHONPATH": package,
            "PYTHONDONTWRITEBYTECODE": "1",
            "STAND_IN_LOG": str(self.log),
            "CI_COMMIT_SHA": "4f2c9d1",
            "INVOKE_RELEASE_WATCH_FOR": "1s",
            "INVOKE_RELEASE_WATCH_INTERVAL": "100ms",
            "COLUMNS": "200",
        }

    @property
    def shell(self) -> Shell:
        """Return the operator's shell in the project's folder."""
        if self._shell is None:
            self._shell = Shell(self.root, self.variables, self.folder / "shell")
        return self._shell

    def inv(self, *words: str, code: int = 0) -> dict[str, Any]:
        """Run a task to bring the project into a state; return its document."""
        line = [sys.executable, "-m", "invoke", *words, "--json"]
        done = subprocess.run(
            line,
            cwd=self.root,
            env=self.variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=90,
        )
        assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def start(self) -> None:
        """Start the gateway as ``inv gateway.start`` does, without another ``inv``; ``close`` stops it."""
        raw = json.loads((self.root / "invoke.yaml").read_text())
        settings = load_settings({name: raw.get(name, {}) for name in ("release", "pairing", "gateway")}, self.root)
        start(
            GatewayPaths(self.home),
            port=self.port,
            release_root=settings.release.root,
            pairing=settings.pairing,
            start_gate=["/bin/sh", "-c", 'cd "$0" && exec "$@"', str(self.root), *_RECOVER],
            timeout=60,
        )
        self.await_health()

    def stop(self) -> None:
        """Stop the gateway, if it runs."""
        stop(GatewayPaths(self.home), timeout=60)

    def await_health(self) -> None:
        """Wait until the gateway is healthy."""
        deadline = time.monotonic() + 60
        while status(GatewayPaths(self.home)).health != "ok" and time.monotonic() < deadline:
            time.sleep(0.05)

    def change_rows(self) -> None:
        """Change the database only."""
        with closing(sqlite3.connect(self.home / "gateway.db", timeout=10)) as database, database:
            database.execute("CREATE TABLE IF NOT EXISTS left_by_the_release(id INTEGER)")
            database.execute("INSERT INTO left_by_the_release VALUES (1)")

    def damage(self) -> None:
        """Change rows, the identity and the MCP configuration, as a bad release would."""
        self.change_rows()
        (self.home / "identity" / "identity.json").write_text("no JSON")
        (self.home / "mcp-servers.json").write_text('{"mcpServers": ')

    def interrupt_rollback(self) -> None:
        """Leave the files of a power cut during a swap."""
        self.damage()
        done = subprocess.run([sys.executable, "-c", _CRASH], cwd=self.root, env=self.variables, capture_output=True)
        assert (done.returncode, (self.pipeline / "rollback-journal.json").exists()) == (9, True), done

    def hold_lock(self, seconds: float) -> None:
        """Let another run hold the pipeline's lock for ``seconds``."""
        line = [sys.executable, "-c", _LOCK_HOLDER, str(self.pipeline), str(seconds)]
        child = subprocess.Popen(line, env=self.variables, stdout=subprocess.PIPE, text=True)
        self._children.append(child)
        assert child.stdout is not None and child.stdout.readline().strip() == "held"

    def serve_health(self) -> None:
        """Serve health answers on this project's port in the form of the older gateway."""
        line = [sys.executable, "-c", _HEALTH, str(self.port)]
        child = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
        self._children.append(child)
        assert child.stdout is not None and child.stdout.readline().strip() == "listening"

    def manifest_of(self, release: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.pipeline / "manifests" / f"{release}.json").read_text())
        return document

    def snapshots(self, kind: str = "release") -> list[str]:
        """Return the ids of the snapshots of a kind, latest first."""
        found = []
        for path in (self.pipeline / "snapshots").glob("[!.]*/metadata.json"):
            document = json.loads(path.read_text())
            if document.get("kind", "release") == kind:
                found.append((document.get("sequence", 0), document["snapshotId"]))
        return [name for _, name in sorted(found, reverse=True)]

    def pairing(self) -> Pairing:
        return Pairing(PairingConfig(credentials=self.root / "memory" / "credentials"))

    def code(self, channel: Channel = Channel.TELEGRAM) -> str:
        """Return the code of a pending request; without one, make a new request."""
        pending = self.pairing().pending(channel)
        if not pending:
            self._number += 1
            sender = f"4172990{self._number:02}" if channel is Channel.TELEGRAM else f"155512345{self._number:02}"
            self.pairing().request(channel, sender)
            pending = self.pairing().pending(channel)
        return pending[0].code

    def sender(self, channel: Channel = Channel.TELEGRAM) -> str:
        """Return an approved sender."""
        pairing = self.pairing()
        if not pairing.approved(channel):
            pairing.approve(channel, self.code(channel))
        return pairing.approved(channel)[0]

    def fresh_id(self) -> str:
        """Return an unused release id."""
        self._number += 1
        return f"v{self._number}"

    def run(self, command: str) -> Answer:
        """Type a command of a page, with this project's values for its placeholders."""
        return self.shell.run(command)

    def calls(self) -> list[str]:
        """Return the calls of stand-ins."""
        return self.log.read_text().splitlines()

    def close(self) -> None:
        """Stop every process of this project."""
        for child in self._children:
            child.kill()
            child.communicate()
        if self._shell is not None:
            self._shell.close()
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):  # the service of the quick start
            os.kill(int((self.root / "state" / "service.pid").read_text()), signal.SIGTERM)
        self.stop()


def make_template(folder: Path) -> Path:
    """Make the project that every state starts with: two releases, a rollback, an approved sender, no service."""
    with contextlib.closing(ExampleProject(folder)) as example:
        example.start()
        example.inv("release.prepare", "--release-id", "r1")
        (example.home / "gateway.json").write_text(_retouched((example.home / "gateway.json").read_text()))
        example.inv("release.prepare", "--release-id", "r2")
        example.inv("release.drill")
        example.damage()
        example.inv("release.rollback")
        example.sender()
        example.await_health()
        example.stop()
    return example.root


def _retouched(settings: str) -> str:
    """Return the settings with one more line, so that two releases differ."""
    return re.sub(r"\{", '{\n  "note": "second",', settings, count=1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
