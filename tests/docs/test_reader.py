"""The reader of the pages finds what is wrong with a page: it is what holds all of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.documented.pages import Block, Command, commands_of, parts_of, program_names
from tests.support.documented.reader import Reader, pattern_of
from tests.support.documented.worlds import World


def page(folder: Path, text: str) -> list[Block | Command]:
    (folder / "page.md").write_text(text)
    return parts_of(str(folder / "page.md"))


def test_blocks_and_spans_come_in_order_with_their_lines(tmp_path: Path) -> None:
    """Tables, lines that are broken in a span, fences inside lists; what is no command is left alone."""
    text = "# Top\n\nType `inv one\ntwo` or `ls`.\n\n1. a\n\n    ```sh\n    inv three\n    ```\n\n| `inv a\\|b` |\n"
    found = [(type(part).__name__, part.line, part.text) for part in page(tmp_path, text)]
    assert found == [("Command", 3, "inv one two"), ("Block", 9, "inv three\n"), ("Command", 12, "inv a|b")]


def test_an_output_answers_the_block_right_before_it_only(tmp_path: Path) -> None:
    """A sentence between them, or a heading, and it stands alone."""
    fence = "```sh\ntrue\n```\n\n{}```text\nout\n```\n"
    between = ["", "And so:\n\n", "## Next\n\n"]
    assert [page(tmp_path, fence.format(text))[1].answers for text in between] == [True, False, False]


def test_a_block_is_read_as_a_shell_reads_it(tmp_path: Path) -> None:
    """Here-documents, strings over lines and lines that go on are one command; comments are none."""
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
def test_programs_of_a_line_are_known_before_it_is_typed(command: str, names: set[str]) -> None:
    """What stands in quotes and here-documents is no program, what a substitution starts is one."""
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
def test_an_output_may_differ_in_numbers_and_names_and_in_nothing_else(shown: str, real: str, agrees: bool) -> None:
    """Words are words."""
    assert bool(re.search(pattern_of(shown), f"> before\n{real}\nafter", re.DOTALL)) is agrees


@pytest.mark.slow
def test_what_is_wrong_on_a_page_is_told_with_its_line(tmp_path: Path) -> None:
    """An unknown program is not typed at all; a wrong exit code, a wrong output and a stray one are named."""
    text = (
        "# A page\n\n```sh\nshutdown -h now\ncat nonesuch\necho yes\n```\n\n```text\nno\n```\n\n"
        "Then:\n\n```text\nno command printed this\n```\n"
    )
    template = tmp_path / "template"
    template.mkdir()
    reader = Reader(template, tmp_path)
    reader.world = World(tmp_path / "world")
    reader.heading = "A page"
    try:
        reader.follow(page(tmp_path, text))
    finally:
        reader.leave()
    assert [re.sub(r".*page\.md:", "", problem).split(":")[0] for problem in reader.problems] == ["4", "5", "10", "16"]
