"""JUnit XML that every CI system reads, with any text of a gate."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
import xmlschema
from hypothesis import given
from hypothesis import strategies as st

from release_tasks.core.records import Check, PreflightReport
from release_tasks.report.junit import junit_xml

SCHEMA = xmlschema.XMLSchema(str(Path(__file__).with_name("junit.xsd")))

texts = st.text(alphabet=st.characters(exclude_categories=[]), max_size=40)
checks = st.lists(
    st.builds(
        Check,
        id=texts,
        subsystem=texts,
        status=st.sampled_from(["passed", "failed", "skipped"]),
        detail=texts,
        command=st.none() | texts,
        started_at=st.none() | st.just("2026-11-22T08:37:41.200Z"),
        duration_ms=st.integers(0, 10**9),
        advisory=st.booleans(),
        diagnostics=st.dictionaries(
            st.sampled_from(["outputTail", "bodyTail", "next", "problems", "degraded"]),
            texts | st.integers() | st.lists(texts | st.integers(), max_size=3),
        ),
    ),
    max_size=5,
)

HOSTILE = (
    "]]></failure></testcase><testcase name='forged'/>",
    '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>&e;',
    "\x00\x1b[31m\ud800\uffff",
    "<![CDATA[ & \" ' < >",
    "::error::forged",
)


def report(*checks: Check) -> PreflightReport:
    return PreflightReport(passed=not checks, checks=list(checks), failed_checks=[check.id for check in checks])


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text: str) -> None:
    """One testcase for each gate, valid by the schema, and no other element."""
    check = Check(
        id=text,
        subsystem=text,
        status="failed",
        detail=text,
        command=text,
        diagnostics={"outputTail": [text], "next": text, "problems": [text], "degraded": [text]},
    )
    document = junit_xml(report(check), text)
    SCHEMA.validate(document.decode())
    (case,) = ElementTree.fromstring(document)[0]
    assert [element.tag for element in case] == ["failure", "system-out"]


@given(checks)
def test_every_report_is_valid_by_the_schema(found: list[Check]) -> None:
    """One testcase for each gate, in order, with correct counts."""
    document = junit_xml(report(*found), "release.preflight")
    SCHEMA.validate(document.decode())
    suite = ElementTree.fromstring(document)[0]
    assert len(suite) == len(found) == int(suite.attrib["tests"])
    assert len(suite.findall("testcase/failure")) == int(suite.attrib["failures"])
    assert len(suite.findall("testcase/skipped")) == int(suite.attrib["skipped"])


def test_the_schema_refuses_other_xml() -> None:
    """Otherwise the tests above would prove nothing."""
    good = junit_xml(report(Check(id="a", subsystem="s", status="failed", detail="d")), "n").decode()
    SCHEMA.validate(good)
    for old, new in (("testcase", "test"), ('time="0.000"', ""), ('message="d"', ""), ('tests="1"', 'tests="x"')):
        assert old in good
        assert not SCHEMA.is_valid(good.replace(old, new))
