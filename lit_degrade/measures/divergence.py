"""How far a damaged subject's predictions are from the intact one's."""

import torch
from torch import Tensor

from lit_degrade.measures.perplexity import LogitsFunction, batches


@torch.inference_mode()
def log_probabilities(logits_of: LogitsFunction, tokens: Tensor) -> Tensor:
    """Next-token log-probabilities, (n, length, vocabulary) float32 on the CPU."""
    return torch.cat([torch.log_softmax(logits_of(ids).float(), -1).cpu() for ids in batches(tokens)])


def kl_divergence(intact: Tensor, damaged: Tensor) -> float:
    """Mean KL(intact ‖ damaged) over positions, from log-probabilities (..., vocabulary). [nats/token]

    Zero for equal distributions, infinite where the damaged subject rules out what the intact one does not.
    """
    return float(torch.nn.functional.kl_div(damaged, intact, reduction="none", log_target=True).sum(-1).double().mean())
