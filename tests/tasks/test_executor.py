"""The executor in one process: merging, sharing, refusing, and results passed between stages."""

from __future__ import annotations

import copy
import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from invoke import Collection, Config, Context, Executor, Exit, Parser, call, task

from release_tasks.core.errors import ExitCode, Interrupted, UsageError
from release_tasks.tasks.executor import (
    StageExecutor,
    StageTask,
    recall,
    record,
    runs_under_stage_executor,
    stage,
)

Executed = list[tuple[str, dict[str, Any]]]


def run(namespace: Collection, line: str, executor: type[Executor] = StageExecutor) -> None:
    """Parse a command line as ``inv`` does, and execute it."""
    words = Parser(contexts=namespace.to_contexts()).parse_argv(shlex.split(line))
    executor(namespace, Config(lazy=True)).execute(*words)


@pytest.fixture
def executed() -> Executed:
    """Return the executed tasks, in order, with their arguments."""
    return []


@pytest.fixture
def suite(executed: Executed) -> Collection:
    """Return tasks like those of the suite under ``release``, and plain tasks of a project."""

    @stage(shares=("health_url",), internal=("deferred",))
    def preflight(
        ctx: Context, health_url: str | None = None, only: str | None = None, json: bool = False, deferred: bool = False
    ) -> None:
        executed.append(("preflight", {"url": health_url, "only": only, "deferred": deferred}))

    @stage(pre=[call(preflight, deferred=True)], shares=("health_url",))
    def prepare(ctx: Context, health_url: str | None = None, strict: bool = True, json: bool = False) -> None:
        executed.append(("prepare", {"url": health_url, "strict": strict}))

    @stage(pre=[prepare], shares=("health_url",))
    def watch(ctx: Context, health_url: str | None = None) -> None:
        executed.append(("watch", {"url": health_url}))

    @stage()
    def status(ctx: Context, health_url: str | None = None, json: bool = False) -> None:
        executed.append(("status", {"url": health_url}))

    @stage()
    def approve(ctx: Context, channel: str, code: int, json: bool = False) -> None:
        executed.append(("approve", {"channel": channel, "code": code}))

    @task(pre=[prepare], post=[status])
    def deploy(ctx: Context, host: str = "a") -> None:
        executed.append(("deploy", {"host": host}))

    @stage(pre=[deploy], shares=("health_url",))
    def ship(ctx: Context, health_url: str | None = None) -> None:
        executed.append(("ship", {"url": health_url}))

    release = Collection("release", preflight, prepare, watch, status)
    return Collection(deploy, ship, approve, release=release)


def names(executed: Executed) -> list[str]:
    return [name for name, _ in executed]


def urls(executed: Executed) -> dict[str, Any]:
    return {name: values["url"] for name, values in executed if "url" in values}


@pytest.mark.parametrize(
    "line",
    [
        "release.prepare --health-url U",
        "release.preflight --health-url U release.prepare",
        "release.preflight release.prepare --health-url U",
        "release.prepare release.preflight --health-url U",
        "release.preflight --health-url U release.prepare --health-url U",
    ],
)
def test_a_flag_reaches_both_ends_of_an_edge(suite: Collection, executed: Executed, line: str) -> None:
    """Gates and prepare run once, in order, with the URL, wherever it is typed."""
    run(suite, line)
    assert names(executed) == ["preflight", "prepare"]
    assert urls(executed) == {"preflight": "U", "prepare": "U"}
    assert executed[0][1]["deferred"] is True


def test_a_flag_reaches_every_stage_of_a_chain(suite: Collection, executed: Executed) -> None:
    """Every stage of a chain has the value that was typed at its end."""
    run(suite, "release.watch --health-url U")
    assert urls(executed) == {"preflight": "U", "prepare": "U", "watch": "U"}


def test_a_plain_task_between_stages_passes_a_flag_on(suite: Collection, executed: Executed) -> None:
    """A value passes a project's own task on its way to the stages below it."""
    run(suite, "ship --health-url U")
    assert names(executed) == ["preflight", "prepare", "deploy", "status", "ship"]
    assert urls(executed) == {"preflight": "U", "prepare": "U", "status": None, "ship": "U"}


def test_a_flag_reaches_connected_stages_that_share_it_only(suite: Collection, executed: Executed) -> None:
    """A stage without an edge, and a flag that is not shared, keep their defaults."""
    run(suite, "release.status --health-url S release.prepare release.preflight --only tests")
    assert urls(executed) == {"status": "S", "preflight": None, "prepare": None}
    assert executed[1][1]["only"] == "tests"


def test_an_inverse_flag_counts_as_typed(suite: Collection, executed: Executed) -> None:
    """``--no-strict`` is a typed value although it is false."""
    run(suite, "release.watch release.prepare --no-strict")
    assert dict(executed)["prepare"]["strict"] is False


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "release.preflight --health-url A release.prepare --health-url B",
            ["release.preflight --health-url 'A'", "release.prepare --health-url 'B'"],
        ),
        (
            "release.preflight --health-url A release.watch --health-url B",
            ["release.preflight --health-url 'A'", "release.watch --health-url 'B'"],
        ),
        (
            "release.preflight --only a release.preflight --only b",
            ["release.preflight --only 'a'", "release.preflight --only 'b'"],
        ),
        ("approve telegram X approve telegram Y", ["approve CODE 'X'", "approve CODE 'Y'"]),
    ],
)
def test_contradicting_values_end_with_2_before_any_task(
    suite: Collection, executed: Executed, capsys: pytest.CaptureFixture[str], line: str, words: tuple[str, ...]
) -> None:
    """Two typed values for one parameter are refused by name, and no task runs."""
    with pytest.raises(Exit) as refused:  # Invoke's program exits with its code
        run(suite, line)
    assert refused.value.code == 2
    assert refused.errisinstance(UsageError)
    assert all(word in str(refused.value) for word in words)
    assert executed == []
    assert capsys.readouterr().out == ""


def test_two_documents_on_one_stdout_are_refused_with_one(
    suite: Collection, executed: Executed, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two stages that would each write JSON end with 2, and stdout has the error's document."""
    with pytest.raises(UsageError, match="one document"):
        run(suite, "release.status --json release.prepare --json")
    document = json.loads(capsys.readouterr().out)
    assert document["status"] == "error"
    assert document["exitCode"] == 2
    assert "release.status and release.prepare" in document["message"]
    assert executed == []


def test_a_deferred_stage_leaves_the_document_to_the_other(suite: Collection, executed: Executed) -> None:
    """Preflight deferred to prepare writes no document."""
    run(suite, "release.preflight --json release.prepare --json")
    assert names(executed) == ["preflight", "prepare"]


@pytest.mark.parametrize(
    "line",
    [
        "approve telegram --force",
        "release.prepare --health-url --x",
        "release.status approve telegram --force",
    ],
)
def test_a_value_like_a_flag_is_refused_with_the_usage(suite: Collection, executed: Executed, line: str) -> None:
    """A value must not start with ``-``, neither as a word nor as the value of a flag."""
    with pytest.raises(UsageError, match=r"may not start with '-'.*usage: ") as refused:
        run(suite, line)
    assert refused.value.exit_code == ExitCode.USAGE
    assert executed == []


def test_help_instead_of_a_value_shows_the_usage(suite: Collection, executed: Executed) -> None:
    """``--help`` is never a code, even where a second value is still missing."""
    for line in ("approve --help", "approve telegram --help", "approve telegram -h"):
        with pytest.raises(UsageError, match=r"usage: approve CHANNEL CODE \[--json\]"):
            run(suite, line)
    assert executed == []


def test_a_called_stage_refuses_values_like_flags(suite: Collection, executed: Executed) -> None:
    """The stock executor, or a caller in Python, is refused too."""
    for arguments in (("telegram", "--help"), ("-x", "C")):
        with pytest.raises(UsageError, match="usage: approve CHANNEL CODE"):
            suite["approve"](Context(Config(lazy=True)), *arguments)
    with pytest.raises(UsageError, match="--health-url"):
        suite["release.prepare"](Context(Config(lazy=True)), health_url="--json")
    assert executed == []


def test_a_malformed_number_is_one_message_and_2() -> None:
    """Invoke's int("soon") does not reach the shell as a traceback."""

    @stage()
    def show(ctx: Context, limit: int = 10) -> None:
        raise AssertionError("executed")

    with pytest.raises(UsageError, match="--limit: expected a number, got 'soon'"):
        run(Collection(show), "show --limit soon")


def test_an_internal_parameter_is_not_a_flag(suite: Collection) -> None:
    """The parser and the usage line do not have it."""
    preflight = suite["release.preflight"]
    assert "deferred" not in [argument.name for argument in preflight.get_arguments()]
    assert preflight.usage() == "preflight [--health-url VALUE] [--only VALUE] [--json]"


def test_a_copied_task_is_the_same_task_with_the_same_help() -> None:
    """Invoke copies the tasks of a module, and reads their help once per parser."""

    class Body:
        def __call__(self, ctx: Context, health_url: str | None = None) -> None:
            pass

    show = stage(name="show", help={"health-url": "what to ask"})(Body())
    assert copy.deepcopy(show) == show
    for _ in range(2):
        assert [argument.help for argument in show.get_arguments()] == ["what to ask"]


def test_a_declaration_without_its_parameter_is_an_error() -> None:
    """A typo in ``shares`` or ``internal`` fails when the module is imported."""
    with pytest.raises(ValueError, match="no such parameter: helth_url"):
        stage(shares=("helth_url",))(lambda ctx, health_url=None: None)
    with pytest.raises(ValueError, match="needs a default"):
        stage(internal=("deferred",))(lambda ctx, deferred: None)


@pytest.mark.parametrize("executor", [Executor, StageExecutor])
def test_tasks_of_one_factory_are_different_tasks(executed: Executed, executor: type[Executor]) -> None:
    """Two gates with one code object both run, also where Invoke would drop the second."""

    def gate(text: str) -> StageTask:
        @stage(name="gate")
        def body(ctx: Context) -> None:
            executed.append((text, {}))

        return body

    first, second = gate("first"), gate("second")

    @stage(pre=[first, second, first])
    def every(ctx: Context) -> None:
        pass

    run(Collection(every), "every", executor)
    assert names(executed) == ["first", "second"]
    assert first != second
    assert len({first, second, first}) == 2


@pytest.mark.parametrize("dedupe", [True, False])
def test_plain_tasks_keep_the_rules_of_invoke(executed: Executed, dedupe: bool) -> None:
    """Plain tasks run as often as Invoke says; a stage runs once, with any dedupe setting."""

    @stage()
    def check(ctx: Context) -> None:
        executed.append(("check", {}))

    @task(pre=[check])
    def build(ctx: Context, target: str = "x") -> None:
        executed.append(("build " + target, {}))

    namespace = Collection(build, check)
    config = Config(overrides={"tasks": {"dedupe": dedupe}}, lazy=True)
    words = [("build", {"target": "x"}), ("build", {"target": "y"}), ("build", {"target": "x"})]
    StageExecutor(namespace, config).execute(*words)
    again = [] if dedupe else ["build x"]
    assert names(executed) == ["check", "build x", "build y", *again]


def test_a_post_stage_typed_first_still_runs_after(executed: Executed) -> None:
    """A post-task runs after its task, although it was typed before it."""

    @stage()
    def report(ctx: Context) -> None:
        executed.append(("report", {}))

    @stage(post=[report])
    def release(ctx: Context) -> None:
        executed.append(("release", {}))

    run(Collection(report, release), "report release")
    assert names(executed) == ["release", "report"]


def test_a_stage_both_before_and_after_runs_first(executed: Executed) -> None:
    """A stage that is pre-task and post-task of one task runs once, before it, as with stock dedupe."""

    @stage()
    def status(ctx: Context) -> None:
        executed.append(("status", {}))

    @task(pre=[status], post=[status])
    def deploy(ctx: Context) -> None:
        executed.append(("deploy", {}))

    run(Collection(deploy), "deploy")
    assert names(executed) == ["status", "deploy"]


def test_default_values_and_default_tasks_work(
    suite: Collection, executed: Executed, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tuples count as typed, names alone as not typed, and autoprint and defaults are Invoke's."""
    StageExecutor(suite, Config(lazy=True)).execute(("release.prepare", {"health_url": "U"}), "release.preflight")
    assert urls(executed) == {"preflight": "U", "prepare": "U"}

    @stage(default=True, autoprint=True)
    def show(ctx: Context, word: str = "shown") -> str:
        return word

    StageExecutor(Collection(show), Config(lazy=True)).execute()
    assert capsys.readouterr().out == "shown\n"


def test_a_stage_typed_after_its_dependent_has_the_configuration_of_its_collection() -> None:
    """The single run of a stage is the one that was named."""
    seen = []

    @stage()
    def first(ctx: Context) -> None:
        seen.append(ctx.config.get("origin"))

    @stage(pre=[first])
    def second(ctx: Context) -> None:
        pass

    inner = Collection("inner", first, second)
    inner.configure({"origin": "inner"})
    run(Collection(inner), "inner.second inner.first")
    assert seen == ["inner"]


def test_an_untyped_counting_flag_contradicts_nothing(executed: Executed) -> None:
    """A counting flag starts with a value, which is its default."""

    @stage(incrementable=("verbose",), shares=("verbose",))
    def inner(ctx: Context, verbose: int = 0) -> None:
        executed.append(("inner", {"verbose": verbose}))

    @stage(pre=[inner], incrementable=("verbose",), shares=("verbose",))
    def outer(ctx: Context, verbose: int = 0) -> None:
        executed.append(("outer", {"verbose": verbose}))

    run(Collection(inner, outer), "inner outer --verbose --verbose")
    assert executed == [("inner", {"verbose": 2}), ("outer", {"verbose": 2})]


def test_positional_values_of_a_call_have_their_names(suite: Collection, executed: Executed) -> None:
    """``call(task, value)`` in a pre list and a typed flag are the same parameter."""
    preflight = suite["release.preflight"]
    suite.add_task(stage(pre=[call(preflight, "A")], name="outer")(lambda ctx: None))
    run(suite, "outer")
    assert urls(executed) == {"preflight": "A"}
    with pytest.raises(UsageError, match="'A'"):
        run(suite, "outer release.preflight --health-url B")


@pytest.mark.parametrize("executor", [Executor, StageExecutor])
def test_results_reach_later_stages_of_the_run_only(executor: type[Executor]) -> None:
    """recall returns what record stored in this run, under either executor, and nothing in the next run."""
    seen = []

    @stage()
    def first(ctx: Context) -> None:
        seen.append(recall(ctx, "gates"))
        record(ctx, "gates", ["passed"])

    @task(pre=[first])
    def second(ctx: Context) -> None:
        seen.append(recall(ctx, "gates"))
        seen.append(runs_under_stage_executor(ctx))

    for _ in range(2):
        run(Collection(second), "second", executor)
    assert seen == [None, ["passed"], executor is StageExecutor] * 2


def test_a_run_inside_a_run_has_its_own_ledger() -> None:
    """A stage that starts the executor again on the same Config keeps its own results."""
    seen = []

    @stage()
    def inner(ctx: Context) -> None:
        seen.append(recall(ctx, "x"))
        record(ctx, "x", "inner")

    @stage()
    def outer(ctx: Context) -> None:
        record(ctx, "x", "outer")
        StageExecutor(Collection(inner), ctx.config).execute("inner")
        seen.append(recall(ctx, "x"))

    run(Collection(outer), "outer")
    assert seen == [None, "outer"]


@pytest.mark.parametrize(
    ("raised", "code"),
    [(KeyboardInterrupt(), 130), (Interrupted(ExitCode.SIGTERM), 143)],
)
def test_a_signal_that_ends_a_stage_is_the_exit_code(raised: BaseException, code: int) -> None:
    """Program.run would return 1 for Ctrl-C."""

    @stage()
    def wait(ctx: Context) -> None:
        raise raised

    with pytest.raises(Exit) as ended:
        run(Collection(wait), "wait")
    assert ended.value.code == code
    assert ended.value.message is None


def test_an_environment_value_that_cannot_be_cast_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """INVOKE_... for a list-valued setting of Invoke ends with 2."""
    monkeypatch.setenv("INVOKE_RUN_WATCHERS", "x")

    @stage()
    def show(ctx: Context) -> None:
        raise AssertionError("executed")

    with pytest.raises(UsageError, match=r"environment variable INVOKE_RUN_WATCHERS: run\.watchers is a list"):
        run(Collection(show), "show")


Graph = tuple[list[list[int]], list[list[int]], list[int], int]


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Pre lists point to lower numbers and post lists to higher ones, so an order exists."""
    size = draw(st.integers(1, 6))
    below = [draw(st.lists(st.integers(0, i - 1), max_size=2)) if i else [] for i in range(size)]
    above = [draw(st.lists(st.integers(i + 1, size - 1), max_size=1)) if i + 1 < size else [] for i in range(size)]
    line = draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=4))
    return below, above, line, draw(st.integers(0, len(line) - 1))


def make(name: str, log: Callable[[str, Any], None]) -> StageTask:
    @stage(name=name, shares=("url",))
    def body(ctx: Context, url: str | None = None) -> None:
        log(name, url)

    return body


@settings(deadline=None)  # a busy machine is slow
@given(graphs())
def test_any_graph_runs_each_stage_once_in_order_with_the_typed_value(graph: Graph) -> None:
    """Pre-tasks run before and post-tasks after, each once, and connected stages have the same typed value."""
    below, above, line, typed = graph
    executed: list[tuple[str, Any]] = []
    tasks = [make(f"t{i}", lambda name, url: executed.append((name, url))) for i in range(len(below))]
    for one, pre, post in zip(tasks, below, above, strict=True):
        vars(one).update(pre=[tasks[i] for i in pre], post=[tasks[i] for i in post])
    words = [f"t{i}" + (" --url U" if at == typed else "") for at, i in enumerate(line)]
    run(Collection(*tasks), " ".join(words))

    order = [int(name[1:]) for name, _ in executed]
    assert len(order) == len(set(order))
    assert set(line) <= set(order)
    with_value = {int(name[1:]) for name, url in executed if url == "U"}
    assert line[typed] in with_value
    for i in order:
        for j in below[i]:
            assert order.index(j) < order.index(i)
        for j in above[i]:
            assert order.index(j) > order.index(i)
        for j in below[i] + above[i]:
            assert (i in with_value) == (j in with_value)


def test_import_stays_cheap() -> None:
    """``inv --list`` loads Invoke and no other library."""
    heavy = "requests", "cattrs", "attrs", "rich", "starlette", "uvicorn", "apsw"
    program = f"import sys, release_tasks.tasks.executor; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
