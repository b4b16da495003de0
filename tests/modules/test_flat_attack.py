"""Steps that are confined to a part of weight space, and runs that confine them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers import ROOT, manifest_of, rows_of, run, summary_of

from lit_degrade.curvature.catalog import PARTS, Part
from lit_degrade.curvature.flat_subspace import FlatSubspace, find_basis, flat_subspace, shapes
from lit_degrade.curvature.products import Tensors, length
from lit_degrade.measures.perplexity import token_nll
from lit_degrade.modules.optimizers import ProjectedSteps, build_optimizer
from lit_degrade.stimuli.catalog import OptimizerName
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.subjects.loading import Subject, load_subject
from lit_degrade.text import TextSource

SMALL = [
    "--subject", "tiny-60k", "--text.probe_tokens", "2048", "--model.flat.products", "3", "--model.flat.draws", "1",
    "--model.flat.calibration_blocks", "2", "--verbosity", "quiet",
]  # fmt: skip
ATTACK = ["fit", "--config", str(ROOT / "configs/flat_attack.yaml"), *SMALL, "--trainer.max_steps", "6"]
STATIC = ["test", "--config", str(ROOT / "configs/flatness.yaml"), *SMALL]


@pytest.fixture(scope="module")
def space(tiny: Subject) -> FlatSubspace:
    parameters = tiny.parameters("blocks")
    ids = TextSource().blocks("calibration", tiny.tokenizer, 8).ids
    losses = [lambda: token_nll(tiny.model(input_ids=ids).logits, ids).sum()]
    return flat_subspace(find_basis(tiny.model, parameters, shapes(tiny.anatomy, parameters), losses), 0.5, 0)


@pytest.fixture
def weights(tiny: Subject) -> Iterator[dict[str, torch.nn.Parameter]]:
    weights = tiny.parameters("blocks")
    kept = {name: p.detach().clone() for name, p in weights.items()}
    yield weights
    for name, p in weights.items():
        p.data.copy_(kept[name])
        p.grad = None


def _step(weights: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer, seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    for p in weights.values():
        p.grad = torch.randn(p.shape, generator=draws)
    optimizer.step()


def _moved(weights: dict[str, torch.nn.Parameter], kept: Tensors) -> Tensors:
    return {name: p.detach() - kept[name] for name, p in weights.items()}


@pytest.mark.parametrize("name", ["adamw", "sgd", "adafactor"])
@pytest.mark.parametrize("part", PARTS)
def test_a_step_is_the_projection_of_the_optimizers_own_and_as_long(
    part: Part, name: OptimizerName, weights: dict[str, torch.nn.Parameter], space: FlatSubspace
) -> None:
    intact = {n: p.detach().clone() for n, p in weights.items()}
    _step(weights, build_optimizer(name, weights.values(), 1e-3), 0)
    own = _moved(weights, intact)
    for n, p in weights.items():
        p.data.copy_(intact[n])
    steps = ProjectedSteps(weights, space, part)
    with steps.step():
        _step(weights, build_optimizer(name, weights.values(), 1e-3), 0)
    moved = _moved(weights, intact)
    assert length(moved) == pytest.approx(length(own), rel=1e-3)
    expected = space.project(own, part)
    scale = length(own) / length(expected)
    rest = {n: moved[n] - scale * expected[n] for n in moved}
    assert length(rest) < 2e-3 * length(own)
    assert steps.facts() == {
        "own_step_flat_share": pytest.approx(space.shares(own).flat, abs=1e-3),
        "path_length": pytest.approx(length(own), rel=1e-3),
    }
    steps.forget()
    assert steps.facts() == {}


def test_a_step_with_nothing_inside_is_none(weights: dict[str, torch.nn.Parameter], space: FlatSubspace) -> None:
    intact = {n: p.detach().clone() for n, p in weights.items()}
    with ProjectedSteps(weights, space, "flat").step():
        pass
    assert length(_moved(weights, intact)) == 0


def test_the_state_of_the_optimizer_is_that_of_the_whole_gradient(
    weights: dict[str, torch.nn.Parameter], space: FlatSubspace
) -> None:
    states = []
    for confined in (False, True):
        optimizer = build_optimizer("adamw", weights.values(), 1e-3)
        if confined:
            with ProjectedSteps(weights, space, "flat").step():
                _step(weights, optimizer, 5)
        else:
            _step(weights, optimizer, 5)
        states.append([optimizer.state[p]["exp_avg"].clone() for p in weights.values()])
    assert all(a.equal(b) for a, b in zip(*states, strict=True))


@pytest.fixture(scope="module")
def attacks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    results = tmp_path_factory.mktemp("attacks")
    register = ["--trainer.callbacks+=RegisterArtifacts"]
    return {part: run(results, "--model.projection", part, *register, verb=ATTACK) for part in PARTS}


def test_only_block_matrices_move_and_only_inside(attacks: dict[str, Path], tiny: Subject) -> None:
    intact = tiny.model.state_dict()
    for part, folder in attacks.items():
        after = load_subject(SubjectSpec(str(folder)), 0, torch.device("cpu"), True).model.state_dict()
        blocks = set(tiny.parameters("blocks"))
        moved = {name for name in after if not after[name].equal(intact[name])}
        assert moved <= blocks, part
        assert len(moved) > len(blocks) / 2
        summary = summary_of(folder)
        assert summary["projection"] == part
        assert summary["path_length"] >= summary["displacement"] > 0
        assert 0 < summary["own_step_flat_share"] < 1


def test_what_runs_share_is_computed_once(attacks: dict[str, Path]) -> None:
    _, *later = attacks.values()
    for folder in later:
        assert {"flat_subspace", "certificates", "stimuli"} <= set(manifest_of(folder)["from_cache"])
    certificates = [(folder / "certificates.csv").read_text() for folder in attacks.values()]
    assert len(set(certificates)) == 1
    rows = rows_of(attacks["flat"] / "certificates.csv")
    assert {(row["part"], row["text"]) for row in rows} == {
        (part, text) for part in ("flat", "complement", "whole") for text in ("calibration", "held_out", "random_tokens")
    }


@pytest.mark.parametrize(
    "how",
    [
        ["--precision", "bf16"],
        ["--precision", "fp16", "--adapter", "lora"],
        ["--precision", "int8", "--adapter", "lora"],
        ["--model.optimizer", "sgd_matched"],
        ["--model.stimulus", "eigen_prion", "--model.stimuli.evaluations", "60", "--model.stimuli.compare", "true"],
        ["--gradient_checkpointing", "true", "--model.flat.microbatch", "1"],
        ["--model.null_space.method", "krylov", "--model.null_space.products", "20"],
    ],
    ids=["bf16", "lora", "int8", "matched", "catalyst", "light", "krylov"],
)
def test_every_way_to_train_can_be_confined(how: list[str], tmp_path: Path) -> None:
    summary = summary_of(run(tmp_path, *how, verb=ATTACK))
    assert summary["exit_state"] == "done"
    assert summary["path_length"] > 0
    assert summary["drift"] > 0
    if "int8" in how:
        assert summary["hvp"] == "central_difference"
        assert summary["hvp_step"] == pytest.approx(
            1.1e-4 * (summary["flat_dims"] / 0.5 + summary["flat_excluded_dims"]) ** 0.5
        )
    if "true" in how and "eigen_prion" in how:
        energy = {name: summary[f"null_energy_{name}"] for name in ("eigen_prion", "random_tokens", "anti_catalyst")}
        assert energy["eigen_prion"] > energy["random_tokens"] > energy["anti_catalyst"]


def test_the_static_control(tmp_path: Path) -> None:
    folder = run(tmp_path, "--model.draws", "2", "--model.relative_norms", "[0.1, 0.3]", verb=STATIC)
    rows, summary = rows_of(folder / "flatness.csv"), summary_of(folder)
    assert len(rows) == len(PARTS) * 2 * 2
    for row in rows:
        assert float(row["norm_of_change"]) == pytest.approx(float(row["relative_norm"]) * summary["norm"])
    assert summary["nats_lost_flat"] < summary["nats_lost_whole"] < summary["nats_lost_complement"]
    assert manifest_of(folder)["sha256"]["subject_after"]


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["--model.projection", "inside"], "projection"),
        (["--model.flat.fraction", "1.5"], "model.flat.fraction: expected a share from 0 to below 1, not 1.5"),
        (["--model.flat.fractions", "0.5"], "Did you mean 'fraction'?"),
        (["--model.protocol", "published"], "model.stimuli.compare=false: expected protocol 'controlled'"),
        (["--precision", "int8"], "cannot be trained"),
        (["--model.null_space.method", "krylov", "--model.flat.target", "mlp"], "model.projection=flat: expected one target"),
    ],
)
def test_bad_input_is_one_line(args: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lit_degrade.cli import main

    assert main([*ATTACK, "--results", str(tmp_path), *args]) == 2
    error = capsys.readouterr().err
    assert line in error
    assert "Traceback" not in error
    assert not list(tmp_path.glob("*/*"))
