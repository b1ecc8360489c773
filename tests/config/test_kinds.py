"""Kinds are passed to the loader: a new kind is a class with its own keys."""

# ruff: noqa: RUF009  (option() declares a field)

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from attrs import NOTHING, frozen

from release_tasks.config.kinds import flatten, split
from release_tasks.config.load import load_settings
from release_tasks.config.reference import configuration_page
from release_tasks.config.schema import GateConfig, Kinds
from release_tasks.core.errors import ConfigError
from release_tasks.core.options import Duration, option
from release_tasks.tasks.project import KINDS
from release_tasks.tasks.project import load_settings as load_with_all_kinds


@frozen(kw_only=True)
class SocketOptions:
    """The keys of a socket gate."""

    socket: Path = option("a socket that must accept", NOTHING)
    greeting: str = option("what it must say first", NOTHING, elsewhere="goes with socket, and socket with greeting")
    pause: Duration = option("before it is asked", 1.0)


@frozen(kw_only=True)
class DnsOptions:
    """The keys of a DNS gate."""

    dns: str = option("a name that must resolve", NOTHING)
    pause: Duration = option("before it is asked", 1.0)
    tries: int = option("how often it is asked", 3, least=1)


@frozen
class GateKind:
    name: str
    options: type[Any]


@frozen(kw_only=True)
class UdpOptions:
    """The keys of a UDP gate."""

    udp: int = option("a port that must answer", NOTHING)


OWN = Kinds(gates=(GateKind("socket", SocketOptions), GateKind("dns", DnsOptions), GateKind("udp", UdpOptions)))


def load(gate: dict[str, Any]) -> GateConfig:
    settings = load_settings({"release": {"gates": {"gate": gate}}}, Path("/srv/app"), kinds=OWN)
    return settings.release.gates["gate"]


def test_a_new_kind_is_read_with_its_own_keys() -> None:
    """Paths are relative to the project, durations and numbers are parsed, defaults apply."""
    gate = load({"socket": "run/app.sock", "greeting": "hello", "pause": "2m", "needs": []})
    assert gate.kind is OWN.gates[0]
    assert gate.options == SocketOptions(socket=Path("/srv/app/run/app.sock"), greeting="hello", pause=Duration(120.0))
    assert load({"dns": "example.org"}).options == DnsOptions(dns="example.org")


@pytest.mark.parametrize(
    ("gate", "problem"),
    [
        ({}, "gate: expected exactly one of socket, dns, udp; got none"),
        (
            {"command": "true", "dns": "a"},
            "gate.command: unknown key (it is a key of release.app.version and of ",
        ),
        ({"dns": "a", "triess": 2}, "gate.triess: unknown key (did you mean 'tries'?)"),
        ({"dns": "a", "tries": 0}, "gate.tries: expected a whole number, 1 or more, got 0"),
        ({"udp": 7, "tries": 2}, "gate: tries: allowed only with dns"),
        ({"udp": 7, "pause": "2s"}, "gate: pause: allowed only with socket or dns"),
        ({"udp": 7, "greeting": "a"}, "gate: greeting: goes with socket, and socket with greeting"),
        ({"socket": "a"}, "gate: greeting: goes with socket, and socket with greeting"),
    ],
)
def test_keys_of_another_kind_are_mistakes(gate: dict[str, Any], problem: str) -> None:
    """Each message comes from the declarations of the kinds."""
    with pytest.raises(ConfigError) as error:
        load(gate)
    assert error.value.problems[0].startswith(f"invoke.yaml: release.gates.{problem}")
    assert len(error.value.problems) == 1


def test_the_page_shows_the_given_kinds_only() -> None:
    """The generated page lists no other kind."""
    page = configuration_page(OWN)
    assert "| `dns` | `tries` | number | `3` | how often it is asked |" in page
    assert "`command` | `cwd`" not in page


@pytest.mark.parametrize(
    "gate",
    [
        {"command": "true", "cwd": "sub", "env": {"A": "1"}},
        {"http": "http://localhost/", "expect": {"json": "a.b", "equals": 1}, "timeout": "3s"},
        {"python": "custom", "with": {"a": [1]}, "needs": []},
    ],
)
def test_flatten_and_split_round_trip(gate: dict[str, Any], tmp_path: Path) -> None:
    """The flat form of the file and the nested form of the program have the same content."""
    config = load_with_all_kinds({"release": {"gates": {"gate": gate}}}, tmp_path).release.gates["gate"]
    assert split(flatten(config, KINDS.gates), GateConfig, KINDS.gates) == config
