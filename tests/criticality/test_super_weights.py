"""Super weights: found where they were planted, none in random weights, and what the causal test calls one."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import V, load, random_folder, random_model, wrap
from helpers import ROOT, manifest_of, rows_of, run, summary_of
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from lit_degrade.cli import main
from lit_degrade.criticality import super_weights
from lit_degrade.criticality.spikes import Thresholds, layer_spikes, null_thresholds, random_init, spike_ratio
from lit_degrade.criticality.super_weights import (
    ZEROED,
    Weight,
    check_coordinates,
    nearest,
    published,
    search,
    verdict,
    z_outliers,
)
from lit_degrade.errors import UserError
from lit_degrade.inputs import read_yaml
from lit_degrade.measures import perplexity
from lit_degrade.measures.perplexity import likelihood
from lit_degrade.perturbations.edits import perturbed
from lit_degrade.perturbations.storage import stored
from lit_degrade.records import tables
from lit_degrade.subjects.adapters import add_lora
from lit_degrade.subjects.anatomy import Anatomy
from lit_degrade.subjects.catalog import HUB
from lit_degrade.subjects.loading import Subject, weights_sha256
from lit_degrade.text import TokenStream

BLOCKS = torch.randint(V, (8, 32), generator=torch.Generator().manual_seed(0))
QUICK = ["--subject", "tiny-60k", "--text.probe_tokens", "1024", "--verbosity", "quiet"]
COMMAND = ["test", "--config", str(ROOT / "configs/super_weights.yaml"), *QUICK, "--model.controls", "10"]
ROW, COLUMN = 5, 7


def logits_of(subject: Subject) -> Callable[[Tensor], Tensor]:
    return lambda ids: subject.model(input_ids=ids, use_cache=False).logits


def down(subject: Subject, layer: int) -> Tensor:
    """An MLP output projection as it is stored."""
    return stored(subject.model, subject.anatomy.select("mlp_down", [layer])[0].parameter).parameter.data  # type: ignore[union-attr]


def plant(subject: Subject, layer: int, row: int = ROW, column: int = COLUMN) -> None:
    """Make one weight a thousand times as large as they are on average; GPT-2 stores inputs along the rows."""
    weights = down(subject, layer)
    at = (column, row) if subject.anatomy.family == "gpt2" else (row, column)
    weights[at] = 1000 * weights.abs().mean()


def busiest(subject: Subject, layer: int) -> int:
    """The channel with the largest input of an MLP output projection; a ReLU can leave one chosen blindly dead."""
    return layer_spikes(subject.model, subject.anatomy, logits_of(subject), BLOCKS)[layer].input_channel


def find(subject: Subject, seed: int = 0, most: int = 20) -> list[Weight]:
    thresholds = null_thresholds(subject, BLOCKS, seed, models=3, margin=2.0)
    return search(subject, logits_of(subject), BLOCKS, thresholds, most)[0]


@torch.inference_mode()
def own_text(subject: Subject) -> TokenStream:
    """Text that a subject has drawn itself: no other model is expected to find it likelier."""
    draws = torch.Generator().manual_seed(0)
    ids = torch.randint(V, (64, 1), generator=draws)
    for _ in range(15):
        chances = logits_of(subject)(ids)[:, -1, :V].softmax(-1)
        ids = torch.cat([ids, chances.multinomial(1, generator=draws)], 1)
    return TokenStream(ids, torch.ones_like(ids))


def test_a_planted_weight_is_found_in_every_family_and_confirmed(family: str) -> None:
    subject = wrap(random_model(family))
    column = busiest(subject, 1)
    plant(subject, 1, column=column)
    head = subject.model.get_output_embeddings()  # tied or small, it would make the same text whatever the blocks do
    head.weight = torch.nn.Parameter(torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(0)))
    before = weights_sha256(subject.model)
    (weight,) = find(subject)
    assert weight.coordinates == (1, ROW, column)
    assert weight.value == down(subject, 1).abs().max() == down(subject, 1).flatten()[weight.flat]
    assert weight.share > 0.5
    text = own_text(subject)
    intact = likelihood(logits_of(subject), text).nats_per_token

    def lost(parameter: str, flat: int) -> float:
        with perturbed(subject, *ZEROED, recorded=False, only={parameter: torch.tensor([flat])}):
            return likelihood(logits_of(subject), text).nats_per_token - intact

    controls = [lost(name, flat) for name, flat, _ in nearest(subject, weight, 20, [weight], 0)]
    facts = verdict(lost(weight.site.parameter, weight.flat), controls)
    assert facts["confirmed"]
    assert facts["p"] == pytest.approx(1 / 21)
    assert weights_sha256(subject.model) == before


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "gemma3"])
def test_weights_planted_in_two_layers_are_both_found_the_earlier_one_first(family: str) -> None:
    subject = wrap(random_model(family))
    last, first = busiest(subject, 2), busiest(subject, 0)
    plant(subject, 2, 3, last)
    plant(subject, 0, ROW, first)
    assert [weight.coordinates for weight in find(subject)] == [(0, ROW, first), (2, 3, last)]
    assert [weight.coordinates for weight in find(subject, most=1)] == [(0, ROW, first)]


def test_two_weights_of_one_matrix_are_both_found() -> None:
    subject = wrap(random_model("llama"))
    plant(subject, 1)
    plant(subject, 1, row=9)
    assert {weight.coordinates for weight in find(subject)} == {(1, ROW, COLUMN), (1, 9, COLUMN)}


def test_random_weights_have_none(family: str) -> None:
    assert find(wrap(random_model(family))) == []


def test_a_weight_below_adapters_is_found() -> None:
    model = random_model("llama")
    plant(wrap(model), 1)
    subject = wrap(add_lora(model, Anatomy(model), 0))
    (weight,) = find(subject)
    assert weight.coordinates == (1, ROW, COLUMN)
    assert weight.site.parameter.endswith("down_proj.base_layer.weight")


def test_a_spike_that_many_weights_make_is_nobodys() -> None:
    """A whole row is ten times as large: the output stands out as far, and no weight is alone to blame."""
    subject = wrap(random_model("llama"))
    down(subject, 1)[ROW] *= 30
    spikes = layer_spikes(subject.model, subject.anatomy, logits_of(subject), BLOCKS)[1]
    assert (spikes.output_channel, spikes.output_ratio > 10) == (ROW, True)
    assert find(subject) == []


def test_a_large_weight_on_an_ordinary_input_is_found_where_another_input_is_largest() -> None:
    subject = wrap(random_model("llama"))
    plant(subject, 1)
    up = subject.anatomy.select("mlp_up", [1])[0].parameter
    subject.model.get_parameter(up).data[COLUMN + 1] *= 30
    (weight,) = find(subject)
    assert weight.spikes.input_channel == COLUMN + 1
    assert weight.coordinates == (1, ROW, COLUMN)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "opt", "llama"])
def test_spikes_are_those_of_all_activations(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the activations themselves, kept whole; batches of any size give the same."""
    subject = wrap(random_model(family))
    whole = layer_spikes(subject.model, subject.anatomy, logits_of(subject), BLOCKS)
    monkeypatch.setattr(perplexity, "BATCH_TOKENS", 64)
    for layer, spikes in enumerate(layer_spikes(subject.model, subject.anatomy, logits_of(subject), BLOCKS)):
        kept: list[tuple[Tensor, Tensor]] = []
        module = subject.model.get_submodule(spikes.site.parameter.removesuffix(".weight"))
        hook = module.register_forward_hook(lambda m, args, out, kept=kept: kept.append((args[0], out)))
        logits_of(subject)(BLOCKS)
        hook.remove()
        inputs, outputs = (tensor.detach().flatten(0, -2).numpy() for tensor in kept[0])
        token, channel = np.unravel_index(np.abs(outputs).argmax(), outputs.shape)
        assert spikes.output_channel == channel == whole[layer].output_channel
        assert spikes.output == pytest.approx(outputs[token, channel], rel=1e-4)
        assert spikes.output_max == abs(spikes.output)
        assert spikes.input_channel == np.abs(inputs).max(0).argmax()
        assert spikes.input_max == pytest.approx(np.abs(inputs).max(), rel=1e-4)
        np.testing.assert_allclose(spikes.inputs, inputs[token], rtol=1e-3, atol=1e-6)
        maxima = np.sort(np.abs(outputs).max(0))
        assert spikes.output_ratio == pytest.approx(maxima[-1] / maxima[(len(maxima) - 1) // 2], rel=1e-4)
        rebuilt = float(super_weights.matrix(subject, spikes.site)[channel] @ spikes.inputs)
        bias = getattr(module, "bias", None)
        assert rebuilt + (0 if bias is None else float(bias.detach()[channel])) == pytest.approx(spikes.output, rel=1e-3)


def test_spike_ratio() -> None:
    assert spike_ratio(torch.tensor([1.0, 2.0, 6.0])) == 3
    assert spike_ratio(torch.ones(5)) == 1
    assert spike_ratio(torch.zeros(5)) == 1
    assert spike_ratio(torch.tensor([0.0, 0.0, 0.0, 1.0, 2.0, 6.0])) == 3, "dead channels say nothing"
    assert math.isnan(spike_ratio(torch.tensor([1.0, math.nan, 2.0])))


@given(st.lists(st.floats(0.125, 1000, width=32), min_size=1, max_size=30), st.floats(0.0625, 64, width=32), st.randoms())
def test_spike_ratio_knows_neither_scale_nor_order(maxima: list[float], scale: float, random: object) -> None:
    ratio = spike_ratio(torch.tensor(maxima))
    assert ratio >= 1
    random.shuffle(maxima)  # type: ignore[attr-defined]
    assert spike_ratio(torch.tensor(maxima) * scale) == pytest.approx(ratio, rel=1e-5)


def test_the_z_rule_counts_gaussian_weights() -> None:
    weights = torch.randn(1000, 1000, generator=torch.Generator().manual_seed(0)) * 3 + 1
    assert z_outliers(weights) / 1e6 == pytest.approx(math.erfc(2.5 / math.sqrt(2)), abs=4 * 1.1e-4)
    assert math.erfc(2.5 / math.sqrt(2)) == pytest.approx(0.0124, abs=5e-5)


def test_the_z_rule_calls_thousands_of_random_weights_super() -> None:
    random = wrap(random_init(load("tiny-1m"), 1, 0))
    called = sum(z_outliers(super_weights.matrix(random, site)) for site in random.anatomy.select("mlp_down"))
    assert 3000 < called < 3500
    assert find(random) == []


def test_null_models_are_seeded_and_leave_global_draws_alone() -> None:
    subject = wrap(random_model("gpt_neox"))
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first, again, other = (random_init(subject, seed, 0) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(6)
    assert weights_sha256(first) == weights_sha256(again) == weights_sha256(random_init(subject, 0, 0))
    assert len({weights_sha256(model) for model in (first, other, random_init(subject, 0, 1))}) == 3
    assert null_thresholds(subject, BLOCKS, 0, 2, 3.0) == Thresholds(
        *(3 * value / 2 for value in vars(null_thresholds(subject, BLOCKS, 0, 2, 2.0)).values())
    )


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("nf4", torch.bfloat16), ("fp32", torch.float32)])
def test_null_models_have_the_format_of_the_subject(precision: str, dtype: torch.dtype) -> None:
    model = random_init(load("tiny-60k", precision=precision), 0, 0)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert not model.training


def test_a_search_that_fails_is_undone() -> None:
    subject = wrap(random_model("llama"))
    plant(subject, 0)
    plant(subject, 2)
    before, calls = weights_sha256(subject.model), []

    def fail_third(ids: Tensor) -> Tensor:
        calls.append(weights_sha256(subject.model))
        if len(calls) == 3:
            raise OSError("in the middle")
        return logits_of(subject)(ids)

    with pytest.raises(OSError, match="in the middle"):
        search(subject, fail_third, BLOCKS, Thresholds(4.0, 4.0), 20)
    assert len(set(calls)) == 3, "a weight more was zero at each call"
    assert weights_sha256(subject.model) == before
    assert not any(module._forward_hooks for module in subject.model.modules())


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_controls_are_the_nearest_in_magnitude(family: str) -> None:
    subject = wrap(random_model(family))
    spikes = layer_spikes(subject.model, subject.anatomy, logits_of(subject), BLOCKS)
    weight, other = (super_weights.weight_at(subject, spikes[layer], ROW, COLUMN) for layer in (1, 2))
    found = nearest(subject, weight, 20, [weight, other], 0)
    everything = [
        (abs(abs(value) - abs(weight.value)), site.parameter, flat)
        for site in subject.anatomy.select("mlp_down")
        for flat, value in enumerate(subject.model.get_parameter(site.parameter).flatten().tolist())
        if (site, flat) not in [(weight.site, weight.flat), (other.site, other.flat)]
    ]
    assert {(name, flat) for name, flat, _ in found} == {(name, flat) for _, name, flat in sorted(everything)[:20]}
    for name, flat, value in found:
        assert subject.model.get_parameter(name).flatten()[flat] == value


def test_equally_near_controls_are_drawn_at_random() -> None:
    subject = wrap(random_model("gpt_neox"))
    for layer in range(3):
        down(subject, layer).fill_(0.5)
    spikes = layer_spikes(subject.model, subject.anatomy, logits_of(subject), BLOCKS)
    weight = super_weights.weight_at(subject, spikes[0], ROW, COLUMN)
    draws = [nearest(subject, weight, 20, [weight], seed) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert {name for name, *_ in draws[0]} == {site.parameter for site in subject.anatomy.select("mlp_down")}


def test_verdict() -> None:
    facts = verdict(0.5, [0.1, 0.3, -0.4, 0.2, 0.3])
    assert facts == {
        "nats_lost": 0.5, "nats_lost_control_mean": pytest.approx(0.1), "nats_lost_control_max": 0.3, "controls": 5,
        "p": pytest.approx(1 / 6), "confirmed": True,
    }  # fmt: skip
    assert verdict(0.3, [0.1, 0.3, -0.4, 0.2, 0.3])["p"] == pytest.approx(3 / 6)
    assert not verdict(0.3, [0.1, 0.3, -0.4, 0.2, 0.3])["confirmed"]
    assert not verdict(-0.1, [-0.2] * 5)["confirmed"], "less than nothing is no loss"
    assert verdict(math.inf, [0.1] * 5)["confirmed"]
    assert not verdict(math.inf, [0.1, math.inf, 0, 0, 0])["confirmed"]


def test_published_coordinates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = read_yaml(super_weights.PUBLISHED, "table")
    assert all(len(at) == 3 and min(at) >= 0 and isinstance(at[0], int) for weights in table.values() for at in weights)
    assert sum(map(len, table.values())) == 25
    assert published("mistral-7b") == published("mistralai/Mistral-7B-v0.1") == [(1, 2070, 7310)]
    assert published("llama-2-7b") == [(1, 2533, 7890)]
    assert {name for name in HUB if published(name)} == {"mistral-7b", "llama-2-7b"}
    assert published("tiny-1m") == published("mistralai/Mistral-7B-Instruct-v0.1") == published("somebody/llama-7b") == []
    for name, known in (("Mistral-7B-v0.1", 1), ("mistral-7b", 1), ("Llama-2-13b-hf", 1), ("my-Mistral-7B-v0.1", 0)):
        (tmp_path / name).mkdir()
        assert len(published(str(tmp_path / name))) == known
    monkeypatch.chdir(tmp_path / "Mistral-7B-v0.1")
    assert published(".") == [(1, 2070, 7310)]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_published_coordinates_must_fit(family: str) -> None:
    subject = wrap(random_model(family))
    columns = 128 if family == "gpt2" else 64
    check_coordinates(subject, [(2, 31, columns - 1), (0, 0, 0)])
    for outside in ((3, 0, 0), (0, 32, 0), (0, 0, columns)):
        with pytest.raises(UserError, match=rf"layer {outside[0]}, row {outside[1]}, .* 3 MLP outputs are 32 x {columns}"):
            check_coordinates(subject, [(0, 0, 0), outside])


@pytest.fixture(scope="module")
def super_subject(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of tiny-250k with a weight that it cannot do without: the attention beside it takes off again what it adds."""
    subject = load("tiny-250k")  # its rows are whole blocks of NF4
    layer = subject.model.gpt_neox.layers[0]
    with torch.no_grad():
        layer.mlp.dense_h_to_4h.weight[COLUMN] = 0
        layer.mlp.dense_h_to_4h.bias[COLUMN] = 3
        layer.mlp.dense_4h_to_h.weight[:, COLUMN] = 0
        layer.mlp.dense_4h_to_h.weight[ROW, COLUMN] = 10
        layer.attention.dense.bias[ROW] -= 10 * torch.nn.functional.gelu(torch.tensor(3.0))
    folder = tmp_path_factory.mktemp("subjects") / "planted"
    subject.save(folder)
    return str(folder)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "nf4"])
def test_a_run_finds_and_confirms_a_super_weight(precision: str, super_subject: str, tmp_path: Path) -> None:
    folder = run(tmp_path, "--subject", super_subject, "--precision", precision, "--model.most", "3", verb=COMMAND)
    rows, spikes = rows_of(folder / tables.SUPER_WEIGHTS), rows_of(folder / tables.SPIKES)
    (row,) = rows
    assert list(row) == [
        "order", "parameter", "depth", "row", "column", "value", "z", "output_ratio", "output_threshold", "input_ratio",
        "input_threshold", "share", "nats_lost", "nats_lost_control_mean", "nats_lost_control_max", "controls", "p",
        "confirmed", "control_mean_abs_weight", "published",
    ]  # fmt: skip
    assert (row["order"], row["depth"], row["row"], row["column"], row["published"]) == ("1", "0", str(ROW), str(COLUMN), "")
    assert float(row["value"]) == pytest.approx(10)
    assert row["confirmed"] == "True"
    assert float(row["nats_lost"]) > 0.1 > float(row["nats_lost_control_max"])
    assert list(spikes[0]) == [
        "stage", "depth", "parameter", "input_max", "input_channel", "input_ratio", "input_threshold", "output_max",
        "output_channel", "output_ratio", "output_threshold", "weights", "z_outliers",
    ]  # fmt: skip
    assert [(s["stage"], s["depth"]) for s in spikes] == [(s, d) for s in ("0", "1", "-1") for d in ("0", "1", "2")]
    for before, after in zip(spikes[:3], spikes[-3:], strict=True):
        assert {**before, "stage": "-1"} == after, "measured again when all is undone"
    assert float(spikes[0]["output_ratio"]) > float(spikes[0]["output_threshold"]) > float(spikes[3]["output_ratio"])
    assert {s["weights"] for s in spikes} == {str(64 * 256)}
    selection = load_file(folder / "super_weights.safetensors")
    assert {name: flat.tolist() for name, flat in selection.items()} == {row["parameter"]: [ROW * 256 + COLUMN]}
    summary, manifest = summary_of(folder), manifest_of(folder)
    assert (summary["super_weights"], summary["super_weights_confirmed"], summary["super_weights_published"]) == (1, 1, 0)
    assert summary["output_threshold"] == pytest.approx(float(row["output_threshold"]))
    assert 0 < summary["z_outlier_share"] == sum(int(s["z_outliers"]) for s in spikes[:3]) / (3 * 64 * 256) < 0.05
    assert manifest["sha256"]["subject_after"] == manifest["sha256"]["subject"]


def test_what_was_found_can_be_damaged(super_subject: str, tmp_path: Path) -> None:
    record = run(tmp_path / "a", "--subject", super_subject, verb=COMMAND)
    evaluate = ["test", "--config", str(ROOT / "configs/evaluate.yaml"), *QUICK, "--subject", super_subject]
    how = ["method=zero", "target=mlp_down", f"selection={record / 'super_weights.safetensors'}"]
    args = [f"--model.perturbation.{setting}" for setting in how] + ["--model.levels", "[1.0]"]
    (dose,) = rows_of(run(tmp_path / "b", *args, verb=evaluate) / tables.DOSES)
    (row,) = rows_of(record / tables.SUPER_WEIGHTS)
    assert dose["weights"] == "1"
    assert float(dose["log_perplexity_ratio"]) == pytest.approx(float(row["nats_lost"]), rel=1e-4)


def test_a_run_that_finds_nothing_leaves_spikes_only(tmp_path: Path) -> None:
    folder = run(tmp_path, verb=COMMAND)
    assert summary_of(folder)["super_weights"] == summary_of(folder)["super_weights_confirmed"] == 0
    assert {spikes["stage"] for spikes in rows_of(folder / tables.SPIKES)} == {"0", "-1"}
    assert not (folder / tables.SUPER_WEIGHTS).exists()
    assert not (folder / "super_weights.safetensors").exists()


def test_published_weights_are_tested_whether_found_or_not(
    super_subject: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "table.yaml"
    table.write_text(f"somebody/planted: [[0, {ROW}, {COLUMN}], [1, 3, 4]]\n")
    monkeypatch.setattr(super_weights, "PUBLISHED", table)
    folder = run(tmp_path / "results", "--subject", super_subject, verb=COMMAND)
    found, missed = rows_of(folder / tables.SUPER_WEIGHTS)
    assert (found["order"], found["published"], found["confirmed"]) == ("1", "True", "True")
    assert (missed["order"], missed["published"], missed["confirmed"]) == ("", "True", "False")
    assert (missed["depth"], missed["row"], missed["column"]) == ("1", "3", "4")
    summary = summary_of(folder)
    assert [summary[f"super_weights{key}"] for key in ("", "_confirmed", "_published", "_published_found")] == [1, 1, 2, 1]
    assert len(load_file(folder / "super_weights.safetensors")) == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model.margin", "0.5"], "model.margin: expected a finite number from 1, not 0.5"),
        (["--model.controls", "4"], "model.controls: expected a whole number from 5, not 4"),
        (["--model.calibration_blocks", "1000000"], "1000000 blocks of 128 need"),
        (["--text.source", "EMPTY"], "is empty"),
        (["--text.source", "SHORT"], "the held-out part of this text has 0 tokens"),
        (["--subject", "FOLDER"], "layer 1, row 2070, column 7310, published"),
    ],
)
def test_bad_input(
    args: list[str], message: str, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = tmp_path_factory.mktemp("inputs")
    (inputs / "empty.txt").write_text("")
    (inputs / "short.txt").write_text("Too little.\n")
    places = {"EMPTY": str(inputs / "empty.txt"), "SHORT": str(inputs / "short.txt"), "FOLDER": str(inputs / "Mistral-7B-v0.1")}
    if args[-1] == "FOLDER":
        random_folder("llama", inputs / "Mistral-7B-v0.1")
    assert main([*COMMAND, *[places.get(arg, arg) for arg in args], "--results", str(tmp_path / "results")]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
