"""One HTTP request, made from the keys of an endpoint and the environment variables that they name."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from attrs import field, frozen

from release_tasks.config.endpoint import ExpectConfig, RequestConfig, expand, variables_in
from release_tasks.config.schema import ReleaseConfig
from release_tasks.core.errors import UsageError
from release_tasks.core.redact import Redactor
from release_tasks.core.regular import read_regular
from release_tasks.core.typed import quoted
from release_tasks.core.url import shown_url, socket_of
from release_tasks.service.response import ProbeError

__all__ = ["Request", "curl", "redactor_of", "request_for", "require_request", "require_requests", "shown_endpoint"]

_MAX_BYTES = 1 << 20


@frozen(kw_only=True)
class Request:
    """One HTTP request. ``timeout``, in seconds, limits the whole exchange; ``max_bytes`` limits the answer's body.

    ``shown`` stands for the URL in messages.
    """

    url: str = field(repr=False)
    timeout: float
    method: str = "GET"
    headers: Mapping[str, str] = field(factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)
    ca_file: Path | None = None
    follows_redirects: bool = True
    max_bytes: int = _MAX_BYTES
    shown: str = field()

    @shown.default
    def _shown(self) -> str:
        return shown_url(self.url)


def redactor_of(config: RequestConfig, environ: Mapping[str, str] = os.environ) -> Redactor:
    """Return a redactor of the environment's secrets and of the values that the headers of ``config`` contain."""
    return Redactor.from_environment(environ, variables_in(config.headers))


def shown_endpoint(url: str, config: RequestConfig, environ: Mapping[str, str] = os.environ) -> str:
    """Return ``url`` for messages and records, without its password and other secrets."""
    return redactor_of(config, environ).redact_text(shown_url(url))


def require_requests(release: ReleaseConfig, *, health_only: bool = False) -> None:
    """Raise UsageError when a request to health or reliability could not be sent from this environment."""
    for question in release.questions:
        section = "health" if question.gate is None else f"gates.{question.gate}"
        require_request(f"release.{section}", question.request)
    if release.reliability.url is not None and not health_only:
        require_request("release.reliability", release.reliability)


def require_request(name: str, config: RequestConfig) -> None:
    """Raise UsageError, which begins with ``name``, when a request with these keys could not be sent."""
    try:
        request_for("", config, 0.0)
    except ProbeError as error:
        raise UsageError(f"{name}: {error.message}") from None


def request_for(
    url: str,
    config: RequestConfig,
    timeout: float,
    *,
    expect: ExpectConfig | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Request:
    """Return the request to ``url`` with the keys of ``config``.

    Raises ProbeError of the kind ``invalid`` when it cannot be sent: a header needs a variable that is not set, or the
    file of certificates has none.
    """
    if config.ca_file is not None:
        _require_certificates(config.ca_file)
    statuses = expect.status if expect is not None and expect.status is not None else ()
    return Request(
        url=url,
        timeout=timeout,
        method=config.method,
        headers={name: _expanded(name, text, environ) for name, text in config.headers.items()},
        body=config.body.encode() if config.body is not None else None,
        ca_file=config.ca_file,
        follows_redirects=not any(low < 400 and high >= 300 for low, high in statuses),
        shown=shown_endpoint(url, config, environ),
    )


def _require_certificates(file: Path) -> None:
    import ssl

    try:
        read_regular(file, 1)  # OpenSSL would wait for the writer of a pipe
        ssl.create_default_context(cafile=file)
    except OSError as error:  # SSLError is one, for a file without a certificate
        reason = "it has no certificate in PEM form" if isinstance(error, ssl.SSLError) else error.strerror
        raise ProbeError("invalid", f"ca_file {file} cannot be used: {reason}.") from None


def _expanded(name: str, text: str, environ: Mapping[str, str]) -> str:
    def value_of(variable: str) -> str:
        value = environ.get(variable, "")
        problem = ""
        if not value.strip():
            problem = "is not set"
        elif not value.isascii() or not value.isprintable():
            problem = "has a line break or a character outside ASCII"
        if problem:
            raise ProbeError("invalid", f"the header {name} needs the variable {variable}, which {problem}.")
        return value

    return expand(text, value_of)


def curl(url: str, config: RequestConfig, timeout: float) -> str:
    """Return the command that sends the request manually; the shell puts the values of its variables in."""
    words = ["curl -sS -i --max-time", f"{timeout:g}"]
    words += {"HEAD": ["--head"], "POST": ["-X POST"] if config.body is None else []}.get(config.method, [])
    words += [f"-H {_in_quotes(f'{name}: {text}')}" for name, text in config.headers.items()]
    if config.body is not None:
        words.append(f"--data-raw {quoted(config.body)}" + ("" if config.method == "POST" else f" -X {config.method}"))
    words += ["--cacert", quoted(str(config.ca_file))] if config.ca_file is not None else []
    socket = socket_of(url)
    if socket is not None:
        words += ["--unix-socket", quoted(socket)]
        url = "http://localhost" + re.sub(r"^[^:]+://[^/?]*", "", url)
    return " ".join([*words, quoted(shown_url(url))])


def _in_quotes(text: str) -> str:
    """Return ``text`` as a word of the shell in which ``${NAME}`` alone has a meaning."""
    if not list(variables_in({"": text})):
        return quoted(text)
    escaped = re.sub(r'["\\`]|\$(?!\{)', lambda found: "\\" + found[0], text)
    return f'"{escaped}"'
