"""The keys of a request to an endpoint and of the expected answer: the same for health, reliability and http gates."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Final, NewType

from attrs import Attribute, Factory, fields, frozen

from release_tasks.core.options import option
from release_tasks.core.redact import is_secret_name
from release_tasks.core.units import non_json_values
from release_tasks.core.url import check_url

__all__ = [
    "UNSET",
    "ExpectConfig",
    "KeyPath",
    "Question",
    "RequestConfig",
    "Statuses",
    "expand",
    "parse_key_path",
    "parse_statuses",
    "require_readable",
    "valid_url",
    "variables_in",
]

KeyPath = NewType("KeyPath", tuple[str, ...])
Statuses = NewType("Statuses", tuple[tuple[int, int], ...])

_METHODS = ("GET", "HEAD", "POST")
_OWN_HEADERS = ("accept-encoding", "connection", "content-length", "transfer-encoding")
_SECRET_HEADERS = ("authorization", "proxy-authorization", "cookie")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110, section 5.6.2
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_STATUS = re.compile(r"([1-5])xx|([1-5]\d\d)(?:\s*-\s*([1-5]\d\d))?", re.IGNORECASE)


class _Unset(Enum):
    UNSET = "unset"


UNSET: Final = _Unset.UNSET  # `equals: null` is an expectation


def parse_statuses(value: Any) -> Statuses:
    """Return ranges of HTTP statuses for 200, "2xx", "200-299" or a list of them; raises ValueError."""
    if isinstance(value, tuple):
        return Statuses(value)
    ranges = [_status_range(each) for each in (value if isinstance(value, list) else [value])]
    if not ranges:
        raise ValueError("expected at least one HTTP status, got an empty list")
    return Statuses(tuple(ranges))


def _status_range(value: Any) -> tuple[int, int]:
    match = _STATUS.fullmatch(str(value).strip()) if isinstance(value, str | int) else None
    if match is None:
        raise ValueError(
            f"expected an HTTP status such as 200, a range such as 200-299 or 2xx, or a list; got {value!r}"
        )
    hundred, first, last = match.groups()
    low, high = (int(hundred) * 100, int(hundred) * 100 + 99) if hundred else (int(first), int(last or first))
    if low > high:
        raise ValueError(f"expected a range that begins with its lower status, got {value!r}")
    return low, high


def parse_key_path(value: Any) -> KeyPath:
    """Return the keys to a JSON field: a text with dots, or a list of keys that may contain dots; raises ValueError."""
    if isinstance(value, tuple):
        return KeyPath(value)
    keys = value.split(".") if isinstance(value, str) else value if isinstance(value, list) else [value]
    if not all(isinstance(key, str | int) and not isinstance(key, bool) for key in keys) or value == "":
        raise ValueError(f"expected a key such as data.status, or a list of keys; got {value!r}")
    return KeyPath(tuple(str(key) for key in keys))


def _statuses(value: Any) -> Statuses | None:
    return None if value is None else parse_statuses(value)


def _key_path(value: Any) -> KeyPath | None:
    return None if value is None else parse_key_path(value)


def valid_url(_: Any, attribute: Attribute[Any], value: str | None) -> None:
    """Raise ValueError unless ``value`` is None or a URL to which a request can be sent."""
    if value is None:
        return
    try:
        check_url(value)
    except ValueError as error:
        raise ValueError(f"{attribute.name}: {error}") from None


def _known_method(_: Any, attribute: Attribute[Any], value: str) -> None:
    if value not in _METHODS:
        raise ValueError(f"{attribute.name}: expected one of {', '.join(_METHODS)}; got {value!r}")


def _valid_headers(_: Any, attribute: Attribute[Any], value: Mapping[str, str]) -> None:
    seen: set[str] = set()
    for name, text in value.items():
        problem = _problem_of_header(name, text) or ("it is given twice" if name.lower() in seen else "")
        if problem:
            raise ValueError(f"{attribute.name}.{name}: {problem}")
        seen.add(name.lower())


def _problem_of_header(name: str, text: str) -> str:
    if not _HEADER_NAME.fullmatch(name):
        return "expected the name of a header: letters, digits and -"
    if name.lower() in _OWN_HEADERS:
        return "release-tasks sets this header itself"
    if not text.strip() or not text.isascii() or not text.isprintable():
        return "expected printable ASCII text in one line"  # a line break would begin another header
    if "${" in _VARIABLE.sub("", text):
        return "expected ${NAME} with the name of an environment variable"
    if (name.lower() in _SECRET_HEADERS or is_secret_name(name)) and not _VARIABLE.search(text):
        return "a secret must not be in the file: write ${NAME} and set it in the environment variable NAME"
    return ""


def variables_in(headers: Mapping[str, str]) -> Iterator[str]:
    """Yield the names of the environment variables that the values of ``headers`` use."""
    for text in headers.values():
        yield from _VARIABLE.findall(text)


def expand(text: str, value_of: Callable[[str], str]) -> str:
    """Return ``text`` with the value of each variable in place of ``${NAME}``; a value is not expanded again."""
    return _VARIABLE.sub(lambda found: value_of(found[1]), text)


@frozen(kw_only=True)
class ExpectConfig:
    """The expected answer of a URL; every configured expectation must be met."""

    status: Statuses | None = option(
        "the expected HTTP status: one, a range such as `200-299` or `2xx`, or a list of them; default: 200 to 299. A "
        "redirect is not followed when a status from 300 to 399 is expected",
        converter=_statuses,
    )
    text: str | None = option("text that the body must contain")
    json: KeyPath | None = option(
        "a field of the JSON body: keys separated by dots, or a list of keys if a key contains a dot; default with "
        "`equals`: the whole body",
        converter=_key_path,
    )
    equals: Any = option(
        "the expected value of that field, `null` included, or a list of allowed values; without it, the field must "
        "exist",
        UNSET,
    )

    @classmethod
    def check_written(cls, section: Mapping[str, Any]) -> None:
        """Raise ValueError for a section in which nothing is expected; the loader calls this.

        An instance cannot tell a key without a value from a missing key, and would accept every answer.
        """
        keys = [each.name for each in fields(cls)]
        if not any(key in section for key in keys):
            raise ValueError(f"expected one or more of {', '.join(keys)}; for every answer with 2xx write status: 2xx")
        for key in keys:
            if key != "equals" and key in section and section[key] is None:
                raise ValueError(f"{key}: expected a value, got nothing: the key has no value")

    def __attrs_post_init__(self) -> None:
        if self.text == "":
            raise ValueError("text: expected a text, got an empty one, which every body contains")
        if self.equals is not UNSET:
            found = next(non_json_values(self.equals), None)
            if found is not None:
                raise ValueError(
                    f"equals: expected a JSON value, got the {type(found).__name__} {found} (put it in quotes)"
                )

    @property
    def reads_body(self) -> bool:
        """Whether an expectation is about the body."""
        return self.text is not None or self.json is not None or self.equals is not UNSET


def require_readable(method: str, expect: ExpectConfig | None, *, is_body_read: bool = False) -> None:
    """Raise ValueError for HEAD where the answer's body is read, as without ``expect`` when ``is_body_read``."""
    if method == "HEAD" and (expect.reads_body if expect is not None else is_body_read):
        raise ValueError("method: the answer to HEAD has no body; write GET, or expect a status only")


@frozen(kw_only=True)
class RequestConfig:
    """The keys of a request besides its URL."""

    method: str = option(
        "the HTTP method: `GET`, `HEAD` or `POST`", "GET", converter=str.upper, validator=_known_method
    )
    headers: dict[str, str] = option(
        "headers of the request; `${NAME}` in a value is the content of the environment variable `NAME`, so that no "
        "secret is in the file. The request is not sent while the variable is not set",
        Factory(dict),
        validator=_valid_headers,
    )
    body: str | None = option("the body of the request; set its `Content-Type` in `headers`")
    ca_file: Path | None = option(
        "a PEM file with the certificates of the certification authorities to trust in place of the system's"
    )


@frozen(kw_only=True)
class Question:
    """A request about the health of the service, and the expected answer; without ``expect`` the known forms are read.

    ``gate`` is the http gate with that URL, or None for the health endpoint. ``timeout``, in seconds, is the gate's own
    limit for one request, or None for that of the health endpoint.
    """

    url: str
    request: RequestConfig
    expect: ExpectConfig | None
    gate: str | None = None
    timeout: float | None = None
