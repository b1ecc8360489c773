"""Without a signature only programs on this machine read or change messages, despite rebinding and proxies."""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
from collections.abc import Callable

import pytest

from release_tasks.gateway.network import is_loopback, names_loopback
from tests.support.gateway import RunningGateway

MESSAGE = json.dumps({"channel": "c", "to": "1", "text": "a private text"}).encode()
PRIVATE = [
    ("POST", "/messages", MESSAGE),
    ("GET", "/messages", b""),
    ("POST", "/callback", b'{"key": "k"}'),
    ("GET", "/reliability", b""),
]


def raw(gateway: RunningGateway, method: str, target: str, body: bytes, *lines: str, version: str = "1.1") -> bytes:
    """Send a request byte by byte as given, and return the whole response."""
    head = [f"{method} {target} HTTP/{version}", *lines, "Connection: close", f"Content-Length: {len(body)}", "", ""]
    with socket.create_connection(("127.0.0.1", int(gateway.url.rpartition(":")[2])), timeout=10) as client:
        client.sendall("\r\n".join(head).encode("latin-1") + body)
        response = b""
        while received := client.recv(65536):
            response += received
    return response


def status(response: bytes) -> int:
    return int(response.split()[1])


@pytest.fixture(scope="module")
def remote(start_shared: Callable[..., RunningGateway]) -> RunningGateway:
    """Return a gateway that other machines can reach, without a secret."""
    return start_shared(host="0.0.0.0", allow_remote=True)


@pytest.fixture(scope="module")
def with_secret(start_shared: Callable[..., RunningGateway]) -> RunningGateway:
    """Return a gateway that other machines can reach, with a secret."""
    return start_shared({"API_SECRET": "s3cret"}, host="0.0.0.0", allow_remote=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:1", "LOCALHOST:3100", "localhost.", "[::1]", "[::1]:80", "127.9.9.9", "[::ffff:127.0.0.1]", "localhost:"])  # fmt: skip # noqa: E501
def test_a_loopback_name_is_accepted_with_any_port(host: str) -> None:
    """Tunnels and published ports of containers change the port."""
    assert names_loopback(host)


@pytest.mark.parametrize("host", ["", "evil.example", "127.0.0.1.evil.example", "evil.example@127.0.0.1", "127.0.0.1/evil", "127.0.0.1#", "127.0.0.1, evil.example", "[::1", "::1", "[evil]", "0.0.0.0", "localhost.evil.example", "127.0.0.1:80:80", "127.0.0.1:x", "localhost:8\u0661"])  # fmt: skip # noqa: E501
def test_any_other_host_header_is_not_loopback(host: str) -> None:
    """A user name, a path, a list or a half address is no host name of this machine."""
    assert not names_loopback(host)


def test_a_mapped_address_is_the_address_that_it_maps() -> None:
    """A socket on :: reports IPv4 clients like this."""
    assert is_loopback("::ffff:127.0.0.1") and not is_loopback("::ffff:192.0.2.1")


@pytest.mark.parametrize(("method", "path", "body"), PRIVATE)
@pytest.mark.parametrize(
    ("lines", "refused"),
    [
        (["Host: evil.example", "Origin: http://evil.example"], 403),
        (["Host: evil.example:3100"], 403),
        (["Host: evil.example", "X-Signature: x"], 403),
        (["Host: 127.0.0.1", "Origin: http://evil.example"], 403),
        (["Host: 127.0.0.1", "Origin: null"], 403),
        (["Host: 127.0.0.1", "X-Forwarded-For: 127.0.0.1"], 503),
        (["Host: 127.0.0.1", "forwarded: for=192.0.2.1"], 503),
        (["Host: 127.0.0.1", "Via: 1.1 proxy"], 503),
    ],
)
def test_without_a_secret_only_programs_on_this_machine_are_accepted(
    remote: RunningGateway, method: str, path: str, body: bytes, lines: list[str], refused: int
) -> None:
    """A page of another host whose name resolves to loopback, and a client behind a proxy, are not on this machine."""
    response = raw(remote, method, path, body, *lines)
    assert status(response) == refused and b"a private text" not in response
    assert status(raw(remote, method, path, body, "Host: localhost:9")) in (200, 202)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_missing_or_repeated_host_is_refused(remote: RunningGateway, version: str) -> None:
    """HTTP/1.0 knows requests without a host; they do not name this machine."""
    assert status(raw(remote, "GET", "/messages", b"", version=version)) in (400, 403)
    assert status(raw(remote, "GET", "/messages", b"", "Host: 127.0.0.1", "Host: evil.example", version=version)) == 400


@pytest.mark.parametrize(
    "target",
    ["http://evil.example/messages", "//messages", "/messages/", "/webhooks/../messages", "/webhooks/%2e%2e/messages"],
)
def test_another_form_of_the_target_reaches_no_endpoint(shared: RunningGateway, target: str) -> None:
    """The host of a target in absolute form would replace the Host header; no response redirects either."""
    assert status(raw(shared, "GET", target, b"", "Host: 127.0.0.1")) == 404


@pytest.mark.parametrize(("method", "path", "body"), PRIVATE)
@pytest.mark.parametrize("host", ["127.0.0.1", "gateway.example"])
def test_with_a_secret_every_request_is_signed(
    with_secret: RunningGateway, method: str, path: str, body: bytes, host: str
) -> None:
    """From this machine too: a proxy on it may hide where a request comes from. A signature suffices for any host."""
    signature = hmac.new(b"s3cret", body, hashlib.sha256).hexdigest()
    assert status(raw(with_secret, method, path, body, f"Host: {host}")) == 401
    assert status(raw(with_secret, method, path, body, f"Host: {host}", "X-Signature: sha256=" + "0" * 64)) == 403
    for more in ([], ["X-Forwarded-For: 192.0.2.1"]):
        signed = raw(with_secret, method, path, body, f"Host: {host}", f"X-Signature: sha256={signature}", *more)
        assert status(signed) in (200, 202)


def test_the_page_and_health_need_no_signature(with_secret: RunningGateway) -> None:
    """They contain no texts."""
    for path in ("/", "/health", "/health/live", "/health/ready", "/release/last"):
        assert status(raw(with_secret, "GET", path, b"", "Host: gateway.example")) == 200


def test_the_origin_is_compared_without_case(shared: RunningGateway) -> None:
    """Browsers write the origin in lower case; the host header is as typed by other programs."""
    lines = ["Host: LocalHost:3100", "Origin: http://localhost:3100"]
    assert status(raw(shared, "POST", "/messages", MESSAGE, *lines)) == 202
    assert status(raw(shared, "POST", "/messages", MESSAGE, "Host: localhost", "Origin: localhost")) == 403
