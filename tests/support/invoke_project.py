"""A project folder with its own tasks.py and invoke.yaml, and real ``inv`` processes in it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

__all__ = ["InvokeProject"]


class InvokeProject:
    """A scratch project that imports the suite in its tasks.py; ``run`` starts a real ``inv`` process in it."""

    def __init__(self, root: Path, variables: dict[str, str], command: list[str]) -> None:
        self.root = root
        self.variables = variables
        self.command = command
        self.configuration: dict[str, Any] = {
            "tasks": {"executor_class": "release_tasks.executor.StageExecutor"},
            "release": {
                "root": "pipeline",
                "app": {"name": "theirs", "version": "2.1"},
                "health": {"timeout": "2s", "deadline": "3s", "interval": "50ms"},
                "gates": {"count": {"command": "echo gate >> gates.log; echo printed by the gate"}},
                "assets": {"state": {"file": "state.txt"}},
            },
        }
        (root / "tasks.py").write_text("from release_tasks import ns\n")
        (root / "state.txt").write_text("one")

    def write(self) -> None:
        """Write ``configuration`` to invoke.yaml; JSON is valid YAML."""
        (self.root / "invoke.yaml").write_text(json.dumps(self.configuration))

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a command line and return immediately."""
        self.write()
        return subprocess.Popen(
            [*self.command, *words],
            cwd=self.root,
            env=self.variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command line to its end."""
        process = self.start(*words)
        out, err = process.communicate(timeout=90)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def document(self, *words: str, code: int = 0) -> dict[str, Any]:
        """Run a command line with ``--json`` and return its document; the exit code must be ``code``."""
        done = self.run(*words, "--json")
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def gate_runs(self) -> int:
        """Return how often the gate ``count`` ran."""
        log = self.root / "gates.log"
        return len(log.read_text().splitlines()) if log.exists() else 0

    def tree(self) -> dict[str, Any]:
        """Return every path below the project with mode and content."""
        found: dict[str, Any] = {}
        for path in sorted(self.root.rglob("*")):
            if "__pycache__" in path.parts or path.name == "invoke.yaml":
                continue
            info = path.lstat()
            content = path.read_bytes() if path.is_file() and not path.is_symlink() else None
            found[str(path.relative_to(self.root))] = (info.st_mode, content)
        return found
