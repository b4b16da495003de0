"""Which doses a run walks through: variants x levels x repetitions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lit_degrade.checks import at_least
from lit_degrade.errors import UserError
from lit_degrade.perturbations.catalog import METHODS, VARIANTS, PerturbationSettings, check_dose, choose_variants
from lit_degrade.perturbations.edits import Dose


@dataclass(frozen=True)
class PlannedDose:
    """One dose of one variant."""

    variant: str
    """its name; that of method and target where it has none"""
    settings: PerturbationSettings
    dose: Dose
    level_index: int

    @property
    def key(self) -> str:
        """What tells it from all others of a run."""
        return f"{self.variant}/{self.level_index}/{self.dose.repetition}"

    @property
    def random(self) -> bool:
        """Whether repetitions have other weights."""
        return not METHODS[self.settings.method].certain(self.dose.level)


def walk(
    settings: PerturbationSettings, variants: str, levels: Sequence[float], repetitions: int, seed: int
) -> list[PlannedDose]:
    """Every dose, repetitions fastest.

    Args:
        settings: method and target where no variant is named; how to perturb in any case.
        variants: names, indexes and ranges of VARIANTS, `all`, or nothing.
        levels: to walk through; empty for those of the variants.
        repetitions: of every level, with other draws.
        seed: of the run.

    Raises: UserError for variants or levels that do not exist, and where there is nothing to walk through.
    """
    at_least("model.repetitions", repetitions, 1)
    if variants:
        chosen = {name: VARIANTS[name] for name in choose_variants(variants)}
        named = {
            name: (replace(settings, method=variant.method, target=variant.target), levels or variant.levels)
            for name, variant in chosen.items()
        }
    elif settings.method == "none":
        return []
    else:
        bits = f"_{settings.bits}" if settings.method == "bit_flip" and settings.bits != "all" else ""
        named = {f"{settings.method}_{settings.target}{bits}": (settings, levels)}
        if not levels:
            raise UserError(f"perturbation.method '{settings.method}' needs levels: --model.levels '[LEVEL, …]'.")
    cells = []
    for name, (how, doses) in named.items():
        for index, level in enumerate(doses):
            check_dose(how.method, level, "model.levels")
            cells += [PlannedDose(name, how, Dose(level, seed, repetition), index) for repetition in range(repetitions)]
    return cells


def intact(seed: int) -> PlannedDose:
    """No dose at all."""
    return PlannedDose("intact", PerturbationSettings(), Dose(math.nan, seed), 0)
