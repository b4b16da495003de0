"""Tasks: their prompts, the keys of iq_it, the scores of answers, and the picture."""

import math
import re
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path
from string import ascii_uppercase

import pytest
from helpers import ROOT
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lit_degrade.errors import UserError
from lit_degrade.tasks.answers import Answer, parsed, score
from lit_degrade.tasks.catalog import PICTURE, TASKS, Prompt, load_task

COUNTS = {"dreams_it": 38, "iq_it": 65, "cookie_theft_it": 20}
IQ = load_task("iq_it").prompts
KEYS = [(prompt, prompt.answer) for prompt in IQ if prompt.answer is not None]
PRIMES = [n for n in range(21, 40) if all(n % d for d in range(2, n))]
COMPUTED = {
    1: 7 * 16 - 19, 2: 48 * 27, 3: 5 - 3 * 4 + 2, 4: 80 * (1 - Fraction(35, 100)), 5: Fraction(3, 8) + Fraction(1, 4),
    6: Fraction(15, 100) * 240, 7: Fraction(37 - 9, 4), 8: 12.5 * 8, 9: 210 / 2.5, 10: Fraction(6 + 11 + 13 + 18 + 22, 5),
    11: 6 - 15, 12: (52 // 4) ** 2, 13: 3.25 * 60, 14: Fraction(7, 5 + 7 + 8), 15: math.lcm(6, 8, 15), 16: math.gcd(84, 126),
    17: 2**9, 18: 180 - 47 - 68, 19: Fraction(300 * 10, 4), 20: (61 - 13) // 2, 21: math.isqrt(2025),
    22: 500 * Fraction(104, 100) ** 2, 23: -8 * 7, 24: 150 * Fraction(3, 5), 25: len(PRIMES),
    51: 2 * 31 + 1, 52: 6**2 + 1, 53: 8 + 13, 54: 3 // 3, 55: 15 - 1,
    60: next(x for x in range(100) if 4 * x + 20 == 2 * (x + 20)), 61: next(g for g in range(13) if 4 * g + 2 * (12 - g) == 34),
    62: math.comb(6, 2), 65: 4 + 1,
}  # fmt: skip
"""The answers worked out again, from the numbers of the questions."""


def name_of(value: object) -> str:
    return f"{value.id}" if isinstance(value, Prompt) else ""


def number(key: str, tolerance: float = 1e-6) -> Answer:
    return Answer(kind="number", accepted=(key,), tolerance=tolerance)


def choice(right: str, *options: str) -> Answer:
    return Answer(kind="choice", accepted=(right,), options=options)


@pytest.mark.parametrize("name", TASKS)
def test_prompts_are_counted_numbered_and_different(name: str) -> None:
    task = load_task(name)
    assert [prompt.id for prompt in task.prompts] == list(range(1, COUNTS[name] + 1))
    assert len({" ".join(prompt.text.lower().split()) for prompt in task.prompts}) == COUNTS[name]
    assert task.says == TASKS[name]
    assert task.says.startswith(str(COUNTS[name]))
    assert task.image == (name == "cookie_theft_it")


def test_groups_and_keys_are_where_they_belong() -> None:
    assert Counter(prompt.group for prompt in IQ) == {"maths": 25, "language": 20, "logic": 20}
    assert len(KEYS) == 65
    for name, group in (("dreams_it", "dream"), ("cookie_theft_it", "picture")):
        assert {(prompt.group, prompt.answer) for prompt in load_task(name).prompts} == {(group, None)}


def test_an_unknown_task_is_named_with_what_there_is() -> None:
    with pytest.raises(UserError, match=r"Unknown task 'dream_it'.*'dreams_it'.*Available: dreams_it, iq_it, cookie_theft_it"):
        load_task("dream_it")


@pytest.mark.parametrize(("prompt", "answer"), KEYS, ids=name_of)
def test_key_is_right_and_silence_is_not(prompt: Prompt, answer: Answer) -> None:
    for right in answer.accepted:
        assert score(right, answer) == 1.0, prompt.text
        assert score(f"  {right.upper()}\n", answer) == 1.0
        assert parsed(right, answer)
    assert score("", answer) == 0.0
    assert not parsed("", answer)


@pytest.mark.parametrize(("prompt", "answer"), KEYS, ids=name_of)
def test_repeating_the_question_is_not_an_answer(prompt: Prompt, answer: Answer) -> None:
    assert score(prompt.text, answer) == 0.0
    assert score(f"{prompt.text}\n{prompt.text}", answer) == 0.0
    assert score(f"{prompt.text}\n\n{answer.key}", answer) == 1.0, "the question may come before the answer"


def test_numbers_are_right() -> None:
    keys = {prompt.id: answer for prompt, answer in KEYS if answer.kind == "number"}
    assert keys.keys() == COMPUTED.keys()
    for i, value in COMPUTED.items():
        assert score(f"{float(value):.9f}", keys[i]) == 1.0, f"item {i}: {value}"
        assert score(f"{float(value) + 1:.9f}", keys[i]) == 0.0


def test_keys_agree_with_their_questions() -> None:
    places: Counter[str] = Counter()
    for prompt, answer in KEYS:
        if answer.kind == "choice":
            listed = " ".join(f"({x}) {option}" for x, option in zip(ascii_uppercase, answer.options, strict=False))
            assert listed in prompt.text
            assert answer.key in answer.options
            assert answer.chance == 1 / len(answer.options)
            letter = ascii_uppercase[answer.options.index(answer.key)]
            places[letter] += 1
            for x in ascii_uppercase[: len(answer.options)]:
                assert score(x, answer) == score(f"The answer is ({x.lower()}).", answer) == float(x == letter)
            continue
        assert answer.chance == 0.0
        if answer.kind == "words":
            given_words = sorted(re.split(" / ", prompt.text.split(": ")[1]))
            assert all(sorted(re.findall(r"\w+", order.lower())) == given_words for order in answer.accepted)
        if answer.kind == "word":
            assert not {word.lower() for word in answer.accepted} & set(answer.wrong)
    assert max(places.values()) - min(places.values()) <= 2, "no letter is a good guess"


def test_bridge_and_letters() -> None:
    assert sorted("bridge") == sorted("gedrbi")
    assert ascii_uppercase[ascii_uppercase.index("O") + 6] == "U"
    said = {"Kay": lambda x: x != "Kay", "Jo": lambda x: x == "Ida", "Ida": lambda x: x != "Ida"}
    assert [x for x in said if sum(true(x) for true in said.values()) == 1] == ["Kay"]


@pytest.mark.parametrize(
    ("text", "key", "right"),
    [
        ("The answer is 1,296.", "1296", True),
        ("1\u202f296", "1296", True),
        ("1{,}296", "1296", True),
        ("12, 96", "1296", False),
        ("48 x 27 = 1296", "1296", True),
        ("= 1.296e3", "1296", True),
        ("£52", "52", True),
        ("52 €", "52", True),
        (r"It costs \$52.00.", "52", True),
        ("35%", "35", True),
        ("-£5", "-5", True),
        ("£-5", "-5", True),
        ("\u22125", "-5", True),
        ("\u20135 °C", "-5", True),
        ("minus 5 degrees", "-5", True),
        ("negative 5", "-5", True),
        ("x = -5", "-5", True),
        ("$-5$", "-5", True),
        ("**-5**", "-5", True),
        ("between 0-5", "-5", False),
        ("between 0\u20135", "5", True),
        ("10 minus 5", "5", True),
        ("5", "-5", False),
        ("100 cm^2", "100", True),
        ("100 cm2", "100", True),
        ("100 cm²", "100", True),
        (r"100\text{ cm}^{2}", "100", True),
        ("100 m s^-1", "100", True),
        ("H2O and x1", "2", False),
        ("H2O and x1", "1", False),
        ("x12", "2", False),
        ("the 7th", "7", True),
        ("7kg.", "7", True),
        ("13/23", "13/23", True),
        ("13 / 23.", "13/23", True),
        ("26/46", "13/23", True),
        (r"\boxed{\frac{13}{23}}", "13/23", True),
        ("0.5652173913", "13/23", True),
        ("0.565", "13/23", False),
        ("13", "13/23", False),
        ("2 1/3", "7/3", True),
        ("2½", "2.5", True),
        ("-½", "-.5", True),
        (r"2\frac{1}{3}", "7/3", True),
        (r"-\frac{1}{3}", "-1/3", True),
        ("1/0", "1", False),
        ("0.0", "0", True),
        ("10.20", "10.2", True),
        (".5", "0.5", True),
        ("42 or rather 41", "42", False),
        ("forty-two", "42", False),
        ("9" * 500, "9", False),
        ("", "0", False),
    ],
)
def test_numbers(text: str, key: str, right: bool) -> None:
    assert score(text, number(key)) == float(right)


def test_a_stated_tolerance_is_relative() -> None:
    assert score("0.565", number("13/23", tolerance=1e-3)) == 1.0
    assert score("0.56", number("13/23", tolerance=1e-3)) == 0.0


BIRDS = ("wren", "owl", "sea eagle", "duck")


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("owl", "owl"),
        ("OWL!", "owl"),
        ("B", "owl"),
        ("b", "owl"),
        ("(B)", "owl"),
        ("(b) owl", "owl"),
        ("b)", "owl"),
        ("**B.**", "owl"),
        (r"\boxed{B}", "owl"),
        ("Answer: b", "owl"),
        ("The answer is **B**, because it hunts at night.", "owl"),
        ("B because it hunts at night", "owl"),
        ("option b", "owl"),
        ("a", "wren"),
        ("A", "wren"),
        ("A.", "wren"),
        ("A\nIt is the smallest.", "wren"),
        ("A is correct", "wren"),
        ("(a)", "wren"),
        ("Answer: a", "wren"),
        ("A bird is an animal", None),
        ("The answer is a secret", None),
        ("THE ANSWER IS A SECRET", None),
        ("such a thing, or b or c", None),
        ("Bowl, owls, B-side, B's", None),
        ("sea\neagle", "sea eagle"),
        ("an eagle at sea", None),
        ("First I thought owl, but it is the duck", "duck"),
        ("(A) wren (B) owl (C) sea eagle (D) duck", None),
        ("A, B, C or D", None),
        ("wren, owl, sea eagle, and duck", None),
        ("(A) wren (B) owl (C) sea eagle (D) duck\n\nD", "duck"),
        ("(A) wren (B) owl (C) sea eagle (D) duck Answer: (B) owl", "owl"),
        ("wren and owl are wrong, sea eagle too, so duck", "duck"),
        ("(A) wren (B) owl", "owl"),  # a list that breaks off: not guarded
        ("not B", "owl"),  # nor are negations
        ("", None),
    ],
)
def test_choices(text: str, chosen: str | None) -> None:
    assert {bird: score(text, choice(bird, *BIRDS)) for bird in BIRDS} == {bird: float(bird == chosen) for bird in BIRDS}
    assert parsed(text, choice("owl", *BIRDS)) == (chosen is not None)


def test_of_nested_options_the_longer_is_meant() -> None:
    assert score("quite cold", choice("cold", "cold", "quite cold")) == 0.0
    assert score("quite cold", choice("quite cold", "cold", "quite cold")) == 1.0


@pytest.mark.parametrize(
    ("text", "right", "found"),
    [
        ("The cat saw us.", True, True),
        ("Sure! Here it is:\n\n> the CAT saw us", True, True),
        ('The sentence is "The cat saw us", I think.', True, True),
        ("Us the cat saw", True, True),
        ("saw / us / cat / the", False, True),
        ("The cat saw us there", False, False),
        ("The cat saw saw us", False, False),
        ("The cat\nsaw us", False, False),
        ("", False, False),
    ],
)
def test_rearranged_words(text: str, right: bool, found: bool) -> None:
    answer = Answer(kind="words", accepted=("The cat saw us.", "Us the cat saw."))
    assert score(text, answer) == float(right)
    assert parsed(text, answer) == found


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("mice", True),
        ("**Mice**.", True),
        ("The plural is mice. It is irregular.", True),
        ("Mice is the plural", True),
        ("Answer: mice\nBecause English is like that.", True),
        ("Let me think.\n\nIt is: mice", True),
        ("mice, not mouses", False),
        ("I have seen mice in the kitchen", False),
        ("micelle", False),
        ("dormice", False),
        ("", False),
        ("...", False),
    ],
)
def test_words(text: str, right: bool) -> None:
    answer = Answer(kind="word", accepted=("mice",), wrong=("mouses",))
    assert score(text, answer) == float(right)
    assert parsed(text, answer) == any(map(str.isalpha, text))


@given(st.integers(-(10**9), 10**9), st.sampled_from(["{}", "{:,}", "It is {:,}.", "£{:,}", "{} cm^2", "**{}**", "x = {}%"]))
def test_any_way_to_write_a_whole_number_is_read(value: int, form: str) -> None:
    assert score(form.format(value), number(str(value))) == 1.0
    assert score(form.format(value).replace("-", "\u2212"), number(str(value))) == 1.0
    assert score(form.format(value + 1), number(str(value))) == float(abs(value) >= 10**6)


@given(st.decimals(-1000, 1000, places=3), st.sampled_from(["{}", "about {} km", "${}"]))
def test_decimals_are_read(value: object, form: str) -> None:
    assert score(form.format(value), number(str(float(str(value))))) == 1.0


@given(st.integers(1, 999), st.integers(1, 999))
def test_fractions_are_read(top: int, bottom: int) -> None:
    key = number(f"{top}/{bottom}")
    for text in (f"{top}/{bottom}", f"\\frac{{{top}}}{{{bottom}}}", f"{3 * top}/{3 * bottom}", repr(top / bottom)):
        assert score(text, key) == 1.0


@given(st.text(st.characters(exclude_categories=["Nd", "No", "Cs"])))
def test_without_digits_there_is_no_number(text: str) -> None:
    for _, answer in KEYS:
        if answer.kind == "number":
            assert score(text, answer) == 0.0
    assert not parsed(text, number("0"))


@given(st.text(), st.sampled_from([answer for _, answer in KEYS]))
def test_any_text_has_a_score_and_what_is_right_was_found(text: str, answer: Answer) -> None:
    found = score(text, answer)
    assert found in (0.0, 1.0)
    assert parsed(text, answer) >= found


def test_picture_is_a_picture() -> None:
    with Image.open(PICTURE) as picture:
        assert picture.size == (640, 480)
        levels = picture.convert("L").histogram()
    assert sum(levels[:64]) > 0.02 * 640 * 480, "black lines"
    assert sum(levels[250:]) > 0.3 * 640 * 480, "on white"
    assert PICTURE.stat().st_size < 60_000


def test_picture_is_drawn_the_same_again(tmp_path: Path) -> None:
    script = ROOT / "docs" / "draw_cookie_theft.py"
    subprocess.run([sys.executable, str(script), str(tmp_path / "again.png")], check=True)
    with Image.open(PICTURE) as shipped, Image.open(tmp_path / "again.png") as again:
        assert shipped.convert("RGB").tobytes() == again.convert("RGB").tobytes()


def test_names_are_listed_without_torch() -> None:
    code = "import sys, lit_degrade.tasks.catalog as c; c.load_task('iq_it'); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
