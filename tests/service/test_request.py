"""Requests with headers, methods, bodies, own certificates and Unix sockets, to real servers."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from release_tasks.config.endpoint import ExpectConfig, RequestConfig, parse_statuses
from release_tasks.config.schema import HealthConfig
from release_tasks.core.errors import UsageError
from release_tasks.core.options import Duration
from release_tasks.service.http import fetch
from release_tasks.service.request import curl, request_for, require_request
from release_tasks.service.response import HttpResponse, ProbeError
from release_tasks.service.wait import poll_health
from tests.support.endpoint import Authority, Endpoint, unix_url

Make = Callable[..., Endpoint]
TOKEN = "a-token-of-the-service"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def make() -> Iterator[Make]:
    """Return a function that starts an endpoint."""
    endpoints: list[Endpoint] = []

    def start(**options: Any) -> Endpoint:
        endpoints.append(Endpoint(**options))
        return endpoints[-1]

    yield start
    for endpoint in endpoints:
        endpoint.close()


def ask(url: str, expect: ExpectConfig | None = None, **keys: Any) -> HttpResponse:
    return fetch(request_for(url, RequestConfig(**keys), 10.0, expect=expect))


def error_of(url: str, **keys: Any) -> tuple[str, str]:
    """Return the kind and the message of the error of a request, without the URL."""
    with pytest.raises(ProbeError) as caught:
        ask(url, **keys)
    return caught.value.kind, caught.value.message.replace(url, "URL")


def test_a_header_takes_its_secret_from_the_environment(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = make()
    monkeypatch.setenv("PART", "${TOKEN}")  # the content of a variable is not expanded again
    monkeypatch.setenv("TOKEN", TOKEN)
    ask(endpoint.url, headers={"Authorization": "Bearer ${TOKEN}", "X-Part": "${PART}-$1", "Host": "app.example"})
    headers = endpoint.last.headers
    assert (headers["authorization"], headers["x-part"]) == (f"Bearer {TOKEN}", "${TOKEN}-$1")
    assert headers["host"] == "app.example"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "which is not set"),
        ("", "which is not set"),
        ("  ", "which is not set"),
        ("a\r\nX-Admin: 1", "which has a line break or a character outside ASCII"),
        (f"{TOKEN}\n", "which has a line break or a character outside ASCII"),
        ("schl\u00fcssel", "which has a line break or a character outside ASCII"),
    ],
)
def test_a_request_without_its_variable_is_not_sent(
    make: Make, monkeypatch: pytest.MonkeyPatch, value: str | None, reason: str
) -> None:
    """An empty header is never sent, and a value cannot add a header."""
    endpoint = make()
    keys: dict[str, Any] = {"headers": {"Authorization": "Bearer ${TOKEN}"}}
    monkeypatch.delenv("TOKEN", raising=False)
    if value is not None:
        monkeypatch.setenv("TOKEN", value)
    message = f"the header Authorization needs the variable TOKEN, {reason}."
    assert error_of(endpoint.url, **keys) == ("invalid", message)
    with pytest.raises(UsageError, match=f"^release.health: {message}$"):
        require_request("release.health", RequestConfig(**keys))
    report = poll_health(HealthConfig(url=endpoint.url, deadline=Duration(30.0), **keys), passes=1)
    assert (report.passed, report.status, report.attempts) == (False, "unknown", 1)
    assert endpoint.received == []


def test_secrets_of_a_request_are_in_no_report(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service may repeat the header in its answer, and a URL may have a password."""
    endpoint = make()
    monkeypatch.setenv("HEALTH_AUTH", TOKEN)
    endpoint.body = {"status": "fail", "reason": f"who is {TOKEN}?"}
    url = endpoint.url.replace("://", "://someone:pa%20ss@")
    report = poll_health(HealthConfig(url=url, headers={"Authorization": "${HEALTH_AUTH}"}), passes=1, deadline=0.0)
    assert report.detail == "status fail (who is [REDACTED]?)"
    assert report.url == endpoint.url.replace("://", "://someone:[REDACTED]@")
    monkeypatch.delenv("HEALTH_AUTH")
    report = poll_health(HealthConfig(url=url), passes=1, deadline=0.0)
    assert endpoint.last.headers["authorization"].startswith("Basic ")
    assert TOKEN not in repr(request_for(url, RequestConfig(headers={"X-A": "${A}"}), 1.0, environ={"A": TOKEN}))


def test_headers_do_not_follow_a_redirect_to_another_server(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    first, other = make(), make()
    monkeypatch.setenv("TOKEN", TOKEN)
    keys: dict[str, Any] = {"headers": {"Authorization": "Bearer ${TOKEN}"}}
    first.redirects = {"/health": "/ready", "/ready": other.url}
    kind, _ = error_of(first.url, **keys)
    assert (kind, other.received) == ("redirect", [])
    assert first.last.headers["authorization"] == f"Bearer {TOKEN}"
    first.redirects = {"/health": "/ready"}
    assert ask(first.url, **keys).status == 200


def test_an_expected_redirect_is_not_followed(make: Make) -> None:
    """A login page behind a redirect can be the healthy answer."""
    endpoint = make()
    endpoint.redirects = {"/health": "https://login.example/"}
    assert ask(endpoint.url, ExpectConfig(status=parse_statuses("3xx"))).status == 302


@pytest.mark.parametrize("method", ["GET", "head", "POST"])
def test_method_and_body_are_sent(make: Make, method: str) -> None:
    endpoint = make()
    body = None if method == "head" else '{"query": "{ health }"}'
    got = ask(endpoint.url, method=method, body=body, headers={"Content-Type": "application/json"})
    assert (endpoint.last.method, endpoint.last.body) == (method.upper(), (body or "").encode())
    assert bool(got.body) == (method != "head")


def test_an_own_certification_authority_is_trusted(make: Make, authority: Authority) -> None:
    endpoint = make(certificate=authority.issue("IP:127.0.0.1"))
    assert ask(endpoint.url, ca_file=authority.file).status == 200
    unknown = "URL: the TLS connection failed (unable to get local issuer certificate). "
    advice = "If its certificate is from a certification authority of your own, set ca_file."
    assert error_of(endpoint.url) == ("tls", unknown + advice)


@pytest.mark.parametrize(
    ("name", "days", "reason"),
    [
        ("IP:127.0.0.1", -1, "certificate has expired"),
        ("DNS:other.example", 1, "IP address mismatch, certificate is not valid for '127.0.0.1'"),
    ],
)
def test_a_wrong_certificate_names_its_reason(
    make: Make, authority: Authority, name: str, days: int, reason: str
) -> None:
    endpoint = make(certificate=authority.issue(name, days))
    assert error_of(endpoint.url, ca_file=authority.file) == ("tls", f"URL: the TLS connection failed ({reason}).")


def test_another_authority_is_not_trusted(make: Make, authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path)
    endpoint = make(certificate=authority.issue("IP:127.0.0.1"))
    _, message = error_of(endpoint.url, ca_file=other.file)
    assert message.endswith(f". {other.file} does not contain the certification authority of the server.")


def test_a_server_without_tls_is_named(make: Make) -> None:
    reason = "the server does not answer with TLS. Write http:// if it has none."
    assert error_of(make().url.replace("http:", "https:")) == ("tls", f"URL: the TLS connection failed: {reason}")


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (".", "Is a directory"),
        ("missing.pem", "No such file or directory"),
        ("empty.pem", "it has no certificate in PEM form"),
        ("text.pem", "it has no certificate in PEM form"),
    ],
)
def test_a_wrong_file_of_certificates_is_named(make: Make, tmp_path: Path, file: str, reason: str) -> None:
    """It is found before the request, also for a rollback."""
    (tmp_path / "empty.pem").write_text("")
    (tmp_path / "text.pem").write_text("certificate")
    endpoint, path = make(), tmp_path / file
    assert error_of(endpoint.url, ca_file=path) == ("invalid", f"ca_file {path} cannot be used: {reason}.")
    assert endpoint.received == []


def test_a_unix_socket_is_asked(make: Make, tmp_path: Path) -> None:
    """Its path may have capitals and spaces; its server sees an ordinary request."""
    folder = tmp_path / "Run Time"
    folder.mkdir()
    endpoint = make(unix_socket=folder / "App.sock")
    endpoint.redirects = {"/health": "/ready?full=1"}
    assert ask(endpoint.url).body == b'{"status": "ok"}'
    assert (endpoint.last.path, endpoint.last.headers["host"]) == ("/ready?full=1", "localhost")
    endpoint.redirects = {"/health": "http://other.example/"}
    assert error_of(endpoint.url)[0] == "redirect"


def test_a_unix_socket_without_a_server_is_starting(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    url = unix_url(path)
    assert error_of(url) == ("refused", f"URL refused the connection: the socket {path} does not exist.")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    assert error_of(url) == ("refused", f"URL refused the connection: no process listens on the socket {path}.")
    path.unlink()
    path.write_text("")
    assert error_of(url) == ("other", f"URL cannot be asked: {path} is not a socket.")


def test_a_silent_unix_socket_ends_at_the_timeout(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "app.sock"))
        silent.listen()
        request = request_for(unix_url(tmp_path / "app.sock"), RequestConfig(), 0.2)
        with pytest.raises(ProbeError) as caught:
            fetch(request)
        assert caught.value.kind == "timeout"


def test_ipv6_and_capitals_in_the_scheme_are_valid(make: Make) -> None:
    assert ask(make(host="::1").url).status == 200
    assert ask(make().url.replace("http", "HTTP")).status == 200


@pytest.mark.skipif(shutil.which("curl") is None, reason="the machine has no curl")
def test_the_next_command_repeats_the_request(make: Make, authority: Authority, tmp_path: Path) -> None:
    """A shell with the variable gets the answer; the command has no secret."""
    secure = make(certificate=authority.issue("IP:127.0.0.1"))
    local = make(unix_socket=tmp_path / "app.sock")
    headers = {"Authorization": "Bearer ${TOKEN}", "X-Odd": 'a "b" $5 `c` \\ ${TOKEN}', "X-Plain": "it's $HOME"}
    keys: dict[str, Any] = {"headers": headers, "method": "POST", "body": "it's"}
    commands = [
        (secure, RequestConfig(ca_file=authority.file, **keys)),
        (local, RequestConfig(**keys)),
        (local, RequestConfig(method="HEAD", headers=headers)),
        (local, RequestConfig(headers=headers, body="it's")),
    ]
    for endpoint, config in commands:
        command = curl(endpoint.url, config, 5.0)
        assert TOKEN not in command
        done = subprocess.run(command, shell=True, env={**os.environ, "TOKEN": TOKEN}, capture_output=True, text=True)
        assert (done.returncode, done.stdout[:12]) == (0, "HTTP/1.0 200"), (command, done)
        sent = endpoint.last
        assert (sent.method, sent.body.decode()) == (config.method, config.body or "")
        assert sent.headers["authorization"] == f"Bearer {TOKEN}"
        assert sent.headers["x-odd"] == f'a "b" $5 `c` \\ {TOKEN}'
        assert sent.headers["x-plain"] == "it's $HOME"
