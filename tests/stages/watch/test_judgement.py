"""Looks in, verdict out: every rule by itself, and what holds for all sequences of looks."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from release_tasks.config.schema import WatchConfig
from release_tasks.stages.watch.judgement import WatchVerdict, degradation, judge
from release_tasks.stages.watch.samples import Sample

RULES = WatchConfig()
LETTERS = {"o": "ok", "b": "bad", "u": "unknown"}
ORDER = ["degraded", "inconclusive", "healthy"]


def looks(letters: str) -> list[Sample]:
    """Make looks of ``o``, ``b`` and ``u``; ``|`` stands for a time in which nobody looked."""
    made: list[Sample] = []
    unseen = 0
    for letter in letters:
        if letter == "|":
            unseen = 60_000
            continue
        made.append(Sample(time="t", finding=LETTERS[letter], why=[f"because {letter}"], unseen_ms=unseen))
        unseen = 0
    return made


def lived(samples: Iterable[Sample], rules: WatchConfig = RULES, **ending: float) -> WatchVerdict:
    """Judge as the watch does: after each look, and at the end."""
    seen: list[Sample] = []
    for sample in samples:
        seen.append(sample)
        if degradation(seen, rules):
            break
    return judge(seen, rules, **{"watched": 600.0, **ending})


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
    verdict = lived(looks(letters))
    assert verdict.status == status, verdict
    assert any(reason in sentence for sentence in verdict.reasons), verdict.reasons


def test_rules_are_those_of_the_configuration() -> None:
    """Other numbers, other verdicts."""
    assert lived(looks("oooob"), evolve(RULES, failures=1)).status == "degraded"
    assert lived(looks("ooobbbbooooo"), evolve(RULES, failures=5, error_rate=0.5)).status == "healthy"
    assert lived(looks("obobobobobo"), evolve(RULES, error_rate=1.0)).status == "healthy"
    assert lived(looks("obooo"), evolve(RULES, error_rate=0.0)).status == "inconclusive"
    # An early stretch of bad looks is forgotten by a short window, which the whole watch is not.
    assert lived(looks("obobo" + "o" * 20), evolve(RULES, window=5, error_rate=0.4)).status == "healthy"


@pytest.mark.parametrize(("unseen", "status"), [(0.0, "healthy"), (299.0, "healthy"), (301.0, "inconclusive")])
def test_most_of_the_time_has_to_be_seen(unseen: float, status: str) -> None:
    """A machine that slept through most of a watch has watched nothing."""
    verdict = lived(looks("oooooo|oooooo"), unseen=unseen)
    assert verdict.status == status
    if unseen > 300:
        assert verdict.reasons[0].startswith("No sample was taken for 301s of 10m")


def test_what_a_signal_ended_is_never_healthy() -> None:
    """Whoever stops a watch has no verdict, but for one that stands already."""
    assert lived(looks("oooooooo"), is_cut_short=True).status == "inconclusive"
    assert lived(looks("bbb"), is_cut_short=True).status == "degraded"


LOOKS = st.text(alphabet="oooobu|", max_size=60)
CONFIGS = st.builds(
    lambda failures, rate, least, more: WatchConfig(
        failures=failures, error_rate=rate, min_samples=least, window=least + more
    ),
    st.integers(1, 5),
    st.floats(0, 1),
    st.integers(1, 8),
    st.integers(0, 30),
)


@given(LOOKS, CONFIGS, st.data())
def test_a_look_that_turns_bad_never_makes_the_verdict_better(
    letters: str, rules: WatchConfig, data: st.DataObject
) -> None:
    """Whatever the rules: bad in the place of good is worse or the same."""
    good = [index for index, letter in enumerate(letters) if letter == "o"]
    if not good:
        return
    place = data.draw(st.sampled_from(good))
    worse = letters[:place] + "b" + letters[place + 1 :]
    before, after = lived(looks(letters), rules), lived(looks(worse), rules)
    assert ORDER.index(after.status) <= ORDER.index(before.status), (letters, worse, before, after)


@given(st.integers(0, 40), st.integers(0, 40), CONFIGS)
def test_a_single_bad_look_is_never_degraded(before: int, after: int, rules: WatchConfig) -> None:
    """Wherever it stands, however few there are; but somebody may ask for exactly that with `failures: 1`."""
    verdict = lived(looks("o" * before + "b" + "o" * after), evolve(rules, failures=max(rules.failures, 2)))
    assert verdict.status != "degraded"


@given(LOOKS, CONFIGS)
def test_every_verdict_says_why(letters: str, rules: WatchConfig) -> None:
    """Healthy needs enough good looks and a good last one; degraded needs enough bad ones."""
    verdict = lived(looks(letters), rules)
    assert verdict.reasons and all(reason.endswith(".") for reason in verdict.reasons)
    if verdict.status == "healthy":
        assert letters.rstrip("|").endswith("o")
        assert letters.count("o") + letters.count("b") >= rules.min_samples
    if verdict.status == "degraded":
        assert letters.count("b") >= rules.failures


@given(LOOKS, LOOKS, CONFIGS)
def test_only_the_newest_looks_decide_on_degraded(older: str, newer: str, rules: WatchConfig) -> None:
    """What lies before a time in which nobody looked is not added to what comes after it."""
    if newer and newer[0] != "|":
        assert degradation(looks(f"{older}|{newer}"), rules) == degradation(looks(newer), rules)
