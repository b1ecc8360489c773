"""The page of a release as one HTML file, without scripts and without external resources."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from release_tasks.assets.kinds import kind_of
from release_tasks.core.printable import printable
from release_tasks.core.typed import typed
from release_tasks.core.units import rough_span, show_count, show_size, show_span
from release_tasks.report.html.gates import tone_of_check
from release_tasks.report.html.page import ReleasePage
from release_tasks.report.values import CLOCK_SKEW, IN_THE_FUTURE, actor_of, moment, number, seconds_between, text
from release_tasks.report.words import Meaning, meaning_of

__all__ = ["render"]

_TEMPLATES = "release_tasks.report.html"
_ICON_COLOURS: dict[Meaning, str] = {"good": "#1a7f37", "bad": "#c62828", "warn": "#9a6700", "quiet": "#5c6570"}
_ICON = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><circle cx="8" cy="8" r="7" fill="{}"/></svg>'


def render(page: ReleasePage) -> bytes:
    """Return the page in UTF-8; its content security policy allows only its own style block."""
    style = (files(_TEMPLATES) / "templates" / "page.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    template = _environment().get_template("page.html")
    page_text: str = template.render(
        page=page,
        style=Markup(style),
        policy=f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'",
        favicon="data:image/svg+xml," + quote(_ICON.format(_ICON_COLOURS[meaning_of(page.verdict.word)])),
        generated=page.generated_at,
    )
    return page_text.encode()


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.globals.update(typed=typed)
    environment.filters.update(text=text, number=number, actor=actor_of, meaning=meaning_of, tone=tone_of_check)
    environment.filters["described"] = lambda record: kind_of(record).describe(record)
    environment.filters.update(count=show_count, size=show_size, span=show_span)
    environment.filters.update(ago=_ago, clock=_clock, offset=_offset)
    return environment


def _shown(value: Any) -> Any:
    # Jinja calls this for every value that a template prints, so all untrusted text passes here.
    return value if isinstance(value, Markup) else printable(str(value))


def _clock(value: str | None) -> str:
    """Return a time for people, to the second; any other text unchanged."""
    found = moment(value)
    return f"{found:%Y-%m-%d %H:%M:%S}" if found else value or "unknown"


def _ago(value: str | None, generated: str) -> str:
    """Return the age of a time when the page was made."""
    found, made = moment(value), moment(generated)
    if found is None or made is None:
        return ""
    seconds = (made - found).total_seconds()
    if abs(seconds) < CLOCK_SKEW:
        return "just now"
    return f"{rough_span(seconds)} ago" if seconds > 0 else IN_THE_FUTURE


def _offset(value: str | None, since: str | None) -> str:
    """Return the time from ``since`` to ``value``."""
    seconds = seconds_between(since, value)
    return "" if seconds is None else show_span(seconds)
