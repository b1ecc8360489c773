"""SIGKILL at every system call of a pairing change: complete, or to be repeated with the same code, and on record."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from release_tasks.config.schema import PairingConfig
from release_tasks.core.errors import StageFailed
from release_tasks.pairing.channels import Channel
from release_tasks.pairing.policy import Pairing
from tests.support.faults.tracing import STRACE, Driver

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(STRACE is None, reason="NOT TESTED: no strace here (Debian: apt install strace)"),
]

TELEGRAM = Channel.TELEGRAM
WAITING, APPROVED, STRANGER = "1001", "1002", "1003"
DIALECTS = {
    "plain": ({"requests": []}, {"senderIds": []}),
    "versioned": ({"version": 1, "requests": []}, {"version": 1, "allowFrom": []}),
}


class Stores:
    """The stores of a channel with one who waits and one who is approved, laid out anew for each kill."""

    def __init__(self, folder: Path, dialect: str) -> None:
        self.folder, self.template = folder, folder.with_name("template")
        folder.mkdir(mode=0o700)
        for name, document in zip(("pairing", "allowFrom"), DIALECTS[dialect], strict=True):
            (folder / f"telegram-{name}.json").write_text(json.dumps(document))
        self.pairing.approve(TELEGRAM, self.ask(APPROVED))
        self.code = self.ask(WAITING)
        shutil.copytree(folder, self.template)

    @property
    def pairing(self) -> Pairing:
        return Pairing(PairingConfig(credentials=self.folder))

    def ask(self, sender: str) -> str:
        request = self.pairing.request(TELEGRAM, sender).request
        assert request is not None
        return request.code

    def lay_out(self) -> None:
        shutil.rmtree(self.folder)
        shutil.copytree(self.template, self.folder)

    def standing(self) -> tuple[list[str], list[str]]:
        """Return who is approved and who waits."""
        waiting = [request.sender for request in self.pairing.pending(TELEGRAM)]
        return self.pairing.approved(TELEGRAM), sorted(waiting)


# A change, whom or which code it is about, and who is approved and who waits once it is done.
CHANGES: dict[str, tuple[str, tuple[list[str], list[str]]]] = {
    "request": (STRANGER, ([APPROVED], [WAITING, STRANGER])),
    "approve": ("the code", ([WAITING, APPROVED], [])),
    "reject": ("the code", ([APPROVED], [])),
    "revoke": (APPROVED, ([], [WAITING])),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_change_killed_at_any_call_is_complete_or_can_be_repeated(
    memory: Path, driver: Driver, tried: Callable[[int], None], dialect: str, change: str
) -> None:
    """Nobody else is let in or lost, the chain holds, nothing lies about, and the files stay private."""
    stores = Stores(memory / "credentials", dialect)
    before = stores.standing()
    about, after = CHANGES[change]
    about = stores.code if about == "the code" else about
    job: dict[str, Any] = {
        "stage": "pairing",
        "raw": {},
        "folder": str(stores.folder),
        "options": {"change": change, "about": about},
    }
    stores.lay_out()
    points = driver.record(job, [stores.folder])
    assert stores.standing() == after
    for point in points:
        stores.lay_out()
        assert driver.kill(job, point).was_killed, point
        standing = stores.standing()
        assert standing in (before, after), (point, standing)
        is_done = standing == after
        with contextlib.suppress(StageFailed) if is_done else contextlib.nullcontext():
            getattr(stores.pairing, change)(TELEGRAM, about)
        assert stores.standing() == after, point
        assert stores.ask(WAITING) == stores.code if WAITING in after[1] else True, point
        assert stores.pairing.audit.verify().intact, (point, stores.pairing.audit.verify().problems)
        stores.pairing.request(TELEGRAM, "1004")  # the next change, whatever it is, clears what a kill left
        assert [name for name in os.listdir(stores.folder) if name.endswith(".tmp")] == [], point
        assert {oct(path.stat().st_mode & 0o777) for path in stores.folder.iterdir()} == {"0o600"}, point
    tried(len(points))
    assert len(points) > 8
