"""The blocks of the pages besides commands: configurations that load, programs that compile, scripts that run."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from invoke.config import Config

from release_tasks.tasks.project import load_settings
from tests.support.documented.example_project import ExampleProject, make_template
from tests.support.documented.pages import Block, all_pages, parts_of

OURS = {"tasks", "release", "pairing", "gateway"}


def blocks(language: str) -> list[Any]:
    """Return every block of a language, with its position as id."""
    found = [part for page in all_pages() for part in parts_of(page) if isinstance(part, Block)]
    return [pytest.param(block, id=block.place) for block in found if block.language == language]


@pytest.mark.parametrize("block", blocks("yaml"))
def test_configurations_load(block: Block, tmp_path: Path) -> None:
    """A configuration for invoke.yaml passes the checks of every task; one for another program is YAML."""
    file = tmp_path / "block.yaml"
    file.write_text(block.text)
    raw = Config(lazy=True)._load_yaml(file)  # Invoke's own reader
    assert isinstance(raw, dict) and raw
    if raw.keys() <= OURS:
        load_settings({name: section for name, section in raw.items() if name != "tasks"}, tmp_path)


@pytest.mark.parametrize("block", blocks("json"))
def test_documents_parse(block: Block) -> None:
    """A complete JSON block parses; one object per line where the page says so."""
    if "..." not in block.text:
        json.loads(block.text)


@pytest.mark.parametrize("block", blocks("python"))
def test_programs_compile(block: Block) -> None:
    """A program on a page compiles."""
    compile(block.text, block.place, "exec")


@pytest.mark.slow
@pytest.mark.parametrize("block", [param for param in blocks("python") if "import ns" in param.values[0].text])
def test_tasks_files_load_in_invoke(block: Block, tmp_path: Path) -> None:
    """Invoke lists the tasks of a tasks.py on a page next to those of the suite."""
    (tmp_path / "tasks.py").write_text(block.text)
    line = [sys.executable, "-m", "invoke", "--list", "--list-format", "json"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    listed = json.loads(done.stdout)
    names = {task["name"] for task in listed["tasks"]} | {part["name"] for part in listed["collections"]}
    defined = {
        line.partition("def ")[2].partition("(")[0] for line in block.text.splitlines() if line.startswith("def ")
    }
    assert {"release", "gate", *defined} <= names


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExampleProject]:
    """Return a project with two releases and a rollback, whose service does not run."""
    folder = tmp_path_factory.mktemp("scripts")
    with contextlib.closing(ExampleProject(folder / "example", make_template(folder / "template"))) as made:
        yield made


@pytest.mark.slow
def test_scripts_of_the_formats_page_verify_the_files(example: ExampleProject) -> None:
    """The scripts of the page check digests, checksum and chain without this tool."""
    digests, content, chain = (
        part.text for part in parts_of("docs/formats.md") if isinstance(part, Block) and part.language == "python"
    )

    def run(script: str, path: Path) -> list[str]:
        line = [sys.executable, "-c", script, str(path)]
        return subprocess.run(line, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()

    folder = example.pipeline / "snapshots" / example.snapshots()[0]
    assert run(digests, folder / "metadata.json") == ["digest   True", "checksum True", "identity True"]
    recorded = json.loads((folder / "metadata.json").read_text())["assets"][0]
    assert run(content, folder / recorded["relativePath"]) == [recorded["contentDigest"]]
    lines = run(chain, example.pipeline / "rollback-audit.log")
    assert len(lines) > 3
    assert {line.partition(" ")[2] for line in lines} == {"hash True prev True"}
