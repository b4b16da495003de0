"""Criticality and layer ablation through `test`: tables, causal effects, what is refused."""

import json
import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from conftest import load, random_folder
from helpers import ROOT, manifest_of, rows_of, run, summary_of
from safetensors import safe_open
from safetensors.torch import load_file

from lit_degrade.cli import main
from lit_degrade.criticality.catalog import CONTROLS, METRICS, TREATED
from lit_degrade.measures.perplexity import likelihood
from lit_degrade.perturbations.catalog import PerturbationSettings
from lit_degrade.perturbations.edits import Dose, perturbed
from lit_degrade.records import paths, tables
from lit_degrade.text import TextSource

SMALL = ["--text.probe_tokens", "1024", "--verbosity", "quiet"]
FEW = ["--model.scores.calibration_blocks", "4", "--model.scores.batches", "2", "--model.scores.probes", "2"]
CRITICAL = [
    "test", "--config", str(ROOT / "configs/criticality.yaml"), "--subject", "tiny-60k", *SMALL, *FEW, "--model.k", "[5, 50]",
    "--model.draws", "2",
]  # fmt: skip
ABLATION = ["test", "--config", str(ROOT / "configs/layer_ablation.yaml"), "--subject", "tiny-60k", *SMALL]


def metrics(*names: str) -> list[str]:
    return ["--model.scores.metrics", ",".join(names)]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("criticality"), verb=CRITICAL)


def test_every_table_of_a_run(full: Path) -> None:
    scores, effects = rows_of(full / tables.SCORES), rows_of(full / tables.EFFECTS)
    sites = 2 * 6  # Q, K, V of a fused matrix have profiles of their own
    assert Counter(row["metric"] for row in scores) == dict.fromkeys(METRICS, sites)
    assert {row["component"] for row in scores} == {"attn_q", "attn_k", "attn_v", "attn_o", "mlp_up", "mlp_down"}
    for metric in METRICS:
        for k in (5, 50):
            assert sum(int(row[f"top_{k}"]) for row in scores if row["metric"] == metric) == k
            arms = Counter(row["arm"] for row in effects if (row["metric"], row["k"]) == (metric, str(k)))
            assert arms == {TREATED: 1, "bottom_k": 1, "random_k": 2, "matched_random_k": 2}
    assert {int(row["weights"]) for row in effects} == {5, 50}
    assert {row["random"] for row in effects if row["arm"] in (TREATED, "bottom_k")} == {"False"}
    assert {*CONTROLS, TREATED} == {row["arm"] for row in effects}
    signed = [row["metric"] for row in scores if float(row["q0"]) < 0]
    assert set(signed) == {"hutchinson_diag", "hessian_saliency"}
    assert {row["metric"] for row in scores if row["standard_error"]} == {"hutchinson_diag", "hessian_saliency"}
    manifest = manifest_of(full)
    assert manifest["sha256"]["subject_after"] == manifest["sha256"]["subject"]
    assert summary_of(full)["weights"] == 13824
    assert summary_of(full)["arms"] == 7 * 2 * 6


def test_an_effect_is_what_the_subject_measures_without_those_weights(full: Path) -> None:
    subject = load("tiny-60k")
    probe = TextSource(probe_tokens=1024).blocks("probe", subject.tokenizer, 8)

    def measured() -> float:
        return likelihood(lambda ids: subject.model(input_ids=ids).logits, probe).nats_per_token

    before, summary = measured(), summary_of(full)
    effects = rows_of(full / tables.EFFECTS)
    for metric in ("magnitude", "grad_squared"):
        selection = full / paths.TOP.format(metric, 50)
        settings = PerturbationSettings("zero", "blocks", selection=str(selection))
        with perturbed(subject, settings, Dose(1.0, 0)) as records:
            lost = measured() - before
        assert sum(record.weights for record in records) == 50
        (row,) = [row for row in effects if (row["metric"], row["arm"], row["k"]) == (metric, TREATED, "50")]
        assert float(row["log_perplexity_ratio"]) == pytest.approx(lost, abs=1e-6)
        matched = [row for row in effects if (row["metric"], row["arm"], row["k"]) == (metric, "matched_random_k", "50")]
        mean = sum(float(row["log_perplexity_ratio"]) for row in matched) / 2
        assert summary[f"excess_{metric}_k50"] == pytest.approx(lost - mean, abs=1e-6)


def test_rankings_and_sets_are_the_weights_of_highest_score(full: Path) -> None:
    subject = load("tiny-60k")
    named = dict(subject.model.named_parameters())
    with safe_open(full / paths.RANKINGS, "pt") as file:
        parameters, weights = json.loads(file.metadata()["parameters"]), int(file.metadata()["weights"])
        ranked = file.get_tensor("magnitude")
    everything = torch.cat([named[name].detach().abs().flatten() for name in parameters])
    assert weights == len(everything)
    values = torch.stack([named[parameters[p]].detach().abs().flatten()[i] for p, i in ranked.tolist()])
    assert torch.equal(values, everything.topk(50).values)
    chosen = load_file(full / paths.TOP.format("magnitude", 5))
    assert {(name, i) for name, ids in chosen.items() for i in ids.tolist()} == {
        (parameters[p], i) for p, i in ranked[:5].tolist()
    }


def test_stability_is_between_parts_of_the_text_and_between_metrics(full: Path) -> None:
    rows = rows_of(full / tables.STABILITY)
    assert Counter(row["kind"] for row in rows) == {"batches": 7 * 2, "metrics": 21 * 2}
    exact = [row for row in rows if row["kind"] == "batches" and row["metric"] == "magnitude"]
    assert all(float(row["jaccard"]) == float(row["rbo"]) == 1.0 for row in exact), "no text, no difference"
    noise = [row for row in rows if row["kind"] == "batches" and row["metric"] == "random" and row["k"] == "50"]
    assert all(abs(float(row["jaccard_corrected"])) < 0.05 for row in noise)
    other = [row for row in rows if row["kind"] == "batches" and row["metric"] == "grad_x_weight" and row["k"] == "50"]
    assert all(0.05 < float(row["jaccard_corrected"]) < 1 for row in other)


def test_clusters_are_of_sites_and_are_perturbed(full: Path) -> None:
    clusters, effects = rows_of(full / tables.CLUSTERS), rows_of(full / tables.CLUSTER_EFFECTS)
    assert len(clusters) == 12
    assert {(row["parameter"], row["component"]) for row in clusters} == {
        (row["parameter"], row["component"]) for row in rows_of(full / tables.SCORES)
    }
    for algorithm in ("kmeans", "dbscan"):
        labels = Counter(row[algorithm] for row in clusters if row[algorithm] != "-1")
        own = [row for row in effects if row["algorithm"] == algorithm]
        assert {row["cluster"]: int(row["sites"]) for row in own} == labels
        assert {row["weights"] for row in own} == {"50"}
    assert {row["kind"] for row in rows_of(full / tables.CORRELATIONS)} == {"metrics", "depths"}


def test_the_same_run_has_the_same_numbers(full: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)  # nothing is drawn from global state
    again = run(tmp_path, verb=CRITICAL)
    for name in (tables.SCORES, tables.EFFECTS, tables.STABILITY, tables.CLUSTERS, tables.CLUSTER_EFFECTS, tables.CORRELATIONS):
        assert (again / name).read_bytes() == (full / name).read_bytes(), name


def test_another_seed_has_other_text_and_other_controls(full: Path, tmp_path: Path) -> None:
    other = run(tmp_path, "--seed_everything", "7", *metrics("magnitude", "grad_squared"), verb=CRITICAL)
    mine, theirs = (
        {(r["metric"], r["arm"], r["k"], r["draw"]): r["log_perplexity_ratio"] for r in rows_of(folder / tables.EFFECTS)}
        for folder in (full, other)
    )
    assert mine["magnitude", TREATED, "50", "0"] == theirs["magnitude", TREATED, "50", "0"]
    assert mine["magnitude", "random_k", "50", "0"] != theirs["magnitude", "random_k", "50", "0"]
    assert mine["grad_squared", TREATED, "50", "0"] != theirs["grad_squared", TREATED, "50", "0"]


@pytest.mark.parametrize("method", ["sign_flip", "add_gauss", "bit_flip"])
def test_every_injury_of_chosen_weights(method: str, tmp_path: Path) -> None:
    level = {"sign_flip": 1.0, "add_gauss": 2.0, "bit_flip": 0.1}[method]
    injury = ["--model.perturbation.method", method, "--model.level", str(level)]
    rows = rows_of(run(tmp_path, *injury, *metrics("act_mag"), verb=CRITICAL) / tables.EFFECTS)
    treated = [row for row in rows if (row["arm"], row["k"]) == (TREATED, "50")]
    assert len(treated) == (1 if method == "sign_flip" else 2)
    assert {row["random"] for row in treated} == {str(method != "sign_flip")}
    if method == "add_gauss":
        assert treated[0]["norm_of_change"] != treated[1]["norm_of_change"]
    assert all(float(row["norm_of_change"]) > 0 for row in rows)


def test_per_layer_every_matrix_gives_as_many(tmp_path: Path) -> None:
    folder = run(tmp_path, "--model.mode", "per_layer", *metrics("grad_x_weight"), verb=CRITICAL)
    assert {(row["top_5"], row["top_50"]) for row in rows_of(folder / tables.SCORES)} == {("5", "50")}
    assert {int(row["weights"]) for row in rows_of(folder / tables.EFFECTS)} == {60, 600}


def test_drift_between_subjects(tmp_path: Path) -> None:
    """An attacked checkpoint beside the intact subject: scores that depend on nothing but weights move little."""
    attack = ["fit", "--config", str(ROOT / "configs/finetune.yaml"), "--subject", "tiny-60k", "--trainer.max_steps", "30"]
    tuned = run(tmp_path / "fit", *SMALL, verb=attack)
    folder = run(tmp_path, "--model.beside", f"[{tuned}]", *metrics("magnitude", "grad_x_weight"), verb=CRITICAL)
    rows = [row for row in rows_of(folder / tables.STABILITY) if row["kind"] == "subjects" and row["k"] == "50"]
    assert [(row["metric"], row["a"], row["b"]) for row in rows] == [
        (metric, "tiny-60k", str(tuned)) for metric in ("magnitude", "grad_x_weight")
    ]
    assert 0.3 < float(rows[0]["jaccard"]) < 1
    assert float(rows[1]["jaccard_corrected"]) < float(rows[0]["jaccard_corrected"])


def test_large_weights_without_inputs_are_not_critical_known_error_10(tmp_path: Path) -> None:
    """A subject with huge weights that nothing reaches: magnitude names them, and zeroing them costs nothing."""
    subject = load("tiny-60k")
    with torch.no_grad():
        for block in subject.model.gpt_neox.layers:
            norm, up = block.post_attention_layernorm, block.mlp.dense_h_to_4h
            norm.weight[3], norm.bias[3] = 0.0, 0.0
            up.weight[:, 3] = 50.0
    subject.save(tmp_path / "subject")
    own = ["--subject", str(tmp_path / "subject"), *metrics("magnitude", "act_mag", "grad_x_weight")]
    folder = run(tmp_path, *own, verb=CRITICAL)
    rows = rows_of(folder / tables.EFFECTS)
    lost = {row["metric"]: float(row["log_perplexity_ratio"]) for row in rows if (row["arm"], row["k"]) == (TREATED, "50")}
    assert abs(lost["magnitude"]) < 1e-4
    assert min(lost["act_mag"], lost["grad_x_weight"]) > 0.005
    assert summary_of(folder)["excess_magnitude_k50"] <= 0


@pytest.mark.parametrize("precision", ["int8", "nf4", "bf16"])
def test_scores_without_gradients_at_every_precision(precision: str, tmp_path: Path) -> None:
    subject = "tiny-60k" if precision == "bf16" else "tiny-250k"  # whose rows are whole blocks of NF4
    own = ["--subject", subject, "--precision", precision, "--model.perturbation.target", "mlp"]
    own += metrics("magnitude", "act_mag")
    folder = run(tmp_path, *own, verb=CRITICAL)
    rows = [row for row in rows_of(folder / tables.EFFECTS) if (row["arm"], row["k"]) == (TREATED, "50")]
    assert [row["metric"] for row in rows] == ["magnitude", "act_mag"]
    assert all(0 < abs(float(row["log_perplexity_ratio"])) < 1 for row in rows)
    assert manifest_of(folder)["sha256"]["subject_after"] == manifest_of(folder)["sha256"]["subject"]


@pytest.mark.parametrize("family_name", ["gpt2", "gemma3"])
def test_other_architectures(family_name: str, tmp_path: Path) -> None:
    subject = random_folder(family_name, tmp_path / "subject")
    own = ["--subject", subject, "--text.block", "32", "--text.probe_tokens", "256", "--model.perturbation.target", "all"]
    found = run(tmp_path, *own, *metrics("random", "grad_squared", "hutchinson_diag"), verb=CRITICAL)
    components = {row["component"] for row in rows_of(found / tables.SCORES)}
    assert {"embed", "norm", "attn_k", "mlp_down"} <= components


BAD = {
    "k of 0": (["--model.k", "[0]"], "model.k: expected a whole number from 1, not 0"),
    "no k": (["--model.k", "[]"], "model.k: expected one or more, not []"),
    "k above the weights": (["--model.k", "[13825]"], "k=13825: expected 1 to 13824, the number of weights of the target"),
    "k above a matrix": (
        ["--model.k", "[577]", "--model.mode", "per_layer"],
        "k=577: expected 1 to 576, the number of weights of its smallest matrix",
    ),
    "too many treated": (["--model.k", "[9000]", *metrics("magnitude")], "bottom_k of 9000 weights: only 4824 weights"),
    "layers": (["--model.perturbation.layers", "1-2"], "Layer 2 does not exist: gpt_neox subject with layers 0 to 1"),
    "target": (["--model.perturbation.target", "mlp_gate"], "Unknown target for gpt_neox 'mlp_gate'"),
    "metric": (["--model.scores.metrics", "grad_x_wait"], "Unknown metric 'grad_x_wait'. Did you mean 'grad_x_weight'?"),
    "mode": (["--model.mode", "layer"], "Unknown mode 'layer'. Did you mean 'per_layer'?"),
    "batches": (["--model.scores.batches", "3"], "expected blocks that the batches divide"),
    "probes": (["--model.scores.probes", "1"], "model.scores.probes: expected a whole number from 2, not 1"),
    "int8": (
        ["--precision", "int8"],
        "need gradients, which weights at precision 'int8' do not have. Use --model.scores.metrics random,magnitude,act_mag",
    ),
    "act_mag of norms": (["--model.perturbation.target", "norm", *metrics("act_mag")], "act_mag is defined for matrices"),
    "level": (["--model.level", "0"], "model.level: 0 of zero changes nothing"),
    "level outside": (["--model.level", "2"], "model.level: 2 of zero is outside its range"),
    "selection": (["--model.perturbation.selection", "<empty>"], "weights are chosen by their scores"),
    "calibration": (["--model.scores.calibration_blocks", "40000"], "The text has"),
    "beside": (
        ["--model.beside", "[tiny-250k]", *metrics("magnitude")],
        "beside: 'tiny-250k' does not have the shape of 'tiny-60k'",
    ),
    "empty text": (["--text.source", "<empty>"], "is empty: expected at least one paragraph"),
    "short text": (["--text.source", "<short>"], "the held-out part of this text has 0 tokens"),
    "zero scores": (
        ["--model.perturbation.target", "embed", *metrics("grad_x_weight"), "--model.k", "[10000]"],
        "that are not treated have a score other than zero",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args, message = BAD[case]
    given = tmp_path / "given"
    given.mkdir()
    (given / "empty.txt").write_text("\n")
    (given / "short.txt").write_text("One paragraph.\nAnother one.\n")
    places = {"<empty>": str(given / "empty.txt"), "<short>": str(given / "short.txt")}
    assert main([*CRITICAL, *(places.get(arg, arg) for arg in args), "--results", str(tmp_path / "results")]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.strip().splitlines()) == 1, err
    assert [path.name for path in tmp_path.iterdir()] == ["given"]


# Layer ablation


def test_ablation_of_every_layer_and_matrix(tmp_path: Path) -> None:
    folder = run(tmp_path, verb=ABLATION)
    rows = rows_of(folder / tables.ABLATION)
    assert Counter(row["kind"] for row in rows) == {"layer": 2, "matrix": 2 * 6 + 2}
    subject = load("tiny-60k")
    probe = TextSource(probe_tokens=1024).blocks("probe", subject.tokenizer, 8)

    def lost() -> float:
        return likelihood(lambda ids: subject.model(input_ids=ids).logits, probe).nats_per_token

    before = lost()
    block = subject.model.gpt_neox.layers[1]
    kept = {name: p.detach().clone() for name, p in block.named_parameters()}
    for p in block.parameters():
        p.detach().zero_()
    (layer,) = [row for row in rows if row["unit"] == "layer 1"]
    assert float(layer["log_perplexity_ratio"]) == pytest.approx(lost() - before, abs=1e-6)
    skipped = block.forward
    block.forward = lambda hidden, *args, **options: (hidden,) if isinstance(skipped, tuple) else hidden
    assert float(layer["log_perplexity_ratio"]) == pytest.approx(lost() - before, abs=1e-6), "what passes by stays as it is"
    block.forward = skipped
    for name, p in block.named_parameters():
        p.detach().copy_(kept[name])
    block.attention.query_key_value.weight.detach().view(3, 3, 8, 24)[:, 2] = 0
    (value,) = [row for row in rows if row["unit"] == "attn_v 1"]
    assert float(value["log_perplexity_ratio"]) == pytest.approx(lost() - before, abs=1e-6)
    worst = max(rows, key=lambda row: float(row["log_perplexity_ratio"]))
    assert summary_of(folder)["worst_unit"] == worst["unit"]
    assert manifest_of(folder)["sha256"]["subject_after"] == manifest_of(folder)["sha256"]["subject"]


def test_ablation_of_what_the_user_names(tmp_path: Path) -> None:
    name = "gpt_neox.layers.1.mlp.dense_h_to_4h.weight"
    rows = rows_of(run(tmp_path, "--model.units", f"[{name}, attn_v, matrices]", verb=ABLATION) / tables.ABLATION)
    found = {row["unit"]: row for row in rows}
    assert found[name]["log_perplexity_ratio"] == found["mlp_up 1"]["log_perplexity_ratio"]
    assert (found[name]["kind"], found["attn_v"]["kind"], found["attn_v"]["weights"]) == ("named", "named", "1152")


def test_ablation_by_noise_is_repeated(tmp_path: Path) -> None:
    noise = [
        "--model.perturbation.method",
        "mult_gauss",
        "--model.level",
        "0.5",
        "--model.draws",
        "3",
        "--model.units",
        "[layers]",
    ]
    rows = rows_of(run(tmp_path, *noise, verb=ABLATION) / tables.ABLATION)
    assert [(row["unit"], row["draw"]) for row in rows] == [(f"layer {d}", str(i)) for d in (0, 1) for i in range(3)]
    assert len({row["log_perplexity_ratio"] for row in rows}) == 6
    assert all(float(row["relative_norm"]) == pytest.approx(0.5, rel=0.1) for row in rows)
    assert math.isfinite(float(rows[0]["log_perplexity_ratio"]))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model.units", "[matricies]"], "Unknown unit 'matricies'. Did you mean 'matrices'?"),
        (["--model.units", "[]"], "model.units: expected one or more, not []"),
        (["--model.perturbation.method", "none"], "Unknown method 'none'"),
        (["--model.level", "1.5"], "model.level: 1.5 of zero is outside its range"),
        (["--model.units", "[mlp_gate]"], "Unknown target for gpt_neox 'mlp_gate'"),
    ],
)
def test_bad_input_of_layer_ablation(args: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ABLATION, *args, "--results", str(tmp_path / "results")]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
