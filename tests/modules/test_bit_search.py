"""The search against brute force, its constraints and its controls, and what a run leaves."""

import functools
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import V, random_folder, random_model, wrap
from helpers import ROOT, manifest_of, rows_of, run, summary_of

from lit_degrade.cli import main
from lit_degrade.criticality.ranking import Weights
from lit_degrade.errors import UserError
from lit_degrade.faults.arms import CONTROLS, collapse_of, control_flips, first_collapse
from lit_degrade.faults.catalog import ARMS, CONSTRAINTS
from lit_degrade.faults.flips import Flip, bit_class, flipped
from lit_degrade.faults.scores import Candidate
from lit_degrade.faults.search import bit_search, limits_of
from lit_degrade.measures.perplexity import token_nll
from lit_degrade.modules.bit_search import summarised
from lit_degrade.perturbations.catalog import PerturbationSettings
from lit_degrade.perturbations.storage import stored
from lit_degrade.perturbations.targets import sites_of
from lit_degrade.records import tables
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.subjects.loading import Subject, load_subject, weights_sha256

IDS = torch.randint(V, (3, 12), generator=torch.Generator().manual_seed(0))
QUICK = ["--subject", "tiny-60k", "--text.probe_tokens", "1024", "--verbosity", "quiet"]
COMMAND = ["test", "--config", str(ROOT / "configs/bit_search.yaml"), *QUICK]
BOTH = pytest.mark.parametrize("constraint", list(CONSTRAINTS))


def toy(dtype: torch.dtype = torch.float16) -> Subject:
    """A random model with matrices of a dozen weights."""
    sizes = {"hidden_size": 4, "intermediate_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 2}
    return wrap(random_model("llama", **sizes).to(dtype))


def weights_of(subject: Subject, target: str = "attn_o", layers: str = "1") -> Weights:
    return Weights(subject, sites_of(subject, PerturbationSettings("bit_flip", target, layers)))


@torch.inference_mode()
def loss(subject: Subject) -> float:
    nll = token_nll(subject.model(input_ids=IDS, use_cache=False).logits, IDS).double().sum().item()
    return nll / IDS[:, 1:].numel()


def searched(
    subject: Subject, constraint: str, budget: int, m: int = 8, done: Callable[[Candidate], bool] = lambda _: False
) -> list[Candidate]:
    weights = weights_of(subject)
    return bit_search(subject, IDS, weights, m, budget, limits_of(subject, weights.parameters, constraint), done)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_with_all_candidates_the_first_flip_is_the_worst_of_all(constraint: str, dtype: torch.dtype) -> None:
    """By really flipping every bit of every weight, one by one."""
    subject = toy(dtype)
    weights = weights_of(subject)
    (name,) = weights.parameters
    limit = float(subject.model.get_parameter(name).data.abs().max())
    losses: dict[Flip, float] = {}
    width = 16 if dtype == torch.float16 else 32
    for index in range(len(weights)):
        for bit in range(width):
            flip = Flip(name, index, bit)
            with flipped(subject, [flip]):
                value = abs(float(subject.model.get_parameter(name).flatten()[index]))
                if constraint == "free" or value <= limit:
                    found = loss(subject)
                    losses[flip] = found if math.isfinite(found) else math.inf
    (first,) = searched(subject, constraint, 1, width * len(weights))
    assert losses[first.flip] == pytest.approx(max(losses.values()), rel=2e-6)
    assert max(losses.values()) > loss(subject) + 1e-4


@BOTH
def test_a_search_is_deterministic_and_leaves_nothing(constraint: str) -> None:
    subject = toy()
    before = weights_sha256(subject.model)
    hashes: list[str] = []

    def done(worst: Candidate) -> bool:
        hashes.append(weights_sha256(subject.model))
        return False

    first = searched(subject, constraint, 6, done=done)
    assert weights_sha256(subject.model) == before
    assert [(c.flip, c.predicted) for c in searched(subject, constraint, 6)] == [(c.flip, c.predicted) for c in first]
    assert len(first) == len(set(hashes)) == 6, "all flips so far are in place when each is measured"
    with flipped(subject, [candidate.flip for candidate in first]):
        assert weights_sha256(subject.model) == hashes[-1]


def test_every_flip_of_a_search_costs_more_than_the_one_before() -> None:
    """Of its first flips in a trained subject; of a random model hardly any could."""
    subject = load_subject(SubjectSpec("tiny-60k"), 0, torch.device("cpu"), train=False)
    weights = weights_of(subject, "blocks", "all")
    losses = [loss(subject)]

    def done(worst: Candidate) -> bool:
        losses.append(loss(subject))
        return False

    bit_search(subject, IDS, weights, 4, 4, limits_of(subject, weights.parameters, "in_range"), done)
    assert losses == sorted(losses)
    assert losses[-1] > losses[0]


def test_a_search_that_is_interrupted_leaves_nothing() -> None:
    subject = toy()
    before = weights_sha256(subject.model)

    def done(worst: Candidate) -> bool:
        assert weights_sha256(subject.model) != before
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        searched(subject, "free", 3, done=done)
    assert weights_sha256(subject.model) == before


def test_a_search_ends_when_it_is_done() -> None:
    seen: list[Candidate] = []

    def done(worst: Candidate) -> bool:
        seen.append(worst)
        return len(seen) == 3

    assert searched(toy(), "in_range", 10, done=done) == seen
    assert len(seen) == 3


def test_no_bit_is_flipped_twice_and_a_search_ends_when_none_is_left() -> None:
    """With a target of a few weights and a budget of more flips than it has bits."""
    subject = toy()
    weights = weights_of(subject, "attn_k")
    before = weights_sha256(subject.model)
    found = bit_search(subject, IDS, weights, 2, 200, limits_of(subject, weights.parameters, "in_range"), lambda _: False)
    flips = [candidate.flip for candidate in found]
    assert len(weights) == 8
    assert 8 <= len(flips) == len(set(flips)) <= 8 * 16
    assert weights_sha256(subject.model) == before


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "nf4"])
def test_flips_in_range_stay_there_and_are_finite(precision: str) -> None:
    subject = trained(precision)
    weights = weights_of(subject, "blocks", "all")
    before = weights_sha256(subject.model)
    limits = limits_of(subject, weights.parameters, "in_range")
    assert limits is not None

    def done(worst: Candidate) -> bool:
        weight = stored(subject.model, worst.flip.parameter).read(worst.site).float()
        assert weight.isfinite().all()
        assert weight.abs().max() <= limits[worst.flip.parameter]
        assert abs(worst.value_flipped) <= limits[worst.flip.parameter]
        return False

    found = bit_search(subject, IDS, weights, 4, 5, limits, done)
    assert len({candidate.flip for candidate in found}) == 5
    assert weights_sha256(subject.model) == before


@functools.cache
def trained(precision: str) -> Subject:
    return load_subject(SubjectSpec("tiny-60k", precision=precision), 0, torch.device("cpu"), train=False)


@BOTH
@pytest.mark.parametrize("arm", CONTROLS)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "nf4"])
def test_controls_keep_the_constraint_and_are_nested(precision: str, arm: str, constraint: str) -> None:
    subject = trained(precision)
    weights = weights_of(subject, "blocks", "all")
    limits = limits_of(subject, weights.parameters, constraint)
    one, other = (control_flips(subject, weights, arm, 300, limits, 0, draw) for draw in (0, 1))
    flips = [candidate.flip for candidate in one]
    assert [c.flip for c in control_flips(subject, weights, arm, 40, limits, 0, 0)] == flips[:40]
    assert flips == [c.flip for c in control_flips(subject, weights, arm, 300, limits, 0, 0)]
    assert flips != [c.flip for c in control_flips(subject, weights, arm, 300, limits, 1, 0)]
    assert flips != [c.flip for c in other]
    assert len(flips) == len({(flip.parameter, flip.index) for flip in flips}) == 300
    if limits is not None:
        assert all(abs(c.value_flipped) <= limits[c.flip.parameter] for c in one)
    classes = {bit_class(stored(subject.model, flip.parameter).format, flip.bit) for flip in flips}
    quantised = precision in ("int8", "nf4")
    if arm == "random_exponent":
        assert classes == {"sign" if quantised else "exponent"}
    else:
        assert classes == ({"sign", "code"} if quantised else {"sign", "exponent", "mantissa"})
    if arm == "top_magnitude":
        sizes = [abs(candidate.value) for candidate in one]
        assert sizes == sorted(sizes, reverse=True)
        kept = torch.cat([stored(subject.model, s.parameter).read(s).float().abs().flatten() for s in weights.sites])
        assert sizes[0] == kept.max()


def test_random_flips_are_spread_evenly() -> None:
    """Over bits and over weights; of bits in range, over those that keep it."""
    subject = toy(torch.float32)
    weights = weights_of(subject, "blocks", "all")
    found = [c.flip for draw in range(20) for c in control_flips(subject, weights, "random", 100, None, 0, draw)]
    counts = torch.bincount(torch.tensor([flip.bit for flip in found]), minlength=32).double()
    expected = len(found) / 32
    assert float(((counts - expected) ** 2 / expected).sum()) < 70  # chi squared, 31 degrees of freedom: p = 1e-4
    sites = {site.parameter: site for site in weights.sites}
    for name in sites:
        share = stored(subject.model, name).shape.numel() / len(weights)
        seen = sum(flip.parameter == name for flip in found) / len(found)
        assert abs(seen - share) < 4.5 * math.sqrt(share * (1 - share) / len(found))


def test_a_target_that_runs_out_has_shorter_controls() -> None:
    subject = toy()
    weights = weights_of(subject)
    found = control_flips(subject, weights, "random", 1000, None, 0, 0)
    assert len(found) == len({candidate.flip.index for candidate in found}) == len(weights) == 16


def test_unknown_names() -> None:
    subject = toy()
    with pytest.raises(UserError, match="Unknown control 'search'"):
        control_flips(subject, weights_of(subject), "search", 1, None, 0, 0)
    with pytest.raises(UserError, match=r"Unknown constraint 'inrange'\. Did you mean 'in_range'"):
        limits_of(subject, [], "inrange")


@pytest.mark.parametrize("budget", [0, 1, 2, 37, 64, 100])
def test_the_first_collapse_is_found(budget: int) -> None:
    for first in range(1, 130):
        asked: list[int] = []

        def collapsed(n: int, first: int = first, asked: list[int] = asked) -> bool:
            asked.append(n)
            return n >= first

        assert first_collapse(collapsed, budget) == (first if first <= budget else None)
        assert len(asked) == len(set(asked)) <= 2 * math.log2(budget + 1) + 2
        assert all(1 <= n <= budget for n in asked)


def test_collapse_is_two_standard_errors_above_the_best_constant_answer() -> None:
    ids = torch.tensor([[9, 1, 1, 2], [9, 1, 3, 9]])  # the first of each is not scored
    found = collapse_of(ids)
    assert found.chance == 0.5
    assert found.threshold == pytest.approx(0.5 + 2 * math.sqrt(0.25 / 6))


def test_a_summary_says_what_is_a_bound() -> None:
    def rows(arm: str, *flips: int, budget: int = 100) -> list[dict[str, object]]:
        return [{"arm": arm, "flips": n, "collapsed": n < budget} for n in flips]

    found = summarised([*rows("search", 4), *rows("a", 100, 10, 30), *rows("b", 100, 10, 100), *rows("c", 2, 100)], "free")
    assert (found["flips_free_search"], found["collapsed_free_search"]) == (4, True)
    assert [found[f"{key}_free_a"] for key in ("flips", "collapsed", "factor", "at_least")] == [30, 2, 7.5, False]
    assert [found[f"{key}_free_b"] for key in ("flips", "collapsed", "factor", "at_least")] == [100, 1, 25, True]
    assert [found[f"{key}_free_c"] for key in ("flips", "at_least")] == [51, True]
    assert found["log10_factor_free_a"] == pytest.approx(math.log10(7.5))
    without = summarised([*rows("search", 100), *rows("a", 30)], "free")
    assert without["factor_free_a"] is without["log10_factor_free_a"] is None


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    small = {"candidates": 6, "search_blocks": 1, "budget": 3, "control_budget": 20, "draws": 2}
    args = [word for name, value in small.items() for word in (f"--model.{name}", str(value))]
    return run(tmp_path_factory.mktemp("searched"), *args, verb=COMMAND)


def test_a_run_writes_every_flip_and_every_collapse(record: Path) -> None:
    rows, collapses = rows_of(record / tables.BIT_SEARCH), rows_of(record / tables.COLLAPSE)
    assert list(rows[0]) == [
        "constraint", "arm", "draw", "flip", "parameter", "component", "depth", "index", "bit", "bit_class", "value",
        "value_flipped", "predicted", "nats_per_token", "log_perplexity_ratio", "perplexity", "bits_per_byte",
        "token_accuracy", "collapsed",
    ]  # fmt: skip
    assert list(collapses[0]) == ["constraint", "arm", "draw", "flips", "collapsed", "budget", "threshold"]
    cells = [(c, arm, str(d)) for c in CONSTRAINTS for arm in ARMS for d in range(1 if arm == "search" else 2)]
    assert [(row["constraint"], row["arm"], row["draw"]) for row in collapses] == cells
    summary, manifest = summary_of(record), manifest_of(record)
    for cell, collapse in zip(cells, collapses, strict=True):
        own = [row for row in rows if (row["constraint"], row["arm"], row["draw"]) == cell]
        counts = [int(row["flip"]) for row in own]
        assert counts == sorted(set(counts))
        assert counts[0] == 0
        assert own[0]["parameter"] == ""
        assert float(own[0]["log_perplexity_ratio"]) == 0
        for row in own:
            assert (row["collapsed"] == "True") == (float(row["token_accuracy"]) <= summary["threshold"])
        assert (cell[1] == "search") == all(row["predicted"] for row in own[1:])
        assert collapse["budget"] == ("3" if cell[1] == "search" else "20")
        collapsed = [int(row["flip"]) for row in own if row["collapsed"] == "True"]
        assert (collapse["collapsed"], int(collapse["flips"])) == (
            ("True", min(collapsed)) if collapsed else ("False", int(collapse["budget"]))
        )
    assert summary["collapsed_in_range_search"] is False
    assert (summary["flips_free_search"], summary["collapsed_free_search"]) == (1, True)
    assert manifest["sha256"]["subject_after"] == manifest["sha256"]["subject"]


def test_what_a_run_found_can_be_flipped_again(record: Path) -> None:
    """The committed flips of the search cost what the table says."""
    from lit_degrade.measures.perplexity import likelihood
    from lit_degrade.text import TextSource

    subject = trained("fp32")
    rows = [r for r in rows_of(record / tables.BIT_SEARCH) if (r["constraint"], r["arm"]) == ("in_range", "search")][1:]
    probe = TextSource(probe_tokens=1024).blocks("probe", subject.tokenizer, 8)
    with flipped(subject, [Flip(row["parameter"], int(row["index"]), int(row["bit"])) for row in rows]):
        again = likelihood(lambda ids: subject.model(input_ids=ids, use_cache=False).logits, probe)
    assert again.nats_per_token == pytest.approx(float(rows[-1]["nats_per_token"]), rel=1e-6)
    assert again.token_accuracy == float(rows[-1]["token_accuracy"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model.constraints", "[inrange]"], "Unknown constraint 'inrange'"),
        (["--model.controls", "[randon]"], "Unknown control 'randon'"),
        (["--model.budget", "0"], "model.budget: expected a whole number from 1, not 0"),
        (["--model.constraints", "[]"], "model.constraints: expected one or more, not []"),
        (["--model.target", "attn_x"], "Unknown target 'attn_x'"),
        (["--model.layers", "9"], "Layer 9 does not exist"),
        (["--model.search_blocks", "1000000"], "1000000 blocks of 128 need"),
        (["--subject", "FOLDER"], "when intact: expected more than"),
    ],
)
def test_bad_input(
    args: list[str], message: str, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if args[-1] == "FOLDER":
        args = ["--subject", random_folder("llama", tmp_path_factory.mktemp("inputs") / "random")]
    assert main([*COMMAND, *args, "--results", str(tmp_path / "results")]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
