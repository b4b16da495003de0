"""Runs about single bits: rows are what a loop finds, random faults hit the class asked for, mistakes are one line."""

import math
import statistics
from pathlib import Path

import pytest
import torch
from conftest import load
from helpers import ROOT, manifest_of, rows_of, run, summary_of
from safetensors.torch import save_file

from lit_degrade.cli import main
from lit_degrade.faults.flips import WHOLE, Flip, flipped
from lit_degrade.measures.perplexity import likelihood
from lit_degrade.perturbations.bits import WIDTHS, bit_numbers
from lit_degrade.perturbations.catalog import PerturbationSettings
from lit_degrade.perturbations.edits import Dose, perturbed
from lit_degrade.perturbations.storage import stored
from lit_degrade.records import tables
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.subjects.loading import load_subject, weights_sha256
from lit_degrade.text import TextSource, TokenStream

QUICK = ["--subject", "tiny-60k", "--text.probe_tokens", "1024", "--verbosity", "quiet"]
COMMAND = ["test", "--config", str(ROOT / "configs/bit_sensitivity.yaml"), *QUICK, "--model.blocks", "1"]
FAULTS = ["test", "--config", str(ROOT / "configs/bit_faults.yaml"), *QUICK, "--model.repetitions", "1"]
COLUMNS = [
    "parameter", "component", "depth", "index", "choice", "format", "bit", "bit_class", "value", "value_flipped", "in_range",
    "nats_per_token", "log_perplexity_ratio",
]  # fmt: skip


def table(results: Path, *args: str, name: str = tables.BIT_SENSITIVITY) -> list[dict[str, str]]:
    return rows_of(run(results, *args, verb=COMMAND) / name)


def test_the_table_is_what_a_loop_finds(tmp_path: Path) -> None:
    path = run(tmp_path, "--model.layers", "0", "--model.k", "1", verb=COMMAND)
    rows = rows_of(path / tables.BIT_SENSITIVITY)
    assert list(rows[0]) == COLUMNS
    subject = load("tiny-60k")
    blocks = TextSource(probe_tokens=1024).blocks("probe", subject.tokenizer, 8)
    few = TokenStream(blocks.ids[:1], blocks.byte_counts[:1])

    def loss() -> float:
        return likelihood(lambda ids: subject.model(input_ids=ids, use_cache=False).logits, few).nats_per_token

    intact = loss()
    components = ["attn_q", "attn_k", "attn_v", "attn_o", "mlp_up", "mlp_down"]
    assert [row["component"] for row in rows[::32]] == components
    assert [row["bit"] for row in rows] == [str(bit) for bit in range(32)] * len(components)
    for row in rows[::7]:
        matrix = stored(subject.model, row["parameter"]).parameter.flatten()  # type: ignore[union-attr]
        with flipped(subject, [Flip(row["parameter"], int(row["index"]), int(row["bit"]))]):
            assert float(row["nats_per_token"]) == pytest.approx(loss(), rel=1e-5, nan_ok=True)
            after = float(stored(subject.model, row["parameter"]).parameter.flatten()[int(row["index"])])  # type: ignore[union-attr]
        assert float(row["value"]) == float(matrix[int(row["index"])])
        assert float(row["value_flipped"]) == pytest.approx(after, rel=0, nan_ok=True)
        assert row["in_range"] == str(abs(after) <= float(matrix.abs().max()))
        assert float(row["log_perplexity_ratio"]) == pytest.approx(float(row["nats_per_token"]) - intact, nan_ok=True, abs=1e-6)
    summary = summary_of(path)
    lost = [math.inf if math.isnan(x) else x for x in (float(row["log_perplexity_ratio"]) for row in rows)]
    assert summary["flips"] == len(rows) == 32 * len(components)
    assert summary["costly_share"] == sum(x > 0.02 for x in lost) / len(lost)
    assert summary["nonfinite_share"] == sum(map(math.isinf, lost)) / len(lost)
    signs = [x for x, row in zip(lost, rows, strict=True) if row["bit_class"] == "sign"]
    assert summary["median_nats_lost_sign"] == pytest.approx(statistics.median(signs))
    worst = rows[lost.index(max(lost))]
    assert (summary["worst_parameter"], summary["worst_bit"]) == (worst["parameter"], int(worst["bit"]))
    assert weights_sha256(subject.model) == manifest_of(path)["sha256"]["subject_after"]


def test_patterns_are_those_of_the_matrices(tmp_path: Path) -> None:
    options = ["--model.layers", "0", "--model.k", "1", "--model.bits", "sign", "--precision", "bf16"]
    path = run(tmp_path, *options, verb=COMMAND)
    assert {row["bit"] for row in rows_of(path / tables.BIT_SENSITIVITY)} == {"15"}
    rows = rows_of(path / tables.BIT_PATTERNS)
    assert len(rows) == 6 * 16
    subject = load("tiny-60k")
    site = subject.anatomy.select("mlp_up", [0])[0]
    (sign,) = [row for row in rows if row["component"] == "mlp_up" and row["bit_class"] == "sign"]
    negative = subject.model.get_parameter(site.parameter).bfloat16().signbit()
    assert float(sign["ones"]) == float(negative.double().mean())
    assert float(sign["entropy"]) == pytest.approx(float(torch.distributions.Bernoulli(negative.double().mean()).entropy())
                                                   / math.log(2))  # fmt: skip


def test_the_largest_weights_of_every_matrix_or_a_selection(tmp_path: Path) -> None:
    common = ["--model.target", "mlp_up", "--model.bits", "30"]
    rows = table(tmp_path / "a", *common, "--model.choose", "magnitude", "--model.k", "3")
    subject = load("tiny-60k")
    chosen = {}
    for site in subject.anatomy.select("mlp_up"):
        top = subject.model.get_parameter(site.parameter).flatten().abs().topk(3).indices
        assert {int(row["index"]) for row in rows if row["parameter"] == site.parameter} == set(top.tolist())
        chosen[site.parameter] = top.sort().values
    assert {row["choice"] for row in rows} == {"magnitude"}
    save_file(chosen, tmp_path / "top.safetensors")
    selection = ["--model.selection", str(tmp_path / "top.safetensors")]
    again = table(tmp_path / "b", *common, *selection)
    assert {row["choice"] for row in again} == {"selection"}
    key = ("parameter", "index", "bit", "nats_per_token")
    assert {tuple(row[c] for c in key) for row in again} == {tuple(row[c] for c in key) for row in rows}


def test_scores_from_text_choose_too(tmp_path: Path) -> None:
    options = ["--model.choose", "grad_x_weight", "--model.calibration_blocks", "2", "--model.k", "1", "--model.bits", "30"]
    rows = table(tmp_path, *options)
    assert len(rows) == 12
    assert all(float(row["value"]) for row in rows)


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_codes(precision: str, tmp_path: Path) -> None:
    options = ["--subject", "tiny-250k", "--precision", precision, "--model.layers", "0", "--model.k", "1"]
    rows = table(tmp_path, *options)
    assert len(rows) == 6 * WIDTHS[precision]
    assert {(row["format"], row["bit_class"]) for row in rows} == {(precision, "code"), (precision, "sign")}
    for component in {row["component"] for row in rows}:  # each has a bit that matters by more than rounding does
        assert max(abs(float(row["log_perplexity_ratio"])) for row in rows if row["component"] == component) > 1e-5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.bits", "32"], "bits of fp32 '32'"),
        (["--model.bits", "16", "--precision", "bf16"], "bits of bf16 '16'"),
        (["--model.bits", "8", "--precision", "int8"], "bits of int8 '8'"),
        (["--model.bits", "4", "--precision", "nf4"], "bits of nf4 '4'"),
        (["--model.bits", "exponent", "--precision", "nf4"], "bits of nf4 'exponent'"),
        (["--model.bits", "scales"], "bits 'scales' are not bits of a weight"),
        (["--model.bits", "exponents"], "Did you mean 'exponent'"),
        (["--model.choose", "magnitudes"], "Did you mean 'magnitude'"),
        (["--model.choose", "grad_squared", "--precision", "int8"], "need gradients"),
        (["--model.k", "0"], "model.k: expected a whole number from 1, not 0"),
        (["--model.k", "1000000"], "the number of weights of its smallest matrix"),
        (["--model.blocks", "9"], "model.blocks=9: expected no more than the 8 of the probe"),
        (["--model.target", "head_of"], "Unknown target"),
        (["--model.layers", "7"], "Layer 7 does not exist"),
        (["--model.selection", "nothing.safetensors"], "cannot be read"),
        (["--model.selection", "x.safetensors", "--model.choose", "magnitude"], "expected one of them"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subject = ["--subject", "tiny-250k"] if "--precision" in options else []
    assert main([*COMMAND, *subject, *options, "--results", str(tmp_path / "results")]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if "caution" not in line]
    assert len(error) == 1
    assert message in error[0]
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("precision", "bits"),
    [("fp32", "sign"), ("fp32", "exponent"), ("bf16", "mantissa"), ("bf16", "15"),
     ("int8", "all"), ("int8", "sign"), ("int8", "scales"), ("nf4", "all"), ("nf4", "sign"), ("nf4", "scales")],
)  # fmt: skip
def test_random_faults_hit_the_class_asked_for(precision: str, bits: str, tmp_path: Path) -> None:
    options = [
        "--subject",
        "tiny-250k",
        "--precision",
        precision,
        "--model.perturbation.bits",
        bits,
        "--model.levels",
        "[1e-3]",
    ]
    path = run(tmp_path, *options, verb=FAULTS)
    edits, (dose,) = rows_of(path / tables.EDITS), rows_of(path / tables.DOSES)
    assert {row["format"] for row in edits} == {precision}
    assert float(dose["dose_achieved"]) == pytest.approx(1e-3, rel=0.5)
    spec = SubjectSpec("tiny-250k", precision=precision)  # type: ignore[arg-type]
    subject = load_subject(spec, 0, torch.device("cpu"), train=False)
    names = sorted({row["parameter"] for row in edits})
    before = {name: stored(subject.model, name).codes(WHOLE).clone() for name in names}
    how = PerturbationSettings("bit_flip", "blocks", bits=bits)
    with perturbed(subject, how, Dose(1e-3, 43), recorded=False):
        changed = {name: stored(subject.model, name).codes(WHOLE) ^ before[name] for name in names}
    touched = {bit for mask in changed.values() for bit in range(WIDTHS[precision]) if bool((mask >> bit & 1).any())}
    wanted = set() if bits == "scales" else set(bit_numbers(precision, bits))
    assert touched <= wanted
    assert len(touched) >= len(wanted) / 2
    assert float(dose["changed"]) > 0
