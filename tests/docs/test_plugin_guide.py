"""The guide for authors of plugins: its files are those of the tested package, and its commands work."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import release_tasks
from release_tasks import plugins

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "tests" / "plugin_package"
GUIDE = (REPOSITORY / "docs" / "plugins.md").read_text()
FILES = dict(re.findall(r"^`([\w./]+)`\n\n```\w+\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL))


@pytest.mark.smoke
def test_the_guide_shows_the_tested_package() -> None:
    """The files are complete and unchanged; ``inv dev.docs`` updates them."""
    sources = {str(path.relative_to(PACKAGE)) for kind in ("*.toml", "*.py") for path in PACKAGE.rglob(kind)}
    assert {name for name in FILES if name != "invoke.yaml"} == sources
    for name in sources:
        assert FILES[name] == (PACKAGE / name).read_text(), name


def test_the_guide_explains_every_public_name() -> None:
    """The public interface is small."""
    assert plugins.__all__ == [
        "AssetContext", "AssetKind", "Gate", "GateContext", "PluginError", "Verdict", "gate_context",
    ]  # fmt: skip
    for name in {*plugins.__all__} - {"Gate", "AssetKind"}:
        assert f"`{name}" in GUIDE, name


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_following_the_guide_ends_in_a_release(tmp_path: Path) -> None:
    """With its files in an empty folder, the tests of the package pass, it installs, and the commands work."""
    project, target = tmp_path / "jsonl-queue", tmp_path / "site"
    for name, text in FILES.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    stored = {key: value for key, value in os.environ.items() if not key.startswith(("INVOKE_", "PYTHON", "PYTEST"))}
    path = os.pathsep.join(map(str, [target, Path(release_tasks.__file__).parents[1]]))
    variables = {**stored, "HOME": str(tmp_path), "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}

    def run(*words: str) -> str:
        command = [sys.executable, "-m", *words]
        done = subprocess.run(command, cwd=project, env=variables, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    run("pip", "install", "-q", "--no-index", "--no-deps", "--no-build-isolation", "--target", str(target), ".")
    assert "passed" in run("pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", "-W", "ignore", "tests")
    (project / "tasks.py").write_text("from release_tasks import ns\n")
    (project / "state").mkdir()
    (project / "state" / "queue.jsonl").write_text('{"number": 1, "text": "first"}\n')
    commands = re.findall(r"^inv (.+)$", GUIDE, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["release.preflight", "release.prepare", "release.verify"]
    shown = [run("invoke", *command.split()) for command in commands]
    assert "1 waiting, at most 100000 allowed" in shown[0] and "READY" in shown[1] and "VERIFIED" in shown[2]
