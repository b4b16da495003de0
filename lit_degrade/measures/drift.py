"""How far the weights have moved."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from lit_degrade.subjects.loading import Subject


def weights_now(subject: Subject) -> dict[str, Tensor]:
    """Copies of the trainable parameters, on the CPU."""
    return {name: p.detach().cpu().clone() for name, p in subject.trainable().items()}


@torch.no_grad()
def drift(subject: Subject, before: Mapping[str, Tensor]) -> dict[str, float]:
    """‖ΔW‖ / ‖W‖ by component and in all.

    With full fine-tuning W are the weights `before`. With LoRA ΔW is the effective change (α/r) B A of each adapted matrix
    and W the frozen (dequantised) matrix it is added to; B starts at zero, so that the change is measured from the intact
    subject.

    Returns: `displacement` (absolute), `drift` (relative) and `drift_COMPONENT` (relative; full fine-tuning only).
    """
    if subject.spec.adapter == "lora":
        return _adapter_drift(subject)
    moved: dict[str, float] = defaultdict(float)
    size: dict[str, float] = defaultdict(float)
    now = dict(subject.model.named_parameters())
    for site in subject.anatomy.sites:
        if site.parameter in before:
            old = site.view(before[site.parameter]).double()
            moved[site.component] += float((site.view(now[site.parameter]).cpu().double() - old).square().sum())
            size[site.component] += float(old.square().sum())
    total = sum(moved.values())
    by_component = {f"drift_{c}": (moved[c] / size[c]) ** 0.5 for c in moved if size[c] > 0}
    return {"displacement": total**0.5, "drift": (total / sum(size.values())) ** 0.5, **by_component}


def _adapter_drift(subject: Subject) -> dict[str, float]:
    from peft.tuners.lora import LoraLayer

    moved = size = 0.0
    for module in subject.model.modules():
        if isinstance(module, LoraLayer):
            moved += float(cast(Any, module).get_delta_weight("default").double().square().sum())
            size += float(_frozen_weight(module.get_base_layer()).double().square().sum())
    return {"displacement": moved**0.5, "drift": (moved / size) ** 0.5}


def _frozen_weight(layer: Any) -> Tensor:
    """Weights of a frozen layer in floating point; reading an int8 layer leaves its state as it is."""
    from peft.utils.integrations import dequantize_module_weight

    if hasattr(layer.weight, "SCB"):
        from bitsandbytes.functional import int8_vectorwise_dequant

        row_scales = layer.weight.SCB if layer.state.SCB is None else layer.state.SCB
        return int8_vectorwise_dequant(layer.weight.data, row_scales)
    return dequantize_module_weight(layer)
