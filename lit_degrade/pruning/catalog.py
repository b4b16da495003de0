"""Names of pruning methods, scopes and structures, and which go together; imports nothing heavy."""

import re
from dataclasses import dataclass

from lit_degrade.checks import above, at_least, share
from lit_degrade.criticality.catalog import METRICS
from lit_degrade.errors import UserError, unknown
from lit_degrade.names import Name
from lit_degrade.perturbations.catalog import TARGETS, numbers
from lit_degrade.subjects.catalog import GROUPS

OWN = {
    "wanda": Name(
        "Wanda", "lowest |w| times the L2 norm of the input, in blocks that see the pruned ones before them (Sun et al. 2024)"
    ),
    "sparsegpt": Name(
        "SparseGPT", "the same, by second-order saliency, other weights taking over what is lost (Frantar & Alistarh 2023)"
    ),
}
"""Methods of pruning that are no metrics."""


def pruners() -> dict[str, Name]:
    """Methods of pruning: those of their own, and the lowest scores by any metric."""
    scored = {name: Name(it.label, f"lowest score on the intact subject: {it.says}") for name, it in METRICS.items()}
    return OWN | scored


SCOPES: dict[str, str] = {
    "tensor": "the lowest of every matrix (sparsegpt: of every block of its columns); Q, K and V each for itself",
    "row": "the lowest of every row of a matrix, that is of the weights of one output",
    "global": "the lowest of all matrices together",
}
STRUCTURES: dict[str, str] = {
    "heads": "attention heads: their columns of the output projection, their rows of Q, and of K and V unless shared",
    "neurons": "MLP neurons: their columns of the output projection, their rows of the others, their biases",
    "layers": "every matrix of a block with its bias, so that the block adds nothing to what passes by",
}
_PARTS = {"heads": "attn", "neurons": "mlp", "layers": "blocks"}
"""Target of a structure."""


@dataclass(frozen=True)
class PruneSettings:
    """Which weights become zero, and how many."""

    method: str = "wanda"
    """wanda, sparsegpt, or the name of a metric (`list metrics`) such as magnitude: the lowest scores are pruned"""
    sparsity: float = 0.5
    """share of weights (or heads, neurons, layers) that become zero, from 0 to below 1"""
    scope: str = ""
    """lowest of what: tensor, row or global; empty: row for wanda, else tensor, and each layer for heads and neurons"""
    pattern: str = ""
    """n:m, such as 2:4: of every m consecutive inputs of an output at most n are not zero"""
    structure: str = ""
    """heads, neurons or layers, instead of single weights"""
    target: str = "blocks"
    """matrices of the transformer blocks (`list targets`)"""
    layers: str = "all"
    """depths of the target, counted from 0: numbers and ranges, as in 0-3,7"""
    calibration_blocks: int = 32
    """blocks of calibration text, drawn by the seed"""
    damping: float = 0.01
    """sparsegpt: added to the diagonal of the Hessian, in means of the diagonal"""
    block_columns: int = 128
    """sparsegpt: columns between which weights are chosen anew"""

    def __post_init__(self) -> None:
        """Raise: UserError for settings that cannot mean anything."""
        if self.method not in pruners():
            raise unknown("pruning method", self.method, pruners())
        for what, value, available in (("scope", self.scope, SCOPES), ("structure", self.structure, STRUCTURES)):
            if value and value not in available:
                raise unknown(f"pruning {what}", value, available)
        share("model.prune.sparsity", self.sparsity)
        at_least("model.prune.calibration_blocks", self.calibration_blocks, 1)
        above("model.prune.damping", self.damping, 0)
        at_least("model.prune.block_columns", self.block_columns, 1)
        self._check_target()
        self._check_pattern()
        self._check_structure()

    def _check_target(self) -> None:
        parts = [*GROUPS, *GROUPS["blocks"]]
        if self.target not in TARGETS:
            raise unknown("target", self.target, parts)
        if self.target not in parts:
            raise UserError(f"prune.target={self.target} is not made of matrices of the blocks. Available: {', '.join(parts)}.")
        numbers(self.layers, "prune.layers")

    def _check_pattern(self) -> None:
        if not self.pattern:
            return
        if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", self.pattern) or self.kept_of[0] >= self.kept_of[1]:
            raise UserError(
                f"prune.pattern={self.pattern}: expected n:m with 0 < n < m, such as 2:4 (at most 2 of 4 not zero)."
            )
        if self.scope or self.structure:
            raise UserError(
                f"prune.pattern={self.pattern} says itself what is zero: leave prune.scope and prune.structure empty."
            )
        if self.sparsity not in (PruneSettings.sparsity, self.share):
            raise UserError(
                f"prune.pattern={self.pattern} is a sparsity of {self.share:g}, not prune.sparsity={self.sparsity:g}."
            )
        if self.method == "sparsegpt" and self.block_columns % self.kept_of[1]:
            raise UserError(
                f"prune.block_columns={self.block_columns} is no multiple of {self.kept_of[1]}, as {self.pattern} needs."
            )

    def _check_structure(self) -> None:
        if self.method == "sparsegpt" and (self.scope == "global" or self.structure):
            raise UserError(
                "prune.method=sparsegpt prunes the weights of one matrix after the other: it has no prune.scope=global and no "
                "prune.structure. Use wanda or a metric."
            )
        if not self.structure:
            return
        if self.scope in ("tensor", "row"):
            raise UserError(f"prune.structure={self.structure} has prune.scope global or none (per layer), not {self.scope}.")
        if self.target not in ("blocks", _PARTS[self.structure]):
            raise UserError(
                f"prune.structure={self.structure} is about {_PARTS[self.structure]}, not prune.target={self.target}."
            )

    @property
    def kept_of(self) -> tuple[int, int]:
        """(n, m) of the pattern."""
        n, m = self.pattern.split(":")
        return int(n), int(m)

    @property
    def share(self) -> float:
        """Share of zeros that is meant."""
        if not self.pattern:
            return self.sparsity
        n, m = self.kept_of
        return (m - n) / m

    @property
    def compared_in(self) -> str:
        """Among which weights or groups the lowest are taken: a scope, `layer`, or the pattern's `group`."""
        if self.pattern:
            return "group"
        if self.structure:
            return "global" if self.structure == "layers" else self.scope or "layer"
        return self.scope or ("row" if self.method == "wanda" else "tensor")

    @property
    def sequential(self) -> bool:
        """Whether a block is pruned by inputs that the pruned blocks before it make; else by scores of the intact subject."""
        return self.method in ("wanda", "sparsegpt") and self.compared_in != "global"

    @property
    def metric(self) -> str:
        """Which score of the intact subject, if it is not sequential."""
        return "act_mag" if self.method == "wanda" else self.method

    @property
    def part(self) -> str:
        """Target of the sites."""
        return _PARTS[self.structure] if self.structure else self.target
