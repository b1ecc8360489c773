"""What pages show besides commands: configurations that load, programs that compile, scripts that say what is true."""

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
from tests.support.documented.pages import Block, all_pages, parts_of
from tests.support.documented.worlds import World, make_template

OURS = {"tasks", "release", "pairing", "gateway"}


def blocks(language: str) -> list[Any]:
    """Every block of a language, under the place where it stands."""
    found = [part for page in all_pages() for part in parts_of(page) if isinstance(part, Block)]
    return [pytest.param(block, id=block.place) for block in found if block.language == language]


@pytest.mark.parametrize("block", blocks("yaml"))
def test_configurations_load(block: Block, tmp_path: Path) -> None:
    """What is meant for invoke.yaml passes the checks of every task; what is meant for other programs is YAML."""
    file = tmp_path / "block.yaml"
    file.write_text(block.text)
    raw = Config(lazy=True)._load_yaml(str(file))  # with the reader that Invoke brings
    assert isinstance(raw, dict) and raw
    if raw.keys() <= OURS:
        load_settings({name: section for name, section in raw.items() if name != "tasks"}, tmp_path)


@pytest.mark.parametrize("block", blocks("json"))
def test_documents_parse(block: Block) -> None:
    """JSON that is shown whole is JSON; one object a line where it says so."""
    if "..." not in block.text:
        json.loads(block.text)


@pytest.mark.parametrize("block", blocks("python"))
def test_programs_compile(block: Block) -> None:
    """A program on a page has no typing mistake."""
    compile(block.text, block.place, "exec")


@pytest.mark.slow
@pytest.mark.parametrize("block", [param for param in blocks("python") if "import ns" in param.values[0].text])
def test_tasks_files_load_in_invoke(block: Block, tmp_path: Path) -> None:
    """A tasks.py of a page is one: Invoke lists what it adds beside the suite."""
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
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A project with two releases and a rollback, nothing running."""
    folder = tmp_path_factory.mktemp("scripts")
    with contextlib.closing(World(folder / "world", make_template(folder / "template"))) as made:
        yield made


@pytest.mark.slow
def test_scripts_of_the_formats_page_hold_what_is_on_disk(world: World) -> None:
    """Somebody without this tool can check digests, checksum and chain with what the page gives them."""
    digests, content, chain = (
        part.text for part in parts_of("docs/formats.md") if isinstance(part, Block) and part.language == "python"
    )

    def run(script: str, path: Path) -> list[str]:
        line = [sys.executable, "-c", script, str(path)]
        return subprocess.run(line, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()

    folder = world.pipeline / "snapshots" / world.snapshots()[0]
    assert [line.split()[-1] for line in run(digests, folder / "metadata.json")] == ["True", "True"]
    recorded = json.loads((folder / "metadata.json").read_text())["assets"][0]
    assert run(content, folder / recorded["relativePath"]) == [recorded["contentDigest"]]
    lines = run(chain, world.pipeline / "rollback-audit.log")
    assert len(lines) > 3
    assert {line.partition(" ")[2] for line in lines} == {"hash True prev True"}
