"""Names of methods, targets and variants, and what a level of each may be; imports nothing heavy."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from lit_degrade.errors import UserError, unknown
from lit_degrade.subjects.catalog import COMPONENTS, GROUPS

Schedule = Literal["independent", "progressive"]
Tied = Literal["both", "input"]


@dataclass(frozen=True)
class Method:
    """What a method does with its level."""

    label: str
    """what figures and tables call it"""
    says: str
    dose: str
    """what a level is"""
    unit: str
    """of a level"""
    low: float
    high: float
    """range of levels, both ends included"""
    none: float
    """the level that changes nothing"""
    random: bool = True
    """whether it draws random numbers"""

    @property
    def axis(self) -> str:
        """Dose with unit."""
        return f"{self.dose} [{self.unit}]"

    @property
    def levels(self) -> str:
        """The range in words."""
        if self.none == math.inf:
            return f"a whole number from {self.low:g}, or inf"
        return f"{self.low:g} or more" if self.high == math.inf else f"{self.low:g} to {self.high:g}"

    def certain(self, level: float) -> bool:
        """Whether a dose changes weights in the same way whatever the random numbers."""
        return not self.random or level == self.none or level == self.high == 1

    def check(self, name: str, level: float, key: str = "level") -> None:
        """Raise: UserError for a level outside the range, which it calls by its key."""
        whole = self.none != math.inf or level == math.inf or float(level).is_integer()
        if not (self.low <= level <= self.high) or not whole or (level == math.inf != self.none):  # NaN is in no range
            raise UserError(f"{key}: {level:g} of {name} is outside its range: expected {self.levels} [{self.unit}].")


_SIGMA, _SHARE = "σ of Gaussian noise", "share of weights"
METHODS: dict[str, Method] = {
    "mult_gauss": Method(
        "multiplicative noise", "W (1 + level xi), xi standard normal: noise in proportion to each weight",
        _SIGMA, "× each weight", 0, math.inf, 0,
    ),
    "add_gauss": Method(
        "additive noise", "W + level s xi, s the standard deviation of each tensor",
        _SIGMA, "× that of the tensor", 0, math.inf, 0,
    ),
    "add_gauss_absolute": Method(
        "additive noise, absolute", "W + level xi: the same noise in every tensor", _SIGMA, "unit of weights", 0, math.inf, 0
    ),
    "ablation": Method(
        "random ablation", "each weight is set to zero with probability `level`", "zeroed by chance", _SHARE, 0, 1, 0
    ),
    "zero": Method(
        "zeroing", "exactly this share of each tensor, drawn at random, is set to zero",
        "zeroed at random, exactly", _SHARE, 0, 1, 0,
    ),
    "prune_magnitude": Method(
        "magnitude pruning", "exactly this share of each tensor, its smallest, is set to zero",
        "smallest zeroed", _SHARE, 0, 1, 0, False,
    ),
    "sign_flip": Method(
        "sign flips", "each weight changes its sign with probability `level`", "signs flipped", _SHARE, 0, 1, 0
    ),
    "uni_quant": Method(
        "quantisation by tensor", "rounded to so many values, evenly spaced between the extremes of a tensor",
        "values per tensor", "number", 2, math.inf, math.inf, False,
    ),
    "uni_quant_channel": Method(
        "quantisation by channel", "the same between the extremes of each output channel of a matrix",
        "values per channel", "number", 2, math.inf, math.inf, False,
    ),
    "bit_flip": Method(
        "bit flips", "each stored bit (of those in `bits`) is flipped with probability `level`",
        "stored bits flipped", "share of bits", 0, 1, 0,
    ),
}  # fmt: skip
"""Methods of perturbation, in the order in which they are listed."""
OWN = list(METHODS)
"""What `all` means, whatever extensions add: a config means the same everywhere."""


def check_dose(method: str, level: float, key: str) -> None:
    """Raise: UserError for a method that does not exist, or a level outside its range."""
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    METHODS[method].check(method, level, key)


PUBLISHED_TARGETS: dict[str, tuple[str, str]] = {
    "attn_only": ("attn_v", "the value projections, attn_v"),
    "mlp_only": ("mlp", "every MLP matrix, mlp"),
    "embed_only": ("embed", "the token embedding matrix, without learned positions"),
}
"""Names that the thesis gives to its targets -> our target, and what it means."""
TARGETS: dict[str, str] = {
    **COMPONENTS,
    **{name: f"all of {', '.join(parts)}" for name, parts in GROUPS.items()},
    "all": "every weight of the language model, norms and biases too (perturbations only)",
    **{name: f"{meaning} (perturbations only)" for name, (_, meaning) in PUBLISHED_TARGETS.items()},
}
SCHEDULES: dict[str, str] = {
    "independent": "every level has random draws of its own",
    "progressive": "the same draws at every level of a repetition: one injury, its dose rising",
}
BITS = ("all", "sign", "exponent", "mantissa", "scales")
"""Which stored bits flip; also a number, 0 the lowest bit. `scales`: the float32 scales of int8 and nf4 codes."""


@dataclass(frozen=True)
class PerturbationSettings:
    """A direct change of weights: method x target; its level and seed come from the run that applies it."""

    method: str = "none"
    """what is done to the weights (`list perturbations`)"""
    target: str = "attn_only"
    """which weights (`list targets`)"""
    layers: str = "all"
    """depths of the target, counted from 0: numbers and ranges, as in 0-3,7"""
    bits: str = "all"
    """bit_flip: all, sign, exponent, mantissa, scales, or the number of one bit"""
    tied: Tied = "both"
    """an embedding that is also the head: perturb it as both, or untie it and perturb the input side only"""
    selection: str = ""
    """safetensors file, parameter name -> flat indices (int64): perturb these weights of the target only"""
    schedule: Schedule = "independent"
    """whether levels share their random draws (`list schedules`)"""

    def __post_init__(self) -> None:
        """Raise: UserError for settings that cannot mean anything."""
        if self.method not in (*METHODS, "none"):
            raise unknown("method", self.method, METHODS)
        if self.target not in TARGETS:
            raise unknown("target", self.target, TARGETS)
        if self.bits not in BITS and not self.bits.isdecimal():
            raise unknown("bits", self.bits, [*BITS, "the number of a bit"])
        numbers(self.layers, "layers")


@dataclass(frozen=True)
class Variant:
    """A method, a target, and the levels to walk through."""

    method: str
    target: str
    first: float
    last: float
    steps: int
    geometric: bool = False

    @property
    def levels(self) -> list[float]:
        """Every level, in order; numbers of levels are whole."""
        if self.geometric:
            ratio = (self.last / self.first) ** (1 / (self.steps - 1))
            return [float(round(self.first * ratio**i)) for i in range(self.steps)]
        return [round(self.first + (self.last - self.first) * i / (self.steps - 1), 10) for i in range(self.steps)]

    @property
    def says(self) -> str:
        """In words."""
        spacing = "geometric" if self.geometric else "linear"
        unit = METHODS[self.method].unit
        return f"{self.method} of {self.target}, {self.first:g} to {self.last:g} [{unit}], {self.steps} {spacing} steps"


VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        "gauss_attn": Variant("mult_gauss", "attn_only", 0.0, 1.4, 15),
        "gauss_mlp": Variant("mult_gauss", "mlp_only", 0.0, 0.5, 11),
        "gauss_embed": Variant("mult_gauss", "embed_only", 0.0, 1.0, 21),
        "ablation_attn": Variant("ablation", "attn_only", 0.0, 0.8, 17),
        "quant_attn": Variant("uni_quant", "attn_only", 1024, 4, 9, geometric=True),
    }
)
"""The thesis's five, in its order."""


def numbers(text: str, what: str) -> list[int] | None:
    """Whole numbers from text such as "0-3,7"; None for "all".

    Raises: UserError in one line.
    """
    if text == "all":
        return None
    listed: list[int] = []
    for part in text.split(","):
        ends = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        first, last = (int(ends[1]), int(ends[2] or ends[1])) if ends else (1, 0)
        if last < first:
            raise UserError(f"{what} '{text}' is neither 'all' nor numbers and ranges such as 0-3,7.")
        listed += range(first, last + 1)
    return list(dict.fromkeys(listed))


def choose_variants(text: str) -> list[str]:
    """Names of variants from names, indexes (from 1) and index ranges, as in "gauss_attn,3-5", or "all".

    Raises: UserError for one that does not exist.
    """
    names = list(VARIANTS)
    chosen: list[str] = []
    for part in names if text == "all" else [part.strip() for part in text.split(",")]:
        if part in VARIANTS:
            chosen.append(part)
        elif part[:1].isdecimal():
            for index in numbers(part, "variants") or ():
                if not 1 <= index <= len(names):
                    raise UserError(f"Variant {index} does not exist. Available: {known_variants()}.")
                chosen.append(names[index - 1])
        else:
            raise unknown("variant", part, names)
    return list(dict.fromkeys(chosen))


def known_variants() -> str:
    """Every variant with its index."""
    return ", ".join(f"{i} {name}" for i, name in enumerate(VARIANTS, 1))
