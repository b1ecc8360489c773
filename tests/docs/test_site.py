"""The documentation as a site: complete, with links that lead somewhere, and nothing fetched from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
CONFIGURATION = REPOSITORY / "mkdocs.yml"


@pytest.mark.smoke
def test_navigation_names_every_page_once() -> None:
    """Every page is in the nav, and every entry of the nav has its page."""
    _, _, nav = CONFIGURATION.read_text().partition("\nnav:\n")
    named = re.findall(r"[\w/-]+\.md", nav)
    assert sorted(named) == sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))


class Resources(HTMLParser):
    """Collects the addresses that a browser loads by itself; links are not among them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and (name in ("src", "srcset", "data", "poster") or (name == "href" and tag == "link")):
                self.found.append(value)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The site, built strictly: a link or anchor that leads nowhere ends the build."""
    pytest.importorskip("mkdocs", reason="the site needs the extra docs: pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    line = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "-d", str(folder)]
    # A request of the build to the network would go to a port without a listener.
    barred = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    variables = {**os.environ, **barred, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(line, cwd=REPOSITORY, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    yield folder


@pytest.mark.slow
def test_site_loads_nothing_from_elsewhere(built: Path) -> None:
    """No font, script, style or picture comes over a network: the pages open on a server that has none."""
    pages = sorted(built.rglob("*.html"))
    assert len(pages) > 5
    for page in pages:
        parser = Resources()
        parser.feed(page.read_text())
        assert parser.found
        for address in parser.found:
            assert not re.match(r"(\w+:)?//", address), (page.name, address)
    for style in built.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(\w+:)?//|@import", style.read_text()), style.name


@pytest.mark.slow
def test_no_fence_or_table_is_shown_as_it_was_typed(built: Path) -> None:
    """What the code host's Markdown takes for a block, the site's does too."""
    for page in built.rglob("*.html"):
        text = re.sub(r"<(pre|code)\b.*?</\1>", "", page.read_text(), flags=re.DOTALL)
        assert "```" not in text, page.name
        assert not re.search(r"\|\s*---", text), page.name
        assert not re.search(r"<p>\|", text), f"{page.name}: a table has an empty line in it"


@pytest.mark.slow
def test_pages_can_be_searched(built: Path) -> None:
    """The index knows every page, in light and dark, with no page left out."""
    index = (built / "search" / "search_index.json").read_text()
    for page in DOCS.rglob("*.md"):
        assert f'"{page.relative_to(DOCS).with_suffix(".html")}' in index or page.name == "index.md"
    assert {"default", "slate"} <= set(re.findall(r'data-md-color-scheme="(\w+)"', (built / "index.html").read_text()))
