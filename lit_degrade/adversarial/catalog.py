"""Names of attacks on inputs, norms and units; imports nothing heavy."""

from dataclasses import dataclass
from typing import Literal

from lit_degrade.names import Name

Norm = Literal["linf", "l2"]


@dataclass(frozen=True)
class Attack:
    """A way to change inputs."""

    label: str
    """what figures and tables call it"""
    says: str
    differentiates: bool = True
    """whether it needs the gradient of the loss by the inputs"""
    random: bool = True
    """whether it draws random numbers"""


ATTACKS: dict[str, Attack] = {
    "random": Attack(
        "random noise", "random signs (linf), or a random direction in every row (l2), of full size: the control", False
    ),
    "fgsm": Attack(
        "FGSM", "one step along the sign of the gradient, or the gradient of every row (Goodfellow et al. 2015)", random=False
    ),
    "pgd": Attack("PGD", "projected gradient ascent from a random start, best iterate kept (Madry et al. 2018)"),
}
"""On embeddings of text: the control, then the attacks."""
NORMS: dict[str, Name] = {
    "linf": Name("L\N{INFINITY}", "largest change of any entry; unit: root mean square of the embedded text (embedding_rms)"),
    "l2": Name("L2", "length of the change of any token's row; unit: median length of a row of the embedded text (row_norm)"),
}
"""In what the change of an embedding is measured."""
UNIT_OF: dict[str, str] = {"linf": "embedding_rms", "l2": "row_norm"}
SIZE_UNITS: dict[str, Name] = {
    "embedding_rms": Name("× RMS of embeddings", "root mean square of the embedded text"),
    "row_norm": Name("× median row length", "median length of a row of the embedded text"),
}
"""Of the size of such a change."""
TOKEN_ATTACKS: dict[str, Attack] = {
    "gradient": Attack(
        "tokens by gradient", "the best of the replacements that one gradient proposes, again and again (HotFlip)",
        random=False,
    ),
    "random": Attack("random tokens", "random tokens at random places: the control", False),
    "characters": Attack(
        "swapped letters", "two neighbouring letters of a random word swapped, where that leaves the number of tokens", False
    ),
}  # fmt: skip
"""On tokens."""
