"""A URL in a message has no password, also when it is no URL of a service."""

from __future__ import annotations

import pytest

from release_tasks.core.url import check_url, shown_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://app:PW@h/health", "http://app:[REDACTED]@h/health"),
        ("http+unix://app:PW@x/health", "http+unix://app:[REDACTED]@x/health"),
        ("app:PW@127.0.0.1/health", "[REDACTED]@127.0.0.1/health"),
        ("htp:/app:PW@127.0.0.1/health", "htp:/[REDACTED]@127.0.0.1/health"),
        ("htps://app:PW@h", "htps://[REDACTED]@h"),
        ("http:app:PW@h", "[REDACTED]@h"),
        ("http://app:12/PW@h/health", "http://app:12/PW@h/health"),  # the host app, with the path /PW@h/health
        ("http://app:P/PW@h/health", "http://[REDACTED]@h/health"),
        ("http://app:P#PW@h/", "http://[REDACTED]@h/"),
        ("app: PW @h", "[REDACTED]@h"),
        ("https://h:8080/health?mail=a@b", "https://h:8080/health?mail=a@b"),
        ("http+unix://%2Frun%2Fapp.sock/health", "http+unix://%2Frun%2Fapp.sock/health"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    """A scheme that is missing or mistyped, and a password with a character of a path, make it no URL of a service."""
    assert shown_url(url) == shown


@pytest.mark.parametrize("url", ["u:PW@h/x", "htp:/u:PW@h", "http+unix://u:PW@x/h", "http://u:P/PW@h", "h u:PW@h"])
def test_an_error_about_a_url_has_no_password(url: str) -> None:
    """Whatever is wrong with the URL."""
    with pytest.raises(ValueError, match="expected") as error:
        check_url(url)
    assert "PW" not in str(error.value)
