"""The tasks of this repository: the suite, which acts on the bundled gateway, and `dev.*` for its developers."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path

from invoke import Collection, Context, Exit, task

from release_tasks import ns as suite

__all__ = ["ns"]

HERE = Path(__file__).parent
SERVICES_BEGIN, SERVICES_END = "<!-- the services, from the tests: inv dev.docs -->\n", "<!-- end of the services -->\n"
GUIDE_BEGINS, GUIDE_ENDS = "<!-- the guide, from the code: inv dev.docs -->\n", "<!-- end of the guide -->\n"
SHOWN_FILE = re.compile(r"^`([\w./]+)`\n\n```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SOURCES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "release_tasks")


@task
def demo(ctx: Context) -> None:
    """Show the runbook on a scratch gateway: release, damage, roll back."""
    from release_tasks.core.errors import Interrupted
    from release_tasks.gateway.demo import DemoFailed, run_demo

    try:
        run_demo(HERE, print)
    except DemoFailed as error:
        raise Exit(f"The demo failed: {error}", code=1) from None
    except Interrupted as stop:
        raise Exit(f"{stop} The gateway is stopped.", code=int(stop.exit_code)) from None


@task(auto_shortflags=False, help={"output": "The folder for the wheel."})
def build(ctx: Context, output: str = "memory/build") -> None:
    """Build the wheel of this package from a copy of the sources; the checkout stays clean."""
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


@task(
    auto_shortflags=False,
    help={
        "size": "The size of the database, for example 256MiB.",
        "runs": "How often each row is measured.",
        "quick": "64MiB, one run and fewer rows of cost: whether the benchmarks work, not how fast anything is.",
        "folder": "A scratch folder on the filesystem to measure; removed before and after. Needs 25 times the size.",
        "page": "The page whose measured section is written.",
    },
)
def bench(
    ctx: Context,
    size: str = "1GiB",
    runs: int = 5,
    quick: bool = False,
    folder: str = "memory/bench",
    page: str = "tests/bench/README.md",
) -> None:
    """Measure against `.backup` + `cp -a`, restic and borg, and write the results into tests/bench/README.md."""
    from release_tasks.core.units import parse_size
    from tests.bench.table.run import bench as measure

    try:
        wanted = parse_size(size)
        if wanted < 16 << 20 or runs < 1:
            raise ValueError("--size must be at least 16MiB, and --runs at least 1")
        if not ctx.config.run.dry:
            measured = (64 << 20, 1) if quick else (wanted, runs)
            measure(HERE / page, HERE / folder, size=measured[0], runs=measured[1], quick=quick)
    except (OSError, ValueError) as error:
        raise Exit(f"The benchmarks failed: {error}", code=2) from None


@task
def docs(ctx: Context) -> None:
    """Generate the parts of the documentation that come from the code."""
    from release_tasks.config.reference import configuration_page
    from release_tasks.stages.diagnose.guide import guide_table
    from release_tasks.tasks.project import KINDS
    from release_tasks.tasks.reference import refreshed
    from tests.service.services import services_table

    if not ctx.config.run.dry:
        (HERE / "docs" / "configuration.md").write_text(configuration_page(KINDS))
        runbook = HERE / "docs" / "runbook.md"
        before, _, rest = runbook.read_text().partition(GUIDE_BEGINS)
        runbook.write_text(before + GUIDE_BEGINS + guide_table() + GUIDE_ENDS + rest.partition(GUIDE_ENDS)[2])
        health = HERE / "docs" / "health.md"
        before, _, rest = health.read_text().partition(SERVICES_BEGIN)
        health.write_text(before + SERVICES_BEGIN + services_table() + SERVICES_END + rest.partition(SERVICES_END)[2])
        plugins = HERE / "docs" / "plugins.md"
        plugins.write_text(SHOWN_FILE.sub(_shown_file, plugins.read_text()))
        for page in (HERE / "docs" / "tasks").glob("*.md"):
            page.write_text(refreshed(page.read_text(), suite))


def _shown_file(block: re.Match[str]) -> str:
    """Return the block of docs/plugins.md with the current text of its file in tests/plugin_package."""
    source = HERE / "tests" / "plugin_package" / block[1]
    return f"`{block[1]}`\n\n```{block[2]}\n{source.read_text() if source.exists() else block[3]}```"


@task(auto_shortflags=False, help={"output": "The folder for the pages."})
def site(ctx: Context, output: str = "memory/site") -> None:
    """Build the documentation as a site; needs the extra `docs`, no network."""
    command = f"{sys.executable} -m mkdocs build --quiet --strict -d '{HERE / output}'"
    ctx.run(command, in_stream=False, env={"NO_MKDOCS_2_WARNING": "1"})


@task
def screenshots(ctx: Context) -> None:
    """Take the screenshots of docs/report.md again; needs the extra `browser` and Chromium."""
    with ctx.cd(HERE):
        ctx.run(f"{sys.executable} -m tests.support.screenshots docs/images", in_stream=False)


@task
def check(ctx: Context) -> None:
    """Check style, types and imports, as CI does; needs the extra `dev`."""
    # lint-imports is the only one of them that `python -m` cannot run.
    lint_imports = Path(sys.executable).with_name("lint-imports")
    for command in ("-m ruff check .", "-m ruff format --check .", "-m mypy", lint_imports):
        ctx.run(f"{sys.executable} {command}", in_stream=False)


@task
def coverage(ctx: Context) -> None:
    """Show the line coverage of the last `pytest --cov=release_tasks`, one line per package."""
    from coverage import CoverageException

    from dev.coverage import coverage_table

    if ctx.config.run.dry:
        return
    try:
        print(coverage_table(HERE))
    except CoverageException as error:
        raise Exit(f"{error}\nRun first: pytest --cov=release_tasks -m 'not slow'", code=2) from None
    print("Processes that a test starts are not counted.")


@task(auto_shortflags=False, help={"version": "The new version, for example 0.2.0."})
def release(ctx: Context, version: str) -> None:
    """Release this package: preflight, build, check, commit and tag; uploads nothing. Needs the extra `dev`."""
    from dev.release import ReleaseFailed, ReleaseRefused, UndoFailed, make_release, plan_release

    def run(command: str) -> None:
        done = ctx.run(command, in_stream=False, echo=True, warn=True)
        if done is None or not done.ok:
            raise ReleaseFailed(command)

    def write(path: Path, text: str) -> None:
        print(f"write {path}")
        if not ctx.config.run.dry:
            path.write_text(text)

    with ctx.cd(HERE):
        try:
            planned = plan_release(HERE, version, datetime.now(timezone.utc).date())
            distributions = make_release(planned, run, write)
        except ReleaseRefused as error:
            raise Exit(f"{error}\nNothing was changed.", code=2) from None
        except UndoFailed as error:
            state = "The checkout may be changed. See: git status; git log -1; git tag --points-at HEAD"
            raise Exit(f"The release failed, and the undo failed too: {error}\n{state}", code=1) from None
        except ReleaseFailed as error:
            raise Exit(f"The command failed: {error}\nThe checkout is unchanged.", code=1) from None
    if ctx.config.run.dry:
        print(f"{planned.tag} was not released, because of --dry.")
        return
    print(f"Committed and tagged {planned.tag}. Built:")
    for path in distributions:
        print(f"  {path.relative_to(HERE)}")
    print(f"Publish it:\n  git push --atomic origin main {planned.tag}")
    print(f"  twine upload {' '.join(str(path.relative_to(HERE)) for path in distributions)}")


ns = Collection(demo)
for collection in suite.collections.values():
    ns.add_collection(collection)
ns.add_collection(Collection("dev", bench, build, check, coverage, docs, release, screenshots, site))
