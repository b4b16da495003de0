"""Central differences: a step for each weight, so that larger subjects take longer ones, and nothing left behind."""

import math

import pytest
import torch
from torch import Tensor

from lit_degrade.curvature.products import RMS_STEP, HessianProducts, central_difference, full_precision, length, step_length
from lit_degrade.measures.perplexity import token_nll
from lit_degrade.seeds import generator
from lit_degrade.subjects.loading import Subject


def test_the_step_grows_with_the_square_root_of_the_number_of_weights() -> None:
    one, four = ({"w": torch.zeros(n)} for n in (100, 400))
    assert step_length(four) == pytest.approx(2 * step_length(one))
    assert step_length(one) / math.sqrt(100) == pytest.approx(RMS_STEP)


def test_a_cubic_is_differentiated_but_for_the_square_of_the_step() -> None:
    w = {"w": torch.full((4,), 0.5, dtype=torch.float64)}
    d = {"w": torch.full((4,), 0.5, dtype=torch.float64)}
    found = central_difference(lambda: w["w"] ** 3, w, d)
    torch.testing.assert_close(found, 3 * 0.25 * d["w"] + step_length(w) ** 2 * d["w"] ** 3, atol=1e-9, rtol=0)
    named = central_difference(lambda: {"cube": w["w"] ** 3}, w, d)
    assert named["cube"].equal(found)
    assert w["w"].equal(torch.full((4,), 0.5, dtype=torch.float64))


def test_products_by_central_differences_are_exact_ones_to_three_digits(tiny: Subject) -> None:
    ids = torch.randint(0, 1024, (4, 32), generator=generator(0, "ids"))
    parameters = tiny.parameters("blocks")

    def loss() -> Tensor:
        return token_nll(tiny.model(input_ids=ids, use_cache=False).logits, ids).mean()

    exact, central = (HessianProducts([loss], parameters, method) for method in ("exact", "central_difference"))  # type: ignore[arg-type]
    draws = generator(0, "v")
    v = {name: torch.randn(p.shape, generator=draws) for name, p in parameters.items()}
    one, other = exact.along(v), central.along(v)
    assert length({name: one[name] - other[name] for name in v}) < 2e-3 * length(one)


def test_matrix_products_are_in_full_float32_meanwhile() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with full_precision():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
