"""Loading: all mistakes are reported together, each with its source, its path and the expected value."""

# ruff: noqa: E501  (the table of sentences is read line by line)

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from release_tasks.config.load import defaults
from release_tasks.core.errors import ConfigError, ExitCode
from release_tasks.tasks.project import load_settings

PROJECT = Path("/srv/app")


def release(**section: Any) -> dict[str, Any]:
    return {"release": section}


def problems_of(raw: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as error:
        load_settings(raw, PROJECT)
    assert error.value.exit_code == ExitCode.USAGE
    assert str(error.value) == "\n".join(error.value.problems)
    return error.value.problems


def gates(**fields: Any) -> dict[str, Any]:
    return release(gates={"build": fields})


def notice(**fields: Any) -> dict[str, Any]:
    return release(notices={"pager": fields})


ONE_GATE = "expected exactly one of command, http, path, json, mcp, python; got"
ONE_ASSET = "expected exactly one of sqlite, directory, file, python; got"
ONE_NOTICE = "expected exactly one of command, webhook, webhook_env; got"
EVENTS = "expected one or more of prepared, blocked, restored, failed, degraded; got"
SENTENCES: list[tuple[dict[str, Any], str]] = [
    (gates(command="x", timeout="soon"), "release.gates.build.timeout: expected a duration such as 30s or 10m, got 'soon'"),
    (release(assets={"db": {"file": "x", "requird": 1}}), "release.assets.db.requird: unknown key (did you mean 'required'?)"),
    (release(asets={}), "release.asets: unknown key (did you mean 'assets'?)"),
    (release(health={"urll": "x"}), "release.health.urll: unknown key (did you mean 'url'?)"),
    (release(restart={"zzz": 1}), "release.restart.zzz: unknown key (known: stop, stop_timeout, command, settle)"),
    (release(watch={"fro": "1m"}), "release.watch.fro: unknown key (did you mean 'for'?)"),
    (release(watch={"for": "x"}), "release.watch.for: expected a duration such as 30s or 10m, got 'x'"),
    (release(retention=0), "release.retention: expected a whole number, 1 or more, got 0"),
    (release(retention="many"), "release.retention: expected a whole number, 1 or more, got 'many'"),
    (release(health={"passes": 0}), "release.health.passes: expected a whole number, 1 or more, got 0"),
    (release(reliability={"limits": {"queued": -1}}), "release.reliability.limits.queued: expected a whole number, 0 or more, got -1"),
    (gates(), f"release.gates.build: {ONE_GATE} none"),
    (gates(command="x", path="y"), f"release.gates.build: {ONE_GATE} command and path"),
    (gates(http="3100/health"), "release.gates.build: http: expected 'health' or an http:// or https:// URL, got '3100/health'"),
    (gates(command="x", advisory="maybe"), "release.gates.build.advisory: expected true or false, got 'maybe'"),
    (gates(command=["npm", "run"]), "release.gates.build.command: expected text, got ['npm', 'run']"),
    (gates(command="a\x00b"), "release.gates.build.command: expected text without a NUL character"),
    (gates(path=""), "release.gates.build.path: expected a path, got ''"),
    (gates(path=7), "release.gates.build.path: expected a path, got the number 7: put it in quotes"),
    (gates(command="x", env=["A=1"]), "release.gates.build.env: expected a mapping, got ['A=1']: write NAME: without `-`"),
    (notice(), f"release.notices.pager: {ONE_NOTICE} none"),
    (notice(command="x", webhook="http://h"), f"release.notices.pager: {ONE_NOTICE} command and webhook"),
    (notice(command="x", when=["faild"]), f"release.notices.pager: when: {EVENTS} 'faild' (did you mean 'failed'?)"),
    (notice(command="x", on=["failed"]), "release.notices.pager.on: unknown key (known: command, webhook, webhook_env, hmac_secret_env, when, timeout, retries)"),
    (notice(command="x", when=[]), f"release.notices.pager: when: {EVENTS} an empty list"),
    (notice(command="x", timeout="0s"), "release.notices.pager: timeout: expected a duration above 0"),
    (notice(webhook="hooks.example"), "release.notices.pager: webhook: expected an http:// or https:// URL, got 'hooks.example'"),
    (notice(command="x", hmac_secret_env="A"), "release.notices.pager: hmac_secret_env: allowed only with webhook or webhook_env"),
    (gates(command="x", needs=["tests"]), "release.gates.build.needs: there is no gate 'tests'"),
    (gates(command="x", needs=["build"]), "release.gates.build.needs: circular: 'build' depends on 'build'"),
    (release(gates=["build"]), "release.gates: expected a mapping, got ['build']: write NAME: without `-`"),
    (release(gates={"build": "npm run build"}), "release.gates.build: expected a mapping with one of command, http, path, json, mcp, python, got 'npm run build'"),
    (release(assets={"db": {}}), f"release.assets.db: {ONE_ASSET} none"),
    (release(assets={"db": {"sqlite": "a", "file": "b"}}), f"release.assets.db: {ONE_ASSET} sqlite and file"),
    (release(assets={"a": {"file": "x"}, "b": {"file": "x"}}), "release.assets.b: /srv/app/x overlaps with release.assets.a"),
    (release(assets={"a": {"directory": "x"}, "b": {"file": "x/y"}}), "release.assets.b: /srv/app/x/y overlaps with release.assets.a"),
    (release(assets={"a": {"file": "x/../y"}, "b": {"file": "./y"}}), "release.assets.b: /srv/app/y overlaps with release.assets.a"),
    (release(assets={"a": {"directory": "."}}), "release.root: /srv/app/memory/release-pipeline overlaps with release.assets.a"),
    (release(app={"version": {"file": "package.json"}}), "release.app.version: expected file and key together"),
    (release(app={"version": {"file": "a", "key": "b", "command": "c"}}), "release.app.version: expected exactly one of file, command, distribution, text; got file and command"),
    ({"release": "x"}, "release: expected a mapping with keys, got 'x'"),
    ({"gateway": {"port": "http"}}, "gateway.port: expected a whole number, 0 or more, got 'http'"),
    ({"gateway": {"portt": 1}}, "gateway.portt: unknown key (did you mean 'port'?)"),
    ({"pairing": {"ttl": "x"}}, "pairing.ttl: expected a duration such as 30s or 10m, got 'x'"),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "message"), SENTENCES, ids=lambda v: v if isinstance(v, str) else "")
def test_each_mistake_has_its_message(raw: dict[str, Any], message: str) -> None:
    """The message has source, dotted path and expected value only."""
    assert problems_of(raw) == [f"invoke.yaml: {message}"]


@pytest.mark.smoke
def test_all_mistakes_are_reported_at_once() -> None:
    """Three sections, values, unknown keys and kinds are reported in one run."""
    raw = {
        "release": {
            "retention": "many",
            "asets": {},
            "gates": {"build": {"command": "x", "timeout": "soon", "advisory": 3, "colour": "red"}, "empty": {}},
        },
        "pairing": {"max_pending": -1},
        "gateway": {"port": None, "hst": "x"},
    }
    paths = {problem.split(": ")[1] for problem in problems_of(raw)}
    assert paths == {
        "release.retention", "release.asets", "release.gates.build.timeout", "release.gates.build.advisory",
        "release.gates.build.colour", "release.gates.empty", "pairing.max_pending", "gateway.port", "gateway.hst",
    }  # fmt: skip


def test_contradictions_are_reported_together_with_wrong_values() -> None:
    """A wrong duration does not hide that two assets overlap."""
    raw = release(retention=0, assets={"a": {"file": "x"}, "b": {"file": "x"}})
    assert len(problems_of(raw)) == 2


def test_the_source_of_each_mistake_is_named() -> None:
    """The message names the environment variable and not invoke.yaml."""
    sources = {"release.retention": "INVOKE_RELEASE_RETENTION"}
    with pytest.raises(ConfigError) as error:
        load_settings(release(retention="x", asets=1), PROJECT, lambda path: sources.get(path, "invoke.yaml"))
    assert sorted(problem.split(":")[0] for problem in error.value.problems) == [
        "INVOKE_RELEASE_RETENTION",
        "invoke.yaml",
    ]


def test_circular_needs_are_found() -> None:
    """The message names each gate of the cycle."""
    circle = {"a": ["b"], "b": ["c"], "c": ["a"], "d": ["a"]}
    raw = release(gates={name: {"command": "x", "needs": needs} for name, needs in circle.items()})
    assert [problem.split(": ")[1] for problem in problems_of(raw)] == [f"release.gates.{name}.needs" for name in "abc"]


def test_needs_that_share_a_gate_are_accepted() -> None:
    """A diamond is not a cycle."""
    needs = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"]}
    raw = release(gates={name: {"command": "x", "needs": needed} for name, needed in needs.items()})
    assert list(load_settings(raw, PROJECT).release.gates) == ["a", "b", "c", "d"]


def test_needs_as_text_is_one_mistake() -> None:
    """`needs: build` instead of `needs: [build]` is a common mistake."""
    raw = release(gates={"build": {"command": "x"}, "tests": {"command": "x", "needs": "build"}})
    problems = problems_of(raw)
    assert len(problems) == 1
    assert "release.gates.tests.needs: expected a list" in problems[0]


def test_a_gate_name_is_shown_in_full() -> None:
    """Paths are shown as they were written."""
    raw = release(gates={"for_build": {"command": "x", "timeout": "soon"}})
    assert problems_of(raw)[0].startswith("invoke.yaml: release.gates.for_build.timeout: ")


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "-x", "a b"])
@pytest.mark.parametrize("kind", ["gates", "assets"])
def test_names_that_could_leave_a_folder_are_refused(kind: str, name: str) -> None:
    """Gates and assets become file names."""
    one = {"command": "x"} if kind == "gates" else {"file": "x"}
    (problem,) = problems_of({"release": {kind: {name: one}}})
    assert f"{name!r} is not a valid name in {kind}" in problem


@pytest.mark.parametrize("version", [1.0, 2, True])
def test_a_version_without_quotes_is_a_mistake(version: Any) -> None:
    """YAML reads `version: 1.10` as the number 1.1, so no number is a text."""
    (problem,) = problems_of(release(app={"version": version}))
    assert problem.endswith(": put it in quotes")


@pytest.mark.parametrize("url", ["127.0.0.1:3100/health", "ftp://host/x", "health"])
def test_a_malformed_health_url_is_a_mistake(url: str) -> None:
    """It is found when the configuration is loaded, not during a rollback."""
    assert problems_of(release(health={"url": url}))[0].startswith("invoke.yaml: release.health")


def test_a_port_out_of_range_is_a_mistake() -> None:
    """65535 is the largest port."""
    (problem,) = problems_of({"gateway": {"port": 65536}})
    assert problem.endswith("port: expected a port, 0 to 65535, got 65536")
    assert load_settings({"gateway": {"port": 65535}}, PROJECT).gateway.port == 65535


def test_expect_without_http_is_a_mistake() -> None:
    """An expectation that is never checked would be misleading."""
    problems_of(gates(command="x", expect={"status": 200}))


def test_paths_are_relative_to_the_project_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder of inv does not matter; absolute paths and ~ are unchanged."""
    monkeypatch.chdir(tmp_path)
    assets = {"a": {"file": "x/y.json"}, "b": {"file": "/etc/app.json"}, "c": {"file": "~/c.json"}}
    settings = load_settings(release(assets=assets), PROJECT)
    paths = [asset.path for asset in settings.release.assets.values()]
    assert paths == [PROJECT / "x/y.json", Path("/etc/app.json"), Path.home() / "c.json"]
    assert settings.release.root == PROJECT / "memory/release-pipeline"
    assert settings.gateway.root == PROJECT / "memory/gateway"


def test_defaults_are_those_of_the_design() -> None:
    """An empty configuration is valid."""
    settings = load_settings({}, PROJECT)
    release, pairing = settings.release, settings.pairing
    health = release.health
    times = (health.timeout, health.deadline, health.interval, release.restart.settle, pairing.ttl)
    assert [float(time) for time in times] == [5, 60, 1, 2, 3600]
    assert (health.passes, health.passes_after_restore, release.retention) == (1, 3, 5)
    assert release.restart.command is None
    watch = release.watch
    assert (float(watch.for_), float(watch.interval), watch.failures, watch.rollback) == (600, 10, 3, False)
    limits = release.reliability.limits
    assert (limits.queued, limits.failed, limits.dead_letters, limits.rejected_callbacks) == (25, 10, 0, 3)
    assert pairing.max_pending == 3
    assert (settings.gateway.host, settings.gateway.port) == ("127.0.0.1", 3100)


def test_defaults_given_as_configuration_change_nothing() -> None:
    """Invoke merges the defaults underneath, with the same meaning."""
    assert load_settings(defaults(), PROJECT) == load_settings({}, PROJECT)


def test_text_from_the_environment_is_converted() -> None:
    """Every value of the environment is text."""
    raw = {
        "release": {"retention": "7", "watch": {"rollback": "false"}, "health": {"timeout": "2.5"}},
        "gateway": {"port": "3999", "allow_remote": "yes"},
    }
    settings = load_settings(raw, PROJECT)
    assert settings.release.retention == 7
    assert settings.release.watch.rollback is False
    assert settings.release.health.timeout == 2.5
    assert (settings.gateway.port, settings.gateway.allow_remote) == (3999, True)


def test_an_asset_is_required_by_default() -> None:
    """A missing asset blocks a release."""
    settings = load_settings(release(assets={"a": {"file": "a"}, "b": {"file": "b", "required": "no"}}), PROJECT)
    assert [asset.required for asset in settings.release.assets.values()] == [True, False]


def test_other_sections_are_ignored() -> None:
    """Keys of Invoke and of other packages pass."""
    theirs = {"tasks": {"executor_class": "x"}, "run": {"echo": True}, "theirs": 7}
    assert load_settings(theirs, PROJECT) == load_settings({}, PROJECT)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["sqlite", "command", "http", "url", "timeout", "needs", "x", "env"]), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(raw=st.dictionaries(st.sampled_from(list(defaults()["release"])), ANYTHING, max_size=4))
def test_any_configuration_gives_settings_or_messages(raw: dict[str, Any]) -> None:
    """No YAML value causes a traceback."""
    try:
        load_settings({"release": raw}, PROJECT)
    except ConfigError as error:
        assert all(problem.startswith("invoke.yaml: release") for problem in error.problems)


def test_the_scratch_project_is_valid(make_project: Callable[..., Any]) -> None:
    """Other tests use this fixture."""
    assert list(make_project("a").settings.release.assets) == ["database", "identity", "mcp", "extra"]
