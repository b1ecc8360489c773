"""Exchanges of names at the lookups of a stage, and what must hold after each."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator
from typing import Any

from attrs import define, field, frozen

from release_tasks.archive.pipeline import Pipeline
from tests.support.faults.tracing import Driver
from tests.support.neighbours.moments import Ended, Moment, lookups, run_within, stopped_after
from tests.support.neighbours.neighbour import USER, Neighbour
from tests.support.neighbours.street import Street

__all__ = ["Attack", "Siege", "interrupt_rollback", "lose_folder", "plant_leftovers"]

_STAGED = ".release-tasks-"
_CHECKED = 5  # one in this many tries is followed by a recovery and a rollback


@frozen
class Attack:
    """What the other user exchanges while ``stage`` runs: ``target`` in the state with ``bait`` in ``spare``.

    ``template`` is the state of everything before the stage.
    """

    stage: str
    target: str
    bait: str
    template: str = "damaged"

    def __str__(self) -> str:
        return f"{self.stage} ({self.template}): {self.target} <-> {self.bait}"

    @property
    def has_hard_links(self) -> bool:
        """Whether a name of the other user leads to a file of the vault itself."""
        return self.bait.startswith("hard-")


@define
class Siege:
    """A street and the two processes; ``tries`` counts the exchanges that were done while a stage ran."""

    street: Street
    driver: Driver
    neighbour: Neighbour
    tries: int = 0
    _runs: int = 0
    _moments: dict[tuple[str, str], list[Moment]] = field(factory=dict)

    def attack(self, attacks: list[Attack], total: int) -> list[str]:
        """Try each attack at a share of the lookups of its stage, ``total`` tries in all; return all damage.

        The lookups are chosen with a seed; with EVERY_CALL=1 in the environment, all are tried.
        """
        found: list[str] = []
        tries = self.tries
        pending = [(attack, self._shuffled(attack)) for attack in attacks]
        while pending and ("EVERY_CALL" in os.environ or self.tries - tries < total):
            pending = [(attack, moments) for attack, moments in pending if moments]
            for attack, moments in pending:
                found += self._try(attack, moments.pop())
        return found

    def before(self, attack: Attack) -> list[str]:
        """Exchange the names before the stage; return all damage."""
        self.street.reset(attack.template)
        if not self.neighbour.exchange(f"{attack.target}", f"spare/{attack.bait}"):
            return []
        self.tries += 1
        ended = run_within(self.driver, self.job(attack.stage))
        return self._damage(attack, "before the stage", ended, is_checked=True)

    def storm(self, target: str, bait: str, runs: int) -> list[str]:
        """Exchange names without a pause while prepare and rollback run in turn; return all damage."""
        found: list[str] = []
        attack = Attack("rollback", target, bait)
        for number in range(runs):
            self.street.reset()
            self.neighbour.flip(target, f"spare/{bait}")
            prepare = self.street.job("prepare", release_id=f"r{number}")
            ended = run_within(self.driver, prepare if number % 2 else self.street.rollback_job())
            self.tries += self.neighbour.rest() > 0
            found += self._damage(attack, f"in run {number}", ended, is_checked=number % _CHECKED == 0)
            if found:
                break
        return found

    def job(self, stage: str) -> dict[str, Any]:
        """Return the description of a stage for the driver."""
        if stage == "rollback":
            return self.street.rollback_job()
        if stage == "careless":
            return self.street.job(stage, path="state/data/conf.json")
        return self.street.job(stage, **({"release_id": "v2"} if stage == "prepare" else {}))

    def _shuffled(self, attack: Attack) -> list[list[Moment]]:
        """Return the lookups of a stage, the first to try last; their order is random, with a seed.

        Each comes alone, and with the one after it: then the names are put back there.
        """
        key = (attack.stage, attack.template)
        if key not in self._moments:
            self.street.reset(attack.template)
            self._moments[key] = lookups(self.driver, self.job(attack.stage), self.street.state)
        moments = self._moments[key]
        assert moments, attack
        if "*" in attack.target:  # of no effect while there is no such name
            staged = [number for number, moment in enumerate(moments) if _STAGED in moment.what]
            moments = moments[staged[0] : staged[-1] + 1] if staged else []
        chosen = [[moment] for moment in moments] + [[*pair] for pair in itertools.pairwise(moments)]
        random.Random(str(attack)).shuffle(chosen)
        # First the lookups of what is exchanged, with one of the others after three of them.
        name = attack.target.rpartition("/")[2].strip("*.")
        near = [each for each in chosen if name in each[0].what]
        far = [each for each in chosen if name not in each[0].what]
        mixed = []
        while near or far:
            mixed += near[:3] + far[:1]
            near, far = near[3:], far[1:]
        return mixed[::-1]

    def _try(self, attack: Attack, moments: list[Moment]) -> Iterator[str]:
        self.street.reset(attack.template)
        did: list[bool] = []

        def act(stop: int) -> None:
            if stop == 0:
                did.append(self.neighbour.exchange(attack.target, f"spare/{attack.bait}"))
            else:
                self.neighbour.undo()

        ended = stopped_after(self.driver, self.job(attack.stage), moments, act)
        self._runs += 1
        if any(did):
            self.tries += 1
            what = f"{moments[0]}{' and back' if len(moments) > 1 else ''}"
            yield from self._damage(attack, what, ended, is_checked=self._runs % _CHECKED == 0)

    def _damage(self, attack: Attack, when: str, ended: Ended, *, is_checked: bool) -> list[str]:
        found = self.street.damages(has_hard_links=attack.has_hard_links)
        if ended.code != 0:
            found.append(f"ended with {ended.code}: {ended.traceback}")
        elif not ended.said and ended.status not in ("ready", "restored", "noop", "clean"):
            found.append(f"ended {ended.status} without a sentence")
        self.neighbour.undo()
        if is_checked and not found:
            found += self._damage_later(attack)
        return [f"{attack} {when} [{ended.status}: {ended.said[:200]}]: {each}" for each in found]

    def _damage_later(self, attack: Attack) -> list[str]:
        """Recover and roll back when the names are in order again; return what is not whole then."""
        said = []
        for job in (self.street.job("recover"), self.street.rollback_job()):
            run = self.driver.run(job)
            said.append(f"{(run.result or {}).get('status')} {(run.result or {}).get('said')} {run.traceback}")
        found = self.street.damages(has_hard_links=attack.has_hard_links)
        if run.result is None or run.result["status"] not in ("restored", "noop"):
            return [*found, f"afterwards: {said}"]
        now = self.street.content()
        found += [
            f"afterwards {name} is {now.get(name)}"
            for name in self.street.new
            if self.street.new[name] != now.get(name)
        ]
        return found


def plant_leftovers(street: Street) -> None:
    """Save a template in which names like those of an interrupted rollback exist, made by the other user."""
    street.reset()
    for name in ("ident", "app.db", "conf.json"):
        planted = street.data / f".{name}.release-tasks-20260101000000-abcdef"
        (planted / "sub" / "deep").mkdir(parents=True)
        (planted / "sub" / "deep" / "file").write_text("planted")
        for path in (planted, *planted.rglob("*")):
            os.lchown(path, USER, USER)
    street.save("planted")


def lose_folder(street: Street) -> None:
    """Save a template in which the folder of all assets was moved away."""
    street.reset()
    street.data.rename(street.spare / "lost")
    street.save("lost")


def interrupt_rollback(street: Street, driver: Driver) -> None:
    """Save a template in which a rollback was killed while it exchanged names."""
    street.reset()
    points = driver.record(street.rollback_job(), [street.state])
    for point in [point for point in points if point.name.startswith("rename")]:
        street.reset()
        driver.kill(street.rollback_job(), point)
        if Pipeline(street.settings.release.root).journal_path.exists():
            street.save("interrupted")
            return
    raise AssertionError(f"no rename with a journal: {points}")
