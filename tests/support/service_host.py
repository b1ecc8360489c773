"""A machine with a service and its CI jobs, made from the recipes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import release_tasks

RECIPES = Path(__file__).parents[2] / "docs" / "recipes"
SETTINGS = {
    "RELEASE_GATES_BUILD_COMMAND": "echo built",
    "RELEASE_GATES_TESTS_COMMAND": "echo tested",
    "RELEASE_HEALTH_INTERVAL": "100ms",
    "RELEASE_RESTART_COMMAND": "true",  # the gateway reads restored files without a restart
    "RELEASE_RESTART_SETTLE": "100ms",
    "RELEASE_WATCH_FOR": "2s",
    "RELEASE_WATCH_INTERVAL": "200ms",
    "RELEASE_WATCH_MIN_SAMPLES": "1",  # a busy machine is not a degraded release
    "RELEASE_WATCH_LATENCY_FLOOR": "1m",
}


class ServiceHost:
    """The machine of the service: its folder, and the environment of jobs on it."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.identity = folder / "memory" / "gateway" / "identity" / "identity.json"
        settings = {**SETTINGS, "GATEWAY_PORT": str(port), "RELEASE_HEALTH_URL": f"http://127.0.0.1:{port}/health"}
        stored = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        self.variables = {
            **stored,
            **{f"INVOKE_{name}": value for name, value in settings.items()},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(Path(release_tasks.__file__).parents[1]),
        }
        for name in ("tasks.py", "invoke.yaml", "Makefile"):
            shutil.copy(RECIPES / name, folder)
        self.set_deploy("echo deployed >> deployed.log")
        self.run("openssl genpkey -algorithm ed25519 -out release.key")
        self.run("openssl pkey -in release.key -pubout -out release.pub")
        self.key = (folder / "release.key").read_text()

    def set_deploy(self, command: str) -> None:
        """Let ``./deploy.sh`` run ``command``."""
        script = self.folder / "deploy.sh"
        script.write_text(f"#!/bin/sh\n{command}\n")
        script.chmod(0o755)

    def let_deploy_fail(self) -> None:
        """Let ``./deploy.sh`` damage the state and fail."""
        self.set_deploy(f"echo broken > {self.identity}; exit 1")

    def run(self, command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a shell command as CI hosts do: the first failure ends it."""
        return subprocess.run(
            ["bash", "-eo", "pipefail", "-c", command],
            cwd=self.folder,
            env={**self.variables, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=90,
        )

    @property
    def was_deployed(self) -> bool:
        return (self.folder / "deployed.log").exists()
