"""From looks to a verdict, as canary analysis does it: healthy, degraded or inconclusive. No clock, no requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from attrs import frozen

from release_tasks.config.schema import WatchConfig
from release_tasks.core.units import show_duration, show_share
from release_tasks.stages.watch.samples import Sample

__all__ = ["Counts", "VerdictStatus", "WatchVerdict", "count", "degradation", "judge"]

VerdictStatus = Literal["healthy", "degraded", "inconclusive"]


@frozen(kw_only=True)
class Counts:
    """How many looks there were, and how many of them said what."""

    looks: int
    ok: int
    bad: int
    unknown: int


@frozen(kw_only=True)
class WatchVerdict:
    """What the looks amount to, and why, a sentence each in our own words and numbers."""

    status: VerdictStatus
    reasons: list[str]


def count(samples: Sequence[Sample]) -> Counts:
    """Count looks by their finding."""
    found = [sample.finding for sample in samples]
    return Counts(looks=len(found), ok=found.count("ok"), bad=found.count("bad"), unknown=found.count("unknown"))


def degradation(samples: Sequence[Sample], rules: WatchConfig) -> list[str]:
    """Return why the newest looks are `degraded`, one sentence each; nothing when they are not.

    Looks from before a time in which nobody looked are not added to those after it. Asked after each look, and it reads
    only as many as the rules need.
    """
    newest = samples[-max(rules.window, rules.failures) :]
    newest = newest[max((index for index, sample in enumerate(newest) if sample.unseen_ms), default=0) :]
    reasons = []
    last = newest[-rules.failures :]
    if len(last) == rules.failures and all(sample.finding == "bad" for sample in last):
        row = "The last look was bad" if len(last) == 1 else f"{len(last)} looks in a row were bad"
        reasons.append(f"{row}: {_why(last[-1])}.")
    seen = count(newest[-rules.window :])
    usable = seen.ok + seen.bad
    # One bad look of few is a high rate as well, and never enough.
    is_enough = usable >= rules.min_samples and seen.bad >= rules.failures
    if is_enough and seen.bad > rules.error_rate * usable:
        bad = next(sample for sample in reversed(newest) if sample.finding == "bad")
        limit = f"more than {show_share(rules.error_rate)}"
        reasons.append(f"{seen.bad} of the last {usable} looks were bad, {limit}; the newest of them: {_why(bad)}.")
    return reasons


def judge(
    samples: Sequence[Sample], rules: WatchConfig, *, watched: float, unseen: float = 0.0, is_cut_short: bool = False
) -> WatchVerdict:
    """Judge a watch that has ended after ``watched`` seconds, in ``unseen`` of which nobody looked.

    ``is_cut_short`` says that a signal ended it.
    """
    reasons = degradation(samples, rules)
    if reasons:
        return WatchVerdict(status="degraded", reasons=reasons)
    doubts = _doubts(samples, rules)
    if unseen > watched / 2:
        away = f"{show_duration(round(unseen))} of {show_duration(round(watched))}"
        doubts.insert(0, f"Nobody looked for {away}: the machine slept, or the watch was held up.")
    if is_cut_short:
        doubts.insert(0, f"A signal ended it after {show_duration(round(watched))}.")
    if doubts:
        return WatchVerdict(status="inconclusive", reasons=doubts)
    seen = count(samples)
    told = f"{seen.ok} of {seen.looks} looks were ok, the last one too"
    return WatchVerdict(
        status="healthy", reasons=[f"{told}; the others were too few to count." if seen.ok < seen.looks else f"{told}."]
    )


def _doubts(samples: Sequence[Sample], rules: WatchConfig) -> list[str]:
    """Return what keeps looks that are not degraded from being healthy."""
    seen = count(samples)
    doubts = []
    if seen.ok + seen.bad < rules.min_samples:
        doubts.append(f"{seen.ok + seen.bad} looks said something, and {rules.min_samples} are needed.")
    if not samples:
        return doubts
    if seen.bad + seen.unknown > rules.error_rate * seen.looks:
        limit = show_share(rules.error_rate)
        newest = next(sample for sample in reversed(samples) if sample.finding != "ok")
        told = f"{seen.bad} bad and {seen.unknown} that said nothing of {seen.looks} looks are more than {limit}"
        doubts.append(f"{told}; the newest of them: {_why(newest)}.")
    if samples[-1].finding != "ok":
        doubts.append(f"It ended on a look that was not ok: {_why(samples[-1])}.")
    return doubts


def _why(sample: Sample) -> str:
    return "; ".join(sample.why) or "nothing was said"
