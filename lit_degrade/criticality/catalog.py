"""Names of criticality metrics, modes and controls, and what they need; imports nothing heavy."""

from dataclasses import dataclass
from typing import Literal

from lit_degrade.checks import at_least
from lit_degrade.errors import UserError, unknown

Mode = Literal["global", "per_layer"]


@dataclass(frozen=True)
class Metric:
    """A score of every weight; the higher, the more critical."""

    says: str
    needs: tuple[Literal["inputs", "gradient", "squared", "curvature"], ...] = ()
    """sums over calibration text that it is made from"""
    signed: bool = False
    """whether scores may be negative; sets are taken by value all the same"""

    @property
    def differentiates(self) -> bool:
        """Whether it needs gradients, which quantised weights do not have."""
        return bool({"gradient", "squared", "curvature"} & set(self.needs))


METRICS: dict[str, Metric] = {
    "random": Metric("uniform random numbers: what any score must beat"),
    "magnitude": Metric("|w|"),
    "act_mag": Metric("|w| times the L2 norm of its input feature over the text (Wanda)", ("inputs",)),
    "grad_x_weight": Metric("|g w|, g the gradient of the mean loss: first-order loss change of zeroing", ("gradient",)),
    "grad_squared": Metric("mean over sequences of their squared gradients (empirical Fisher)", ("squared",)),
    "hutchinson_diag": Metric("diagonal of the Hessian of the mean loss, estimated, sign kept", ("curvature",), True),
    "hessian_saliency": Metric("half the Hessian's diagonal times w squared: second-order loss change of zeroing (OBD)",
                               ("curvature",), True),
}  # fmt: skip
MODES: dict[str, str] = {
    "global": "the k weights of highest score in the whole target",
    "per_layer": "the k of highest score in every matrix (Q, K and V of a fused one each for itself)",
}
CONTROLS: dict[str, str] = {
    "matched_random_k": "as many weights of every matrix, of the same size |w|, drawn at random",
    "random_k": "as many weights, drawn at random (of the whole target, or of every matrix)",
    "bottom_k": "the weights of lowest score other than zero",
}
"""Never among the weights that they are compared with."""
TREATED = "top_k"


def choose_metrics(text: str) -> list[str]:
    """Names of metrics, with commas between, or `all`, in the order of METRICS.

    Raises: UserError for one that does not exist, or none.
    """
    asked = list(METRICS) if text == "all" else [name.strip() for name in text.split(",")]
    for name in asked:
        if name not in METRICS:
            raise unknown("metric", name, METRICS)
    return [name for name in METRICS if name in asked]


def refuse_gradients(metrics: list[str], precision: str) -> None:
    """Raise: UserError for metrics that need gradients of quantised weights, offering those that do not."""
    lacking = [name for name in metrics if METRICS[name].differentiates]
    if lacking and precision in ("int8", "nf4"):
        offered = ",".join(name for name, metric in METRICS.items() if not metric.differentiates)
        raise UserError(
            f"Metrics {', '.join(lacking)} need gradients, which weights at precision '{precision}' do not have. "
            f"Use --model.scores.metrics {offered}, or --precision fp32, bf16 or fp16."
        )


@dataclass(frozen=True)
class ScoreSettings:
    """Which scores, from how much text."""

    metrics: str = "all"
    """names from `list metrics`, with commas between, or all"""
    calibration_blocks: int = 32
    """blocks of calibration text, drawn by the seed"""
    batches: int = 4
    """parts of that text which are also scored by themselves, to see how far they agree"""
    probes: int = 4
    """random vectors for every sequence and matrix, for estimates of the Hessian's diagonal"""
    estimator: Literal["whitened", "per_tensor"] = "whitened"
    """how they are drawn: shaped by the gradient, or plain signs (Hutchinson's, exact where the Hessian is diagonal)"""

    def __post_init__(self) -> None:
        """Raise: UserError for settings that cannot work."""
        choose_metrics(self.metrics)
        at_least("model.scores.calibration_blocks", self.calibration_blocks, 1)
        at_least("model.scores.batches", self.batches, 1)
        at_least("model.scores.probes", self.probes, 2)  # without which there is no standard error
        if self.calibration_blocks % self.batches:
            raise UserError(
                f"model.scores.calibration_blocks={self.calibration_blocks} and batches={self.batches}: expected blocks that "
                "the batches divide."
            )
