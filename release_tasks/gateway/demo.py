"""A demonstration of the runbook on the embedded gateway, in less than a minute and only with public tasks."""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import requests

from release_tasks.core.interrupt import interruptible, uninterrupted
from release_tasks.core.owned import exposure_of
from release_tasks.gateway.paths import GatewayPaths

__all__ = ["DemoFailed", "run_demo"]

_MESSAGES = 5
_DELIVERY_SECONDS = 20.0


class DemoFailed(Exception):
    """A check of the demonstration failed."""


def run_demo(project: Path, show: Callable[[str], None]) -> None:
    """Release, damage, roll back, and check each step; ``project`` contains tasks.py and invoke.yaml.

    Uses a free port and a scratch folder, and leaves no process and no file, also after a signal. ``show`` prints a
    line. Raises DemoFailed, and Interrupted after a signal.
    """
    if (exposure := exposure_of(Path(tempfile.gettempdir()))) is not None:
        raise DemoFailed(f"root makes no files there: {exposure}. Set TMPDIR to a folder of root, or to /tmp.")
    with interruptible():
        scratch = Path(tempfile.mkdtemp(prefix="release-tasks-demo-"))
        demo = _Demo(project, scratch, show)
        try:
            demo.run()
        finally:
            with uninterrupted():
                demo.inv("gateway.stop")
                leftover = demo.gateway_processes()
                shutil.rmtree(scratch)
    if leftover:
        raise DemoFailed(f"processes are still running: {leftover}")
    show("Stopped the gateway; no process and no file is left.")


class _Demo:
    def __init__(self, project: Path, scratch: Path, show: Callable[[str], None]) -> None:
        self.project = project
        self.scratch = scratch
        self.show = show
        self.paths = GatewayPaths(scratch / "gateway")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.overlay = scratch / "demo.json"
        self.overlay.write_text(json.dumps(self.configuration()))

    def run(self) -> None:
        started = self.inv("gateway.start")
        self.show(f"Started the gateway at {self.url} in a scratch folder.")
        self.require(started.returncode == 0, f"gateway.start succeeds ({started.stderr.strip()})")
        before = self.write_data()
        snapshot = self.prepare()
        broken = self.inv("gateway.break", "flapping")
        self.show("$ inv gateway.break flapping    # a deploy that goes wrong")
        self.require(broken.returncode == 0, f"every second health response fails\n{broken.stderr}")
        self.watch(snapshot)
        self.show_health("ok")
        self.damage()
        self.show_health("degraded")
        self.roll_back(snapshot, "restored")
        self.show_health("ok")
        self.require(self.content() == before, "messages, identity and MCP config are restored byte for byte")
        self.roll_back(snapshot, "noop")
        audit = self.inv("release.audit")
        self.show("$ inv release.audit")
        for line in audit.stdout.splitlines():
            self.show(f"    {line}")
        self.require(audit.returncode == 0, "the audit chain is intact")

    def configuration(self) -> dict[str, Any]:
        """Return the overrides of the project's invoke.yaml: scratch paths and a free port."""
        paths = self.paths
        scratch_env = {
            "PYTHONDONTWRITEBYTECODE": "1",
            "HYPOTHESIS_STORAGE_DIRECTORY": str(self.scratch / "hypothesis"),
            "PYTEST_ADDOPTS": f"--basetemp={self.scratch / 'pytest'}",
        }
        return {
            "pairing": {"credentials": str(self.scratch / "credentials")},
            "gateway": {"port": self.port, "root": str(paths.root)},
            "release": {
                "root": str(self.scratch / "pipeline"),
                "app": {"version": {"file": str(paths.settings)}},
                "health": {"url": f"{self.url}/health"},
                "reliability": {"url": f"{self.url}/reliability"},
                "gates": {
                    "build": {"command": f"inv dev.build --output {self.scratch / 'build'}", "env": scratch_env},
                    "tests": {"env": scratch_env},
                    "gui": {"http": f"{self.url}/"},
                    "dispatcher": {"http": f"{self.url}/health"},
                    "mcp-config": {"mcp": str(paths.mcp_servers)},
                },
                "assets": {
                    "database": {"sqlite": str(paths.database)},
                    "identity": {"directory": str(paths.identity)},
                    "mcp": {"file": str(paths.mcp_servers)},
                    "settings": {"file": str(paths.settings)},
                },
            },
        }

    def write_data(self) -> dict[str, Any]:
        for number in range(_MESSAGES):
            message = {"channel": "telegram", "to": "1000", "text": f"message {number}"}
            requests.post(f"{self.url}/messages", json=message, timeout=5).raise_for_status()
        deadline = time.monotonic() + _DELIVERY_SECONDS
        while not self.is_idle() and time.monotonic() < deadline:
            time.sleep(0.05)
        self.require(self.is_idle(), f"{_MESSAGES} messages are delivered, and health is ok")
        return self.content()

    def prepare(self) -> str:
        result, manifest = self.inv_json("release.prepare", "--release-id", "demo-1")
        self.show("$ inv release.prepare --release-id demo-1")
        for check in manifest.get("preflight", {}).get("checks", []):
            self.show(f"    {check['id']:<12}{check['status']:<8}{check['durationMs'] / 1000:5.1f}s  {check['detail']}")
        self.require(
            result.returncode == 0 and manifest.get("status") == "ready", f"the release is ready\n{result.stderr}"
        )
        snapshot: str = manifest["snapshot"]["snapshotId"]
        self.show(f"    snapshot {snapshot}")
        return snapshot

    def damage(self) -> None:
        with closing(sqlite3.connect(self.paths.database, timeout=10)) as database, database:
            database.execute("DELETE FROM messages")
        (self.paths.identity / "identity.json").write_text("not JSON")
        self.paths.mcp_servers.write_text('{"mcpServers": ')
        self.show("Damaged the state: deleted all messages, overwrote the identity, broke the MCP config.")
        self.require(self.messages() == [], "the messages are deleted")

    def show_health(self, expected: str) -> None:
        data = self.get("/health")
        self.require(data.get("status") == expected, f"health reports {expected}")
        for problem in data.get("problems", []):
            self.show(f"    {problem}")

    def roll_back(self, snapshot: str, expected: str) -> None:
        started = time.monotonic()
        result, outcome = self.inv_json("release.rollback")
        self.show(f"$ inv release.rollback    ({time.monotonic() - started:.1f}s)")
        is_expected = result.returncode == 0 and outcome.get("snapshotId") == snapshot
        self.require(
            is_expected and outcome.get("status") == expected,
            f"the rollback reports {expected}\n{outcome.get('diagnostics')}",
        )
        if outcome.get("restoredAssets"):
            self.show(f"    restored: {', '.join(outcome['restoredAssets'])}")

    def watch(self, snapshot: str) -> None:
        started = time.monotonic()
        result, report = self.inv_json("release.watch", "--for", "30s", "--interval", "200ms", "--rollback")
        self.show(f"$ inv release.watch --for 30s --interval 200ms --rollback    ({time.monotonic() - started:.1f}s)")
        for reason in report.get("reasons", []):
            self.show(f"    {reason}")
        is_degraded = result.returncode == 1 and report.get("status") == "degraded"
        self.require(is_degraded, f"the watch reports degraded\n{result.stdout}{result.stderr}")
        outcome = report.get("rollback") or {}
        is_restored = outcome.get("status") == "restored" and outcome.get("snapshotId") == snapshot
        self.require(is_restored, f"the watch rolled back once\n{report}")

    def require(self, condition: bool, expectation: str) -> None:
        """Print the expectation if ``condition`` is true, else raise DemoFailed."""
        if not condition:
            raise DemoFailed(f"expected: {expectation}")
        self.show(f"  ok: {expectation.splitlines()[0]}")

    def content(self) -> dict[str, Any]:
        return {
            "messages": self.messages(),
            "identity": {path.name: path.read_bytes() for path in sorted(self.paths.identity.iterdir())},
            "mcp": self.paths.mcp_servers.read_bytes(),
            "settings": self.paths.settings.read_bytes(),
        }

    def messages(self) -> list[Any]:
        messages: list[Any] = self.get("/messages?limit=100")["messages"]
        return messages

    def get(self, path: str) -> dict[str, Any]:
        data: dict[str, Any] = requests.get(self.url + path, timeout=5).json().get("data", {})
        return data

    def is_idle(self) -> bool:
        delivered = [message for message in self.messages() if message["state"] == "sent"]
        return len(delivered) == _MESSAGES and self.get("/health").get("status") == "ok"

    def inv(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "invoke", "-f", str(self.overlay), *arguments]
        return subprocess.run(command, cwd=self.project, stdin=subprocess.DEVNULL, capture_output=True, text=True)

    def inv_json(self, *arguments: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
        result = self.inv(*arguments, "--json")
        try:
            return result, json.loads(result.stdout)
        except ValueError:
            raise DemoFailed(f"the task did not print a JSON document: {result.stdout}{result.stderr}") from None

    def gateway_processes(self) -> list[str]:
        """Return the command lines of all processes that mention the scratch folder."""
        lines = (" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))
        return [line for line in lines if str(self.scratch) in line]
