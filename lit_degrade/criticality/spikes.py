"""How far the largest channels of MLP output projections stand out, and how far those of random weights do."""

import copy
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lit_degrade.measures.perplexity import LogitsFunction, batches
from lit_degrade.seeds import derive
from lit_degrade.subjects.anatomy import Anatomy, Site
from lit_degrade.subjects.loading import DTYPES, Subject


@dataclass(frozen=True)
class Spikes:
    """The largest input and the largest output of one MLP output projection over a text, and how much they stand out."""

    site: Site
    input_max: float
    """largest |input| of any channel and token"""
    input_channel: int
    input_ratio: float
    """see `spike_ratio`"""
    output_max: float
    """largest |output|, the bias included"""
    output_channel: int
    output_ratio: float
    output: float
    """the largest output with its sign"""
    inputs: Tensor
    """what the projection reads at the token of its largest output, (in,) float32"""


@dataclass(frozen=True)
class Thresholds:
    """Spike ratios that random weights do not reach."""

    inputs: float
    outputs: float


class _Recorder:
    """Forward hook that keeps the largest magnitude of every channel; O(channels) memory however long the text."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.input_max = self.output_max = self.inputs = torch.zeros(1)
        self.output, self.channel = 0.0, 0

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        inputs, outputs = args[0].flatten(0, -2), output.flatten(0, -2)
        at = int(outputs.abs().argmax())
        token, channel = divmod(at, outputs.shape[1])
        value = float(outputs[token, channel])
        if not abs(value) <= abs(self.output):  # so that NaN is kept
            self.output, self.channel, self.inputs = value, channel, inputs[token].float().clone()
        self.input_max = inputs.abs().amax(0).float().maximum(self.input_max.to(inputs.device))
        self.output_max = outputs.abs().amax(0).float().maximum(self.output_max.to(outputs.device))

    def spikes(self) -> Spikes:
        assert self.output_max.numel() > 1, f"{self.site.parameter} has not been called"
        return Spikes(
            site=self.site,
            input_max=float(self.input_max.max()),
            input_channel=int(self.input_max.argmax()),
            input_ratio=spike_ratio(self.input_max),
            output_max=abs(self.output),
            output_channel=self.channel,
            output_ratio=spike_ratio(self.output_max),
            output=self.output,
            inputs=self.inputs,
        )


def spike_ratio(channel_maxima: Tensor) -> float:
    """How far the largest channel stands out: its maximum over the median one. [ratio]

    (1, 2, 6) gives 3; equal channels give 1. Free of scale, so that one threshold serves every layer, model and format: a
    layer's outputs may all be large. Both are maxima over the same tokens, so that it hardly grows with the text. Channels that
    are never anything but zero (dead ReLUs) are left out, or they would make the median zero. "Massive activations" are
    defined against the median too (Sun et al. 2024, arXiv:2402.17762); Yu et al. look at plots.

    Args:
        channel_maxima: largest magnitude of every channel (n,); NaN gives NaN, which is above no threshold.
    """
    alive = channel_maxima[channel_maxima != 0]
    return float(alive.max() / alive.median()) if len(alive) else 1.0


@torch.inference_mode()
def layer_spikes(model: Any, anatomy: Anatomy, logits_of: LogitsFunction, blocks: Tensor) -> list[Spikes]:
    """Spikes of every MLP output projection over a text, from the first layer to the last.

    Args:
        model: of any format, with or without adapters (then those of the projection under them).
        anatomy: of the model.
        logits_of: runs the model.
        blocks: tokens (n, length) int64.
    """
    recorders = [_Recorder(site) for site in anatomy.select("mlp_down")]
    with ExitStack() as hooks:
        for recorder in recorders:
            module = model.get_submodule(recorder.site.parameter.rpartition(".")[0])
            hooks.callback(module.register_forward_hook(recorder).remove)
        for ids in batches(blocks):
            logits_of(ids)
    return [recorder.spikes() for recorder in recorders]


def random_init(subject: Subject, seed: int, number: int) -> Any:
    """A model of the subject's architecture with its library's random initial weights, on its device and in its format.

    That of a quantised subject is bfloat16: codes have no initial values. Needs as much memory as the subject, beside it (of
    int8 two, of nf4 four times as much). The library draws from global generators; they are put back.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    config = copy.deepcopy(subject.model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    loader: Any = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    precision = subject.spec.precision
    dtype = torch.bfloat16 if precision in ("int8", "nf4") else DTYPES[precision]
    devices = range(torch.cuda.device_count())
    with torch.inference_mode(False), torch.random.fork_rng(devices), subject.device:
        torch.manual_seed(derive(seed, "super_weights", "null_model", str(number)))
        return loader.from_config(config, dtype=dtype).eval()


def null_thresholds(
    subject: Subject, blocks: Tensor, seed: int, models: int, margin: float, advance: Callable[[], object] = lambda: None
) -> Thresholds:
    """`margin` times the largest spike ratios of any layer of randomly initialised models on the same text.

    Without this, random weights and whole families (Gemma 3) give confident finds. One null model is held at a time, see
    `random_init`.

    Args:
        subject: whose architecture is meant.
        blocks: tokens (n, length) int64.
        seed: of the null models.
        models: how many.
        margin: 1 or more. 2 is six standard deviations or more above the mean of a null model's largest output ratio, measured
            with 20 of each of 13 tiny families (means 1.5 to 1.9, standard deviations 0.1 to 0.3).
        advance: called after each.
    """
    ratios = []
    for number in range(models):
        ratios += _null_ratios(subject, blocks, seed, number)
        advance()
    inputs, outputs = zip(*ratios, strict=True)
    return Thresholds(margin * max(inputs), margin * max(outputs))


def _null_ratios(subject: Subject, blocks: Tensor, seed: int, number: int) -> list[tuple[float, float]]:
    model = random_init(subject, seed, number)
    layers = layer_spikes(model, Anatomy(model), lambda ids: model(ids.to(subject.device), use_cache=False).logits, blocks)
    return [(spikes.input_ratio, spikes.output_ratio) for spikes in layers]
