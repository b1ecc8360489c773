"""Takes the pictures of docs/report.md: ``python -m tests.support.screenshots docs/images``."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from release_tasks.report.html.page import find_release, gather
from release_tasks.report.html.render import render
from tests.support.example_history import example_history

_PROJECT = "/srv/gateway"  # the folder name on the pictures
_DESK: dict[str, Any] = {"viewport": {"width": 1180, "height": 1240}}
_PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 1180}, "device_scale_factor": 1.5}


def main(images: Path) -> None:
    """Make the example history, then take its page in light, in dark and on a phone."""
    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("There is no chromium: apt-get install chromium")
    images.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="release-tasks-screenshots-") as scratch:
        file = Path(scratch, "page.html")
        file.write_bytes(_page(Path(scratch, "gateway")))
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            for name, section, options in (
                ("light", "main", {**_DESK, "color_scheme": "light"}),
                ("dark", "health", {**_DESK, "color_scheme": "dark"}),
                ("phone", "main", {**_PHONE, "color_scheme": "light"}),
            ):
                page = browser.new_page(**options)
                page.goto(file.as_uri() + (f"#{section}" if section != "main" else ""))
                page.screenshot(path=str(images / f"report-{name}.png"))
            browser.close()


def _page(folder: Path) -> bytes:
    folder.mkdir()
    os.environ["SUDO_USER"] = "mara"
    socket.gethostname = lambda: "gateway-eu-1"
    with example_history(folder) as history:
        history.add_past_releases()
        history.add_bad_release()
        html = render(gather(history.settings, find_release(history.pipeline, None)))
        port = history.url.split(":")[2].split("/")[0]
    return html.replace(str(folder).encode(), _PROJECT.encode()).replace(f":{port}/".encode(), b":3100/")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
