"""Gates of other packages: entry points of the group ``release_tasks.gates``.

An entry point is a callable that takes a ``GateContext`` and returns a ``Verdict``; ``release_tasks.plugins`` has both.
"""

from __future__ import annotations

import json
from typing import Any

from attrs import NOTHING, Factory, frozen

from release_tasks.assets.plugin_host.lookup import GATES, PluginUnusable, describe_exception, find_plugin
from release_tasks.core.errors import PluginError
from release_tasks.core.options import option, valid_options
from release_tasks.stages.preflight.gates.base import GateContext, GateKind, Verdict

__all__ = ["KIND", "PluginOptions"]

_FIELDS: dict[str, tuple[type, ...]] = {
    "passed": (bool,), "detail": (str,), "command": (str, type(None)), "diagnostics": (dict,),
}  # fmt: skip
_MOST_BYTES = 64 << 10  # of a verdict: it goes into the manifest


@frozen(kw_only=True)
class PluginOptions:
    """The keys of a gate of another package."""

    python: str = option("a check of another package, from the entry point group `release_tasks.gates`", NOTHING)
    with_: dict[str, Any] = option("options of its own", Factory(dict), validator=valid_options)


def _check(context: GateContext) -> Verdict:
    """Let the installed entry point that the gate names decide; whatever is wrong with it is the verdict."""
    name = context.config.options.python
    try:
        plugin = find_plugin(GATES, name)
        check = plugin.load()
    except PluginUnusable as error:
        return _broken(f"{GATES}:{name}", error.message, error.next)
    value = plugin.point.value
    if not callable(check):
        return _broken(value, f"{plugin} is no function but {type(check).__name__} ({value})", plugin.show_command)
    try:
        verdict = check(context)
    except PluginError as error:
        return Verdict(passed=False, detail=error.message, command=value)
    except BaseException as error:  # SystemExit too: the run waits for a result
        return _broken(value, f"{plugin} broke: {describe_exception(error)}", plugin.show_command)
    problem = _problem_of(verdict)
    return _broken(value, f"{plugin} returned {problem}", plugin.show_command) if problem else verdict


def _author(context: GateContext) -> str:
    """Return the plugin with its package, where that is known."""
    try:
        return str(find_plugin(GATES, context.config.options.python))
    except PluginUnusable:
        return f"the gate {context.config.options.python!r}"


def _broken(command: str, detail: str, next_command: str) -> Verdict:
    return Verdict(passed=False, detail=detail, command=command, diagnostics={"next": next_command})


def _problem_of(verdict: Any) -> str:
    """Say what is wrong with a verdict; an empty text when nothing is."""
    if not isinstance(verdict, Verdict):
        return f"{type(verdict).__name__}, expected a Verdict"
    for name, kinds in _FIELDS.items():
        if not isinstance(getattr(verdict, name), kinds):
            return f"a Verdict whose {name} is {type(getattr(verdict, name)).__name__}, not {kinds[0].__name__}"
    try:
        size = len(verdict.detail) + len(json.dumps({"all": list(verdict.diagnostics.items())}, default=str))
    except (ValueError, TypeError, RecursionError) as error:
        return f"diagnostics that cannot be written down: {describe_exception(error)}"
    if size > _MOST_BYTES:
        return f"a Verdict of {size} bytes, at most {_MOST_BYTES}: long output belongs into context.log_path"
    return ""


KIND = GateKind(name="python", options=PluginOptions, check=_check, author=_author)
