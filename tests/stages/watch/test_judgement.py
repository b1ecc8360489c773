"""From samples to a verdict: each rule by itself, and properties of all sequences of samples."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from release_tasks.config.schema import WatchConfig
from release_tasks.core.options import Share
from release_tasks.stages.watch.comparison import Finding
from release_tasks.stages.watch.judgement import WatchVerdict, degradation, judge
from release_tasks.stages.watch.samples import Sample

RULES = WatchConfig()
LETTERS: dict[str, Finding] = {"o": "ok", "b": "bad", "u": "unknown"}
ORDER = ["degraded", "inconclusive", "healthy"]


def samples_of(letters: str) -> list[Sample]:
    """Make samples from ``o``, ``b`` and ``u``; ``|`` is a time without samples."""
    made: list[Sample] = []
    unseen = 0
    for letter in letters:
        if letter == "|":
            unseen = 60_000
            continue
        made.append(Sample(time="t", finding=LETTERS[letter], why=[f"because {letter}"], unseen_ms=unseen))
        unseen = 0
    return made


def verdict_on(samples: Iterable[Sample], rules: WatchConfig = RULES, **end: Any) -> WatchVerdict:
    """Judge as the watch does: after each sample, and at the end."""
    seen: list[Sample] = []
    for sample in samples:
        seen.append(sample)
        if degradation(seen, rules):
            break
    return judge(seen, rules, **{"watched": 600.0, **end})


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("letters", "status", "reason"),
    [
        ("oooooo", "healthy", "6 of 6 samples were ok"),
        ("oooboooo", "healthy", "7 of 8 samples were ok"),
        ("booooo", "healthy", "within the error rate"),
        ("oouooo", "healthy", "within the error rate"),
        ("bbb", "degraded", "3 samples in a row were bad: because b"),
        ("ooooooobbb", "degraded", "3 samples in a row"),
        ("bbobbooooo", "degraded", "4 of the last 5 samples were bad, more than 30%"),
        ("bobobobo", "degraded", "3 of the last 5 samples"),
        ("oboboboboboo", "degraded", "were bad"),
        ("bboo", "inconclusive", "4 samples are ok or bad, and 5 are required"),
        ("obob", "inconclusive", "5 are required"),
        ("", "inconclusive", "0 samples are ok or bad"),
        ("oooooob", "inconclusive", "The last sample was not ok: because b"),
        ("oooooobb", "inconclusive", "The last sample was not ok"),
        ("ooooooou", "inconclusive", "because u"),
        ("uuuuuuuuuu", "inconclusive", "0 samples are ok or bad, and 5 are required"),
        ("uuuuuuooooo", "inconclusive", "0 bad and 6 unknown of 11 samples are more than 30%"),
        ("oooooooobub", "inconclusive", "The last sample was not ok"),
        ("oooobb|boooooooo", "healthy", "12 of 15 samples were ok"),
        ("oooobb|bbb", "degraded", "3 samples in a row"),
        ("bb|bb|bb|bb", "inconclusive", "8 bad and 0 unknown of 8 samples"),
    ],
)
def test_each_rule(letters: str, status: str, reason: str) -> None:
    """The verdict and the first reason for it."""
    verdict = verdict_on(samples_of(letters))
    assert verdict.status == status, verdict
    assert any(reason in line for line in verdict.reasons), verdict.reasons


def test_the_configuration_sets_the_rules() -> None:
    """The verdict follows failures, window and error rate."""
    assert verdict_on(samples_of("oooob"), evolve(RULES, failures=1)).status == "degraded"
    assert verdict_on(samples_of("ooobbbbooooo"), evolve(RULES, failures=5, error_rate=Share(0.5))).status == "healthy"
    assert verdict_on(samples_of("obobobobobo"), evolve(RULES, error_rate=Share(1.0))).status == "healthy"
    assert verdict_on(samples_of("obooo"), evolve(RULES, error_rate=Share(0.0))).status == "inconclusive"
    # A short window does not include bad samples from the start.
    assert (
        verdict_on(samples_of("obobo" + "o" * 20), evolve(RULES, window=5, error_rate=Share(0.4))).status == "healthy"
    )


def test_an_interrupted_watch_is_never_healthy() -> None:
    """It is inconclusive, unless it was degraded before the signal."""
    assert verdict_on(samples_of("oooooooo"), is_cut_short=True).status == "inconclusive"
    assert verdict_on(samples_of("bbb"), is_cut_short=True).status == "degraded"


SAMPLES = st.text(alphabet="oooobu|", max_size=60)
CONFIGS = st.builds(
    lambda failures, rate, least, more: WatchConfig(
        failures=failures, error_rate=Share(rate), min_samples=least, window=least + more
    ),
    st.integers(1, 5),
    st.floats(0, 1),
    st.integers(1, 8),
    st.integers(0, 30),
)


@given(SAMPLES, CONFIGS, st.data())
def test_a_sample_that_turns_bad_never_improves_the_verdict(
    letters: str, rules: WatchConfig, data: st.DataObject
) -> None:
    """With any rules, a bad sample instead of an ok one gives the same or a worse verdict."""
    good = [index for index, letter in enumerate(letters) if letter == "o"]
    if not good:
        return
    index = data.draw(st.sampled_from(good))
    worse = letters[:index] + "b" + letters[index + 1 :]
    before, after = verdict_on(samples_of(letters), rules), verdict_on(samples_of(worse), rules)
    assert ORDER.index(after.status) <= ORDER.index(before.status), (letters, worse, before, after)


@given(st.integers(0, 40), st.integers(0, 40), CONFIGS)
def test_a_single_bad_sample_is_never_degraded(before: int, after: int, rules: WatchConfig) -> None:
    """At any position and with few samples; only `failures: 1` makes one bad sample degraded."""
    verdict = verdict_on(samples_of("o" * before + "b" + "o" * after), evolve(rules, failures=max(rules.failures, 2)))
    assert verdict.status != "degraded"


@given(SAMPLES, CONFIGS)
def test_every_verdict_has_reasons(letters: str, rules: WatchConfig) -> None:
    """Healthy needs enough ok samples and an ok last sample; degraded needs enough bad samples."""
    verdict = verdict_on(samples_of(letters), rules)
    assert verdict.reasons and all(reason.endswith(".") for reason in verdict.reasons)
    if verdict.status == "healthy":
        assert letters.rstrip("|").endswith("o")
        assert letters.count("o") + letters.count("b") >= rules.min_samples
    if verdict.status == "degraded":
        assert letters.count("b") >= rules.failures


@given(SAMPLES, SAMPLES, CONFIGS)
def test_only_samples_after_a_gap_decide_on_degraded(before: str, after: str, rules: WatchConfig) -> None:
    """Samples before a time without samples do not count."""
    if after and after[0] != "|":
        assert degradation(samples_of(f"{before}|{after}"), rules) == degradation(samples_of(after), rules)
