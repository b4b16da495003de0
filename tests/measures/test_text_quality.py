"""Measures of generated text against closed forms, slow versions, sacrebleu itself and laws."""

import math
import random
import zlib
from collections.abc import Sequence
from pydoc_data.topics import topics

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_degrade.measures.text_quality import (
    compression_ratio,
    distinct,
    loop_share,
    measure_text,
    moving_average_ttr,
    self_bleu,
    sequence_repetition,
)

SYMBOLS = ["a", "b", "c", "ab", "abc"]
WORDS = st.lists(st.sampled_from(SYMBOLS), min_size=1, max_size=30)
UNIT = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=5)


PROSE = topics["objects"].split()[:1000]
"""A chapter of the Python language reference."""


# ---- closed forms


def test_repetition_of_one_word() -> None:
    words = ["a"] * 4
    assert [distinct(words, n) for n in (1, 2, 3, 4)] == [1 / 4, 1 / 3, 1 / 2, 1]
    assert [sequence_repetition(words, n) for n in (1, 3)] == [0.75, 0.5]
    assert distinct(["a", "b", "c"], 1) == 1


def test_moving_average_ttr_by_hand() -> None:
    assert moving_average_ttr(list("abab"), 2) == 1
    assert moving_average_ttr(list("aabb"), 2) == pytest.approx(2 / 3)
    assert moving_average_ttr(list("aab")) == pytest.approx(2 / 3)  # shorter than the window
    assert moving_average_ttr(["a"] * 100) == 1 / 25


def test_moving_average_ttr_does_not_fall_with_length_as_the_plain_ratio_does() -> None:
    assert distinct(PROSE, 1) < 0.8 * distinct(PROSE[:100], 1)
    assert moving_average_ttr(PROSE) == pytest.approx(moving_average_ttr(PROSE[:100]), rel=0.1)


def test_compression_ratio_by_hand() -> None:
    assert compression_ratio("a") == pytest.approx(1 / 9)
    assert compression_ratio("a" * 1000) == pytest.approx(1000 / 17, rel=0.3)  # builds of zlib differ by a few bytes
    assert compression_ratio("é") == 2 / len(zlib.compress("é".encode(), 9))  # bytes, not characters
    prose = " ".join(PROSE)
    assert compression_ratio(prose) == len(prose.encode()) / len(zlib.compress(prose.encode(), 9))


@pytest.mark.parametrize("length", [60, 200])
def test_loops_are_seen_and_word_salad_is_not(length: int) -> None:
    written = PROSE[:length]
    looped = (PROSE[:6] * length)[:length]
    salad = random.Random(0).sample(written, length)
    of_written, of_looped, of_salad = (measure_text(" ".join(words)) for words in (written, looped, salad))
    assert of_looped["compression_ratio"] > 4 > 2.3 > of_written["compression_ratio"] > 1.4
    assert of_salad["compression_ratio"] == pytest.approx(of_written["compression_ratio"], rel=0.1)
    assert of_salad["distinct_1"] == of_written["distinct_1"] > 4 * of_looped["distinct_1"]
    assert of_salad["mattr"] == pytest.approx(of_written["mattr"], rel=0.1)
    assert [of["loop_share"] for of in (of_written, of_looped, of_salad)] == [0, 1, 0]


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("a a a a", 1.0),
        ("a", 0.0),
        ("a b c", 0.0),
        ("a a b", 0.0),  # a loop that the text left again
        ("x a b a b", 4 / 5),
        ("x a b a b a", 5 / 6),  # begins or ends within a copy
        ("x a b c a b", 0.0),  # once and a part is no loop
        ("y y x a b b a b b", 6 / 9),  # the long loop, not the short one within it
        ("the cat the cat the c", 1.0),  # cut off within a word
        ("the cat the c", 0.0),  # which does not count as the second copy
        ("the the then", 0.0),
    ],
)
def test_loop_share_by_hand(text: str, share: float) -> None:
    assert loop_share(text.split()) == pytest.approx(share)


def test_self_bleu_by_hand() -> None:
    assert self_bleu(["a b", "a c"]) == pytest.approx([50, 50])
    assert self_bleu(["a b", "c d e"]) == [0, 0]
    assert self_bleu(["a b c d e f", "a b c"]) == pytest.approx(
        [100 * (3 / 6 * 2 / 5 * 1 / 4 * 1 / 2 / 3) ** 0.25, 100 / math.e]
    )


@pytest.mark.parametrize("text", ["a", "a b", "the cat sat on the mat. the cat sat on the mat.", "¿qué? 日本語 <s>"])
def test_identical_samples_have_self_bleu_100(text: str) -> None:
    assert self_bleu([text] * 3) == pytest.approx([100] * 3)
    assert max(self_bleu([text] * 3)) <= 100


def test_nothing_to_measure_is_nan() -> None:
    assert all(math.isnan(f(["a"], 2)) for f in (distinct, sequence_repetition))
    assert math.isnan(self_bleu(["alone"])[0])
    assert self_bleu([]) == []
    empty = measure_text("")
    assert empty.pop("words") == 0
    assert all(math.isnan(value) for value in empty.values())
    blank = measure_text(" \n ")
    assert {name for name, value in blank.items() if not math.isnan(value)} == {"words", "compression_ratio"}


def test_empty_samples_are_not_measured_and_change_nothing() -> None:
    samples = ["the cat sat", "the cat sat on the mat today"]
    first, empty, last = self_bleu([samples[0], " ", samples[1]])
    assert math.isnan(empty)
    assert [first, last] == self_bleu(samples)
    assert first < 100  # as a reference, the empty sample would have lifted the brevity penalty
    assert all(math.isnan(score) for score in self_bleu(["", "a b", ""]))


def test_measure_text_names_all_measures() -> None:
    text = "the cat sat on the mat and the cat sat on the mat"
    words = text.split()
    assert measure_text(text) == {
        "distinct_1": distinct(words, 1), "distinct_2": distinct(words, 2), "distinct_3": distinct(words, 3),
        "seq_rep_4": sequence_repetition(words, 4), "mattr": moving_average_ttr(words, 25),
        "compression_ratio": compression_ratio(text), "loop_share": loop_share(words), "words": 13,
    }  # fmt: skip


# ---- slow versions


def slow_distinct(words: Sequence[str], n: int) -> float:
    ngrams = [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]
    unique = [g for i, g in enumerate(ngrams) if g not in ngrams[:i]]
    return len(unique) / len(ngrams) if ngrams else math.nan


def slow_ttr(words: Sequence[str], window: int) -> float:
    windows = [words[i : i + window] for i in range(len(words)) if i + window <= len(words)] or [words]
    return sum(len(set(w)) / len(w) for w in windows) / len(windows)


def slow_loop(words: list[str]) -> int:
    for length in range(len(words), 1, -1):
        for period in range(1, length // 2 + 1):
            said = words[-length:]
            due = (said[:period] * length)[:length]
            cut = said[:-1] == due[:-1] and due[-1].startswith(said[-1]) and length > 2 * period
            if said == due or cut:
                return length
    return 0


@given(WORDS, st.integers(1, 5))
def test_equal_to_slow_versions(words: list[str], n: int) -> None:
    assert distinct(words, n) == pytest.approx(slow_distinct(words, n), nan_ok=True)
    assert moving_average_ttr(words, n) == pytest.approx(slow_ttr(words, n))
    assert loop_share(words) == slow_loop(words) / len(words)


@given(WORDS, UNIT, st.integers(1, 4), st.integers(0, 4))
def test_loop_share_equals_the_slow_version_on_loops(words: list[str], unit: list[str], copies: int, more: int) -> None:
    looped = words + unit * copies + unit[:more]
    assert loop_share(looped) == slow_loop(looped) / len(looped)


@given(st.lists(st.lists(st.sampled_from("abc."), min_size=1, max_size=8).map(" ".join), min_size=2, max_size=4))
@settings(max_examples=50, deadline=None)
def test_self_bleu_equals_sacrebleu(samples: list[str]) -> None:
    theirs = [
        sacrebleu.sentence_bleu(sample, samples[:i] + samples[i + 1 :], use_effective_order=True).score
        for i, sample in enumerate(samples)
    ]
    assert self_bleu(samples) == pytest.approx(theirs)


# ---- laws


@given(st.text(max_size=200))
@settings(deadline=None)
def test_ranges(text: str) -> None:
    measured = measure_text(text)
    words = measured.pop("words")
    ratio = measured.pop("compression_ratio")
    assert all(math.isnan(value) or 0 <= value <= 1 for value in measured.values())
    assert (ratio > 0 and ratio <= 1032) if text else math.isnan(ratio)
    assert math.isnan(measured["distinct_1"]) == math.isnan(measured["loop_share"]) == (words == 0)
    assert math.isnan(measured["seq_rep_4"]) == (words < 4)


@given(WORDS, st.integers(1, 5))
def test_distinct_and_repetition_sum_to_one(words: list[str], n: int) -> None:
    assert distinct(words, n) + sequence_repetition(words, n) == pytest.approx(1 if len(words) >= n else math.nan, nan_ok=True)


@given(WORDS, st.data())
def test_order_matters_where_it_should(words: list[str], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(words))
    assert distinct(shuffled, 1) == distinct(words, 1)
    assert moving_average_ttr(shuffled, len(words)) == moving_average_ttr(words, len(words))
    assert all(distinct(words[::-1], n) == pytest.approx(distinct(words, n), nan_ok=True) for n in (2, 3))
    assert len(set(map(loop_share, ("abab", "abba")))) == 2


@given(WORDS)
def test_names_of_words_do_not_matter(words: list[str]) -> None:
    renamed = [f"{SYMBOLS.index(word)}!" for word in words]
    assert distinct(renamed, 2) == pytest.approx(distinct(words, 2), nan_ok=True)
    assert moving_average_ttr(renamed, 3) == moving_average_ttr(words, 3)
    assert loop_share(renamed) <= loop_share(words)  # equal, but for "a", which may be "ab" cut off


@given(WORDS, UNIT, st.integers(2, 6))
def test_a_loop_at_the_end_is_seen(words: list[str], unit: list[str], copies: int) -> None:
    looped = words + unit * copies
    assert loop_share(looped) >= copies * len(unit) / len(looped)


@given(UNIT, UNIT, st.integers(2, 6), st.integers(1, 12))
def test_going_on_with_the_loop_never_lowers_its_share(words: list[str], unit: list[str], copies: int, more: int) -> None:
    text = words + unit * copies
    length = slow_loop(text)
    period = next(p for p in range(1, length) if all(text[-i] == text[-i - p] for i in range(1, length - p + 1)))
    for longer in range(length + 1, length + 1 + more):
        text = [*text, text[-period]]
        assert loop_share(text) >= longer / len(text)  # above it where the text happens to end in another loop, for a while


@given(WORDS, UNIT)
@settings(deadline=None)
def test_a_loop_that_goes_on_for_ever_is_all_there_is(words: list[str], unit: list[str]) -> None:
    text = words + unit * 300
    assert loop_share(text) > 0.9
    assert sequence_repetition(text, 4) > 0.85
    assert compression_ratio(" ".join(text)) > 5
    assert moving_average_ttr(text) < moving_average_ttr(list("abcdefghijklmnopqrstuvwxyz")) == 1


@given(st.lists(WORDS.map(" ".join), min_size=2, max_size=4), st.data())
@settings(max_examples=30, deadline=None)
def test_order_of_samples_does_not_matter(samples: list[str], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(samples))))
    scores = self_bleu(samples)
    assert self_bleu([samples[i] for i in order]) == pytest.approx([scores[i] for i in order])
    assert all(0 <= score <= 100 for score in scores)


@given(WORDS)
@settings(max_examples=30, deadline=None)
def test_a_sample_said_twice_scores_100(words: list[str]) -> None:
    text = " ".join(words)
    assert self_bleu([text, "d e f", text])[::2] == pytest.approx([100, 100])
