"""SIGKILL at every system call of a pairing change: it is complete, or repeatable with the same code, and audited."""

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
from tests.support.faults.marks import NEEDS_STRACE
from tests.support.faults.tracing import Driver

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    NEEDS_STRACE,
]

TELEGRAM = Channel.TELEGRAM
PENDING, APPROVED, STRANGER = "1001", "1002", "1003"
DIALECTS = {
    "plain": ({"requests": []}, {"senderIds": []}),
    "versioned": ({"version": 1, "requests": []}, {"version": 1, "allowFrom": []}),
}


class Stores:
    """The stores of a channel with one pending and one approved sender, reset for each kill."""

    def __init__(self, folder: Path, dialect: str) -> None:
        self.folder, self.template = folder, folder.with_name("template")
        folder.mkdir(mode=0o700)
        for name, document in zip(("pairing", "allowFrom"), DIALECTS[dialect], strict=True):
            (folder / f"telegram-{name}.json").write_text(json.dumps(document))
        self.pairing.approve(TELEGRAM, self.request_code(APPROVED))
        self.code = self.request_code(PENDING)
        shutil.copytree(folder, self.template)

    @property
    def pairing(self) -> Pairing:
        return Pairing(PairingConfig(credentials=self.folder))

    def request_code(self, sender: str) -> str:
        request = self.pairing.request(TELEGRAM, sender).request
        assert request is not None
        return request.code

    def reset(self) -> None:
        shutil.rmtree(self.folder)
        shutil.copytree(self.template, self.folder)

    def senders(self) -> tuple[list[str], list[str]]:
        """Return the approved senders and the pending senders."""
        pending = [request.sender for request in self.pairing.pending(TELEGRAM)]
        return self.pairing.approved(TELEGRAM), sorted(pending)


# A change, its argument, and the approved and the pending senders after it.
CHANGES: dict[str, tuple[str, tuple[list[str], list[str]]]] = {
    "request": (STRANGER, ([APPROVED], [PENDING, STRANGER])),
    "approve": ("the code", ([PENDING, APPROVED], [])),
    "reject": ("the code", ([APPROVED], [])),
    "revoke": (APPROVED, ([], [PENDING])),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_pairing_change_killed_at_any_call_is_complete_or_repeatable(
    memory: Path, driver: Driver, report_points: Callable[[int], None], dialect: str, change: str
) -> None:
    """No other sender is admitted or lost, the audit chain is intact, no leftovers exist, the files stay private."""
    stores = Stores(memory / "credentials", dialect)
    before = stores.senders()
    argument, after = CHANGES[change]
    argument = stores.code if argument == "the code" else argument
    job: dict[str, Any] = {
        "stage": "pairing",
        "raw": {},
        "folder": str(stores.folder),
        "options": {"change": change, "argument": argument},
    }
    stores.reset()
    points = driver.record(job, [stores.folder])
    assert stores.senders() == after
    for point in points:
        stores.reset()
        assert driver.kill(job, point).was_killed, point
        senders = stores.senders()
        assert senders in (before, after), (point, senders)
        is_done = senders == after
        with contextlib.suppress(StageFailed) if is_done else contextlib.nullcontext():
            getattr(stores.pairing, change)(TELEGRAM, argument)
        assert stores.senders() == after, point
        assert stores.request_code(PENDING) == stores.code if PENDING in after[1] else True, point
        assert stores.pairing.audit.verify().intact, (point, stores.pairing.audit.verify().problems)
        stores.pairing.request(TELEGRAM, "1004")  # any next change removes the leftovers of a kill
        assert [name for name in os.listdir(stores.folder) if name.endswith(".tmp")] == [], point
        assert {oct(path.stat().st_mode & 0o777) for path in stores.folder.iterdir()} == {"0o600"}, point
    report_points(len(points))
    assert len(points) > 8
