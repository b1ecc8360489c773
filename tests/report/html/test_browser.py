"""The page of a release in a real Chromium: phone and desktop, light and dark, without JavaScript, in print."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from release_tasks.report.html.page import find_release, gather
from release_tasks.report.html.render import render
from tests.support.example_history import example_history

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

DESK, PHONE = 1280, 390
QUICK = {"build": {"command": "seq 2000"}, "tests": {"command": "echo no; exit 1", "advisory": True}}
Open = Callable[..., Any]


def missing(what: str) -> None:
    """Skip with the reason; in CI the browser must be there."""
    if os.environ.get("CI"):
        pytest.fail(f"{what}, and in CI these tests must run", pytrace=False)
    pytest.skip(f"{what}: the page is not seen in a browser")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Return Debian's Chromium, driven by Playwright."""
    path = shutil.which("chromium")
    if path is None:
        missing("there is no chromium (apt-get install chromium)")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright is not installed (pip install -e '.[browser]')")
    with sync_playwright() as playwright:
        # As root Chromium refuses to start inside its sandbox; it opens our own pages only.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


class Recorded:
    """Requests and console messages of a browser while a page is open."""

    def __init__(self, page: Any) -> None:
        self.requests: list[str] = []
        self.messages: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.messages.append(message.text))
        page.on("pageerror", lambda error: self.messages.append(str(error)))
        page.on("dialog", self._dismiss)
        page.on("popup", lambda popup: self.messages.append("popup"))

    def _dismiss(self, dialog: Any) -> None:
        self.messages.append(f"dialog {dialog.message}")
        dialog.dismiss()


@pytest.fixture
def opened(chromium: Browser) -> Iterator[Open]:
    """Open a file: ``opened(path, width=390, dark=True, scripts=False)`` returns the page; ``seen`` is its Recorded."""
    contexts = []

    def open_(path: Path, *, width: int = DESK, dark: bool = False, scripts: bool = True, bypass: bool = False) -> Any:
        context = chromium.new_context(
            viewport={"width": width, "height": 844},
            color_scheme="dark" if dark else "light",
            java_script_enabled=scripts,
            bypass_csp=bypass,
        )
        contexts.append(context)
        page = context.new_page()
        vars(page)["seen"] = Recorded(page)
        page.goto(path.as_uri())
        return page

    yield open_
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of a release with a failed gate, a drill, a degraded watch and a rollback."""
    folder = tmp_path_factory.mktemp("example_history")
    with example_history(folder) as history:
        history.gates = {**history.gates, **QUICK}
        history.prepare("1.6.0")
        history.add_bad_release()
        page = gather(history.settings, find_release(history.pipeline, None))
    assert page.verdict.word == "rolled back" and len(page.health) == 3
    file = folder / "page.html"
    file.write_bytes(render(page))
    return file


@pytest.fixture
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return the page of the test's parameter."""
    if request.param == "example":
        path: Path = request.getfixturevalue("example")
        return path
    target = tmp_path / "hostile.html"
    target.write_bytes(request.getfixturevalue("hostile_page"))
    return target


both = pytest.mark.parametrize("file", ["example", "hostile"], indirect=True)


@both
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [DESK, PHONE])
def test_it_fits_the_window_and_loads_nothing(opened: Open, file: Path, width: int, dark: bool) -> None:
    """Nothing is wider than the window, with and without open sections; there is no request and no console message."""
    page = opened(file, width=width, dark=dark)
    for _ in range(2):
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.locator("h1").is_visible()
    assert page.seen.messages == []
    assert [url for url in page.seen.requests if url != file.as_uri()] == []


@both
def test_it_needs_no_javascript(opened: Open, file: Path) -> None:
    """The text is the same without it, and a click opens a section."""
    with_scripts, without = opened(file), opened(file, scripts=False)
    assert without.locator("body").inner_text() == with_scripts.locator("body").inner_text()
    folded = without.locator("details.gate:not([open])").first
    evidence = folded.locator(".evidence").element_handle()
    assert not evidence.is_visible()
    folded.locator("summary").first.click()
    assert evidence.is_visible()


@both
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [DESK, PHONE])
def test_axe_finds_no_serious_fault(opened: Open, file: Path, width: int, dark: bool) -> None:
    """Contrast, names, landmarks, tables, focus: the page works with a screen reader and a keyboard."""
    try:
        axe_module = importlib.import_module("axe_playwright_python.sync_playwright")  # it has no types
    except ImportError:
        missing("axe-playwright-python is not installed (pip install -e '.[browser]')")
    page = opened(file, width=width, dark=dark, bypass=True)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    found = axe_module.Axe().run(page).response
    assert len(found["passes"]) > 10
    faults = [
        (fault["id"], fault["impact"], [node["html"][:200] for node in fault["nodes"][:3]])
        for fault in found["violations"]
        if fault["impact"] in ("serious", "critical")
    ]
    assert faults == []


def test_hostile_text_does_nothing(opened: Open, hostile_page: bytes, tmp_path: Path) -> None:
    """The title is that of the release, no script runs, and no element comes from the text, even without a policy."""
    file = tmp_path / "hostile.html"
    file.write_bytes(hostile_page)
    page = opened(file, bypass=True)
    page.wait_for_timeout(100)
    assert page.title().startswith("v2 ready - </title></style></pre>")
    assert (
        page.evaluate("document.querySelectorAll('script, img, textarea, [onclick], [onload], [onerror]').length") == 0
    )
    assert page.evaluate("document.querySelectorAll('svg[class=\"sprite\"]').length") == 1
    assert page.seen.messages == []


def test_commands_and_digests_are_copied_completely(opened: Open, example: Path) -> None:
    """A click selects the whole command or digest, also where only its start is visible."""
    page = opened(example, width=PHONE)
    for selector in (".command .line", ".digest"):
        element = page.locator(selector).first
        element.click()
        chosen = page.evaluate("getSelection().toString()")
        assert chosen == element.text_content()
    assert len(page.locator("footer .digest").text_content()) == 64


def test_the_keyboard_reaches_scrollable_parts(opened: Open, example: Path) -> None:
    """The first stop leads to the verdict, and a table wider than a phone can be focused visibly."""
    page = opened(example, width=PHONE)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the verdict"
    names = []
    for _ in range(60):
        page.keyboard.press("Tab")
        seen = page.evaluate(
            "(({role, ariaLabel: label}) => [role, label, getComputedStyle(document.activeElement).outlineStyle])"
            "(document.activeElement)"
        )
        if seen[0] == "region":
            assert seen[2] != "none"
            names.append(seen[1])
    assert {"Assets in the snapshot", "The last releases", "Audit events"} <= set(names)


@both
def test_it_prints(opened: Open, file: Path) -> None:
    """The print is light, with complete digests and nothing cut off on the right."""
    page = opened(file, dark=True)
    assert page.pdf(format="A4").startswith(b"%PDF-")
    page.emulate_media(media="print", color_scheme="dark")
    page.set_viewport_size({"width": 794 - 106, "height": 1123})  # A4 at 96 dpi, less 14 mm on either side
    assert page.evaluate("document.documentElement.scrollWidth") <= 794 - 106
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    shown = page.locator(".facts-list .digest").first
    assert shown.evaluate("d => d.scrollWidth <= d.clientWidth + 1")
    assert page.seen.messages == []
