"""The published protocol of the eigen-prion work, the controlled one, and the walk between them, one change at a time."""

from dataclasses import dataclass, fields, replace

from lit_degrade.stimuli.catalog import PROTOCOLS as NAMES
from lit_degrade.stimuli.catalog import OptimizerName, Stimulus

PUBLISHED_SEED = 42
"""What the published random text was drawn with, whatever the run's seed was."""


@dataclass(frozen=True)
class Protocol:
    """What the published implementation does differently; all False is the controlled protocol."""

    labels_shifted_twice: bool = False
    """labels are shifted by hand and again in the model: training and perplexity are about token t + 2"""
    rank_over_padding: bool = False
    """rank of five short texts padded to 128 tokens, padding included, small singular values cut"""
    adamw_is_adafactor: bool = False
    """the optimizer called AdamW is Adafactor"""
    controls_by_sgd: bool = False
    """controls are trained with plain SGD, whatever the treatment is trained with"""
    random_text_ignores_seed: bool = False
    """every run's random text is the same"""
    noise_unmatched: bool = False
    """Gaussian noise is 0.1 N(0, 1), whatever the subject's embeddings are"""
    catalyst_by_ascent: bool = False
    """the catalyst is made by ascent on the loss in embedding space, then the nearest tokens; no null space enters"""

    def optimizer(self, stimulus: Stimulus, asked: OptimizerName) -> OptimizerName:
        """What an arm is really trained with."""
        if self.controls_by_sgd and stimulus not in ("eigen_prion", "loss_ascent"):
            return "sgd"
        return "adafactor" if self.adamw_is_adafactor and asked == "adamw" else asked


def _walk() -> dict[str, Protocol]:
    """Published first, then with one error after the other mended, in the order of the fields."""
    protocol = Protocol(**{field.name: True for field in fields(Protocol)})
    walk = [protocol]
    for field in fields(Protocol):
        protocol = replace(protocol, **{field.name: False})
        walk.append(protocol)
    return dict(zip(NAMES, walk, strict=True))


PROTOCOLS = _walk()
