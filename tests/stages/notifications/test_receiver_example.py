"""The receiver of docs/notifications.md accepts our notifications and nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from release_tasks.config.schema import Settings
from release_tasks.core.clock import now, timestamp
from release_tasks.service.wait import poll_health
from release_tasks.stages.notifications.notification import Notification, notification_bytes
from release_tasks.stages.notifications.sending import Notifications
from release_tasks.stages.notifications.webhook import signature_of

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[3] / "docs" / "notifications.md"
KEY = "kept-between-the-two-of-us"


@pytest.fixture
def running(tmp_path: Path, free_port: int) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run the example of the page; yield its URL and the process."""
    (source,) = [
        block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "do_POST" in block
    ]
    (tmp_path / "receiver.py").write_text(source)
    process = subprocess.Popen(
        [sys.executable, "receiver.py", str(free_port)],
        cwd=tmp_path,
        env={**os.environ, "NOTICE_SECRET": KEY},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    url = f"http://127.0.0.1:{free_port}/"
    from release_tasks.config.schema import HealthConfig
    from release_tasks.core.options import Duration

    # Any answer shows that it listens: it refuses a GET with 501.
    asked = HealthConfig(url=url, timeout=Duration(2), deadline=Duration(30), interval=Duration(0.02))
    while poll_health(asked, passes=1, deadline=0.0).http_status is None:
        assert process.poll() is None
    yield url, process
    process.kill()
    process.communicate()


def post(url: str, body: bytes, signature: str) -> int:
    request = urllib.request.Request(url, data=body, headers={"X-Signature": signature}, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            status: int = response.status
            return status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_the_example_accepts_our_notifications(
    running: tuple[str, Any],
    settings_with: Callable[..., Settings],
    failed: Callable[[Settings], Notification],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A notification is accepted once; a copy, a forgery, an old one and a long one are refused."""
    url, process = running
    monkeypatch.setenv("NOTICE_SECRET", KEY)
    settings = settings_with(chat={"webhook": url, "hmac_secret_env": "NOTICE_SECRET"})
    notice = failed(settings)
    with Notifications(settings) as notices:
        notices.announce(lambda: notice)
    body = notification_bytes(notice)
    assert process.stdout.readline() == f"failed {notice.text} -> {notice.next}\n"

    assert post(url, body, signature_of(body, KEY)) == 200  # a replay is accepted and not printed
    assert post(url, body, signature_of(body, "guessed")) == 403
    assert post(url, body, "") == 403
    other = body.replace(b'"failed"', b'"prepared"')
    assert post(url, other, signature_of(body, KEY)) == 403
    spaced = json.dumps(json.loads(body)).encode()
    assert post(url, spaced, signature_of(body, KEY)) == 403  # equal values, other bytes
    for hours in (-1, 1):
        old = notification_bytes(evolve(notice, id=f"other{hours}", time=timestamp(now() + timedelta(hours=hours))))
        assert post(url, old, signature_of(old, KEY)) == 403
    long = b"x" * ((1 << 20) + 1)
    request = urllib.request.Request(url, data=long, method="POST")
    with pytest.raises((urllib.error.URLError, ConnectionError)) as refused:
        urllib.request.urlopen(request, timeout=10)
    if isinstance(refused.value, urllib.error.HTTPError):
        refused.value.close()
    fresh = evolve(notice, id="another")
    assert post(url, notification_bytes(fresh), signature_of(notification_bytes(fresh), KEY)) == 204
    assert process.stdout.readline() == f"failed {notice.text} -> {notice.next}\n"  # the second line of two
