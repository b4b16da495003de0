"""Is an answer right? Keys of questions, and a score that sees the answering text only."""

import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from string import ascii_uppercase
from typing import Literal

Kind = Literal["number", "choice", "words", "word"]


@dataclass(frozen=True)
class Answer:
    """The key of one question: what counts as right."""

    kind: Kind
    """`number`, `choice` (one of `options`), `words` (given words in a right order), `word` (one word)"""
    accepted: tuple[str, ...]
    """what is right, the plainest first; exactly one for a number and for a choice (the option itself, not its letter)"""
    options: tuple[str, ...] = ()
    """of a choice, in the order of their letters A, B, ..."""
    wrong: tuple[str, ...] = ()
    """of a word: words that spoil an answer wherever they are in it"""
    tolerance: float = 1e-6
    """of a number: largest error relative to the right one"""

    @property
    def key(self) -> str:
        """The right answer as one would write it: text that scores 1."""
        return self.accepted[0]

    @property
    def chance(self) -> float:
        """Probability that a blind guess of the right kind is right: 1 / options for a choice, 0 for the others."""
        return 1 / len(self.options) if self.kind == "choice" else 0.0


def score(text: str, answer: Answer) -> float:
    r"""1.0 when the text gives the right answer, else 0.0.

    number: the last number decides. Thousands separators, currencies, units with exponents (cm^2, cm2) and per cent signs
    are dropped; a minus must touch its number; 13/23, 2 1/3, \frac{1}{2}, 1.5e3 and .5 are read, numbers in words are not.
    choice: the last option named decides, by its words or by its letter. A letter must stand alone; `A` before a word is
    the article, and a small letter counts in brackets, after "answer" or "option", or as the whole text.
    words: some sentence, line or quotation is one of the accepted orders, whatever its case and punctuation.
    word: the first or last word of the first sentence, or the last word of the text, is accepted, and no wrong word occurs.

    Guarded: a list of all options in their order is taken for a repetition of the question and not counted; "a" is not A;
    a number inside a word (x1, H2O) is none; a long text that happens to hold a right word somewhere is not right.
    Not guarded: a repetition that stops inside the list of options (the last one it reached counts), options in another
    order, negations ("not B"), explanations after the answer that end in another number or option, and luck: compare a
    choice with `Answer.chance`.

    Args:
        text: what the subject wrote, without the prompt.
        answer: the key.
    Returns: 1.0 or 0.0.
    """
    right = {"number": _number, "choice": _choice, "words": _words, "word": _word}[answer.kind]
    return float(right(text, answer))


def parsed(text: str, answer: Answer) -> bool:
    """Whether the text holds any answer of the right kind, right or wrong.

    A number; an option; a sentence, line or quotation made of exactly the given words; any word. The rest are parse failures.
    """
    if answer.kind == "number":
        return _last_number(text) is not None
    if answer.kind == "choice":
        return _last_option(text, answer.options) is not None
    if answer.kind == "words":
        given = Counter(_split(answer.key))
        return any(Counter(sentence) == given for sentence in _sentences(text, _CLAUSE))
    return bool(_sentences(text, _SENTENCE))


def _number(text: str, answer: Answer) -> bool:
    number, right = _last_number(text), _last_number(answer.key)
    assert right is not None
    return number is not None and abs(number - right) <= answer.tolerance * abs(right)


_REWRITTEN = [
    (re.compile(pattern), plain)
    for pattern, plain in (
        ("[\u2011\u2012\u2013\u2212]", "-"),
        (r"(?<![0-9] )(?<![0-9])\b(?i:minus|negative)\s+(?=[$£€¥]?\.?[0-9])", "-"),
        (r"-\\?[$£€¥]\s?(?=\.?[0-9])", "-"),
        (r"\\?[$£€¥]", " "),
        (r"\^\{?-?[0-9]+\}?", ""),
        ("(?<=[0-9])(?:\\{,\\}|[\u00a0\u2009\u202f])(?=[0-9]{3}(?![0-9]))", ","),
        (r"(?<=[0-9])\s*(?=\\[dt]?frac|[½⅓⅔¼¾])", " "),
        (r"\\[dt]?frac\s*\{([0-9]+)\}\s*\{([0-9]+)\}", r"\1/\2"),
        ("½", "1/2"), ("⅓", "1/3"), ("⅔", "2/3"), ("¼", "1/4"), ("¾", "3/4"),
    )
]  # fmt: skip
"""In this order: minus signs, also in words and before a currency; currencies; exponents; thousands; fractions."""

_NUMBER = re.compile(
    r"""
    (?<![0-9.]) (?<![^\W\d_]) (?<![^\W\d_]_)      # not inside a number or a word
    (?P<sign> (?<![\w)\]}])- )?
    (?: (?: (?P<whole>[0-9]+)[ ] )? (?P<top>[0-9]+)[ ]?/[ ]?(?P<bottom>0*[1-9][0-9]*) (?![0-9]|[.,/][0-9])
      | (?P<plain> (?: [0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)? | [0-9]+(?:\.[0-9]+)? | \.[0-9]+ )
                   (?: [eE][-+]?[0-9]+(?![0-9]) )? ) )
    """,
    re.VERBOSE,
)


def _last_number(text: str) -> float | None:
    for pattern, plain in _REWRITTEN:
        text = pattern.sub(plain, text)
    matches = list(_NUMBER.finditer(text))
    return _value(matches[-1]) if matches else None


def _value(match: re.Match[str]) -> float:
    sign = -1.0 if match["sign"] else 1.0
    if match["plain"]:
        return sign * float(match["plain"].replace(",", ""))
    top, bottom = float(match["top"]), float(match["bottom"])
    whole = float(match["whole"] or 0) if top < bottom else 0.0
    return sign * (whole + top / bottom)


def _choice(text: str, answer: Answer) -> bool:
    return _last_option(text, answer.options) == answer.key


def _last_option(text: str, options: tuple[str, ...]) -> str | None:
    text = _listed(options).sub(" ", text)
    named = [
        (match.end(), -match.start(), option)
        for letter, option in zip(ascii_uppercase, options, strict=False)
        for match in _named(letter, option).finditer(text)
    ]
    return max(named)[2] if named else None


@cache
def _listed(options: tuple[str, ...]) -> re.Pattern[str]:
    """All options in their order with nothing but letters and punctuation between them, as in the question."""
    one = [rf"(?:(?:{x}\W+)?{_spaced(option)}|{x})" for x, option in zip(ascii_uppercase, options, strict=False)]
    return re.compile(r"(?<!\w)" + r"\W+(?:(?:or|and)\W+)?".join(one) + r"(?!\w)", re.IGNORECASE)


@cache
def _named(letter: str, option: str) -> re.Pattern[str]:
    small = letter.lower()
    alone = r"(?!['’-]?\w)"
    if letter == "A":
        alone += r"(?![ \t]+(?!(?:is|was|because|since|as|and|or|but)\b)\w)"
    ways = (
        rf"(?<!\w)(?i:{_spaced(option)})(?!\w)",
        rf"(?<![\w'’-]){letter}{alone}",
        rf"(?i:\b(?:answer|option|choice|letter)(?:\s+is)?[\s:=*_(\[\"'“]*){small}{alone}",
        rf"(?<!\w){small}\)",
        rf"\A\W*{small}\W*\Z",
    )
    return re.compile("|".join(ways))


def _spaced(words: str) -> str:
    return r"\s+".join(re.escape(word) for word in words.split())


def _words(text: str, answer: Answer) -> bool:
    orders = [_split(order) for order in answer.accepted]
    return any(sentence in orders for sentence in _sentences(text, _CLAUSE))


def _word(text: str, answer: Answer) -> bool:
    sentences = _sentences(text, _SENTENCE)
    if not sentences:
        return False
    places = {sentences[0][0], sentences[0][-1], sentences[-1][-1]}
    spoilt = any(word in sentence for word in answer.wrong for sentence in sentences)
    return not spoilt and any(word.lower() in places for word in answer.accepted)


_SENTENCE = r"[.!?\n]+"
"""What ends a sentence or a line."""
_CLAUSE = r"[.!?\n:;\"“”]+"
"""... or sets one off from its introduction."""


def _sentences(text: str, ends: str) -> list[list[str]]:
    """Words of each stretch between ends that has any."""
    return [words for part in re.split(ends, text) if (words := _split(part))]


def _split(sentence: str) -> list[str]:
    words = re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", sentence)
    return [word.lower().replace("’", "'") for word in words]
