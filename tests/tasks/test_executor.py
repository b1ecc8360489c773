"""The Invoke adapter in one process: merging, sharing, refusing, and results along edges."""

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

Ran = list[tuple[str, dict[str, Any]]]


def run(namespace: Collection, line: str, executor: type[Executor] = StageExecutor) -> None:
    """Parse a command line as ``inv`` does, and execute it."""
    words = Parser(contexts=namespace.to_contexts()).parse_argv(shlex.split(line))
    executor(namespace, Config(lazy=True)).execute(*words)


@pytest.fixture
def ran() -> Ran:
    """What ran, in order, with the arguments it had."""
    return []


@pytest.fixture
def suite(ran: Ran) -> Collection:
    """Tasks of the suite's shape under ``release``, and a project's own plain tasks."""

    @stage(shares=("health_url",), internal=("deferred",))
    def preflight(ctx, health_url=None, only=None, json=False, deferred=False):
        ran.append(("preflight", {"url": health_url, "only": only, "deferred": deferred}))

    @stage(pre=[call(preflight, deferred=True)], shares=("health_url",))
    def prepare(ctx, health_url=None, strict=True, json=False):
        ran.append(("prepare", {"url": health_url, "strict": strict}))

    @stage(pre=[prepare], shares=("health_url",))
    def watch(ctx, health_url=None):
        ran.append(("watch", {"url": health_url}))

    @stage()
    def status(ctx, health_url=None, json=False):
        ran.append(("status", {"url": health_url}))

    @stage()
    def approve(ctx, channel, code, json=False):
        ran.append(("approve", {"channel": channel, "code": code}))

    @task(pre=[prepare], post=[status])
    def deploy(ctx, host="a"):
        ran.append(("deploy", {"host": host}))

    @stage(pre=[deploy], shares=("health_url",))
    def ship(ctx, health_url=None):
        ran.append(("ship", {"url": health_url}))

    release = Collection("release", preflight, prepare, watch, status)
    return Collection(deploy, ship, approve, release=release)


def names(ran: Ran) -> list[str]:
    return [name for name, _ in ran]


def urls(ran: Ran) -> dict[str, Any]:
    return {name: values["url"] for name, values in ran if "url" in values}


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
def test_typed_flag_reaches_both_ends_of_an_edge(suite, ran, line):
    """Wherever the URL is typed, gates and prepare run once, in order, with it."""
    run(suite, line)
    assert names(ran) == ["preflight", "prepare"]
    assert urls(ran) == {"preflight": "U", "prepare": "U"}
    assert ran[0][1]["deferred"] is True


def test_flag_travels_through_a_chain_of_stages(suite, ran):
    """Every stage of a chain has the value that was typed at its end."""
    run(suite, "release.watch --health-url U")
    assert urls(ran) == {"preflight": "U", "prepare": "U", "watch": "U"}


def test_plain_task_between_stages_is_no_obstacle(suite, ran):
    """A value passes a project's own task on its way to the stages below it."""
    run(suite, "ship --health-url U")
    assert names(ran) == ["preflight", "prepare", "deploy", "status", "ship"]
    assert urls(ran) == {"preflight": "U", "prepare": "U", "status": None, "ship": "U"}


def test_flag_stays_where_no_edge_leads_or_it_is_not_shared(suite, ran):
    """A stage without an edge, and a flag that is not shared, keep their defaults."""
    run(suite, "release.status --health-url S release.prepare release.preflight --only tests")
    assert urls(ran) == {"status": "S", "preflight": None, "prepare": None}
    assert ran[1][1]["only"] == "tests"


def test_inverse_flag_counts_as_typed(suite, ran):
    """``--no-strict`` is a typed value although it is false."""
    run(suite, "release.watch release.prepare --no-strict")
    assert dict(ran)["prepare"]["strict"] is False


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
def test_contradicting_values_end_with_2_before_anything_ran(suite, ran, capsys, line, words):
    """Two typed values for one parameter are refused by name, and nothing runs."""
    with pytest.raises(UsageError) as refused:
        run(suite, line)
    assert isinstance(refused.value, Exit)
    assert refused.value.code == 2
    assert all(word in refused.value.message for word in words)
    assert ran == []
    assert capsys.readouterr().out == ""


def test_two_documents_on_one_stdout_are_refused_with_one(suite, ran, capsys):
    """Two stages that would each write JSON end with 2, and stdout holds the error's document."""
    with pytest.raises(UsageError, match="one document"):
        run(suite, "release.status --json release.prepare --json")
    document = json.loads(capsys.readouterr().out)
    assert document["status"] == "error"
    assert document["exitCode"] == 2
    assert "release.status and release.prepare" in document["message"]
    assert ran == []


def test_deferred_stage_leaves_the_document_to_the_other(suite, ran):
    """Preflight deferred to prepare writes no document of its own."""
    run(suite, "release.preflight --json release.prepare --json")
    assert names(ran) == ["preflight", "prepare"]


@pytest.mark.parametrize(
    "line",
    [
        "approve telegram --force",
        "release.prepare --health-url --x",
        "release.status approve telegram --force",
    ],
)
def test_value_that_looks_like_a_flag_is_refused_with_the_usage(suite, ran, line):
    """What starts with ``-`` is no value, neither as a word nor of a flag."""
    with pytest.raises(UsageError, match=r"may not start with '-'.*usage: ") as refused:
        run(suite, line)
    assert refused.value.exit_code == ExitCode.USAGE
    assert ran == []


def test_help_in_a_positional_place_shows_the_usage(suite, ran):
    """``--help`` is never a code, even where a second value is still missing."""
    for line in ("approve --help", "approve telegram --help", "approve telegram -h"):
        with pytest.raises(UsageError, match=r"usage: approve CHANNEL CODE \[--json\]"):
            run(suite, line)
    assert ran == []


def test_called_stage_itself_refuses_flaglike_values(suite, ran):
    """The stock executor, or a caller in Python, gets no further."""
    for arguments in (("telegram", "--help"), ("-x", "C")):
        with pytest.raises(UsageError, match="usage: approve CHANNEL CODE"):
            suite["approve"](Context(Config(lazy=True)), *arguments)
    with pytest.raises(UsageError, match="--health-url"):
        suite["release.prepare"](Context(Config(lazy=True)), health_url="--json")
    assert ran == []


def test_bad_number_is_one_sentence_and_2():
    """Invoke's int("soon") never reaches the shell as a traceback."""

    @stage()
    def show(ctx, limit=10):
        raise AssertionError("ran")

    with pytest.raises(UsageError, match="--limit: expected a number, got 'soon'"):
        run(Collection(show), "show --limit soon")


def test_internal_parameter_is_no_flag(suite):
    """The parser and the usage line know nothing of it."""
    preflight = suite["release.preflight"]
    assert "deferred" not in [argument.name for argument in preflight.get_arguments()]
    assert preflight.usage() == "preflight [--health-url VALUE] [--only VALUE] [--json]"


def test_copied_task_is_the_same_task_with_the_same_help():
    """Invoke copies the tasks of a module, and reads their help once per parser."""

    class Body:
        def __call__(self, ctx, health_url=None):
            pass

    show = stage(name="show", help={"health-url": "what to ask"})(Body())
    assert copy.deepcopy(show) == show
    for _ in range(2):
        assert [argument.help for argument in show.get_arguments()] == ["what to ask"]


def test_declaration_that_names_no_parameter_is_an_error():
    """A typo in ``shares`` or ``internal`` shows when the module is imported."""
    with pytest.raises(ValueError, match="no such parameter: helth_url"):
        stage(shares=("helth_url",))(lambda ctx, health_url=None: None)
    with pytest.raises(ValueError, match="needs a default"):
        stage(internal=("deferred",))(lambda ctx, deferred: None)


@pytest.mark.parametrize("executor", [Executor, StageExecutor])
def test_tasks_of_one_factory_are_different_tasks(ran, executor):
    """Two gates with one code object both run, also where Invoke would drop the second."""

    def gate(text: str) -> StageTask:
        @stage(name="gate")
        def body(ctx):
            ran.append((text, {}))

        return body

    first, second = gate("first"), gate("second")

    @stage(pre=[first, second, first])
    def every(ctx):
        pass

    run(Collection(every), "every", executor)
    assert names(ran) == ["first", "second"]
    assert first != second
    assert len({first, second, first}) == 2


@pytest.mark.parametrize("dedupe", [True, False])
def test_plain_tasks_keep_invokes_own_rules(ran, dedupe):
    """Plain tasks run as often as Invoke says; a stage once, whatever dedupe says."""

    @stage()
    def check(ctx):
        ran.append(("check", {}))

    @task(pre=[check])
    def build(ctx, target="x"):
        ran.append(("build " + target, {}))

    namespace = Collection(build, check)
    config = Config(overrides={"tasks": {"dedupe": dedupe}}, lazy=True)
    words = [("build", {"target": "x"}), ("build", {"target": "y"}), ("build", {"target": "x"})]
    StageExecutor(namespace, config).execute(*words)
    again = [] if dedupe else ["build x"]
    assert names(ran) == ["check", "build x", "build y", *again]


def test_post_stage_typed_first_still_runs_after(ran):
    """A post-task keeps its place although it was typed before what it follows."""

    @stage()
    def report(ctx):
        ran.append(("report", {}))

    @stage(post=[report])
    def release(ctx):
        ran.append(("release", {}))

    run(Collection(report, release), "report release")
    assert names(ran) == ["release", "report"]


def test_stage_both_before_and_after_runs_first(ran):
    """Around a project's task a stage runs once, in front, as under stock dedupe."""

    @stage()
    def status(ctx):
        ran.append(("status", {}))

    @task(pre=[status], post=[status])
    def deploy(ctx):
        ran.append(("deploy", {}))

    run(Collection(deploy), "deploy")
    assert names(ran) == ["status", "deploy"]


def test_programs_values_and_default_task_work(suite, ran, capsys):
    """Tuples count as typed, names alone as not typed, and autoprint and defaults are Invoke's."""
    StageExecutor(suite, Config(lazy=True)).execute(("release.prepare", {"health_url": "U"}), "release.preflight")
    assert urls(ran) == {"preflight": "U", "prepare": "U"}

    @stage(default=True, autoprint=True)
    def show(ctx, word="shown"):
        return word

    StageExecutor(Collection(show), Config(lazy=True)).execute()
    assert capsys.readouterr().out == "shown\n"


def test_stage_typed_after_its_dependant_has_its_collections_configuration():
    """The one run of a stage is the one that was asked for by name."""
    seen = []

    @stage()
    def first(ctx):
        seen.append(ctx.config.get("origin"))

    @stage(pre=[first])
    def second(ctx):
        pass

    inner = Collection("inner", first, second)
    inner.configure({"origin": "inner"})
    run(Collection(inner), "inner.second inner.first")
    assert seen == ["inner"]


def test_counting_flag_that_nobody_typed_contradicts_nothing(ran):
    """A counting flag starts out with a value, which is only its default."""

    @stage(incrementable=("verbose",), shares=("verbose",))
    def inner(ctx, verbose=0):
        ran.append(("inner", {"verbose": verbose}))

    @stage(pre=[inner], incrementable=("verbose",), shares=("verbose",))
    def outer(ctx, verbose=0):
        ran.append(("outer", {"verbose": verbose}))

    run(Collection(inner, outer), "inner outer --verbose --verbose")
    assert ran == [("inner", {"verbose": 2}), ("outer", {"verbose": 2})]


def test_positional_values_of_a_call_have_their_names(suite, ran):
    """``call(task, value)`` in a pre list and a typed flag are the same parameter."""
    preflight = suite["release.preflight"]
    suite.add_task(stage(pre=[call(preflight, "A")], name="outer")(lambda ctx: None))
    run(suite, "outer")
    assert urls(ran) == {"preflight": "A"}
    with pytest.raises(UsageError, match="'A'"):
        run(suite, "outer release.preflight --health-url B")


@pytest.mark.parametrize("executor", [Executor, StageExecutor])
def test_results_travel_to_later_stages_and_no_further(executor):
    """recall gives what record left in this run, under either executor, and nothing next time."""
    seen = []

    @stage()
    def first(ctx):
        seen.append(recall(ctx, "gates"))
        record(ctx, "gates", ["passed"])

    @task(pre=[first])
    def second(ctx):
        seen.append(recall(ctx, "gates"))
        seen.append(runs_under_stage_executor(ctx))

    for _ in range(2):
        run(Collection(second), "second", executor)
    assert seen == [None, ["passed"], executor is StageExecutor] * 2


def test_run_inside_a_run_has_a_ledger_of_its_own():
    """A stage that starts the executor again on the same Config keeps its own results."""
    seen = []

    @stage()
    def inner(ctx):
        seen.append(recall(ctx, "x"))
        record(ctx, "x", "inner")

    @stage()
    def outer(ctx):
        record(ctx, "x", "outer")
        StageExecutor(Collection(inner), ctx.config).execute("inner")
        seen.append(recall(ctx, "x"))

    run(Collection(outer), "outer")
    assert seen == [None, "outer"]


@pytest.mark.parametrize(
    ("raised", "code"),
    [(KeyboardInterrupt(), 130), (Interrupted(ExitCode.SIGTERM), 143)],
)
def test_signal_that_ends_a_stage_is_the_exit_code(raised, code):
    """Program.run would say 1 for Ctrl-C."""

    @stage()
    def wait(ctx):
        raise raised

    with pytest.raises(Exit) as ended:
        run(Collection(wait), "wait")
    assert ended.value.code == code
    assert ended.value.message is None


def test_environment_that_cannot_be_cast_is_one_sentence(monkeypatch):
    """INVOKE_... for a list-valued setting ends with 2."""
    monkeypatch.setenv("INVOKE_RUN_WATCHERS", "x")

    @stage()
    def show(ctx):
        raise AssertionError("ran")

    with pytest.raises(UsageError, match="environment: "):
        run(Collection(show), "show")


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[list[int]], list[list[int]], list[int], int]:
    """Pre lists point to lower numbers and post lists to higher ones, so some order exists."""
    size = draw(st.integers(1, 6))
    below = [draw(st.lists(st.integers(0, i - 1), max_size=2)) if i else [] for i in range(size)]
    above = [draw(st.lists(st.integers(i + 1, size - 1), max_size=1)) if i + 1 < size else [] for i in range(size)]
    line = draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=4))
    return below, above, line, draw(st.integers(0, len(line) - 1))


def make(name: str, log: Callable[[str, Any], None]) -> StageTask:
    @stage(name=name, shares=("url",))
    def body(ctx, url=None):
        log(name, url)

    return body


@settings(deadline=None)  # a busy machine is no fault of the order
@given(graphs())
def test_any_graph_runs_each_stage_once_in_order_with_the_typed_value(graph):
    """Once each, pre before and post after, and connected stages agree on what was typed."""
    below, above, line, typed = graph
    ran: list[tuple[str, Any]] = []
    tasks = [make(f"t{i}", lambda name, url: ran.append((name, url))) for i in range(len(below))]
    for one, pre, post in zip(tasks, below, above, strict=True):
        one.pre, one.post = [tasks[i] for i in pre], [tasks[i] for i in post]
    words = [f"t{i}" + (" --url U" if at == typed else "") for at, i in enumerate(line)]
    run(Collection(*tasks), " ".join(words))

    order = [int(name[1:]) for name, _ in ran]
    assert len(order) == len(set(order))
    assert set(line) <= set(order)
    with_value = {int(name[1:]) for name, url in ran if url == "U"}
    assert line[typed] in with_value
    for i in order:
        for j in below[i]:
            assert order.index(j) < order.index(i)
        for j in above[i]:
            assert order.index(j) > order.index(i)
        for j in below[i] + above[i]:
            assert (i in with_value) == (j in with_value)


def test_import_stays_cheap():
    """``inv --list`` pays for Invoke alone."""
    heavy = "requests", "cattrs", "attrs", "rich", "starlette", "uvicorn", "apsw"
    program = f"import sys, release_tasks.tasks.executor; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
