"""What the tests know of the pages: placeholders, programs, states, exit codes, and what cannot be run."""

from __future__ import annotations

import re
from collections.abc import Callable

from release_tasks.pairing.channels import Channel
from tests.support.documented import states
from tests.support.documented.pages import REPOSITORY, Block, Command
from tests.support.documented.worlds import STAND_INS, World

__all__ = [
    "NOT_COMMANDS",
    "PROGRAMS",
    "TYPED_ELSEWHERE",
    "before",
    "documented_code",
    "filled",
    "outputs_like",
    "project_of",
    "reason_not_output",
    "reason_not_run",
    "state_of",
]

State = Callable[[World], None]

# Programs that a page may name: of this machine, of the shell, and stand-ins. Anything else fails the test.
PROGRAMS = {
    *(
        "inv",
        "release-tasks",
        ".venv/bin/inv",
        "pytest",
        "./deploy.sh",
        "python3",
        "python",
        "sqlite3",
        "sha256sum",
        "curl",
        "git",
    ),
    *("cp", "mv", "rm", "mkdir", "chmod", "ls", "cat", "head", "tail", "sed", "df", "du", "sync", "mktemp", "openssl"),
    *("cd", "echo", "export", "jq", "kill", "make"),
    *STAND_INS,
}

# Code spans that name an option of Invoke, and are no command line.
NOT_COMMANDS = {"inv --dry", "inv -f"}

_NOT_RUN = (
    (r"^python3 -m venv \.venv && \. ", "it installs the tools of a developer"),
    (r"^python3 -m venv \.venv && ", "CI runs it as it stands, before anything else (.ci/run)"),
    (r"^inv (--dry )?dev\.release", "tests/dev/test_release.py runs it in a clone"),
    (r"https://api\.telegram\.org/", "it needs the Internet and a bot"),
)


def reason_not_run(command: str) -> str | None:
    """Return why a command is not run here, or None."""
    return next((reason for pattern, reason in _NOT_RUN if re.search(pattern, command)), None)


# Pages whose blocks another test types, from the folder that the page begins with.
TYPED_ELSEWHERE = {"docs/plugins.md": "tests/docs/test_plugin_guide.py"}

# Text blocks that show no command's output, by how they begin.
_NOT_OUTPUT: tuple[tuple[str, str, str], ...] = (
    ("docs/tasks/", "inv ", "the usage of a task"),
    ("docs/index.md", "preflight ", "a picture"),
    ("docs/formats.md", "manifests/<release id>.json", "a list of files"),
    ("docs/formats.md", "<channel>-pairing.json", "a list of files"),
    ("docs/pairing.md", "stranger          gateway", "a picture"),
    ("docs/pairing.md", "bot.example.org {", "another program's configuration"),
    (
        "docs/runbook.md",
        "> recover  0.0 s",
        "a moment on a terminal, which tests on pseudo-terminals hold",
    ),
    ("docs/runbook.md", "memory/release-pipeline/snapshots/<snapshot id>", "a list of files"),
    ("docs/plugins.md", "jsonl-queue/", "a list of files"),
    ("docs/architecture.md", "8  tasks.py", "a picture"),
)


def reason_not_output(block: Block) -> str | None:
    """Return what a text block is, when it is no output of a command, or None."""
    for page, beginning, reason in _NOT_OUTPUT:
        if block.page.startswith(page) and block.text.lstrip().startswith(beginning):
            return reason
    return None


def filled(world: World, command: str) -> str:
    """Return a command with this world's values for its placeholders, its example ids, port and durations."""
    text = re.sub(r"\b3100\b", str(world.port), command)
    channel = Channel.WHATSAPP if "whatsapp" in text else Channel.TELEGRAM
    rules: tuple[tuple[str, Callable[[], str]], ...] = (
        (r"(?<=--snapshot )(?:ID|SNAPSHOT)\b", lambda: world.snapshots()[0]),
        (r"(?<=--snapshot )OTHER_ID\b", lambda: world.snapshots()[1]),
        (r"(?<=--snapshot )SAFETY_ID\b", lambda: world.snapshots("safety")[0]),
        (r"(?<=release\.report --release-id )ID\b", lambda: "r2"),
        (r"(?<=--release-id )ID\b", world.fresh_id),
        (r"\bCODE\b", lambda: world.code(channel)),
        (r"\bSENDER\b", lambda: world.sender(channel)),
        (r"\bCHANNEL\b", lambda: channel.value),
        (r"(?<=gate\.run )(?:GATE|NAME)\b", lambda: "gui"),
        (r"\bURL\b", lambda: f"http://127.0.0.1:{world.port}/health"),
        (r"(?<=[ =])/tmp(?=/)", lambda: str(world.folder)),
        (r"\bTASK\b", lambda: "release.status"),
        (r"\bCMD\b", lambda: "'inv gateway.start'"),
        (r"(?<=release\.diff )A B\b", lambda: "r1 r2"),
        (r"(?<=--for )\w+", lambda: "1s"),
        (r"(?<=--interval )\w+", lambda: "100ms"),
    )
    for pattern, value in rules:
        if re.search(pattern, text):
            text = re.sub(pattern, value(), text)
    # The page must name tests that exist; to run them again here proves nothing more.
    text = re.sub(r"^pytest ", f"cd {REPOSITORY} && python -m pytest -p no:cacheprovider --collect-only ", text)
    # This repository's own tasks write into the checkout; what they write is held by tests/docs/test_docs.py.
    text = re.sub(r"^inv (?=demo$|dev\.)", f"inv --dry -r {REPOSITORY} ", text)
    return re.sub(r"\b(?:safety|[A-Za-z0-9.-]+)_snapshot_\d{14}(?:-[0-9a-f]{6})?", lambda m: _known(world, m[0]), text)


def _known(world: World, example: str) -> str:
    """Return the snapshot of this world that an example's id stands for."""
    if (world.pipeline / "snapshots" / example).exists():
        return example
    if example.startswith("safety_"):
        return world.snapshots("safety")[0]
    name = example.partition("_snapshot_")[0]
    ids = [found for found in world.snapshots() if found.startswith(f"{name}_snapshot_")]
    return ids[0] if ids else world.snapshots()[0]


_RUNBOOK = "docs/runbook.md"

# Pages that speak of another project than a prepared one whose service runs.
_PROJECTS: dict[str, State] = {
    "docs/moving-over.md": states.older_project,
    "docs/quick-start.md": states.empty_folder,
    "docs/report.md": states.prepared,
}

_STATES: dict[tuple[str, str], State] = {
    ("README.md", "In your own project"): states.running,
    ("docs/tasks/pairing.md", "pairing.list"): states.waiting,
    ("docs/tasks/release.md", "release.rollback"): states.changed,
    (_RUNBOOK, "Reading a blocked manifest"): states.blocked,
    (_RUNBOOK, "Restored, and health fails"): states.up_after_failed_rollback,
    (_RUNBOOK, "Noop, but health failed"): states.down_after_rollback,
    (_RUNBOOK, "A snapshot is refused"): states.altered_snapshot,
    (_RUNBOOK, "Exit 75"): states.held,
    (_RUNBOOK, "An interrupted rollback, or a power cut"): states.interrupted,
    (_RUNBOOK, "A damaged journal"): states.damaged_journal,
    (_RUNBOOK, "The live database is corrupt"): states.corrupt_database,
    (_RUNBOOK, "Snapshots of the older tool"): states.older_snapshot,
    (_RUNBOOK, "By hand, without the tool"): states.stopped,
}

# Outputs that stand apart from the command that prints them: how they begin, the state, the command and its exit code.
_OUTPUTS: tuple[tuple[str, str, State, str, int], ...] = (
    (_RUNBOOK, "GATE        RESULT   SUBSYSTEM", states.build_fails, "inv release.preflight", 1),
    (_RUNBOOK, "BLOCKED  r3", states.blocked, "inv release.prepare --release-id r3", 1),
    (_RUNBOOK, "DEGRADED  release 1.4.0", states.degraded_release, "inv release.watch --for 10m --rollback", 1),
    (_RUNBOOK, "FAILED  rollback to r2", states.down_and_changed, "inv release.rollback", 1),
    (_RUNBOOK, "FAILED  rollback to r2", states.down_after_rollback, "inv release.rollback", 1),
    (_RUNBOOK, "FAILED  rollback to the newest", states.altered_snapshot, "inv release.rollback", 1),
    (_RUNBOOK, ".../memory/release-pipeline is locked", states.held, "inv release.rollback", 75),
    (_RUNBOOK, "A rollback was interrupted and its", states.damaged_journal, "inv release.rollback", 1),
    (_RUNBOOK, "release.prepare was given", states.stock_executor, "inv release.prepare --health-url URL", 2),
)


def outputs_like(block: Block) -> list[tuple[State, str, int]]:
    """Return what prints an output that stands apart from its command: a state, the command, its exit code."""
    text = block.text.lstrip()
    return [tuple(rest) for page, beginning, *rest in _OUTPUTS if page == block.page and text.startswith(beginning)]


# What the text asks to be done by other means before a command.
_BEFORE: dict[tuple[str, str, str], State] = {
    (_RUNBOOK, "An interrupted rollback, or a power cut", "inv release.rollback"): World.start,
    ("docs/quick-start.md", "Where to go from here", "inv release.watch --for 10m"): states.notebook_again,
}


def before(command: Command) -> State | None:
    """Return what has to be done to the project before a command is typed, or None."""
    return _BEFORE.get((command.page, command.heading, command.text))


# Commands that end otherwise than with 0, by page, heading ("" for all) and how they begin.
_CODES: tuple[tuple[str, str, str, int], ...] = (("docs/quick-start.md", "The way back", "inv gate.api-health", 1),)


def project_of(page: str) -> State:
    """Return what makes the project that a page begins with."""
    return _PROJECTS.get(page, states.running)


def state_of(page: str, heading: str) -> State | None:
    """Return what brings a fresh project into the state that is spoken of below a heading; None: as it was before."""
    return _STATES.get((page, heading))


def documented_code(command: Command) -> int:
    """Return the exit code that the page lets expect."""
    for page, heading, beginning, code in _CODES:
        if command.page == page and heading in ("", command.heading) and command.text.startswith(beginning):
            return code
    return 0
