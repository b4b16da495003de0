"""Effective rank and companions against closed forms and NumPy. Known error 2."""

import math

import numpy as np
import pytest
import torch
from conftest import Subject
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_degrade.measures.effective_rank import (
    effective_rank,
    hidden_spectra,
    layer_spectrum,
    participation_ratio,
    rank_reduction,
    singular_values,
    spectral_gap,
    stable_rank,
)
from lit_degrade.modules import EvaluateModule
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.text import TextSource, TokenStream


def _orthonormal(k: int, d: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(d, k).double())[0].T


@pytest.mark.parametrize("k", [1, 5, 101, 256])
def test_orthonormal_rows_have_their_number(k: int) -> None:
    """101 and 256 are where cutting p <= 0.01 gave 0."""
    sigma = singular_values(_orthonormal(k, 300))
    assert effective_rank(sigma) == pytest.approx(k, rel=1e-6)
    assert stable_rank(sigma) == pytest.approx(k, rel=1e-6)
    assert participation_ratio(sigma) == pytest.approx(k, rel=1e-6)


def test_closed_forms() -> None:
    assert effective_rank(singular_values(torch.outer(torch.randn(9), torch.randn(4)))) == pytest.approx(1, abs=1e-5)
    sigma = torch.tensor([1.0, 0.5])
    entropy = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert effective_rank(sigma) == pytest.approx(math.exp(entropy))
    assert effective_rank(sigma) == pytest.approx(1.8899, abs=1e-4)
    assert spectral_gap(sigma) == pytest.approx(4)
    assert effective_rank(torch.zeros(3)) == 0


@given(st.integers(2, 40), st.integers(2, 40), st.floats(0.01, 100))
@settings(max_examples=25, deadline=None)
def test_invariant_to_scale_and_rotation_and_equal_to_numpy(n: int, d: int, scale: float) -> None:
    x = torch.randn(n, d)
    rotated = scale * x.double() @ torch.linalg.qr(torch.randn(d, d).double())[0]
    ours = effective_rank(singular_values(x))
    assert effective_rank(singular_values(rotated)) == pytest.approx(ours, rel=1e-5)
    sigma = np.linalg.svd(x.double().numpy(), compute_uv=False)
    p = sigma / sigma.sum()
    assert ours == pytest.approx(float(np.exp(-(p * np.log(p)).sum())), rel=1e-5)
    assert 1 - 1e-9 <= ours <= min(n, d) + 1e-9


def test_padding_never_enters_a_spectrum(tiny: Subject) -> None:
    tokens = torch.randint(1, 1000, (6, 10), generator=torch.Generator().manual_seed(0))
    blocks = tiny.anatomy.blocks

    def run(ids: torch.Tensor) -> torch.Tensor:
        return tiny.model(input_ids=ids).logits

    plain = hidden_spectra(run, blocks, tokens)
    padded = torch.nn.functional.pad(tokens, (0, 118), value=0)
    mask = torch.zeros_like(padded, dtype=torch.bool)
    mask[:, :10] = True
    masked = hidden_spectra(run, blocks, padded, mask)
    careless = hidden_spectra(run, blocks, padded)
    for a, b, c in zip(plain, masked, careless, strict=True):
        assert a.n_tokens == b.n_tokens == 60
        for name, value in a.measures().items():
            assert b.measures()[name] == pytest.approx(value, rel=1e-4), name
        assert abs(c.measures()["effective_rank"] / a.measures()["effective_rank"] - 1) > 0.05


def test_first_real_token_is_left_out_where_asked() -> None:
    hidden = torch.randn(2, 5, 8)
    mask = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()
    spectrum = layer_spectrum(0, hidden, mask)
    kept = torch.cat([hidden[0, 2:], hidden[1, 1:3]])
    torch.testing.assert_close(spectrum.without_first, singular_values(kept))


def test_rank_reduction_is_signed_and_refuses_unequal_samples() -> None:
    mask = torch.ones(1, 40, dtype=torch.bool)
    wide, narrow = torch.randn(1, 40, 8), torch.randn(1, 40, 2) @ torch.randn(2, 8)
    before, after = layer_spectrum(0, wide, mask), layer_spectrum(0, narrow, mask)
    assert rank_reduction(before, after) > 0.5
    assert rank_reduction(after, before) < -1
    with pytest.raises(AssertionError, match="token counts"):
        rank_reduction(before, layer_spectrum(0, wide[:, :20], mask[:, :20]))


@pytest.mark.parametrize(("block", "shape"), [(128, (8, 128)), (600, (1, 600)), (1024, (1, 1024)), (2048, (1, 1024))])
def test_windows_longer_than_a_spectrum_needs_are_cut(block: int, shape: tuple[int, int]) -> None:
    module = EvaluateModule(SubjectSpec("tiny-60k"), TextSource(block=block, probe_tokens=4096), 0)
    ids = torch.arange(4096 // block * block).view(-1, block)
    module.probe = TokenStream(ids, ids)
    assert module.rank_ids().tolist() == ids.flatten()[: shape[0] * shape[1]].view(shape).tolist()
