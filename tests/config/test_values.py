"""Durations, numbers and booleans in every accepted form."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from release_tasks.core.units import (
    parse_boolean,
    parse_duration,
    parse_integer,
    parse_share,
    parse_size,
    parse_switch,
    show_duration,
    show_share,
)

ANYTHING = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers(), max_size=2)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("10m", 600), ("1h", 3600), ("500ms", 0.5), ("2d", 172800), ("1.5s", 1.5), ("7", 7), (7, 7),
     (0.25, 0.25), (" 5 s ", 5), ("0", 0)],
)  # fmt: skip
def test_accepted_durations(text: Any, seconds: float) -> None:
    """Every unit, spaces and plain seconds."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["soon", "", "s", "-1s", "1 0s", "10S", "1e3", "10 m 5 s", "inf", "nan", None, True, [], {}, -1, float("nan"),
     float("inf"), 1e10, "9" * 400],
)  # fmt: skip
def test_refused_durations(text: Any) -> None:
    """The message shows two accepted forms."""
    with pytest.raises(ValueError, match="expected a duration such as 30s or 10m, got"):
        parse_duration(text)


@given(st.integers(0, 10**9).map(lambda ms: ms / 1000 if ms < 10**6 else ms // 1000))
def test_durations_round_trip(seconds: float) -> None:
    """A shown duration can be typed and has the same value, to the millisecond."""
    assert math.isclose(parse_duration(show_duration(seconds)), seconds, abs_tol=0.0005)


@pytest.mark.parametrize("seconds", [12345.678, 1234567.25])
def test_long_durations_with_fractions_round_trip(seconds: float) -> None:
    """This holds with more than six digits too."""
    assert parse_duration(show_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(90, "90s"), (600, "10m"), (3600, "1h"), (86400, "1d"), (0.25, "250ms"), (1.5, "1.5s"), (0, "0s")],
)
def test_durations_are_shown_in_the_largest_unit(seconds: float, text: str) -> None:
    """The largest unit that divides the value is used."""
    assert show_duration(seconds) == text


@given(ANYTHING)
def test_values_raise_value_error_only(value: Any) -> None:
    """Any value of YAML or of the environment gives a result or a message."""
    for parse, kind in ((parse_duration, float), (parse_integer, int), (parse_boolean, bool), (parse_share, float),
                        (parse_size, int), (parse_switch, str)):  # fmt: skip
        try:
            assert isinstance(parse(value), kind)
        except ValueError as error:
            assert str(error).startswith("expected ")


@pytest.mark.parametrize(
    ("value", "expected"),
    [("true", True), ("TRUE", True), ("yes", True), ("on", True), ("1", True), (1, True), (" on ", True),
     ("false", False), ("No", False), ("off", False), ("0", False), (0, False), (False, False)],
)  # fmt: skip
def test_accepted_booleans(value: Any, expected: bool) -> None:
    """The text false is not true."""
    assert parse_boolean(value) is expected


@pytest.mark.parametrize("value", ["", "maybe", 2, 1.0, None, []])
def test_refused_booleans(value: Any) -> None:
    """There is no guess."""
    with pytest.raises(ValueError, match="expected true or false"):
        parse_boolean(value)


def test_integers_have_a_minimum() -> None:
    """Digits as text are accepted; fractions, signs and booleans are refused."""
    assert [parse_integer(value) for value in (0, "7", " 8 ")] == [0, 7, 8]
    for value in (-1, "-1", "1.5", 1.5, True, "", None, "9" * 30):
        with pytest.raises(ValueError, match="expected a whole number, 0 or more"):
            parse_integer(value)
    with pytest.raises(ValueError, match="1 or more, got 0"):
        parse_integer(0, 1)


@pytest.mark.parametrize(
    ("text", "share"), [("30%", 0.3), ("0.3", 0.3), (0.3, 0.3), (1, 1.0), ("100 %", 1.0), (0, 0.0)]
)
def test_accepted_shares(text: Any, share: float) -> None:
    """Both forms and both limits; the shown form has the same value."""
    assert parse_share(text) == share
    assert parse_share(show_share(share)) == share


@pytest.mark.parametrize("text", ["most", "", "%", "30", "101%", -0.1, 1.1, True, None, [], float("nan"), "9" * 400])
def test_refused_shares(text: Any) -> None:
    """The message shows two accepted forms."""
    with pytest.raises(ValueError, match=r"expected a share such as 0.3 or 30%, got"):
        parse_share(text)


@pytest.mark.parametrize(
    ("value", "size"),
    [("64MiB", 64 << 20), ("1.5 GiB", 3 << 29), ("512kib", 512 << 10), ("2 TiB", 2 << 40), ("7B", 7), ("9", 9), (0, 0)],
)
def test_accepted_sizes(value: Any, size: int) -> None:
    """Units of 1024, a space before the unit, capitals or not; without a unit the number is of bytes."""
    assert parse_size(value) == size


@pytest.mark.parametrize("value", ["64MB", "MiB", "", "-1", -1, 1.5, "0.3B", "9" * 16, 1 << 61, True, None, [], "1 M"])
def test_refused_sizes(value: Any) -> None:
    """MB can mean two sizes, so it is refused; the message shows two accepted forms."""
    with pytest.raises(ValueError, match=r"expected a size such as 64MiB or 1GiB, got"):
        parse_size(value)


def test_a_switch_is_auto_or_off() -> None:
    """YAML reads an unquoted off as false; every other value is refused."""
    assert [parse_switch(value) for value in ("auto", " Auto", "off", "OFF", False)] == ["auto"] * 2 + ["off"] * 3
    refused: list[Any] = [True, "on", "", 0, None, []]
    for value in refused:
        with pytest.raises(ValueError, match="expected auto or off, got"):
            parse_switch(value)
