"""The arguments of a process are shown without secrets, whatever characters an argument has."""

from __future__ import annotations

import pytest

from release_tasks.core.arguments import shown_arguments


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["run", "--password", "Zk9w8e7r Tr6t7y8u", "-v"], "run --password [REDACTED] -v"),
        (["run", "--password=Zk9w'8e7r \"Tr6t7y8u", "-v"], "run --password=[REDACTED] -v"),
        (["run", "--token", "Ab9'c d$E,f;g(h)", "-v"], "run --token [REDACTED] -v"),
        (["curl", "-u", "bob:Vv7w pQ8xx", "http://h/"], "curl -u bob:[REDACTED] http://h/"),
        (["mysql", "-pS3 cre'tAb c", "app"], "mysql -p[REDACTED] app"),
        (["env", "DB_PASSWORD=hun ter2 xx", "run"], "env DB_PASSWORD=[REDACTED] run"),
        (["run", "a 1 2", "", "-c", "import sys\nprint(1)"], "run a 1 2 -c import sys print(1)"),
        (["postgres: writer  process   "], "postgres: writer process"),
    ],
)
def test_a_secret_ends_with_its_argument(words: list[str], shown: str) -> None:
    """A space, a quote or a sign inside an argument is part of its secret."""
    assert shown_arguments(words) == shown


def test_a_known_secret_is_found_in_each_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when a shell would take it for two arguments."""
    monkeypatch.setenv("DB_PASSWORD", "correct 'horse' battery")
    assert shown_arguments(["run", "xcorrect 'horse' batteryx", "y"]) == "run x[REDACTED]x y"
