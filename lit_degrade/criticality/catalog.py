"""Names of criticality metrics, modes and controls, and what they need; imports nothing heavy."""

from dataclasses import dataclass
from typing import Literal

from lit_degrade.checks import at_least
from lit_degrade.errors import UserError, unknown
from lit_degrade.names import Name

Mode = Literal["global", "per_layer"]


@dataclass(frozen=True)
class Metric:
    """A score of every weight; the higher, the more critical."""

    label: str
    """what figures and tables call it"""
    says: str
    unit: str
    """of a score"""
    needs: tuple[Literal["inputs", "gradient", "squared", "curvature"], ...] = ()
    """sums over calibration text that it is made from"""
    signed: bool = False
    """whether scores may be negative; sets are taken by value all the same"""

    @property
    def differentiates(self) -> bool:
        """Whether it needs gradients, which quantised weights do not have."""
        return bool({"gradient", "squared", "curvature"} & set(self.needs))


METRICS: dict[str, Metric] = {
    "random": Metric("random scores", "uniform random numbers: what any score must beat", "uniform, 0 to 1"),
    "magnitude": Metric("magnitude", "|w|", "unit of weights"),
    "act_mag": Metric(
        "magnitude × activation", "|w| times the L2 norm of its input feature over the text (Wanda)",
        "|weight| × norm of inputs", ("inputs",),
    ),
    "grad_x_weight": Metric(
        "gradient × weight", "|g w|, g the gradient of the mean loss: first-order loss change of zeroing",
        "nats/token", ("gradient",),
    ),
    "grad_squared": Metric(
        "squared gradient", "mean over sequences of their squared gradients (empirical Fisher)",
        "(nats/token)² / weight²", ("squared",),
    ),
    "hutchinson_diag": Metric(
        "Hessian diagonal", "diagonal of the Hessian of the mean loss, estimated, sign kept",
        "nats/token / weight²", ("curvature",), True,
    ),
    "hessian_saliency": Metric(
        "Hessian saliency", "half the Hessian's diagonal times w squared: second-order loss change of zeroing (OBD)",
        "nats/token", ("curvature",), True,
    ),
}  # fmt: skip
"""Metrics of how critical a weight is, in the order in which they are listed."""
OWN = list(METRICS)
"""What `all` means, whatever extensions add: a config means the same everywhere."""
MODES: dict[str, Name] = {
    "global": Name("of all weights", "the k weights of highest score in the whole target"),
    "per_layer": Name("of each matrix", "the k of highest score in every matrix (Q, K and V of a fused one each for itself)"),
}
"""Of what a set of weights has the highest scores."""
CONTROLS: dict[str, Name] = {
    "matched_random_k": Name(
        "random, of the same magnitudes", "as many weights of every matrix, of the same size |w|, drawn at random"
    ),
    "random_k": Name("random", "as many weights, drawn at random (of the whole target, or of every matrix)"),
    "bottom_k": Name("lowest scores other than 0", "the weights of lowest score other than zero"),
}
"""Never among the weights that they are compared with."""
TREATED = "top_k"
ARMS: dict[str, Name] = {TREATED: Name("highest scores", "the weights of highest score"), **CONTROLS}
"""Which weights are perturbed: the treated set, then its controls."""


def choose_metrics(text: str) -> list[str]:
    """Names of metrics, with commas between, or `all` of the suite's own, in the order of METRICS.

    Raises: UserError for one that does not exist, or none.
    """
    asked = OWN if text == "all" else [name.strip() for name in text.split(",")]
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
