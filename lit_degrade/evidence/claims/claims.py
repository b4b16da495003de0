"""Claims as data: what is compared, by which measure and test, and how much would matter. The suite's own, and the user's."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from lit_degrade.checks import finite
from lit_degrade.errors import UserError, unknown
from lit_degrade.evidence.reading.groups import label
from lit_degrade.extensions import extensions
from lit_degrade.inputs import read_yaml

Direction = Literal["greater", "less"]
TESTS: dict[str, str] = {
    "welch": "difference of two means, Welch's t test",
    "permutation": "difference of two means, exact permutation test",
    "paired": "mean of the differences between runs with the same seed, t test",
    "sign_flip": "mean of the differences between runs with the same seed, exact permutation test",
    "one_sample": "a mean against a value, t test",
    "equivalence": "a mean within a margin of a value, or two means within a margin of each other, two one-sided t tests",
    "slope": "slope per decade of `over`, one point per level, t test",
    "jonckheere": "values ordered as the levels of `over` are, Jonckheere-Terpstra test",
    "page": "values ordered as the levels of `over` are within each seed, Page's test",
}
TWO_ARMS = ("welch", "permutation", "paired", "sign_flip")
ORDERED = ("slope", "jonckheere", "page")
SHIPPED = Path(__file__).parent / "shipped"
_MEANS = {"greater": "above", "less": "below"}


@dataclass(frozen=True)
class Claim:
    """A statement about conditions that runs can support or contradict, fixed before they are looked at.

    A claim is tested once in every combination of the conditions that it does not mention.
    """

    name: str
    says: str
    """the claim in one sentence"""
    outcome: str
    """column of the summaries"""
    test: str
    """one of TESTS"""
    treatment: dict[str, Any]
    """conditions of the runs that the claim is about"""
    control: dict[str, Any] | None = None
    """conditions of the runs that they are compared with"""
    over: str | None = None
    """what the levels of an ordered claim are taken from"""
    order: list[Any] | None = None
    """its levels in order, where they are not numbers"""
    direction: Direction = "greater"
    """of the treatment from the control, of the mean from `value`, or of the change along `over`"""
    value: float = 0.0
    """what one mean is compared with"""
    margin: float = 0.0
    """smallest difference that matters, in units of the outcome (per decade for a slope)"""
    family: str = ""
    """claims of one family are corrected together"""
    despite: list[str] = field(default_factory=list)
    """conditions that are known to differ between the arms and belong to what is claimed"""

    @property
    def mentioned(self) -> set[str]:
        """Conditions that the claim is about."""
        names = {*self.treatment, *(self.control or {}), *self.despite}
        names |= {self.over} if self.over else set()
        return names | ({"subject"} if "n_parameters" in names else set())

    def asks(self) -> str:
        """What is tested, in words."""
        about = label(self.treatment)
        margin = f" by at least {self.margin:g}" if self.margin else ""
        if self.test == "equivalence":
            other = label(self.control) if self.control else f"{self.value:g}"
            return f"{self.outcome} of {about} within {self.margin:g} of {other}"
        if self.test in ORDERED:
            rises = "rises" if self.direction == "greater" else "falls"
            decade = f"{margin} per decade" if self.test == "slope" else ""
            return f"{self.outcome} of {about} {rises} with {self.over}{decade}"
        other = f"that of {label(self.control)}" if self.control else f"{self.value:g}"
        return f"{self.outcome} of {about} {_MEANS[self.direction]} {other}{margin}"


@dataclass(frozen=True)
class Design:
    """The claims about the records of one experiment, and how its groups are shown."""

    experiment: str
    title: str
    question: str
    summary: str
    """name of the summary files"""
    figure: str
    """name of the main figure"""
    factor: str
    """condition that is drawn along the axis"""
    outcomes: list[str]
    """what the groups are summarised by, the most important first"""
    claims: list[Claim]
    source: str
    """file the design was read from"""


def load_designs(path: Path) -> list[Design]:
    """Read a file of designs: a mapping of experiment -> design.

    Raises: UserError in one line, naming what is wrong.
    """
    designs = read_yaml(path, "Claims file")
    if not isinstance(designs, dict) or not all(isinstance(design, dict) for design in designs.values()):
        raise UserError(f"Claims file '{path}' must hold a mapping of experiment to its design.")
    return [_design(str(path), str(name), content) for name, content in designs.items()]


def shipped_designs() -> list[Design]:
    """The suite's own designs, those of priorities 1 to 4 first, then those of extensions."""
    paths = sorted(SHIPPED.glob("*.yaml"), key=_priorities_first)
    return [design for path in [*paths, *(path for it in extensions() for path in it.claims)] for design in load_designs(path)]


def _priorities_first(path: Path) -> tuple[bool, str]:
    return not path.stem.startswith("priority"), path.stem


def _design(source: str, name: str, content: Mapping[str, Any]) -> Design:
    claims = content.get("claims")
    if not isinstance(claims, dict) or not claims:
        raise UserError(f"{source}: {name} has no claims: expected a mapping of name to claim under 'claims'.")
    made = [_claim(source, name, str(key), claim) for key, claim in claims.items()]
    given: dict[str, Any] = {
        "title": name,
        "question": "",
        "summary": f"{name}_summary",
        "figure": name,
        "factor": next(iter(made[0].treatment), "subject"),
        "outcomes": list(dict.fromkeys(claim.outcome for claim in made)),
    }
    for key, value in content.items():
        if key not in (*given, "claims"):
            raise unknown(f"key of {source}: {name}", str(key), [*given, "claims"])
        if key != "claims" and not isinstance(value, type(given[key])):
            raise UserError(f"{source}: {name}: {key} must be a {type(given[key]).__name__}, not {value!r}.")
    return Design(experiment=name, claims=made, source=source, **{key: content.get(key, given[key]) for key in given})


REQUIRED = ("says", "outcome", "test", "treatment")
_EXPECTED: dict[str, tuple[type, ...]] = {
    "says": (str,), "outcome": (str,), "test": (str,), "treatment": (dict,), "control": (dict,), "over": (str,),
    "order": (list,),
    "direction": (str,), "value": (int, float), "margin": (int, float), "family": (str,), "despite": (list,),
}  # fmt: skip


def _claim(source: str, design: str, name: str, content: Any) -> Claim:
    where = f"{source}: claim {name}"
    if not isinstance(content, dict):
        raise UserError(f"{where}: expected keys, found {content!r}.")
    for key, value in content.items():
        if key not in _EXPECTED:
            raise unknown(f"key of {where}", str(key), _EXPECTED)
        if not isinstance(value, _EXPECTED[key]) or isinstance(value, bool):
            raise UserError(f"{where}: {key} must be a {_EXPECTED[key][-1].__name__}, not {value!r}.")
    for key in [key for key in REQUIRED if key not in content]:
        raise UserError(f"{where}: '{key}' is missing.")
    given: dict[str, Any] = {"family": design} | content
    claim = Claim(name=name, **given)
    _check(where, claim)
    return claim


def _check(where: str, claim: Claim) -> None:
    if claim.test not in TESTS:
        raise unknown(f"test of {where}", claim.test, TESTS)
    if claim.direction not in get_args(Direction):
        raise unknown(f"direction of {where}", claim.direction, get_args(Direction))
    finite(f"{where}: margin", claim.margin, 0)
    if not math.isfinite(claim.value):
        raise UserError(f"{where}: value: expected a finite number, not {claim.value}.")
    if (claim.test in TWO_ARMS) and claim.control is None:
        raise UserError(f"{where}: test '{claim.test}' compares with a control: 'control' is missing.")
    if claim.control is not None and claim.test not in (*TWO_ARMS, "equivalence"):
        raise UserError(f"{where}: test '{claim.test}' takes no control.")
    if claim.value and (claim.control is not None or claim.test not in ("one_sample", "equivalence")):
        raise UserError(
            f"{where}: 'value' is what one mean is compared with: test 'one_sample', or 'equivalence' without control."
        )
    if claim.order is not None and claim.test not in ("jonckheere", "page"):
        raise UserError(f"{where}: 'order' belongs to the tests jonckheere and page.")
    if claim.test == "equivalence" and not claim.margin:
        raise UserError(f"{where}: an equivalence needs a margin above 0.")
    if (claim.over is not None) != (claim.test in ORDERED):
        raise UserError(f"{where}: 'over' belongs to the tests {', '.join(ORDERED)}, and each of them needs it.")
