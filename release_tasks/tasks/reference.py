"""The generated part of docs/tasks/: summary, usage and flags of each task, between two comments."""

from __future__ import annotations

import re

from invoke import Collection

from release_tasks.tasks.executor import StageTask

__all__ = ["described_tasks", "refreshed", "task_block"]

_BEGINS, _ENDS = "<!-- the task {name}, from the code: inv dev.docs -->\n", "<!-- end of it -->\n"
_BLOCK = re.compile(_BEGINS.format(name=r"(?P<name>\S+)") + f".*?{_ENDS}", re.DOTALL)


def described_tasks(page: str) -> list[str]:
    """Return the names of the tasks that a page has a block for, in its order."""
    return [found["name"] for found in _BLOCK.finditer(page)]


def refreshed(page: str, namespace: Collection) -> str:
    """Return a page with all its blocks regenerated; raises KeyError for a task that does not exist."""
    return _BLOCK.sub(lambda found: task_block(found["name"], namespace[found["name"]]), page)


def task_block(name: str, task: StageTask) -> str:
    """Return the generated block of a task as Markdown, with its two comments."""
    summary = (task.__doc__ or "").strip().splitlines()[0]
    lines = [summary, "", "```text", *_usage(task.usage(name)), "```", ""]
    lines += ["| flag | default | meaning |", "| --- | --- | --- |"]
    for argument in sorted(task.get_arguments(), key=lambda argument: not argument.positional):
        flag = task.flag_name(argument.attr_name or str(argument.name))
        default = f"`{argument.default}`" if argument.default else ""
        lines.append(f"| `{flag}` | {'required' if argument.positional else default} | {argument.help} |")
    return _BEGINS.format(name=name) + "\n".join([*lines, _ENDS])


def _usage(line: str, width: int = 100) -> list[str]:
    """Return a usage in lines, broken between flags."""
    rows = ["inv"]
    for word in re.findall(r"\[[^]]*\]|\S+", line):
        if len(rows[-1]) + len(word) >= width:
            rows.append("   ")
        rows[-1] += f" {word}"
    return rows
