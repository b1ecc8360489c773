"""The verdict on the samples of a watch, as in canary analysis: healthy, degraded or inconclusive; does no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from attrs import frozen

from release_tasks.config.schema import WatchConfig
from release_tasks.core.units import show_duration, show_share
from release_tasks.stages.watch.samples import Sample

__all__ = ["Counts", "VerdictStatus", "WatchVerdict", "count", "degradation", "judge", "superseded"]

VerdictStatus = Literal["healthy", "degraded", "inconclusive"]


@frozen(kw_only=True)
class Counts:
    """The number of samples (``looks``), in total and by finding."""

    looks: int
    ok: int
    bad: int
    unknown: int


@frozen(kw_only=True)
class WatchVerdict:
    """The verdict on a watch, and its reasons: one sentence each, without text from the service."""

    status: VerdictStatus
    reasons: list[str]


def count(samples: Sequence[Sample]) -> Counts:
    """Count samples by their finding."""
    findings = [sample.finding for sample in samples]
    return Counts(
        looks=len(findings), ok=findings.count("ok"), bad=findings.count("bad"), unknown=findings.count("unknown")
    )


def degradation(samples: Sequence[Sample], rules: WatchConfig) -> list[str]:
    """Return the reasons why the latest samples are `degraded`, one sentence each; empty when they are not.

    Samples before a gap (see ``Sample.unseen_ms``) do not count. Called after each sample, so it reads only as many
    samples as the rules need.
    """
    latest = samples[-max(rules.window, rules.failures) :]
    latest = latest[max((index for index, sample in enumerate(latest) if sample.unseen_ms), default=0) :]
    reasons = []
    last = latest[-rules.failures :]
    if len(last) == rules.failures and all(sample.finding == "bad" for sample in last):
        row = "The last sample was bad" if len(last) == 1 else f"{len(last)} samples in a row were bad"
        reasons.append(f"{row}: {_why(last[-1])}.")
    counts = count(latest[-rules.window :])
    usable = counts.ok + counts.bad
    # One bad sample of a few is a high error rate, too, but is never enough for `degraded`.
    is_enough = usable >= rules.min_samples and counts.bad >= rules.failures
    if is_enough and counts.bad > rules.error_rate * usable:
        bad = next(sample for sample in reversed(latest) if sample.finding == "bad")
        limit = f"more than {show_share(rules.error_rate)}"
        reasons.append(f"{counts.bad} of the last {usable} samples were bad, {limit}; the latest of them: {_why(bad)}.")
    return reasons


def judge(samples: Sequence[Sample], rules: WatchConfig, *, watched: float, is_cut_short: bool = False) -> WatchVerdict:
    """Judge a finished watch of ``watched`` seconds; ``is_cut_short`` is True when a signal ended it."""
    reasons = degradation(samples, rules)
    if reasons:
        return WatchVerdict(status="degraded", reasons=reasons)
    issues = _issues(samples, rules)
    if is_cut_short:
        issues.insert(0, f"A signal ended the watch after {show_duration(round(watched))}.")
    if issues:
        return WatchVerdict(status="inconclusive", reasons=issues)
    counts = count(samples)
    reason = f"{counts.ok} of {counts.looks} samples were ok, including the last one"
    if counts.ok < counts.looks:
        reason += "; the others are within the error rate"
    return WatchVerdict(status="healthy", reasons=[f"{reason}."])


def superseded(release_id: str | None, newer: str) -> WatchVerdict:
    """Return the verdict on a watch that ended because the release ``newer`` was prepared meanwhile."""
    watched = f"of release {release_id} " if release_id else ""
    reason = f"Release {newer} was prepared meanwhile, so this watch {watched}ended without a verdict or a rollback."
    return WatchVerdict(status="inconclusive", reasons=[reason])


def _issues(samples: Sequence[Sample], rules: WatchConfig) -> list[str]:
    """Return the reasons why samples that are not degraded are not healthy either."""
    counts = count(samples)
    issues = []
    if counts.ok + counts.bad < rules.min_samples:
        issues.append(f"{counts.ok + counts.bad} samples are ok or bad, and {rules.min_samples} are required.")
    if not samples:
        return issues
    if counts.bad + counts.unknown > rules.error_rate * counts.looks:
        limit = show_share(rules.error_rate)
        latest = next(sample for sample in reversed(samples) if sample.finding != "ok")
        share = f"{counts.bad} bad and {counts.unknown} unknown of {counts.looks} samples are more than {limit}"
        issues.append(f"{share}; the latest of them: {_why(latest)}.")
    if samples[-1].finding != "ok":
        issues.append(f"The last sample was not ok: {_why(samples[-1])}.")
    return issues


def _why(sample: Sample) -> str:
    return "; ".join(sample.why) or "no reason was given"
