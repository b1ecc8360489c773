"""The first program of a shell command: reported as missing only when that is certain."""

# ruff: noqa: E501

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from release_tasks.core.process.program import find_missing_program, programs_of

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/root"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a program, a file that is none, and a subfolder with a program."""
    (tmp_path / "bin").mkdir()
    for name, mode in (("start.sh", 0o755), ("plain.txt", 0o644), ("bin/run", 0o755), ("my run.sh", 0o755)):
        path = tmp_path / name
        path.write_text("#!/bin/sh\n")
        path.chmod(mode)
    return tmp_path


MISSING = [
    ("./strat.sh", "./strat.sh does not exist (did you mean start.sh?)"),
    ("./strat.sh --port 3100", "./strat.sh does not exist (did you mean start.sh?)"),
    ("FOO=1 BAR='a b' ./strat.sh", "./strat.sh does not exist (did you mean start.sh?)"),
    ("exec ./strat.sh", "./strat.sh does not exist (did you mean start.sh?)"),
    ("nohup ./strat.sh &", "./strat.sh does not exist (did you mean start.sh?)"),
    ("cd bin && ./rum", "./rum does not exist (did you mean run?)"),
    ("cd bni && ./run", "the folder {folder}/bni does not exist (did you mean bin?)"),
    ("'./my rum.sh'", "./my rum.sh does not exist (did you mean my run.sh?)"),
    ("./strat.sh | tee log", "./strat.sh does not exist (did you mean start.sh?)"),
    ("./strat.sh; true", "./strat.sh does not exist (did you mean start.sh?)"),
    ("  ./elsewhere\n", "./elsewhere does not exist"),
    ("bni/run", "bni/run does not exist (did you mean bin/run?)"),
    ("./plain.txt", "./plain.txt is not executable: chmod +x ./plain.txt"),
    ("./bin", "./bin is a folder"),
    ("/no/such/program -v", "/no/such/program does not exist"),
    ("no-such-program --now", "the program no-such-program is not in PATH"),
    ("systemclt-of-ours restart app && true", "the program systemclt-of-ours is not in PATH"),
]


@pytest.mark.parametrize(("command", "problem"), MISSING)
def test_a_missing_program_is_named(folder: Path, command: str, problem: str) -> None:
    """The shell fails with the same command."""
    found = find_missing_program(command, folder, ENVIRONMENT)
    assert found is not None and found.problem == problem.format(folder=folder)
    shell = subprocess.run(
        ["/bin/sh", "-ec", command.rstrip("& \n").split(";")[0].split("|")[0]],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
    )
    assert shell.returncode in (2, 126, 127)


@pytest.mark.parametrize(
    "command",
    [
        "./start.sh", "bin/run", "cd bin && ./run", "cd bin && cd .. && ./start.sh", "true", "echo x", "[ -x ./y ] && ./y",
        "./strat.sh || ./start.sh", "$PROGRAM", "${PROGRAM} x", "`which x`", "$(which x) y", "if true; then ./y; fi",
        "for f in a; do ./y; done", "run() { true; }; run", "(./y)", "{ ./y; }", "! ./y", "./*.sh", "~/bin/x", "PATH=/x y",
        "FOO=$(cat a b) ./strat.sh", "FOO=\"$(cat \"a b\")\" ./strat.sh", "test -f x && ./y", "command -v x && x", ". ./env && ./y",
        "cd $HOME && ./y", "cd bin; ./run", "exec -a name ./y", "", "   ", "# comment", "> log ./y", "<in ./y", "\"$X\"/y",
        "st\\art.sh", "'unclosed", "eval ./y", "time ./y", "case x in x) ./y;; esac", "'./my run.sh'", "env FOO=1 ./y", "a=b", "while :; do ./y; done",
    ],
)  # fmt: skip
def test_what_is_not_certain_is_left_to_the_shell(folder: Path, command: str) -> None:
    """Builtins, variables, patterns, alternatives and programs that exist."""
    assert find_missing_program(command, folder, ENVIRONMENT) is None


def test_a_path_that_the_command_depends_on(folder: Path) -> None:
    """A relative entry of PATH and exported functions of bash are left to the shell."""
    assert find_missing_program("no-such-program", folder, {"PATH": "bin:/usr/bin"}) is None
    assert find_missing_program("no-such-program", folder, {**ENVIRONMENT, "BASH_FUNC_x%%": "() { :; }"}) is None
    found = find_missing_program("run", folder, {"PATH": os.fspath(folder / "bin")})
    assert found is None


RUN = [
    ("a/b", "a/b"),
    ("a/b c/d > e/f", "a/b"),
    ("cd a && ./b", "a/b"),
    ("cd $A && ./b", ""),
    ("A=1 exec sh -e a/b; true", "sh a/b"),
    ("sh -ec 'a/b'; . c/d", "sh c/d"),
    ("nice -n 5 env A=1 python3 -u a/b c/d", "nice env python3 a/b"),
    ("python3 -m a.b && perl -e 'c/d'", "python3 perl"),
    ("timeout 5s a/b", "timeout a/b"),
    ("true && a/b || c/d | e/f & g/h\ni/j 2>&1", "a/b c/d e/f g/h i/j"),
    ("if a/b; then c/d; fi; (e/f)", "a/b c/d e/f"),
    ("A=$(a/b) true", "a/b"),
    ("cp a/b c/d; 'e/f g'", "cp e/f_g"),
    ("x/a@b:c,d%e+f=g", "x/a@b:c,d%e+f=g"),
    ("setpriv --reuid 1 a/b", "setpriv"),
    ("$A/b; `a/b`; a/*; 'unfinished", ""),
    ("$A/b; a/*; PATH=c d", ""),
]


@pytest.mark.parametrize(("command", "expected"), RUN)
def test_what_a_command_runs_is_listed(folder: Path, command: str, expected: str) -> None:
    """A program in PATH stands for the paths that are tried; what the shell would expand is left out."""
    (folder / "first").mkdir()
    for name in ("cp", "env", "nice", "perl", "python3", "setpriv", "sh", "timeout"):
        (folder / "bin" / name).symlink_to("run")
    found = programs_of(command, folder, {"PATH": f"{folder}/first:{folder}/bin:/usr/bin"})
    assert not [path for path in found if str(path).startswith("/usr")]
    tried = [path.name for path in found if path.parent == folder / "first"]
    named = [str(path.relative_to(folder)).replace(" ", "_") for path in found if path.parent != folder / "first"]
    assert " ".join(name.removeprefix("bin/") for name in named) == expected
    assert tried == [name for name in expected.split() if "/" not in name]
