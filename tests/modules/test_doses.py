"""Doses of a perturbation through `test`: measured one by one on one loaded subject; the damage exchange rate."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import load
from helpers import ROOT, manifest_of, rows_of, run, summary_of
from hypothesis import given
from hypothesis import strategies as st

from lit_degrade.cli import main
from lit_degrade.measures.perplexity import likelihood
from lit_degrade.modules import ExchangeRateModule
from lit_degrade.perturbations.catalog import METHODS, PerturbationSettings
from lit_degrade.perturbations.edits import Dose, perturbed
from lit_degrade.perturbations.exchange import TOLERANCE, dose_range, find_dose
from lit_degrade.records import tables
from lit_degrade.text import TextSource

SMALL = ["--subject", "tiny-60k", "--text.probe_tokens", "2048", "--verbosity", "quiet"]
EVALUATE = ["test", "--config", str(ROOT / "configs/evaluate.yaml"), *SMALL]
EXCHANGE = ["test", "--config", str(ROOT / "configs/exchange_rate.yaml"), *SMALL]
ZERO = ["--model.perturbation.method", "zero", "--model.perturbation.target", "mlp_up", "--model.levels", "[0.0, 0.5, 1.0]"]


def test_every_dose_is_what_the_subject_measures_under_it(tmp_path: Path) -> None:
    folder = run(tmp_path, *ZERO, "--model.repetitions", "2", verb=EVALUATE)
    doses = rows_of(folder / tables.DOSES)
    assert [(float(row["level"]), int(row["repetition"])) for row in doses] == [(v, r) for v in (0.0, 0.5, 1.0) for r in (0, 1)]
    subject = load("tiny-60k")
    probe = TextSource(probe_tokens=2048).blocks("probe", subject.tokenizer, 16)
    for row in doses:
        settings, dose = PerturbationSettings("zero", "mlp_up"), Dose(float(row["level"]), 42, int(row["repetition"]))
        with perturbed(subject, settings, dose) as records:
            measured = likelihood(lambda ids: subject.model(input_ids=ids).logits, probe)
        assert float(row["nats_per_token"]) == pytest.approx(measured.nats_per_token, rel=1e-6)
        assert int(row["changed"]) == sum(record.changed for record in records)
        assert float(row["dose_achieved"]) == pytest.approx(dose.level, abs=1e-3)
    assert doses[4]["nats_per_token"] == doses[5]["nats_per_token"], "all weights are zero in both"
    edits = rows_of(folder / tables.EDITS)
    assert len(edits) == 6 * 2
    assert {edit["component"] for edit in edits} == {"mlp_up"}
    manifest = manifest_of(folder)
    assert manifest["sha256"]["subject_after"] == manifest["sha256"]["subject"]
    assert summary_of(folder)["doses"] == 6
    assert summary_of(folder)["tied_embedding"] is False


def test_a_level_that_is_asked_for_twice_loses_no_run(tmp_path: Path) -> None:
    rows = rows_of(run(tmp_path, *ZERO, "--model.levels", "[0.5, 0.5]", verb=EVALUATE) / tables.DOSES)
    assert [row["level"] for row in rows] == ["0.5", "0.5"]


def test_damage_that_is_left_behind_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The walk compares the weights, whatever a module forgets."""
    measure = ExchangeRateModule.measure

    def careless(self: ExchangeRateModule, piece: Any) -> None:
        measure(self, piece)
        next(self.model.parameters()).data[0] += 1

    monkeypatch.setattr(ExchangeRateModule, "measure", careless)
    args = ["--model.methods", "zero", "--model.targets", "mlp", "--results", str(tmp_path)]
    with pytest.raises(RuntimeError, match="the subject's weights are not what they were"):
        main([*EXCHANGE, *args])


def test_without_a_perturbation_the_subject_is_measured_as_it_is(tmp_path: Path) -> None:
    folder = run(tmp_path, verb=EVALUATE)
    assert summary_of(folder)["doses"] == 0
    assert not (folder / tables.DOSES).exists()


def test_a_destroyed_subject_is_an_outcome(tmp_path: Path) -> None:
    flips = ["--model.perturbation.method", "bit_flip", "--model.perturbation.target", "all", "--model.levels", "[0.01]"]
    (row,) = rows_of(run(tmp_path, *flips, verb=EVALUATE) / tables.DOSES)
    assert not math.isfinite(float(row["nats_per_token"]))
    assert not math.isfinite(float(row["rank_reduction"]))
    assert int(row["nonfinite"]) > 0


def test_a_dose_that_fails_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lit_degrade.modules.doses import DoseModule
    from lit_degrade.subjects.loading import weights_sha256

    seen: list[DoseModule] = []

    def fail(self: DoseModule, cell: object) -> None:
        seen.append(self)
        assert weights_sha256(self.subject.model) != self.kept_sha256
        raise OSError("in the middle of a dose")

    monkeypatch.setattr(DoseModule, "measure_dose", fail)
    with pytest.raises(OSError, match="in the middle"):
        main([*EVALUATE, *ZERO[:-1], "[0.5]", "--results", str(tmp_path)])
    assert weights_sha256(seen[0].subject.model) == seen[0].kept_sha256


@given(st.sampled_from(sorted(METHODS)), st.floats(-0.9, 0.9), st.floats(0.2, 4))
def test_the_search_finds_the_dose_of_any_rising_loss(method: str, position: float, power: float) -> None:
    """A loss that is a power of the damage, which is the dose, or one over the number of values."""
    low, high = dose_range(method)
    whole = METHODS[method].none == math.inf
    truth = math.sqrt(low * high) * (high / low) ** (position / 2)
    found = find_dose(method, 0.1, lambda level: 0.1 * ((truth / level if whole else level / truth) ** power))
    assert found.reached
    if whole:
        assert found.level == max(2, math.floor(truth)) or abs(found.loss - 0.1) <= TOLERANCE * 0.1
    else:
        assert abs(found.loss - 0.1) <= max(TOLERANCE * 0.1, 0.1 * (1.002**power - 1))


def test_the_search_says_when_no_dose_costs_as_much() -> None:
    found = find_dose("ablation", 0.1, lambda level: 0.05 * level)
    assert (found.reached, found.loss_at_maximum) == (False, 0.05)
    assert math.isnan(found.level)


def test_the_search_takes_the_least_dose_of_a_loss_that_jumps() -> None:
    found = find_dose("bit_flip", 0.1, lambda level: math.inf if level > 1e-4 else 0.0)
    assert found.reached
    assert found.loss == math.inf
    assert found.level == pytest.approx(1e-4, rel=0.01)


def test_exchange_rates(tmp_path: Path) -> None:
    args = ["--model.methods", "mult_gauss,prune_magnitude,uni_quant", "--model.targets", "attn_q,mlp_down,blocks"]
    folder = run(tmp_path, *args, "--model.repetitions", "2", verb=EXCHANGE)
    rows = rows_of(folder / tables.EXCHANGE_RATES)
    assert [row["method"] for row in rows if row["target"] == "blocks"] == [
        "mult_gauss", "mult_gauss", "prune_magnitude", "uni_quant",
    ]  # fmt: skip
    reached = [row for row in rows if row["reached"] == "True"]
    assert {row["target"] for row in reached if row["method"] == "mult_gauss"} == {"attn_q", "mlp_down", "blocks"}
    for row in reached:
        if row["method"] == "mult_gauss":
            assert float(row["nats_lost"]) == pytest.approx(0.1, rel=2 * TOLERANCE)
            assert float(row["relative_norm"]) == pytest.approx(float(row["level"]), rel=0.2)
        assert float(row["nats_lost"]) >= 0.1 * (1 - TOLERANCE)
    for row in rows:
        if row["reached"] == "False":
            assert row["level"] == row["nats_lost"] == ""
            assert float(row["nats_at_maximum"]) < 0.1
    least = {row["target"]: float(row["level"]) for row in rows if row["method"] == "mult_gauss"}
    assert least["blocks"] < min(least["attn_q"], least["mlp_down"]), "a larger target needs a smaller dose"
    assert manifest_of(folder)["sha256"]["subject_after"] == manifest_of(folder)["sha256"]["subject"]


def test_exchange_rates_are_reproducible(tmp_path: Path) -> None:
    args = ["--model.methods", "ablation,bit_flip", "--model.targets", "attn_v", "--model.repetitions", "2"]
    first = (run(tmp_path / "a", *args, verb=EXCHANGE) / tables.EXCHANGE_RATES).read_bytes()
    torch.manual_seed(1)  # nothing is drawn from global state
    assert (run(tmp_path / "b", *args, verb=EXCHANGE) / tables.EXCHANGE_RATES).read_bytes() == first


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model.methods", "gauss"], "Unknown method 'gauss'. Did you mean"),
        (["--model.targets", "mlp_gate"], "Unknown target for gpt_neox 'mlp_gate'"),
        (["--model.cost", "0"], "model.cost: expected a finite number above 0"),
    ],
)
def test_bad_input_of_exchange_rates(args: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*EXCHANGE, *args, "--results", str(tmp_path / "results")]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_bar_is_removed_when_a_search_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lit_degrade.modules.exchange import ExchangeRateModule
    from lit_degrade.modules.progress import Progress

    removed: list[Progress] = []
    monkeypatch.setattr(Progress, "__exit__", lambda self, *exception: removed.append(self))
    monkeypatch.setattr(ExchangeRateModule, "_loss", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main([*EXCHANGE, "--results", str(tmp_path)])
    assert len(removed) == 1
