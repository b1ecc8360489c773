"""The reader of the pages finds errors on a page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.documented.example_project import ExampleProject
from tests.support.documented.pages import Block, Command, commands_of, parts_of, program_names
from tests.support.documented.reader import Reader, pattern_of


def page(folder: Path, text: str) -> list[Block | Command]:
    (folder / "page.md").write_text(text)
    return parts_of(str(folder / "page.md"))


def test_blocks_and_spans_are_in_order_with_their_lines(tmp_path: Path) -> None:
    """Tables, spans over two lines, fences inside lists; text that is not a command is ignored."""
    text = "# Top\n\nType `inv one\ntwo` or `ls`.\n\n1. a\n\n    ```sh\n    inv three\n    ```\n\n| `inv a\\|b` |\n"
    found = [(type(part).__name__, part.line, part.text) for part in page(tmp_path, text)]
    assert found == [("Command", 3, "inv one two"), ("Block", 9, "inv three\n"), ("Command", 12, "inv a|b")]


def test_an_output_belongs_to_the_block_right_before_it(tmp_path: Path) -> None:
    """With a sentence or a heading between them it belongs to no command."""
    fence = "```sh\ntrue\n```\n\n{}```text\nout\n```\n"
    between = ["", "And so:\n\n", "## Next\n\n"]
    outputs = [page(tmp_path, fence.format(text))[1] for text in between]
    assert [block.answers for block in outputs if isinstance(block, Block)] == [True, False, False]


def test_a_block_is_read_as_a_shell_reads_it(tmp_path: Path) -> None:
    """Here-documents, strings over lines and continued lines are one command; comments are none."""
    script = "# first\ncat > x <<'EOF'\nrm -rf it\nEOF\npython3 -c \"\nprint(1)\n\" a\nls \\\n  -l  # all\n"
    (block,) = page(tmp_path, f"```sh\n{script}```\n")
    assert isinstance(block, Block)
    assert [(command.line, command.text.split()[0]) for command in commands_of(block)] == [
        (3, "cat"),
        (6, "python3"),
        (9, "ls"),
    ]


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("inv a | head -3 > x 2>&1", {"inv", "head"}),
        ("A=1 inv a && (cd b; ./run) || false", {"inv", "cd", "./run", "false"}),
        ("cat > x <<'EOF'\nrm it\nEOF", {"cat"}),
        ('kill "$(cat it)"  # reboot', {"kill", "cat"}),
        ("sed 's/a; rm b/c/' file", {"sed"}),
        ("X=$(mktemp -d)", {"mktemp"}),
    ],
)
def test_the_programs_of_a_line_are_known_before_it_is_typed(command: str, names: set[str]) -> None:
    """Text in quotes and here-documents is not a program, the program of a substitution is."""
    assert program_names(command) == names


@pytest.mark.parametrize(
    ("shown", "real", "agrees"),
    [
        ("READY  v1 took 0.1 s", "READY  v1 took 12.75 s", True),
        ("digest ac607beb5adc2007", "digest 0000000000000001", True),
        ("to r2_snapshot_20261122083741", "to 1.4.0_snapshot_20270101000000", True),
        ("a long line\n  that goes on", "a long line that goes on", True),
        ("in .../memory", "in /srv/app/memory", True),
        ("RESTORED  it", "FAILED  it", False),
        ("3 looks, 0 bad", "3 looks, 0 worse", False),
    ],
)
def test_an_output_may_differ_in_numbers_and_ids_only(shown: str, real: str, agrees: bool) -> None:
    """Words must be equal."""
    assert bool(re.search(pattern_of(shown), f"> before\n{real}\nafter", re.DOTALL)) is agrees


@pytest.mark.slow
def test_errors_on_a_page_are_reported_with_their_line(tmp_path: Path) -> None:
    """An unknown program is not typed; a wrong exit code, a wrong output and an unexpected one are named."""
    text = (
        "# A page\n\n```sh\nshutdown -h now\ncat nonesuch\necho yes\n```\n\n```text\nno\n```\n\n"
        "Then:\n\n```text\nno command printed this\n```\n"
    )
    template = tmp_path / "template"
    template.mkdir()
    reader = Reader(template, tmp_path)
    reader.example = ExampleProject(tmp_path / "example")
    reader.heading = "A page"
    try:
        reader.follow(page(tmp_path, text))
    finally:
        reader.leave()
    assert [re.sub(r".*page\.md:", "", problem).split(":")[0] for problem in reader.problems] == ["4", "5", "10", "16"]
