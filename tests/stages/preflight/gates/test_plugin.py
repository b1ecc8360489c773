"""Gates of other packages: their input, and a faulty one is a failed gate only."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from release_tasks.core.errors import ConfigError
from release_tasks.core.records import Check
from release_tasks.stages.preflight.engine import PreflightRun
from release_tasks.tasks.project import load_settings

Run = Callable[..., PreflightRun]
Install = Callable[..., None]
Gate = Callable[..., Check]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a distribution whose entry point ``custom`` is a function with the given body."""
    modules: list[str] = []

    def make(body: str, package: str = "custom-gate", value: str = "{module}:check", before: str = "") -> None:
        module = package.replace("-", "_")
        site = tmp_path / f"site-{package}"
        info = site / f"{module}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        points = f"[release_tasks.gates]\ncustom = {value.format(module=module)}\n"
        (info / "entry_points.txt").write_text(points)
        source = f"import os, sys, time\n{before}\nfrom release_tasks.plugins import PluginError, Verdict\n"
        source += "def check(context):\n" + textwrap.indent(body, "    ")
        (site / f"{module}.py").write_text(source)
        modules.append(module)
        monkeypatch.syspath_prepend(str(site))

    yield make
    for module in modules:
        sys.modules.pop(module, None)


@pytest.fixture
def gate(run: Run) -> Gate:
    """Run the gate ``custom`` and return its result."""

    def start(**config: Any) -> Check:
        (result,) = run({"gate": {"python": "custom", "timeout": "30s", **config}}).report.checks
        return result

    return start


OF = "the gate 'custom' of custom-gate 1.0"


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ("return Verdict(passed=False, detail='no ' + 'luck')", "no luck"),
        ("raise PluginError('The queue is stopped. Type: queue start')", "The queue is stopped. Type: queue start"),
        ("raise ValueError('what now')", f"{OF} raised ValueError: what now"),
        ("sys.exit(0)", f"{OF} raised SystemExit: 0"),
        ("raise KeyboardInterrupt", f"{OF} raised KeyboardInterrupt"),
        ("return True", f"{OF} returned bool, expected a Verdict"),
        ("return None", f"{OF} returned NoneType, expected a Verdict"),
        ("return Verdict(passed='no', detail='')", f"{OF} returned a Verdict whose passed is str, not bool"),
        ("return Verdict(passed=True, detail=None)", f"{OF} returned a Verdict whose detail is NoneType, not str"),
        ("return Verdict(passed=True, detail='', command=1)", f"{OF} returned a Verdict whose command is int, not str"),
        (
            "return Verdict(passed=True, detail='', diagnostics=None)",
            f"{OF} returned a Verdict whose diagnostics is NoneType, not dict",
        ),
        (
            "nested = {}; nested['again'] = nested; return Verdict(passed=True, detail='', diagnostics=nested)",
            f"{OF} returned diagnostics that cannot be written as JSON: ValueError: Circular reference detected",
        ),
        (
            "return Verdict(passed=True, detail='x' * 100_000)",
            f"{OF} returned a Verdict of 100011 bytes, the limit is 65536: write long output to context.log_path",
        ),
        ("return (", f"{OF} cannot be loaded (custom_gate:check): SyntaxError: "),
    ],
)
def test_a_failing_or_faulty_gate_is_named(install: Install, gate: Gate, body: str, detail: str) -> None:
    """Any fault of the gate is a failed result with its name, and no traceback."""
    install(body)
    check = gate()
    assert check.status == "failed"
    assert check.detail.startswith(detail)
    assert check.diagnostics["next"]
    assert "Traceback" not in repr(check)


@pytest.mark.parametrize("body", ["time.sleep(3)", "context.cancelled.wait(5); time.sleep(0.2)"])
def test_a_hanging_gate_ends_with_its_timeout(install: Install, run: Run, body: str) -> None:
    """The result names the gate, and the other gates have their results."""
    install(body)
    result = run({"gate": {"python": "custom", "timeout": "200ms"}, "other": {"command": "true"}})
    check, other = result.report.checks
    assert check.detail == f"no result from {OF} after 200ms (timeout)"
    assert other.status == "passed"


@pytest.mark.parametrize(
    ("before", "value", "detail", "command"),
    [
        ("import nonesuch", "{module}:check", "ModuleNotFoundError: No module named 'nonesuch'", "-m pip check"),
        ("sys.exit('not here')", "{module}:check", "SystemExit: not here", "-m pip show custom-gate"),
        ("", "{module}:chekc", "module 'custom_gate' has no attribute 'chekc'", "-m pip show custom-gate"),
        ("", "{module}", f"{OF} is not a function but module (custom_gate)", "-m pip show custom-gate"),
    ],
)
def test_a_package_that_cannot_be_loaded_is_named_with_the_command_to_type(
    install: Install, gate: Gate, before: str, value: str, detail: str, command: str
) -> None:
    """An import fails, or the entry point names no function."""
    install("return Verdict(passed=True, detail='')", value=value, before=before)
    check = gate()
    assert (check.status, OF in check.detail, check.detail.endswith(detail)) == ("failed", True, True), check.detail
    assert check.diagnostics["next"] == f"{sys.executable} {command}"


def test_an_unknown_gate_lists_the_installed_ones(install: Install, run: Run) -> None:
    """An unknown name is a failed gate, and the message says what to type."""
    install("return Verdict(passed=True, detail='')")
    (check,) = run({"gate": {"python": "costum"}}).report.checks
    assert check.detail == "no installed package offers the gate 'costum' (offered: custom)"
    assert check.diagnostics["next"] == f"{sys.executable} -m pip install PACKAGE"


def test_a_gate_of_two_packages_is_refused(install: Install, gate: Gate) -> None:
    """The name is ambiguous: neither is run."""
    for package in ("one-gate", "other-gate"):
        install("raise AssertionError('ran')", package=package)
    check = gate()
    assert check.detail.startswith("more than one package offers the gate 'custom': ")
    assert "one-gate 1.0" in check.detail and "other-gate 1.0" in check.detail
    assert check.diagnostics["next"].startswith(f"{sys.executable} -m pip uninstall o")


def test_a_gate_gets_its_own_options(install: Install, gate: Gate) -> None:
    """The keys below ``with`` are passed unchanged."""
    install("return Verdict(passed=context.options['free'] == 3, detail=repr(dict(context.options)))")
    options = {"free": 3, "where": ["a", {"deep": None}], "share": 0.5, "on": True}
    assert gate(**{"with": options}).detail == repr(options)


@pytest.mark.parametrize(
    ("gate", "problem"),
    [
        ({"python": "custom", "free": 3}, "release.gates.gate.free: unknown key"),
        ({"command": "true", "with": {"a": 1}}, "release.gates.gate: with: allowed only with python"),
        ({"python": "custom", "with": [1]}, "release.gates.gate.with: expected a mapping, got [1]"),
        (
            {"python": "custom", "with": {"since": {"when": b"x"}}},
            "release.gates.gate: with: expected text, numbers, true, false, lists and mappings, got the bytes b'x'",
        ),
        ({"python": "custom", "with": {"a": [{1: 2}]}}, "got the int 1 (put it in quotes)"),
    ],
)
def test_unknown_keys_are_configuration_errors(tmp_path: Path, gate: dict[str, Any], problem: str) -> None:
    """Keys below ``with`` are free; unknown keys next to it are errors."""
    with pytest.raises(ConfigError) as error:
        load_settings({"release": {"gates": {"gate": gate}}}, tmp_path)
    assert problem in str(error.value)


def test_the_verdict_of_a_plugin_is_redacted(install: Install, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any returned value can be written as JSON, without secrets."""
    monkeypatch.setenv("THE_SECRET", "tortoise-7")
    install(
        "return Verdict(passed=True, detail='x tortoise-7', command='run tortoise-7', diagnostics="
        "{'a': ['tortoise-7', 1.5, None], (2, 3): {'when': os}, 'n': float('nan')})"
    )
    check = gate()
    assert check.detail == "x [REDACTED]"
    assert check.command == "run [REDACTED]"
    assert check.diagnostics["a"] == ["[REDACTED]", 1.5, None]
    json.dumps(check.diagnostics, allow_nan=False)
