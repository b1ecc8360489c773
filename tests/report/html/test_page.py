"""The page of a release is one file that runs nothing and loads nothing, with any content."""

from __future__ import annotations

import base64
import hashlib
import re
import unicodedata
from collections import Counter
from html.parser import HTMLParser

import pytest
from attrs import evolve

from release_tasks.core.records import Check, PreflightReport
from release_tasks.report.html.page import find_release, gather
from release_tasks.report.html.render import render
from tests.support.faults.stages import prepare
from tests.support.project import Project

ALLOWED = set(
    "html head meta title link style body svg symbol circle path rect g use a header main nav section footer h1 h2 h3 "
    "p dl div dt dd ul ol li span strong bdi code pre time table thead tbody tr th td details summary br".split()
)


class Page(HTMLParser):
    """The elements, attributes and texts of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.style = ""
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "style":
            self.style += data
        else:
            self.text += data

    def all(self, name: str) -> list[str]:
        return [str(attributes[name]) for _, attributes in self.elements if name in attributes]


def plain_page(project: Project, *checks: Check) -> bytes:
    report = PreflightReport(passed=True, checks=list(checks), failed_checks=[])
    prepare(project.settings, report, "v1")
    return render(gather(project.settings, find_release(project.pipeline, None)))


def test_hostile_text_stays_text(hostile_page: bytes) -> None:
    """It adds no element, attribute or address, is readable in place, and does not change the text direction."""
    html = hostile_page.decode()
    page = Page(html)
    assert {tag for tag, _ in page.elements} <= ALLOWED
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert page.text.count("<script>document.title='owned';alert(1)</script>") > 20
    assert "{{ 7 * 7 }} {% raw %}" in page.text
    assert "\u05e9\u05dc\u05d5\u05dd" in page.text, "letters of any script are shown"
    acting = Counter(unicodedata.name(c, repr(c)) for c in html if unicodedata.category(c) in ("Cc", "Cf", "Cs"))
    assert set(acting) <= {repr("\n"), repr("\t")}


@pytest.mark.parametrize("which", ["plain", "hostile"])
def test_the_page_loads_and_runs_nothing(which: str, project: Project, request: pytest.FixtureRequest) -> None:
    """Its policy allows only its own style, by hash, and the page has nothing else."""
    html = (request.getfixturevalue("hostile_page") if which == "hostile" else plain_page(project)).decode()
    page = Page(html)
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    assert not page.all("style") and not page.all("src")
    assert all(target.startswith(("#", "data:image/svg+xml,")) for target in page.all("href"))
    assert "url(" not in page.style and "@import" not in page.style


def test_every_link_has_its_target(hostile_page: bytes) -> None:
    """Every link and label leads to one element of the page."""
    page = Page(hostile_page.decode())
    ids = Counter(page.all("id"))
    assert set(ids.values()) == {1}
    pointed = {target.removeprefix("#") for target in page.all("href") if target.startswith("#")}
    assert pointed | set(page.all("aria-labelledby")) <= set(ids)


def test_digests_are_complete_and_commands_are_exact(project: Project) -> None:
    """A shortened digest is complete in the page, and a command is one text."""
    html = plain_page(project).decode()
    page = Page(html)
    manifest = project.pipeline.manifests / "v1.json"
    assert hashlib.sha256(manifest.read_bytes()).hexdigest() in page.text
    (snapshot,) = project.pipeline.catalogue.published()[0]
    assert snapshot.digest in page.text
    assert f"inv release.rollback --snapshot {snapshot.snapshot_id}" in page.text
    lines = re.findall(r'<code class="line">(.*?)</code>', html)
    assert lines and all("\n" not in line for line in lines)


@pytest.mark.slow
def test_a_page_stays_small(project: Project) -> None:
    """Hundreds of gates with long details, logs and histories do not make a page that a phone cannot open."""
    endless = "<" * 20_000
    attempt = {"at": endless, "status": endless, "passed": False, "latencyMs": 5, "detail": endless}
    diagnostics = {
        "outputTail": [endless] * 50,
        "problems": [endless] * 50,
        "next": endless,
        "history": [attempt] * 100,
    }
    check = Check(
        id="gate", subsystem=endless, status="passed", detail=endless, command=endless, diagnostics=diagnostics
    )
    logs = project.pipeline.logs / "v1"
    logs.mkdir(parents=True)
    checks = [
        evolve(check, id=f"gate-{number}", diagnostics=diagnostics if number < 100 else {}) for number in range(300)
    ]
    for one in checks:
        (logs / f"{one.id}.log").write_text("\n" + "<" * (80 << 10))
    assert len(plain_page(project, *checks[:1])) < 1 << 20
    (file,) = project.pipeline.read_manifests()
    assert file.manifest is not None
    crowded = evolve(file.manifest, preflight=PreflightReport(passed=True, checks=checks, failed_checks=[]))
    page = gather(project.settings, evolve(file, manifest=crowded))
    assert len(page.gates) == 60 and b"240 more gates are in the manifest" in render(page)
    assert len(render(page)) < 8 << 20
