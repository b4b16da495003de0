"""How a parameter is stored, and how a site of it is read and written: floats, or codes with scales (int8 rows, NF4 blocks)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lit_degrade.errors import UserError
from lit_degrade.perturbations.bits import as_integers
from lit_degrade.subjects.anatomy import Site

FORMATS = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
INT8_MAX = 127
"""LLM.int8 (Dettmers et al. 2022, arXiv:2208.07339): weight = code x row scale / 127."""


@dataclass
class Write:
    """New contents of a tensor of the model, or of some of its elements; keeps the old ones to put back."""

    place: Tensor
    """view of the model's own memory"""
    values: Tensor | None
    """contents to write, as `place`, or (k,); None once written"""
    indices: Tensor | None = None
    """flat positions (k,); None: all of `place`"""
    before: Tensor | None = None

    def apply_(self) -> None:
        """Write; what was there is kept first."""
        assert self.values is not None
        self.before = self._read().clone()
        self._write(self.values)
        self.values = None

    def revert_(self) -> None:
        """Put back what was there, bit for bit; nothing to do where nothing was written."""
        if self.before is not None:
            with torch.inference_mode():  # what was made in that mode, and interrupted, is undone outside of it
                self._write(self.before)
            self.before = None

    def _read(self) -> Tensor:
        return self.place if self.indices is None else self.place.take(self.indices)

    def _write(self, values: Tensor) -> None:
        if self.indices is None:
            self.place.copy_(values)
        else:
            _put_(self.place, self.indices, values)


def _put_(place: Tensor, indices: Tensor, values: Tensor | bool) -> None:
    """Write at flat positions (k,); unlike `Tensor.put_`, also where deterministic algorithms are asked for."""
    if place.is_contiguous():
        place.view(-1)[indices] = values
    else:
        place[torch.unravel_index(indices, place.shape)] = values


@dataclass
class Swap:
    """A new tensor in the place of a whole parameter; the old one is kept as it is, so that nothing has to be copied."""

    parameter: Tensor
    values: Tensor | None
    """new contents, as the parameter; None once they are in place"""
    indices: None = None
    before: Tensor | None = None

    def apply_(self) -> None:
        """Put the new tensor in place; the old one is kept first."""
        assert self.values is not None
        self.before = self.parameter.data
        self.parameter.data = self.values
        self.values = None

    def revert_(self) -> None:
        """Put the old tensor back; nothing to do where nothing was swapped."""
        if self.before is not None:
            self.parameter.data = self.before
            self.before = None


StoredChange = Write | Swap


class Floats:
    """A parameter stored as floating-point numbers."""

    def __init__(self, parameter: Tensor) -> None:
        """Of a model, (…), fp32, bf16 or fp16."""
        self.parameter = parameter
        self.device = parameter.device
        self.shape = parameter.shape
        self.format = FORMATS[parameter.dtype]

    def read(self, site: Site) -> Tensor:
        """Weights of a site: a view."""
        return site.view(self.parameter.data)

    def write(self, site: Site, weights: Tensor, chosen: Tensor | None = None) -> list[StoredChange]:
        """What stores new weights of a site, float32 (…); or of some of them, (k,), at flat positions `chosen` (k,)."""
        if site.part is None and chosen is None:
            return [Swap(self.parameter, weights.to(self.parameter.dtype))]
        return [Write(self.read(site), weights.to(self.parameter.dtype), chosen)]

    def codes(self, site: Site) -> Tensor:
        """Stored bits of a site as integers: a view."""
        return as_integers(self.read(site))

    def write_codes(self, site: Site, positions: Tensor, codes: Tensor) -> list[StoredChange]:
        """What stores some integers of a site, at flat positions (k,)."""
        return [Write(self.codes(site), codes, positions)]

    def decoded(self, site: Site, writes: Sequence[StoredChange]) -> Tensor:
        """Weights of a site as they will be when written, (…) in the stored format."""
        weights = self.read(site).clone(memory_format=torch.contiguous_format)
        for write in writes:
            assert write.values is not None
            if write.indices is None:
                weights = write.values
            else:
                as_integers(weights).view(-1)[write.indices] = as_integers(write.values)
        return weights


class Quantised:
    """A matrix stored as codes and scales by bitsandbytes; its values are changed by decoding, changing and encoding again."""

    def __init__(self, module: Any, name: str) -> None:
        """Of a Linear8bitLt or Linear4bit.

        Raises: UserError for scales that are themselves quantised.
        """
        weight = module.weight
        self.name, self.state = name, getattr(weight, "quant_state", None)
        if self.state is None:
            if weight.CB is not None:  # as in the layer's first forward pass: from there on, this is what it computes with
                module.init_8bit_state()
                weight.data = module.state.CB
            self.format, self.stored, self.scales = "int8", weight.data, module.state.SCB
        elif self.state.nested or self.state.quant_type != "nf4":
            kind = f"{self.state.quant_type} with {'quantised' if self.state.nested else 'float32'} scales"
            raise UserError(f"'{name}' is stored as {kind}: expected nf4 with float32 scales.")
        else:
            self.format, self.stored, self.scales = "nf4", weight.data, self.state.absmax
        self.device = self.stored.device
        self.shape: torch.Size = self.stored.shape if self.state is None else self.state.shape

    def read(self, site: Site) -> Tensor:
        """Weights of a site, float32."""
        return site.view(self._decode(self._codes, self.scales))

    def write(self, site: Site, weights: Tensor, chosen: Tensor | None = None) -> list[StoredChange]:
        """What stores new weights of a site, rounded to its format; a scale grows where it must and never shrinks.

        Args:
            site: where.
            weights: float32 (…); or (k,), at flat positions `chosen` (k,).
            chosen: of some weights only.

        Raises: UserError when a scale would have to grow that other weights share.
        """
        whole = self._decode(self._codes, self.scales)
        inside = torch.zeros_like(whole, dtype=torch.bool)
        if chosen is None:
            site.view(whole).copy_(weights)
            site.view(inside).fill_(True)
        else:
            _put_(site.view(whole), chosen, weights)
            _put_(site.view(inside), chosen, True)
        codes, scales = self._encode(whole)
        own, shared = self._scale_sites(inside)
        if bool((scales != self.scales)[shared].any()):
            raise self._shared()
        codes, scales = codes.where(inside, self._codes), scales.where(own, self.scales)
        return [Write(self.stored, self._pack(codes)), Write(self.scales, scales)]

    def codes(self, site: Site) -> Tensor:
        """Codes of a site as integers, one each."""
        return site.view(as_integers(self._codes))

    def write_codes(self, site: Site, positions: Tensor, codes: Tensor) -> list[StoredChange]:
        """What stores some codes of a site, at flat positions (k,)."""
        whole = as_integers(self._codes).clone()
        _put_(site.view(whole), positions, codes)
        return [Write(self.stored, self._pack(whole.view(self._codes.dtype)))]

    def scale_bits(self, site: Site) -> tuple[Tensor, Tensor]:
        """All scales of the matrix as integers (a view), and the flat positions of those that are the site's own.

        Raises: UserError when one is shared with weights outside the site.
        """
        inside = torch.zeros(self.shape, dtype=torch.bool, device=self.scales.device)
        site.view(inside).fill_(True)
        own, shared = self._scale_sites(inside)
        if bool(shared.any()):
            raise self._shared()
        return as_integers(self.scales), own.nonzero().flatten()

    def decoded(self, site: Site, writes: Sequence[StoredChange]) -> Tensor:
        """Weights of a site as they will be when written, float32."""
        stored, scales = self.stored, self.scales
        for write in writes:
            assert isinstance(write, Write)
            assert write.values is not None
            if write.place is self.stored:
                stored = write.values
            elif write.indices is None:
                scales = write.values
            else:
                scales = scales.clone()
                as_integers(scales)[write.indices] = write.values
        return site.view(self._decode(self._unpack(stored), scales))

    @cached_property
    def _codes(self) -> Tensor:
        """Codes of the whole matrix, (out, in)."""
        return self._unpack(self.stored)

    def _unpack(self, stored: Tensor) -> Tensor:
        if self.state is None:
            return stored
        flat = stored.view(torch.uint8).flatten()
        return torch.stack([flat >> 4, flat & 15], 1).flatten()[: self.shape.numel()].view(self.shape)

    def _pack(self, codes: Tensor) -> Tensor:
        if self.state is None:
            return codes
        spare = self.stored.view(torch.uint8).flatten()[-1:] & 15  # of an odd number of codes, half a byte stays as it is
        pairs = torch.cat([codes.flatten(), spare])[: codes.numel() + codes.numel() % 2].view(-1, 2)
        return (pairs[:, 0] << 4 | pairs[:, 1]).view(self.stored.dtype).view(self.stored.shape)

    def _per_weight(self, scales: Tensor, like: Tensor) -> Tensor:
        if self.state is None:
            return scales[:, None]
        return scales.repeat_interleave(self.state.blocksize)[: like.numel()].view(like.shape)

    def _decode(self, codes: Tensor, scales: Tensor) -> Tensor:
        units = codes.float() / INT8_MAX if self.state is None else self.state.code[codes.long()]
        return units * self._per_weight(scales, codes)

    def _encode(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        if self.state is None:
            scales = weights.abs().amax(1).maximum(self.scales)
            units = weights / scales.where(scales > 0, 1.0)[:, None]
            return (units * INT8_MAX).round().clamp(-INT8_MAX, INT8_MAX).to(torch.int8), scales
        blocks = torch.nn.functional.pad(weights.abs().flatten(), (0, -weights.numel() % self.state.blocksize))
        scales = blocks.view(-1, self.state.blocksize).amax(1).maximum(self.scales)
        units = weights / self._per_weight(scales.where(scales > 0, 1.0), weights)
        middles = (self.state.code[1:] + self.state.code[:-1]) / 2
        return torch.bucketize(units, middles).to(torch.uint8), scales

    def _scale_sites(self, inside: Tensor) -> tuple[Tensor, Tensor]:
        """Which scales belong to weights inside only, and which to weights inside and outside."""
        if self.state is None:
            parts = inside
        else:
            missing = -inside.numel() % self.state.blocksize
            padded = torch.nn.functional.pad(inside.flatten().to(torch.int8), (0, missing), value=-1)
            parts = padded.view(-1, self.state.blocksize)
            parts = torch.where(parts < 0, parts.amax(1, keepdim=True), parts).bool()
        every = parts.all(1)
        return every, parts.any(1) & ~every

    def _shared(self) -> UserError:
        return UserError(f"'{self.name}' is stored as {self.format}, with scales that the target shares with other weights.")


def stored(model: Any, name: str) -> Floats | Quantised:
    """How a parameter of a model is stored."""
    parameter = model.get_parameter(name)
    if parameter.dtype in FORMATS:
        return Floats(parameter)
    return Quantised(model.get_submodule(name.rpartition(".")[0]), name)
