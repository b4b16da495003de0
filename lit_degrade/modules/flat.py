"""Runs that need a subject's flat subspace: found, certified, recorded, and shared between runs."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from lit_degrade.curvature.certificates import TEXTS, FlatSettings, certify, count_products
from lit_degrade.curvature.flat_subspace import (
    FlatSubspace,
    Shape,
    find_basis,
    flat_subspace,
    from_tensors,
    shapes,
    to_tensors,
    widest,
)
from lit_degrade.curvature.kronecker import flows
from lit_degrade.curvature.products import HessianProducts, HvpMethod, Losses, step_length
from lit_degrade.measures.perplexity import token_nll
from lit_degrade.modules.base import SubjectModule
from lit_degrade.records import tables
from lit_degrade.records.cache import Parts
from lit_degrade.seeds import generator
from lit_degrade.stimuli.catalyst import allowed_tokens
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.text import begun

ENOUGH = 16
"""Tokens for each rotated input dimension, from which on own and held-out gradients lie nearly alike in a flat subspace."""
FACTOR_TOKENS = 512
"""Tokens whose activations are held at once while the eigenbasis is made."""


def hvp_method(spec: SubjectSpec) -> HvpMethod:
    """How products are formed: exactly, but at int8, whose kernels have no second derivative."""
    return "central_difference" if spec.precision == "int8" else "exact"


def hvp_facts(method: HvpMethod, parameters: Mapping[str, Tensor]) -> dict[str, Any]:
    """Columns of the summary about products: how they are formed and, where that has a step, its length."""
    return {"hvp": method} | ({"hvp_step": step_length(parameters)} if method == "central_difference" else {})


class FlatModule(SubjectModule):
    """A run that may need the flat subspace of its subject. What builds on this sets `flat_settings`, and prepares it."""

    flat_settings: FlatSettings
    flat_parameters: dict[str, nn.Parameter]
    flat: FlatSubspace | None = None

    def prepare_flat(self) -> None:
        """Find the matrices that the space is over, and the texts.

        Raises: UserError for a target that is not made of matrices, or a text that is too short.
        """
        settings = self.flat_settings
        self.flat_parameters = self.subject.parameters(settings.target)
        self._shapes: dict[str, Shape] = shapes(self.subject.anatomy, self.flat_parameters)
        tokenizer, count, inputs = self.subject.tokenizer, settings.calibration_blocks, widest(self._shapes)
        stream = self.text.tokens("calibration", tokenizer)
        blocks = min(-(-settings.tokens_per_input * inputs // self.text.block), stream.count(self.text.block))
        self._factor_ids = stream.blocks(self.text.block, max(blocks, count)).ids
        if self._factor_ids.numel() < ENOUGH * inputs:
            self.record.caution(
                f"the flat subspace is taken from {self._factor_ids.numel()} tokens, for {inputs} input dimensions that are "
                f"rotated: from {ENOUGH * inputs} on it is a property of the text rather than of these tokens."
            )
        allowed = allowed_tokens(self.subject)
        drawn = torch.randint(len(allowed), (count, self.text.block), generator=generator(self.seed, "certificates", "tokens"))
        self._texts = {
            "calibration": self._factor_ids[:count],
            "held_out": self.text.blocks("probe", tokenizer, count).ids,
            "random_tokens": begun(allowed[drawn], self.subject.begin)[:, : self.text.block],
        }
        assert list(self._texts) == list(TEXTS)

    def measure_flat(self) -> FlatSubspace:
        """Find the flat subspace, certify it and record both."""
        settings = self.flat_settings
        with self.record.timed("flat_subspace"):
            tensors, _ = self.shared("flat_subspace", self._basis_depends_on(), self._find_basis)
            placed = {name: t.to(self.subject.device) for name, t in tensors.items()}
            bases = from_tensors(placed, self._shapes)
            self.flat = flat_subspace(bases, settings.fraction, self.seed)
        with self.record.timed("certificates"):
            depends_on = self._basis_depends_on() | {"seed": self.seed, "settings": asdict(replace(settings, microbatch=0))}
            _, (rows, facts) = self.shared("certificates", depends_on, self._certify)
        inside, outside, excluded = self.flat.dims
        self.record.add(
            flat_fraction=settings.fraction,
            flat_dims=inside,
            flat_complement_dims=outside,
            flat_excluded_dims=excluded,
            flat_affine_dims=sum(basis.affine for basis in bases.values()),
            flat_tokens=self._factor_ids.numel(),
            flat_basis_bytes=sum(t.numel() * t.element_size() for t in tensors.values()),
            **hvp_facts(hvp_method(self.spec), self.flat_parameters),
            **facts,
        )
        self.record.save_table(tables.CERTIFICATES, rows)
        return self.flat

    def losses_on(self, ids: Tensor, at_once: int, mean: bool) -> Losses:
        """Negative log-likelihood of some text, in float32 whatever the subject's precision, in parts of `at_once` windows."""
        total = ids[:, 1:].numel() if mean else 1

        def part(tokens: Tensor) -> Tensor:
            return token_nll(self.model(input_ids=tokens, use_cache=False).logits, tokens).sum() / total

        return [partial(part, tokens) for tokens in ids.to(self.subject.device).split(at_once)]

    def _find_basis(self) -> Parts:
        losses = self.losses_on(self._factor_ids, max(1, FACTOR_TOKENS // self.text.block), mean=False)
        with self.progress("flat subspace", len(losses)) as progress:
            bases = find_basis(self.model, self.flat_parameters, self._shapes, losses, progress.advance)
        return to_tensors(bases), None

    def _certify(self) -> Parts:
        assert self.flat is not None
        settings = self.flat_settings

        def hessian(ids: Tensor) -> HessianProducts:
            losses = self.losses_on(ids, settings.microbatch or len(ids), mean=True)
            return HessianProducts(losses, self.flat_parameters, hvp_method(self.spec))

        hessians: dict[str, Callable[[], HessianProducts]] = {text: partial(hessian, ids) for text, ids in self._texts.items()}
        with self.progress("certificates", count_products(settings)) as progress:
            rows, facts = certify(hessians, self.flat, settings, self.seed, progress.advance)
        shares = {text: fmean(map(self._share, ids)) for text, ids in self._texts.items()}
        facts |= {f"flat_share_{text}": share for text, share in shares.items()}
        if shares["calibration"] > 0:
            facts["flat_share_held_out_over_own"] = shares["held_out"] / shares["calibration"]
        return {}, (rows, facts)

    def _share(self, ids: Tensor) -> float:
        """Share of the energy of the gradient of one window (length,) that lies in the flat subspace."""
        assert self.flat is not None
        (loss,) = self.losses_on(ids[None], 1, mean=True)
        return self.flat.shares_of_gradient(flows(self.model, self.flat_parameters, loss)).flat

    def _basis_depends_on(self) -> dict[str, Any]:
        device, settings = self.subject.device, self.flat_settings
        return {
            "subject": self.subject.sha256,
            "spec": asdict(replace(self.spec, name="", gradient_checkpointing=False)),
            "adapter_seed": self.seed if self.spec.adapter == "lora" else None,
            "text": self.text.sha256,
            "block": self.text.block,
            "begin": self.subject.begin,
            "target": settings.target,
            "blocks": len(self._factor_ids),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        }
