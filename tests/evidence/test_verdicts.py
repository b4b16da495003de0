"""Verdicts: what supports a claim, what contradicts it, and what keeps runs from deciding it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from lit_degrade.evidence.claims.claims import ORDERED, TESTS, Claim
from lit_degrade.evidence.claims.verdicts import Verdict, judge
from lit_degrade.evidence.numbers.power import runs_for_power

CONDITIONS = ["stimulus", "lr", "subject", "optimizer", "seed"]
EIGEN, TOKENS = {"stimulus": "eigen_prion"}, {"stimulus": "random_tokens"}


def rows(values: Mapping[str, Sequence[float]], **columns: Any) -> pd.DataFrame:
    """Done runs of each stimulus, seeds from 43."""
    made = [
        {"stimulus": name, "seed": 43 + i, "damage": value, "state": "done"} | columns
        for name, found in values.items()
        for i, value in enumerate(found)
    ]
    frame = pd.DataFrame(made).assign(filtered=False, subject="tiny-1m", probe_text="a", probe_tokens=64)
    return frame.assign(run_id=[f"r{i:03d}-{columns}" for i in range(len(frame))])


def claim(test: str = "welch", **changes: Any) -> Claim:
    given = {"treatment": EIGEN, "control": TOKENS} if test not in ("one_sample", "equivalence") else {"treatment": EIGEN}
    return Claim(**{"name": "c", "says": "It does.", "outcome": "damage", "test": test, "family": "f"} | given | changes)  # type: ignore[arg-type]


def only(found: list[Verdict]) -> Verdict:
    assert len(found) == 1
    return found[0]


HIGH, LOW = [0.50, 0.55, 0.47, 0.52, 0.49], [0.20, 0.24, 0.18, 0.21, 0.22]


@pytest.mark.parametrize("test", ["welch", "permutation", "paired"])
def test_a_clear_difference_is_supported_and_its_opposite_contradicted(test: str) -> None:
    frame = rows({"eigen_prion": HIGH, "random_tokens": LOW})
    up = only(judge([claim(test, margin=0.05)], frame, CONDITIONS))
    down = only(judge([claim(test, margin=0.05, direction="less")], frame, CONDITIONS))
    assert (up.answer, down.answer) == ("supported", "contradicted")
    assert up.estimate == pytest.approx(np.mean(HIGH) - np.mean(LOW))
    assert up.interval.low < up.estimate < up.interval.high


def test_rank_that_rose_never_supports_that_it_fell() -> None:
    """Known error 7: absolute changes would turn the sign of the finding."""
    frame = rows({"eigen_prion": [-0.076, -0.03, -0.14, -0.06, -0.09, -0.02, -0.05]})
    fell = only(judge([claim("one_sample", margin=0.01)], frame, CONDITIONS))
    rose = only(judge([claim("one_sample", margin=0.01, direction="less")], frame, CONDITIONS))
    assert (fell.answer, rose.answer) == ("contradicted", "supported")
    assert fell.estimate < 0


@settings(max_examples=40, deadline=None)
@given(
    some.lists(some.floats(-2, 2), min_size=3, max_size=8, unique=True),
    some.sampled_from(["welch", "one_sample", "equivalence"]),
)
def test_turning_all_signs_turns_the_estimate_and_the_verdict(values: list[float], test: str) -> None:
    frame = rows({"eigen_prion": values, "random_tokens": [v / 2 + 0.1 * i for i, v in enumerate(values)]})
    turned = frame.assign(damage=-frame["damage"])
    a = only(judge([claim(test, margin=0.1)], frame, CONDITIONS))
    b = only(judge([claim(test, margin=0.1, direction="less")], turned, CONDITIONS))
    assert b.estimate == pytest.approx(-a.estimate)
    assert (b.answer, b.p) == (a.answer, pytest.approx(a.p))


def test_an_effect_smaller_than_the_margin_contradicts_however_significant() -> None:
    frame = rows({"eigen_prion": [0.210, 0.211, 0.209, 0.2105], "random_tokens": [0.200, 0.201, 0.199, 0.2003]})
    assert only(judge([claim(margin=0.05)], frame, CONDITIONS)).answer == "contradicted"
    assert only(judge([claim(margin=0.0)], frame, CONDITIONS)).answer == "supported"


@pytest.mark.parametrize("state", ["diverged", "failed", "interrupted", "missing", "corrupt"])
def test_runs_without_an_outcome_are_never_dropped(state: str) -> None:
    """Known errors 7 and 12: what diverged is an outcome, and survivors alone decide nothing."""
    frame = rows({"eigen_prion": [*HIGH, np.nan], "random_tokens": LOW})
    frame.loc[frame["damage"].isna(), "state"] = state
    found = only(judge([claim(margin=0.05)], frame, CONDITIONS))
    assert found.answer == "inconclusive"
    assert found.reasons == [f"1 of 11 runs have no finite outcome ({state}); otherwise this would read 'supported'"]
    assert len(found.arms[0].rows) == 6
    assert len(found.arms[0].used) == 5


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_measure_that_is_not_finite_counts_too(value: float) -> None:
    frame = rows({"eigen_prion": [0.001, -0.001, 0.0005, value]})
    found = only(judge([claim("equivalence", margin=0.1)], frame, CONDITIONS))
    assert found.answer == "inconclusive"
    assert "1 of 4 runs have no finite outcome (not finite)" in found.reasons[0]


def test_filtered_runs_are_not_asked_again() -> None:
    frame = rows({"eigen_prion": [*HIGH, 9.0], "random_tokens": LOW})
    frame.loc[frame["damage"] == 9.0, "filtered"] = True
    found = only(judge([claim(margin=0.05)], frame, CONDITIONS))
    assert found.answer == "supported"
    assert found.estimate == pytest.approx(np.mean(HIGH) - np.mean(LOW))


def test_a_control_that_ignores_its_seed_is_one_run() -> None:
    """Known error 8."""
    frame = rows({"eigen_prion": HIGH, "random_tokens": [0.2143] * 5})
    found = only(judge([claim()], frame, CONDITIONS))
    assert found.answer == "inconclusive"
    assert "all 5 runs of random_tokens have the same outcome to the last digit" in found.reasons[0]


def test_a_run_made_twice_is_one_run() -> None:
    """Known error 15's cousin: the same settings and seed under another id, from another version or folder, add nothing."""
    frame = rows({"eigen_prion": HIGH, "random_tokens": LOW})
    again = frame.iloc[:2].assign(run_id=["again0", "again1"])
    found = only(judge([claim()], pd.concat([frame, again], ignore_index=True), CONDITIONS))
    assert found.answer == "inconclusive"
    assert "2 runs repeat the seed and all settings of another" in found.reasons[0]


def test_pairs_are_whole() -> None:
    frame = rows({"eigen_prion": HIGH, "random_tokens": LOW[:4]})
    found = only(judge([claim("paired")], frame, CONDITIONS))
    assert found.answer == "inconclusive"
    assert "1 runs have no partner with the same seed" in found.reasons[0]
    assert only(judge([claim("welch")], frame, CONDITIONS)).answer == "supported"


def test_arms_that_differ_in_something_else_decide_nothing() -> None:
    """Known errors 4 to 6: another optimizer, learning rate or adapter in the control."""
    frame = rows({"eigen_prion": HIGH, "random_tokens": LOW})
    frame["optimizer_used"] = frame["stimulus"].map({"eigen_prion": "adafactor", "random_tokens": "sgd"})
    found = only(judge([claim()], frame, CONDITIONS))
    assert found.answer == "inconclusive"
    assert "the arms also differ in optimizer_used: adafactor against sgd" in found.reasons[0]
    assert only(judge([claim(despite=["optimizer_used"])], frame, CONDITIONS)).answer == "supported"
    frame = frame.drop(columns="optimizer_used").assign(lr=frame["stimulus"].map({"eigen_prion": 2e-4, "random_tokens": 1e-4}))
    assert "the arms also differ in lr: 0.0002 against 0.0001" in only(judge([claim()], frame, CONDITIONS)).reasons[0]


def test_measures_on_other_probes_are_not_compared() -> None:
    frame = rows({"eigen_prion": HIGH, "random_tokens": LOW})
    for column in ("probe_text", "probe_tokens"):
        other = frame.assign(**{column: [str(i % 2) for i in range(len(frame))]})
        assert only(judge([claim()], other, CONDITIONS)).answer == "inconclusive"
    ranks = frame.assign(rank_tokens=[1024 + i for i in range(len(frame))])
    assert only(judge([claim()], ranks, CONDITIONS)).answer == "supported"
    assert only(judge([claim(outcome="rank")], ranks.rename(columns={"damage": "rank"}), CONDITIONS)).answer == "inconclusive"


def test_a_claim_is_tested_in_every_combination_that_it_does_not_mention() -> None:
    frames = [
        rows({"eigen_prion": HIGH, "random_tokens": LOW}, lr=lr, optimizer=o) for lr in (1e-4, 2e-4) for o in ("adamw", "sgd")
    ]
    found = judge([claim()], pd.concat(frames, ignore_index=True), CONDITIONS)
    assert [(v.stratum["lr"], v.stratum["optimizer"]) for v in found] == [
        (1e-4, "adamw"),
        (1e-4, "sgd"),
        (2e-4, "adamw"),
        (2e-4, "sgd"),
    ]
    assert all(len(arm.used) == 5 for verdict in found for arm in verdict.arms)
    assert all(v.p_holm == pytest.approx(4 * v.p) for v in found)  # four equal p-values in one family


def test_families_are_corrected_apart() -> None:
    frame = rows({"eigen_prion": HIGH, "random_tokens": LOW})
    alone, other = judge([claim(), claim(name="d", family="g")], frame, CONDITIONS)
    assert alone.p_holm == alone.p
    both = judge([claim(), claim(name="d")], frame, CONDITIONS)
    assert [v.p_holm for v in both] == pytest.approx([2 * v.p for v in both])
    assert other.p == alone.p


def test_equivalence() -> None:
    frame = rows({"eigen_prion": [0.001, -0.002, 0.003, 0.0], "random_tokens": [0.2, 0.22, 0.19, 0.21]})
    near, far = claim("equivalence", margin=0.02), claim("equivalence", margin=0.02, treatment=TOKENS)
    wide = claim("equivalence", margin=0.001)
    assert [v.answer for v in judge([near, far, wide], frame, CONDITIONS)] == ["supported", "contradicted", "inconclusive"]
    apart = only(judge([claim("equivalence", control=TOKENS, margin=0.02)], frame, CONDITIONS))
    assert apart.answer == "contradicted"


@pytest.mark.parametrize(
    ("changes", "effect", "words"),
    [
        ({"margin": 0.05}, 0.05, "a difference of 0.05 [nats/token] in log_perplexity_ratio, the margin"),
        ({}, 0.01, "a difference of 0.01 [nats/token] in log_perplexity_ratio, that of these runs"),
        (
            {"test": "equivalence", "margin": 0.05},
            0.05,
            "that log_perplexity_ratio is within the margin of 0.05 [nats/token], if there is no difference at all",
        ),
    ],
)
def test_power_is_power_to_see_something(changes: dict[str, Any], effect: float, words: str) -> None:
    frame = rows({"eigen_prion": [0.1, 0.3, 0.23], "random_tokens": [0.2, 0.1, 0.3]}).rename(
        columns={"damage": "log_perplexity_ratio"}
    )
    asked = claim(**{"test": "welch", "outcome": "log_perplexity_ratio", "control": TOKENS} | changes)
    found = only(judge([asked], frame, CONDITIONS))
    assert found.effect == pytest.approx(effect)
    power = f"{found.runs_needed} runs a group would have 80 % power to see {words}"
    assert found.why() == [f"these runs are too few, or too scattered, to decide; {power}"]
    sd = np.sqrt((np.var([0.1, 0.3, 0.23], ddof=1) + 0.01) / 2)
    enough = {"power": 0.9, "two_sided": False} if asked.test == "equivalence" else {}
    assert found.runs_needed == runs_for_power(effect, sd, **enough)  # type: ignore[arg-type]


def test_the_power_of_shares_is_in_percent() -> None:
    frame = rows({"eigen_prion": [0.1, 0.3, 0.23], "random_tokens": [0.2, 0.1, 0.3]}).rename(
        columns={"damage": "rank_reduction"}
    )
    found = only(judge([claim(outcome="rank_reduction", margin=0.05)], frame, CONDITIONS))
    assert found.power().endswith("to see a difference of 5 [%] in rank_reduction, the margin")


def sized(slope: float, noise: float = 0.01) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frames = [
        rows({"eigen_prion": 0.3 + slope * np.log10(n) + rng.normal(0, noise, 5)}, n_parameters=n)
        for n in (60_000, 250_000, 1_000_000, 3_000_000)
    ]
    return pd.concat(frames, ignore_index=True).assign(subject=lambda f: f["n_parameters"].astype(str), run_id=range(20))


@pytest.mark.parametrize(("slope", "answer"), [(0.2, "supported"), (0.0, "contradicted"), (-0.2, "contradicted")])
def test_slopes_and_orders_over_sizes(slope: float, answer: str) -> None:
    over = {"control": None, "over": "n_parameters"}
    found = only(judge([claim("slope", margin=0.05, **over)], sized(slope), CONDITIONS))
    assert found.answer == answer
    assert found.estimate == pytest.approx(slope, abs=0.02)
    ordered = only(judge([claim("jonckheere", **over)], sized(slope), CONDITIONS))
    paged = only(judge([claim("page", **over)], sized(slope), CONDITIONS))
    assert {0.2: "supported", 0.0: "inconclusive", -0.2: "contradicted"}[slope] == ordered.answer == paged.answer


@pytest.mark.parametrize("slope", [0.0, 0.5, -0.5])
@pytest.mark.parametrize("direction", ["greater", "less"])
def test_levels_without_residual_decide_no_slope(slope: float, direction: str) -> None:
    """What lies on a line to the last digit, level or not, says nothing of the scatter that a slope is judged by."""
    sizes = [10**decade for decade in (4, 5, 6, 7)]
    frames = [rows({"eigen_prion": [3 + slope * i] * 2}, n_parameters=n) for i, n in enumerate(sizes)]
    frame = pd.concat(frames, ignore_index=True).assign(run_id=range(8), subject=lambda f: f["n_parameters"].astype(str))
    found = only(judge([claim("slope", control=None, over="n_parameters", direction=direction)], frame, CONDITIONS))
    assert (found.answer, found.p, found.p_against) == ("inconclusive", 1.0, 1.0)
    assert found.reasons == ["the levels of n_parameters lie on a line without residual: how much they scatter is unknown"]
    assert found.estimate == pytest.approx(slope)


FLAT = {"equal": (3.0, 3.0, 3.0), "apart": (2.0, 3.0, 4.0), "fractions": (0.1, 0.2, 0.3), "zeros": (0.0, 0.0, 0.0)}


@pytest.mark.parametrize("name", FLAT)
@pytest.mark.parametrize("test", TESTS)
def test_lack_of_spread_is_no_certainty(test: str, name: str) -> None:
    """No test calls runs without spread certain: p is at least what rearranging them can give, in either direction."""
    frames = [
        rows({s: [value] * 4}, size=10.0**i)
        for i, (s, value) in enumerate(zip(("eigen_prion", "random_tokens", "z"), FLAT[name], strict=True))
    ]
    frame = pd.concat(frames, ignore_index=True).assign(run_id=range(12))
    given: dict[str, Any] = {"control": None} if test in ("one_sample", "equivalence") else {}
    given |= {"margin": 0.5} if test == "equivalence" else {}
    given = {"treatment": {}, "control": None, "over": "size", "despite": ["stimulus"]} if test in ORDERED else given
    found = [only(judge([claim(test, direction=way, **given)], frame, CONDITIONS)) for way in ("greater", "less")]
    least = {"page": 6**-4, "jonckheere": 1 / 34650, "welch": 1 / 70, "permutation": 1 / 70}.get(test, 2**-4)
    assert min(p for verdict in found for p in (verdict.p, verdict.p_against)) >= least
    if len(set(FLAT[name])) == 1 and (test != "one_sample" or name == "zeros"):
        assert {verdict.answer for verdict in found} == {"inconclusive"}


PER_LEVEL = {"level by level": [0.1, 0.2, 0.3, 0.4], "all the same": [0.3] * 4, "but for rounding": [0.1 + 0.2, 0.3] * 2}


@pytest.mark.parametrize("values", PER_LEVEL.values(), ids=PER_LEVEL)
@pytest.mark.parametrize("test", ["jonckheere", "page"])
@pytest.mark.parametrize("direction", ["greater", "less"])
def test_seeds_that_are_ignored_are_one_run_at_each_level(values: list[float], test: str, direction: str) -> None:
    frame = sized(0.0).sort_values(["n_parameters", "seed"]).assign(damage=np.repeat(values, 5))
    found = only(judge([claim(test, control=None, over="n_parameters", direction=direction)], frame, CONDITIONS))
    assert found.answer == "inconclusive"
    assert "have the same outcome to the last digit" in found.reasons[0]


DEGENERATE = {
    "equal": ([0.3] * 5, [0.3] * 5),
    "whole": ([2.0] * 5, [2.0] * 5),
    "rounding": ([0.1 + 0.2] * 5, [0.3] * 5),
    "rounding in one arm": ([0.1 + 0.2, 0.3, 0.1 + 0.2, 0.3, 0.3], [0.3] * 5),
    "rounding in both arms": ([0.1 + 0.2] * 4 + [0.3 + 1e-16], [0.3] * 4 + [0.3 - 5e-17]),
    "tiny": ([5e-324] * 5, [0.0] * 5),
    "huge": ([1e300] * 5, [1e300] * 5),
    "one run": ([0.3], [0.3]),
    "not finite": ([0.3] * 4 + [np.inf], [np.nan] * 5),
    "apart, seed ignored": ([0.5] * 5, [0.3] * 5),
}


@pytest.mark.parametrize("arms", DEGENERATE.values(), ids=DEGENERATE)
@pytest.mark.parametrize("test", ["welch", "permutation", "paired", "sign_flip", "one_sample", "equivalence"])
@pytest.mark.parametrize("direction", ["greater", "less"])
def test_runs_without_spread_decide_nothing(arms: tuple[list[float], list[float]], test: str, direction: str) -> None:
    options = {"one_sample": {"value": arms[0][0]}, "equivalence": {"margin": 0.5, "value": arms[0][0]}}.get(test, {})
    frame = rows(dict(zip(("eigen_prion", "random_tokens"), arms, strict=True)))
    found = only(judge([claim(test, direction=direction, **options)], frame, CONDITIONS))
    assert not min(found.p, found.p_against) < 0.007, "two arrangements of 252 are the least that five runs an arm can show"
    counts = test == "equivalence" and float(arms[0][0]).is_integer()
    assert found.answer in ("inconclusive", "not tested") or (counts and found.answer == "supported")


def test_runs_that_never_started_leave_the_strata_alone() -> None:
    """Missing runs have conditions but no size; half a grid is still tested at each learning rate."""
    frames = [sized(0.2).assign(lr=lr) for lr in (1e-4, 2e-4)]
    frame = pd.concat(frames, ignore_index=True).assign(run_id=range(40))
    gone = (frame["subject"] == "3000000") | ((frame["lr"] == 2e-4) & (frame["seed"] == 47))
    frame.loc[gone, ["n_parameters", "damage"]] = np.nan
    frame.loc[gone, "state"] = "missing"
    found = judge([claim("slope", control=None, over="n_parameters")], frame, CONDITIONS)
    assert [(v.stratum, len(v.arms[0].rows), len(v.arms[0].used)) for v in found] == [
        ({"lr": 1e-4}, 20, 15),
        ({"lr": 2e-4}, 20, 12),
    ]
    assert all("runs have no finite outcome (missing)" in v.reasons[0] for v in found)


def test_orders_of_named_levels() -> None:
    frame = rows({"a": LOW, "b": [0.3, 0.33, 0.29, 0.31, 0.32], "c": HIGH})
    ordered = claim("jonckheere", treatment={}, control=None, over="stimulus", order=["a", "b", "c"])
    turned = claim("jonckheere", treatment={}, control=None, over="stimulus", order=["c", "b", "a"])
    assert only(judge([ordered], frame, CONDITIONS)).answer == "supported"
    assert only(judge([turned], frame, CONDITIONS)).answer == "contradicted"
    longer = claim("jonckheere", treatment={}, control=None, over="stimulus", order=["a", "b", "c", "d"])
    assert only(judge([longer], frame, CONDITIONS)).reasons[0].startswith("no usable run with stimulus d")
    shorter = claim("jonckheere", treatment={}, control=None, over="stimulus", order=["a", "b", "c"])
    more = pd.concat([frame, rows({"z": HIGH}).assign(run_id=list("vwxyz"))], ignore_index=True)
    assert len(only(judge([shorter], more, CONDITIONS)).arms[0].rows) == 15


def test_decades_need_numbers_above_0() -> None:
    named = claim("slope", treatment={}, control=None, over="stimulus")
    found = only(judge([named], rows({"a": LOW, "b": LOW, "c": HIGH}), CONDITIONS))
    assert (found.answer, found.reasons) == (
        "not tested",
        ["stimulus is not a number above 0 for every run: there are no decades of it"],
    )
    lost = claim("jonckheere", treatment={}, control=None, over="size")
    assert only(judge([lost], rows({"a": LOW}), CONDITIONS)).reasons == ["no run has 'size'"]


def test_too_little_to_test_says_so() -> None:
    few = rows({"eigen_prion": HIGH[:1], "random_tokens": LOW})
    assert only(judge([claim()], few, CONDITIONS)).reasons == ["1 usable runs of eigen_prion: a test needs two"]
    none = rows({"random_tokens": LOW})
    assert only(judge([claim()], none, CONDITIONS)).reasons == ["no run with eigen_prion"]
    assert only(judge([claim()], rows({"eigen_prion": HIGH}), CONDITIONS)).answer == "not tested"
    assert only(judge([claim(outcome="lost")], few, CONDITIONS)).reasons == ["no run has the outcome 'lost'"]
    assert (
        only(judge([claim("slope", control=None, over="lr")], rows({"eigen_prion": HIGH}, lr=1.0), CONDITIONS)).answer
        == "not tested"
    )


def test_three_runs_an_arm_cannot_pass_an_exact_test() -> None:
    frame = rows({"eigen_prion": [9.0, 9.1, 9.2], "random_tokens": [0.1, 0.2, 0.3]})
    found = only(judge([claim("permutation")], frame, CONDITIONS))
    assert found.answer == "inconclusive"
    assert found.p == pytest.approx(0.1)
    assert any("permutation" in caution for caution in found.cautions)


def test_a_condition_may_have_alternatives() -> None:
    frame = rows({"eigen_prion": HIGH, "random_tokens": LOW, "random_text": LOW})
    frame["damage"] += np.arange(len(frame)) * 1e-4
    both = claim(control={"stimulus": ["random_tokens", "random_text"]})
    found = only(judge([both], frame, CONDITIONS))
    assert (found.answer, found.arms[1].name, len(found.arms[1].used)) == ("supported", "random_tokens or random_text", 10)
    assert "random_tokens or random_text" in both.asks()


@pytest.mark.slow
def test_null_data_seldom_support_anything() -> None:
    """The whole chain keeps its family-wise error: four claims on 400 experiments without any effect."""
    rng = np.random.default_rng(1)
    claims = [claim(name=f"c{i}", control={"stimulus": name}) for i, name in enumerate(("a", "b", "c"))] + [claim("one_sample")]
    wrong = 0
    for _ in range(400):
        frame = rows({name: rng.normal(0, 1, 5) for name in ("eigen_prion", "a", "b", "c")})
        wrong += any(
            verdict.answer in ("supported", "contradicted") and verdict.p_holm <= 0.05
            for verdict in judge(claims, frame, CONDITIONS)
        )
    assert wrong / 400 < 0.07


def test_every_test_is_named() -> None:
    assert set(TESTS) == {
        "welch",
        "permutation",
        "paired",
        "sign_flip",
        "one_sample",
        "equivalence",
        "slope",
        "jonckheere",
        "page",
    }
