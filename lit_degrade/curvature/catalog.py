"""Names of the parts of weight space that a change can be confined to; imports nothing heavy."""

from typing import Literal

Part = Literal["whole", "flat", "complement", "random"]
Projection = Literal["none", "whole", "flat", "complement", "random"]

PARTS: dict[str, str] = {
    "whole": "every direction of the block matrices",
    "flat": "the flat subspace N_f: the fraction f of Kronecker eigen-directions with the smallest predicted curvature",
    "complement": "all other Kronecker eigen-directions, without exact nulls",
    "random": "a fraction f of Kronecker eigen-directions drawn at random, without exact nulls",
}
PROJECTIONS: dict[str, str] = {"none": "every trainable weight moves as the optimizer has it"} | {
    name: f"steps of the block matrices inside: {says}; nothing else moves" for name, says in PARTS.items()
}
"""What training steps are confined to, each as long as the optimizer's own."""
