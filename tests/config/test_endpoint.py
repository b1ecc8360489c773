"""The keys of requests: their mistakes in one line each, in health, reliability and gates alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from release_tasks.core.errors import ConfigError, UsageError
from release_tasks.stages.preflight.gates.http import HttpOptions
from release_tasks.tasks.flags import with_flags
from release_tasks.tasks.project import load_settings

URL = "http://127.0.0.1:1/health"


def problems(release: dict[str, Any]) -> list[str]:
    """Return the mistakes that the loader reports for the section ``release``."""
    try:
        load_settings({"release": release}, Path("/project"))
    except ConfigError as error:
        return [problem.removeprefix("invoke.yaml: ") for problem in error.problems]
    return []


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"method": "PUT"}, "method: expected one of GET, HEAD, POST; got 'PUT'"),
        ({"method": "HEAD"}, "method: the answer to HEAD has no body; write GET, or expect a status only"),
        ({"headers": ["a"]}, "headers: expected a mapping, got ['a']"),
        ({"headers": {"X A": "b"}}, "headers.X A: expected the name of a header: letters, digits and -"),
        ({"headers": {"X-A": "b\nX-B: c"}}, "headers.X-A: expected printable ASCII text in one line"),
        ({"headers": {"X-A": ""}}, "headers.X-A: expected printable ASCII text in one line"),
        ({"headers": {"X-A": "${A:-b}"}}, "headers.X-A: expected ${NAME} with the name of an environment variable"),
        ({"headers": {"x-a": "b", "X-A": "c"}}, "headers.X-A: it is given twice"),
        ({"headers": {"Content-Length": "3"}}, "headers.Content-Length: release-tasks sets this header itself"),
        ({"headers": {"Authorization": "Bearer abc"}}, "headers.Authorization: a secret must not be in the file"),
        ({"headers": {"X-Vault-Token": "s.abc"}}, "headers.X-Vault-Token: a secret must not be in the file"),
        ({"body": {"a": 1}}, "body: expected text, got {'a': 1}"),
        ({"ca_file": ""}, "ca_file: expected a path, got ''"),
    ],
)
def test_a_mistake_in_a_request_is_one_line(keys: dict[str, Any], problem: str) -> None:
    """It is the same sentence in each section."""
    sections = {
        "release.health": {"health": {"url": URL, **keys}},
        "release.reliability": {"reliability": {"url": URL, **keys}},
        "release.gates.api": {"gates": {"api": {"http": URL, **keys}}},
    }
    for name, release in sections.items():
        if name == "release.gates.api" and keys == {"method": "HEAD"}:
            continue  # a gate without `expect` reads no body
        (found,) = problems(release)
        assert found.replace(f"{name}: ", f"{name}.").startswith(f"{name}.{problem}"), found


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("localhost:3100", "expected an http:// or https:// URL, got 'localhost:3100'"),
        ("ftp://h/", "expected an http:// or https:// URL, got 'ftp://h/'"),
        ("http://", "expected an http:// or https:// URL, got 'http://'"),
        ("http://:80/", "expected an http:// or https:// URL with a host, got 'http://:80/'"),
        ("http://h:0/", "expected an http:// or https:// URL with a port from 1 to 65535, got 'http://h:0/'"),
        ("http://h:99999/", "expected an http:// or https:// URL with a port from 1 to 65535, got 'http://h:99999/'"),
        ("http://[::1/", "expected an http:// or https:// URL, got 'http://[::1/'"),
        ("http://h/a b", "expected a URL without spaces, got 'http://h/a b'"),
        (" http://h/", "expected a URL without spaces, got ' http://h/'"),
        ("http://h/#/health", "expected a URL without #, got 'http://h/#/health': the part after # is not sent"),
        (
            "http://u:secret@h:0/",
            "expected an http:// or https:// URL with a port from 1 to 65535, got 'http://u:[REDACTED]@h:0/'",
        ),
        ("http+unix://app.sock/health", "expected the absolute path of a socket with %2F for each slash, as in http+"),
        ("http+unix:///run/app.sock", "expected the absolute path of a socket with %2F for each slash, as in http+"),
        ("unix:///run/app.sock:/health", "expected the absolute path of a socket with %2F for each slash, as in http+"),
        (f"http+unix://%2F{'a' * 107}/", "expected the path of a socket in at most 107 bytes, got '/aaa"),
    ],
)
def test_a_mistake_in_a_url_is_one_line(url: str, problem: str) -> None:
    """The loader and the flag say the same, without a password."""
    (found,) = problems({"health": {"url": url}})
    assert found.startswith(f"release.health: url: {problem}"), found
    (found,) = problems({"gates": {"api": {"http": url}}})
    assert problem.replace("expected ", "expected 'health' or ", 1) in found
    with pytest.raises(UsageError) as caught:
        with_flags(load_settings({}, Path("/project")), health_url=url)
    assert caught.value.message.startswith(f"--health-url: {problem}")


@pytest.mark.parametrize(
    "url",
    [
        "HTTPS://H/", "http://[::1]:3100/health?a=b", "http://b\u00fccher.example/", "http://user:pass@h/",
        "http+unix://%2Frun%2Fapp.sock/health", "http://h", "http://h/%20x",
    ],
)  # fmt: skip
def test_urls_that_a_request_can_be_sent_to_are_valid(url: str) -> None:
    assert problems({"health": {"url": url}, "gates": {"api": {"http": url}}}) == []


@pytest.mark.parametrize("key", ["expect", "headers", "method", "body", "ca_file"])
def test_the_gate_of_the_health_endpoint_has_no_request_of_its_own(key: str) -> None:
    value: dict[str, Any] = {
        "expect": {"status": 200}, "headers": {"X-A": "b"}, "method": "POST", "body": "{}", "ca_file": "ca.pem",
    }  # fmt: skip
    (found,) = problems({"gates": {"api": {"http": "health", key: value[key]}}})
    assert found == f"release.gates.api: {key}: the gate asks the health endpoint; set release.health.{key}"


def test_null_is_an_expected_value() -> None:
    """YAML's null is not the same as no key."""
    gates = {
        "null": {"http": URL, "expect": {"json": "a", "equals": None}},
        "any": {"http": URL, "expect": {"json": "a"}},
    }
    settings = load_settings({"release": {"gates": gates}}, Path("/project"))
    options = [settings.release.gates[name].options for name in gates]
    assert all(isinstance(each, HttpOptions) for each in options)
    assert options[0].expect.equals is None
    assert options[1].expect.equals is not None


def test_variables_of_headers_hold_secrets() -> None:
    """Their values are redacted wherever the settings are at hand."""
    release = {
        "health": {"url": URL, "headers": {"X-A": "${ONE} ${TWO}"}},
        "reliability": {"headers": {"X-B": "${THREE}"}},
        "gates": {"api": {"http": URL, "headers": {"X-C": "${FOUR}"}}, "build": {"command": "true"}},
    }
    settings = load_settings({"release": release}, Path("/project"))
    assert settings.release.secret_variables == ["ONE", "TWO", "THREE", "FOUR"]


@pytest.mark.parametrize(
    ("typed", "is_refused"),
    [
        (URL.replace("/health", "/ready"), False),
        (URL.replace(":1/", ":2/"), True),
        ("http://localhost:1/health", True),
        (URL.replace("http:", "https:"), True),
    ],
)
def test_a_typed_url_of_another_server_gets_no_secret(typed: str, is_refused: bool) -> None:
    """A secret goes where the configuration sends it, and the variable that overrides the file is named."""
    secret = {"url": URL, "headers": {"Authorization": "Bearer ${TOKEN}"}}
    configured = {"health": secret, "reliability": {"url": URL, "bearer_token_env": "TOKEN"}}
    settings = load_settings({"release": configured}, Path("/project"))
    for flags in ({"health_url": typed}, {"reliability_url": typed}):
        if not is_refused:
            with_flags(settings, **flags)  # type: ignore[arg-type]
            continue
        with pytest.raises(UsageError, match=r"sent only to the server of http://127.* set INVOKE_RELEASE_"):
            with_flags(settings, **flags)  # type: ignore[arg-type]
    for other in ({"url": URL, "headers": {"X-A": "b"}}, {**secret, "url": None}):
        with_flags(load_settings({"release": {"health": other}}, Path("/project")), health_url=typed)


@pytest.mark.parametrize(
    ("expect", "problem"),
    [
        ({}, "expected one or more of status, text, json, equals; for every answer with 2xx write status: 2xx"),
        ({"status": None}, "status: expected a value, got nothing: the key has no value"),
        ({"json": None}, "json: expected a value, got nothing: the key has no value"),
        ({"json": "a", "text": None}, "text: expected a value, got nothing: the key has no value"),
        ({"text": ""}, "text: expected a text, got an empty one, which every body contains"),
    ],
)
def test_an_expectation_that_every_answer_meets_is_refused(expect: dict[str, Any], problem: str) -> None:
    """A forgotten value must not turn a check off."""
    assert problems({"health": {"expect": expect}}) == [f"release.health.expect: {problem}"]
    assert problems({"gates": {"api": {"http": URL, "expect": expect}}}) == [f"release.gates.api.expect: {problem}"]
