"""The process of another user: it has no right that this user would not have, and acts when a test says so."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

__all__ = ["NEEDS_NEIGHBOUR", "USER", "Neighbour"]

USER = 1000  # needs no account

NEEDS_NEIGHBOUR = pytest.mark.skipif(
    os.geteuid() != 0 or sys.platform != "linux" or shutil.which("setpriv") is None,
    reason="NOT TESTED: needs root on Linux and setpriv, to act next to a process of another user",
)

# Reads one command a line: exchange a name with a prepared one, undo that, or do both in a loop until the next line.
_SCRIPT = r"""
import ctypes, fnmatch, json, os, select, shutil, sys

libc = ctypes.CDLL(None, use_errno=True)

def swap(one, other):
    if libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), 2):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))

def found(pattern):
    # The first name that matches; each part of the pattern may have an asterisk.
    folders = [""]
    for part in pattern.split("/"):
        names = []
        for folder in folders:
            try:
                here = sorted(os.listdir(folder or "."))
            except OSError:
                continue
            names += [f"{folder}/{name}" if folder else name for name in here if fnmatch.fnmatchcase(name, part)]
        folders = names
    return folders[0] if folders else None

def inode(path):
    try:
        return os.lstat(path).st_ino
    except OSError:
        return None

def plain(name):
    # The name of the asset that a staged copy is for.
    return name.split(".release-tasks-")[0].removeprefix(".") if ".release-tasks-" in name else name

def mirror(folder, bait, vault):
    # Make a folder with the names of another one. Instead of its files: links to the vault, or files of this user.
    os.mkdir(bait)
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return  # a folder of root
    for entry in entries:
        inner, target = f"{bait}/{entry.name}", f"{vault}/{plain(entry.name)}"
        if entry.is_dir(follow_symlinks=False):
            mirror(entry.path, inner, target)
        elif vault.startswith("/"):
            os.symlink(target, inner)
        else:
            open(inner, "w").close()

def exchange(target, bait):
    # Exchange both, or put the bait where nothing is.
    name = found(target)
    if name is None and "*" in target:
        return None
    inside = "/".join(plain(part) for part in (name or target).split("/")[1:])
    if os.path.basename(bait) == "link-now" and inode(bait) is None:
        os.symlink(f"{sys.argv[2]}/{inside}", bait)
    if os.path.basename(bait).startswith("mirror-"):
        if name is None:
            return None
        shutil.rmtree(bait, ignore_errors=True)
        mirror(name, bait, f"{sys.argv[2]}/{inside}" if bait.endswith("-links") else ".")
    before = inode(bait)
    try:
        if name is None:
            name = target
            os.rename(bait, name)
        else:
            swap(name, bait)
    except FileNotFoundError:
        return None
    return [name, bait, before]

def undo(done):
    name, bait, before = done
    if inode(name) != before:
        return False
    if inode(bait) is None:
        os.rename(name, bait)
    else:
        swap(name, bait)
    return True

done = None
print("ready", flush=True)
for line in sys.stdin:
    command = json.loads(line)
    os.chdir(sys.argv[1])  # at each command: a test may have made the folder anew
    try:
        if command["do"] == "exchange":
            done = exchange(command["target"], command["bait"])
            print(json.dumps(done is not None), flush=True)
        elif command["do"] == "undo":
            answer = done is not None and undo(done)
            done = None
            print(json.dumps(answer), flush=True)
        elif command["do"] == "flip":
            print("true", flush=True)
            count, first = 0, inode(command["bait"])
            while True:
                for _ in range(50):
                    try:
                        done = exchange(command["target"], command["bait"])
                        if done is not None:
                            undo(done)
                            count += 1
                    except OSError:
                        pass
                if select.select([0], [], [], 0)[0]:
                    break
            done = None
            if (name := found(command["target"])) is not None and inode(name) == first:
                undo([name, command["bait"], first])
            print(json.dumps(count), flush=True)
        elif command["do"] == "stop":
            pass
    except OSError as error:
        print(json.dumps(str(error)), flush=True)
"""


class Neighbour:
    """A process of the user ``USER`` that works in ``folder``, where all its targets and baits are.

    The bait ``mirror-links`` is made when it is used: a folder with the names of the target, in which each file is a
    link to the same name in ``vault``. In ``mirror-files`` each is an empty file of the user. ``link-now`` is a link to
    the name of the target in ``vault``, also made then: in the folder of a mount point, where nothing stays.
    """

    def __init__(self, folder: Path, vault: Path) -> None:
        account = ["--reuid", str(USER), "--regid", str(USER), "--clear-groups", "--no-new-privs"]
        python = os.path.realpath(sys.executable)  # without the environment: the user may not be able to read it
        self.process = subprocess.Popen(
            ["setpriv", *account, python, "-I", "-S", "-c", _SCRIPT, str(folder), str(vault)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
        )
        assert self._line() == "ready", "the process of the other user did not start"

    def exchange(self, target: str, bait: str) -> bool:
        """Exchange ``target`` with ``bait``, or put ``bait`` there where nothing is; False without such a name.

        A ``target`` with asterisks is the first name that matches.
        """
        return self._ask({"do": "exchange", "target": target, "bait": bait}) is True

    def undo(self) -> bool:
        """Put the names back; False when the name is no longer what was put there."""
        return self._ask({"do": "undo"}) is True

    def flip(self, target: str, bait: str) -> None:
        """Exchange both and back, again and again, until ``rest``."""
        assert self._ask({"do": "flip", "target": target, "bait": bait}) is True

    def rest(self) -> int:
        """End ``flip``, with the names as before it; return the number of exchanges."""
        count = self._ask({"do": "stop"})
        assert isinstance(count, int), count
        return count

    def close(self) -> None:
        """End the process."""
        self.process.communicate(timeout=30)

    def _ask(self, command: dict[str, Any]) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return json.loads(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")
