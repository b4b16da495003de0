"""What is wrong with generated text that can be seen without a model: repetition, loops, poverty of words, sameness.

Each function is about one continuation, without its prompt, as words = `text.split()`; `self_bleu` alone compares several.
A text too short to be measured gives nan: nothing was measured, and neither 0 nor 1 would say so. All of these change with
length, so compare continuations of one length in tokens. They see loops, not word salad: a text of random words scores as
varied, and shows in its likelihood under the intact subject (`text_likelihood`).
"""

import math
import zlib
from collections.abc import Sequence

from sacrebleu.metrics.bleu import BLEU

MATTR_WINDOW = 25
"""Words in the moving window; short, so that it moves in continuations of some dozens of words."""


def distinct(words: Sequence[str], n: int) -> float:
    """Unique n-grams / n-grams. [share]

    "a a a a" gives 0.25 for n = 1, "a b c" gives 1.

    Returns: value in (0, 1], low for repetitive text; nan for fewer than n words.
    Source: Li et al., "A diversity-promoting objective function for neural conversation models", NAACL 2016.
    """
    assert n >= 1, "n-grams have at least one word"
    ngrams = list(zip(*(words[i:] for i in range(n)), strict=False))
    return len(set(ngrams)) / len(ngrams) if ngrams else math.nan


def sequence_repetition(words: Sequence[str], n: int) -> float:
    """1 - unique n-grams / n-grams: the share of n-grams said before. [share]

    "a a a a" gives 0.75 for n = 1 and 0.5 for n = 3; "a b c" gives 0. The paper counts tokens, this counts words.

    Returns: value in [0, 1), high for repetitive text; nan for fewer than n words.
    Source: Welleck et al., "Neural text generation with unlikelihood training", ICLR 2020 (seq-rep-n).
    """
    return 1 - distinct(words, n)


def moving_average_ttr(words: Sequence[str], window: int = MATTR_WINDOW) -> float:
    """Type-token ratio, averaged over all windows of `window` successive words (MATTR). [share]

    Mean over i of |set(w_i .. w_(i+window-1))| / window: "a b a b" gives 1 for windows of 2, "a a b b" (1/2 + 1 + 1/2) / 3.
    Fewer words than the window give the type-token ratio of them all, which falls with their number.

    Returns: value in [1/window, 1], low for repetitive text; nan without words.
    Source: Covington and McFall, "Cutting the Gordian knot: the moving-average type-token ratio", J. Quant. Ling. 2010.
    """
    assert window >= 1, "a window has at least one word"
    if not words:
        return math.nan
    size = min(window, len(words))
    types = [len(set(words[i : i + size])) for i in range(len(words) - size + 1)]
    return sum(types) / (size * len(types))


def compression_ratio(text: str) -> float:
    """UTF-8 bytes / bytes after zlib at level 9. [dimensionless]

    1000 times "a" gives 1000 / 17 = 59, and "a" alone 1 / 9, since the format adds 8 bytes. Grows with length: the Python
    language reference has 1.5 to 2.7 in 60 words and 1.9 to 3.3 in 200 (middle 95 %), loops have far more, and the same
    words shuffled 2 to 6 % less (median). Another build of zlib may differ by some bytes.

    Returns: value in (0, 1032], high for repetitive text; nan for the empty text.
    Source: Shaib et al., "Standardizing the measurement of text diversity", 2024, with zlib for gzip.
    """
    data = text.encode()
    return len(data) / len(zlib.compress(data, 9)) if data else math.nan


def loop_share(words: Sequence[str]) -> float:
    """Share of the words that belong to the loop in which the text ends. [share]

    The longest suffix w_i .. w_n with w_j = w_(j-p) throughout, for any period p that fits into it at least twice, / n:
    "a a a a" gives 1, "x a b a b a" gives 5/6, "a b c" gives 0. Two copies are enough, because the loops of greedy decoding
    may be paragraphs of which a limited length holds no three, while a last word said twice by chance weighs only 2/n
    (windows of 40 words in the Python language reference have 0.0004 on average). The suffix may start within a copy. It may
    also end within one, and within a word, as it does where generation is cut off at a number of tokens: after two copies the
    last word need only begin like the word that was due.

    Returns: value in [0, 1]; nan without words.
    Source: ours; the loops are those of Holtzman et al., "The curious case of neural text degeneration", ICLR 2020.
    """
    if not words:
        return math.nan
    last, longest = words[-1], 0
    for period in range(1, len(words) // 2 + 1):
        due = words[-1 - period]
        if not due.startswith(last):
            continue
        start = len(words) - 1
        while start > period and words[start - 1] == words[start - 1 - period]:
            start -= 1
        length = len(words) - start + period
        whole_words = length - (last != due)
        if whole_words >= 2 * period:
            longest = max(longest, length)
    return longest / len(words)


def self_bleu(samples: Sequence[str]) -> list[float]:
    """BLEU of each of several continuations of one prompt, with all the others as references. [0..100]

    BLEU of sacrebleu for one sentence: brevity penalty times the geometric mean of the precisions of 1- to 4-grams (of as
    many orders as the sample has: "effective order"), tokens by 13a, exponential smoothing. Equal samples give 100 each,
    "a b" and "a c" give 50 each (precisions 1/2, and 0 smoothed to 1/2), samples without a common word 0.

    A sample without words is nan and no reference to the others: BLEU would call it perfectly different, 0, and being short
    it would lift the brevity penalty from the others. So is a sample that has no other to be compared with.

    Returns: one value per sample, in the order given; high where sampling always says the same.
    Source: Zhu et al., "Texygen: a benchmarking platform for text generation models", SIGIR 2018; Post, "A call for clarity in
        reporting BLEU scores", WMT 2018.
    """
    bleu = BLEU(effective_order=True)
    said = [bool(sample.split()) for sample in samples]
    scores = []
    for i, sample in enumerate(samples):
        others = [other for j, other in enumerate(samples) if said[j] and j != i]
        scored = said[i] and others
        scores.append(min(100.0, bleu.sentence_score(sample, others).score) if scored else math.nan)  # exp(ln 100) > 100
    return scores


def measure_text(text: str) -> dict[str, float]:
    """All measures of one continuation, by name; `words` is their number, the others as in this module.

    "a a a a" gives distinct_1 = 0.25 and loop_share = 1; the empty text words = 0 and nan for everything else.
    """
    words = text.split()
    return {
        "distinct_1": distinct(words, 1),
        "distinct_2": distinct(words, 2),
        "distinct_3": distinct(words, 3),
        "seq_rep_4": sequence_repetition(words, 4),
        "mattr": moving_average_ttr(words),
        "compression_ratio": compression_ratio(text),
        "loop_share": loop_share(words),
        "words": float(len(words)),
    }
