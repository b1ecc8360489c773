"""A preflight as JUnit XML, which CI systems display."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree

from release_tasks.core.printable import one_line
from release_tasks.core.records import Check, PreflightReport
from release_tasks.report.values import list_of, tail_of

__all__ = ["junit_xml"]


def junit_xml(report: PreflightReport, name: str) -> bytes:
    """Return the checks of ``report`` as one JUnit test suite called ``name``, in UTF-8.

    Each text is on printable lines: XML 1.0 does not allow most controls, not even escaped.

    An advisory failure is a skipped test: it is shown and does not fail the run.
    """
    failures = sum(_is_failure(check) for check in report.checks)
    skipped = sum(check.status != "passed" for check in report.checks) - failures
    counts = {
        "name": one_line(name),
        "tests": str(len(report.checks)),
        "failures": str(failures),
        "errors": "0",
        "skipped": str(skipped),
        # Gates run in parallel, so the sum of their times would exceed the duration of the run.
        "time": _seconds(max((check.duration_ms for check in report.checks), default=0)),
    }
    root = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(root, "testsuite", counts)
    started = [check.started_at for check in report.checks if check.started_at]
    if started:
        suite.set("timestamp", one_line(min(started)))
    for check in report.checks:
        names = {
            "classname": one_line(check.subsystem),
            "name": one_line(check.id),
            "time": _seconds(check.duration_ms),
        }
        case = ElementTree.SubElement(suite, "testcase", names)
        detail = one_line(check.detail)
        if _is_failure(check):
            failure = ElementTree.SubElement(case, "failure", {"message": detail, "type": "gate"})
            failure.text = "\n".join(map(one_line, _evidence(check)))
        elif check.status != "passed":
            advisory = "advisory: " if check.status == "failed" else ""
            ElementTree.SubElement(case, "skipped", {"message": f"{advisory}{detail}"})
        if output := "\n".join(one_line(line.expandtabs()) for line in tail_of(check.diagnostics)):
            ElementTree.SubElement(case, "system-out").text = output
    ElementTree.indent(root)
    document: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def _is_failure(check: Check) -> bool:
    return check.status == "failed" and not check.advisory


def _evidence(check: Check) -> Iterator[str]:
    yield check.detail
    if check.command:
        yield f"command: {check.command}"
    for key, label in (("problems", "problem"), ("degraded", "degraded")):
        yield from (f"{label}: {item}" for item in list_of(check.diagnostics, key))
    if check.diagnostics.get("next"):
        yield f"next: {check.diagnostics['next']}"


def _seconds(milliseconds: int) -> str:
    return f"{milliseconds / 1000:.3f}"
