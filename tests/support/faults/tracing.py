"""One stage under strace: its system calls that change a disk, and the same run killed at one of them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from attrs import field, frozen

__all__ = ["MARK", "STRACE", "Driver", "Point", "Run"]

STRACE = shutil.which("strace")

# System calls of Linux that change the content of a disk.
CHANGING = frozenset(
    """
    write pwrite64 writev pwritev pwritev2 truncate ftruncate fallocate copy_file_range sendfile splice
    rename renameat renameat2 link linkat symlink symlinkat unlink unlinkat mkdir mkdirat rmdir mknod mknodat
    chmod fchmod fchmodat fchmodat2 chown fchown fchownat lchown utimensat utime utimes futimesat
    setxattr lsetxattr fsetxattr removexattr lremovexattr fremovexattr
    """.split()
)
FLUSHING = frozenset("fsync fdatasync syncfs sync sync_file_range msync".split())
# System calls that may concern a file of the project and do not change it.
HARMLESS = frozenset(
    """
    read pread64 readv preadv lseek close fstat newfstatat stat lstat statx statfs fstatfs access faccessat faccessat2
    readlink readlinkat getdents64 fcntl flock mmap dup dup2 dup3 fadvise64 getcwd chdir fchdir pipe2 poll epoll_create1
    epoll_ctl epoll_wait getxattr lgetxattr fgetxattr listxattr umask inotify_init1
    """.split()
)
MARK = "/skipped-flush"  # a mutant accesses this path where it skips a flush
_FICLONE = re.compile(r"FICLONE|BTRFS_IOC_CLONE|0x40049409|_IOC\(_IOC_WRITE, 0x94, 0x9, 0x4\)")
_LINE = re.compile(r"^(?P<thread>\d+) +(?P<name>\w+)\((?P<rest>.*)")


@frozen
class Point:
    """The ``number``-th call of one name in a run, as strace counts them."""

    name: str
    number: int
    is_flush: bool = False
    what: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.number} ({self.what})"


@frozen
class Run:
    """How a stage ended: ``code`` as from waitpid, ``result`` of the stage function, and the call sites of flushes."""

    code: int
    result: Any = None
    traceback: str = ""
    flushes: list[str] = field(factory=list)

    @property
    def was_killed(self) -> bool:
        return self.code == -9


class Driver:
    """The process of ``driver.py``, which forks a child for each stage."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        command = [sys.executable, "-B", "-m", "tests.support.faults.driver"]
        self.process = subprocess.Popen(
            command, cwd=Path(__file__).absolute().parents[3], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def close(self) -> None:
        self.process.communicate(timeout=30)

    def warm_up(self, job: dict[str, Any]) -> None:
        """Run a stage once in the driver itself, so that every later child has all modules loaded."""
        self._send(json.dumps({**job, "here": True}))
        assert self._line() == "done\n"

    def run(self, job: dict[str, Any]) -> Run:
        """Run a stage to its end."""
        self.start(job)
        return self.finish()

    def record(self, job: dict[str, Any], folders: list[Path]) -> list[Point]:
        """Run a stage and return its calls that change or flush something below ``folders``, in order.

        Fails on a call there that is in none of the lists above, which then has to be added to one of them.
        """
        trace = self.scratch / "trace"
        with self._traced(job, ["-y", "-s", "0", "-o", str(trace), "-e", "trace=%file,%desc,%network"]) as run:
            assert run.code == 0, run.traceback
        counts: Counter[tuple[str, str]] = Counter()
        points: list[Point] = []
        main_thread = ""
        for line in trace.read_text().splitlines():
            match = _LINE.match(line)
            if match is None:
                continue
            name, rest = match["name"], match["rest"]
            main_thread = main_thread or match["thread"]
            counts[match["thread"], name] += 1
            if MARK in rest:
                points.append(Point(name, counts[main_thread, name], what=MARK))
                continue
            if not any(str(folder) in rest for folder in folders):
                continue
            is_opening = name in ("open", "openat", "openat2", "creat")
            if is_opening and not re.search(r"O_CREAT|O_TRUNC", rest):
                continue
            if name == "ioctl" and not _FICLONE.search(rest):
                continue
            if name in HARMLESS:
                continue
            assert is_opening or name == "ioctl" or name in CHANGING | FLUSHING, (
                f"add this call to CHANGING, FLUSHING or HARMLESS: {line}"
            )
            assert match["thread"] == main_thread, f"a call of another thread: {line}"
            points.append(Point(name, counts[main_thread, name], name in FLUSHING, _shortened(rest, folders)))
        return points

    def kill(self, job: dict[str, Any], point: Point) -> Run:
        """Run a stage and kill it with SIGKILL at the entry of one call."""
        inject = f"inject={point.name}:signal=SIGKILL:when={point.number}"
        with self._traced(job, ["-o", "/dev/null", "-e", f"trace={point.name}", "-e", inject]) as run:
            return run

    def _traced(self, job: dict[str, Any], options: list[str]) -> _Traced:
        return _Traced(self, job, options)

    def start(self, job: dict[str, Any]) -> int:
        """Start a stage that waits for ``finish``; return the process id."""
        self._send(json.dumps(job))
        return int(self._line())

    def finish(self) -> Run:
        """Let the started stage run to its end."""
        self.let_go()
        return self.ended()

    def let_go(self) -> None:
        """Let the started stage run."""
        self._send("go")

    def ended(self) -> Run:
        """Wait for the end of the stage that runs."""
        ended = json.loads(self._line())
        return Run(ended["code"], ended.get("result"), ended.get("traceback", ""), ended.get("flushes", []))

    def _send(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


class _Traced:
    def __init__(self, driver: Driver, job: dict[str, Any], options: list[str]) -> None:
        self.driver, self.job, self.options = driver, job, options

    def __enter__(self) -> Run:
        assert STRACE
        child = self.driver.start(self.job)
        command = [STRACE, "-f", *self.options, "-p", str(child)]
        self.tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.tracer.stderr is not None
        first = self.tracer.stderr.readline()
        assert "attached" in first, first
        return self.driver.finish()

    def __exit__(self, *_: object) -> None:
        self.tracer.communicate(timeout=30)


def _shortened(rest: str, folders: list[Path]) -> str:
    for folder in folders:
        rest = rest.replace(f"{folder}/", "")
    return re.sub(r"\s+", " ", rest)[:100]
