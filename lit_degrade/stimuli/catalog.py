"""Names of stimuli, optimizers and protocols; imports nothing heavy."""

from typing import Literal

Stimulus = Literal[
    "eigen_prion", "loss_ascent", "anti_catalyst", "random_tokens", "gaussian_noise", "published_noise", "random_text",
]  # fmt: skip
OptimizerName = Literal["adamw", "sgd", "sgd_matched", "adafactor", "adamw8bit"]
ProtocolName = Literal[
    "published", "next_token_labels", "real_token_rank", "true_adamw", "same_optimizer", "seeded_controls", "matched_noise",
    "controlled",
]  # fmt: skip

STIMULI: dict[str, str] = {
    "eigen_prion": "tokens that maximise the share of the training gradient's energy inside the null space",
    "loss_ascent": "tokens that maximise the loss, by the same search with the same budget",
    "anti_catalyst": "tokens that minimise that share, by the same search with the same budget",
    "random_tokens": "uniform random tokens",
    "gaussian_noise": "input embeddings drawn from a Gaussian with the subject's embedding mean and deviation, random labels",
    "published_noise": "input embeddings drawn from 0.1 N(0, 1), random labels: the published control",
    "random_text": "a window of real text from the attack split",
}
OPTIMIZERS: dict[str, str] = {
    "adamw": "AdamW (Loshchilov and Hutter 2019)",
    "sgd": "plain SGD",
    "sgd_matched": "SGD whose every step is as long as AdamW's same step in a rehearsal on the same subject and stimulus",
    "adafactor": "Adafactor with a fixed learning rate (Shazeer and Stern 2018)",
    "adamw8bit": "AdamW with 8-bit state (bitsandbytes)",
}
PROTOCOLS: dict[str, str] = {
    "published": "as the published implementation: see the fields of lit_degrade.stimuli.protocols.Protocol",
    "next_token_labels": "... but labels are shifted once: training and perplexity are about the next token",
    "real_token_rank": "... and effective rank is taken over the probe's real tokens, with the whole spectrum",
    "true_adamw": "... and AdamW is AdamW, not Adafactor",
    "same_optimizer": "... and controls are trained with the treatment's optimizer, not plain SGD",
    "seeded_controls": "... and random text depends on the seed",
    "matched_noise": "... and Gaussian noise has the statistics of the subject's embeddings",
    "controlled": "... and the catalyst is searched inside the certified null space (the default)",
}
"""Each differs from the one before it by one change."""
