"""Names of stimuli and optimizers; imports nothing heavy."""

from typing import Literal

Stimulus = Literal["eigen_prion", "loss_ascent", "random_tokens", "gaussian_noise", "random_text"]
OptimizerName = Literal["adamw", "sgd", "adafactor", "adamw8bit"]

STIMULI: dict[str, str] = {
    "eigen_prion": "tokens that maximise the share of the training gradient's energy inside the null space",
    "loss_ascent": "tokens that maximise the loss, by the same search with the same budget",
    "random_tokens": "uniform random tokens",
    "gaussian_noise": "input embeddings drawn from a Gaussian with the subject's embedding mean and deviation, random labels",
    "random_text": "a window of real text from the attack split",
}
OPTIMIZERS: dict[str, str] = {
    "adamw": "AdamW (Loshchilov and Hutter 2019)",
    "sgd": "plain SGD",
    "adafactor": "Adafactor with a fixed learning rate (Shazeer and Stern 2018)",
    "adamw8bit": "AdamW with 8-bit state (bitsandbytes)",
}
