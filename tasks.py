"""This repository's own tasks: the suite, acting on the bundled gateway, and what its developers need besides."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path

from invoke import Collection, Context, Exit, task

from release_tasks import ns as suite

__all__ = ["ns"]

HERE = Path(__file__).parent
GUIDE_BEGINS, GUIDE_ENDS = "<!-- the guide, from the code: inv dev.docs -->\n", "<!-- end of the guide -->\n"
SHOWN_FILE = re.compile(r"^`([\w./]+)`\n\n```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SOURCES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "release_tasks")


@task
def demo(ctx: Context) -> None:
    """Show the whole runbook on a scratch gateway: release, damage, roll back."""
    from release_tasks.gateway.demo import DemoFailed, run_demo

    try:
        run_demo(HERE, print)
    except DemoFailed as error:
        raise Exit(f"The demo failed: {error}", code=1) from None


@task(auto_shortflags=False, help={"output": "The folder that receives the wheel."})
def build(ctx: Context, output: str = "memory/build") -> None:
    """Build the wheel of this package from a copy of the sources, so that the checkout stays clean."""
    if ctx.config.run.dry:
        return
    with tempfile.TemporaryDirectory(prefix="release-tasks-build-") as copy:
        for name in SOURCES:
            source = HERE / name
            if source.is_dir():
                shutil.copytree(source, Path(copy, name), ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, copy)
        target = HERE / output
        target.mkdir(parents=True, exist_ok=True)
        options = "-q --no-deps --no-build-isolation"
        ctx.run(f"{sys.executable} -m pip wheel {options} -w '{target}' '{copy}'", in_stream=False)


@task
def docs(ctx: Context) -> None:
    """Generate what pages show of the code: configuration, decision guide, tasks, the plugin of the guide."""
    from release_tasks.config.reference import configuration_page
    from release_tasks.stages.diagnose.guide import guide_table
    from release_tasks.tasks.project import KINDS
    from release_tasks.tasks.reference import refreshed

    if not ctx.config.run.dry:
        (HERE / "docs" / "configuration.md").write_text(configuration_page(KINDS))
        runbook = HERE / "docs" / "runbook.md"
        before, _, rest = runbook.read_text().partition(GUIDE_BEGINS)
        runbook.write_text(before + GUIDE_BEGINS + guide_table() + GUIDE_ENDS + rest.partition(GUIDE_ENDS)[2])
        plugins = HERE / "docs" / "plugins.md"
        plugins.write_text(SHOWN_FILE.sub(_shown_file, plugins.read_text()))
        for page in (HERE / "docs" / "tasks").glob("*.md"):
            page.write_text(refreshed(page.read_text(), suite))


def _shown_file(block: re.Match[str]) -> str:
    """Put a file of the plugin that tests build into the page that explains it."""
    source = HERE / "tests" / "plugin_package" / block[1]
    return f"`{block[1]}`\n\n```{block[2]}\n{source.read_text() if source.exists() else block[3]}```"


@task(auto_shortflags=False, help={"output": "The folder that receives the pages."})
def site(ctx: Context, output: str = "memory/site") -> None:
    """Build the documentation as a site; it needs the extra `docs`, and no network."""
    command = f"{sys.executable} -m mkdocs build --quiet --strict -d '{HERE / output}'"
    ctx.run(command, in_stream=False, env={"NO_MKDOCS_2_WARNING": "1"})


@task
def screenshots(ctx: Context) -> None:
    """Take the pictures of docs/report.md anew; it needs the extra `browser`, and Chromium."""
    with ctx.cd(HERE):
        ctx.run(f"{sys.executable} -m tests.support.screenshots docs/images", in_stream=False)


@task
def check(ctx: Context) -> None:
    """Run what CI runs before the tests: style, types, import walls."""
    for command in ("ruff check .", "ruff format --check .", "mypy", "lint-imports --config setup.cfg"):
        ctx.run(f"{sys.executable} -m {command}" if not command.startswith("lint") else command, in_stream=False)


ns = Collection()
for collection in suite.collections.values():
    ns.add_collection(collection)
ns.add_task(demo)
ns.add_collection(Collection("dev", build=build, docs=docs, site=site, screenshots=screenshots, check=check))
