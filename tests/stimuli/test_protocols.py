"""The walk from the published protocol to the controlled one, one change at a time."""

import dataclasses
import itertools
import math
from pathlib import Path

import pytest
import torch
from helpers import QUICK, ROOT, run, summary_of

from lit_degrade.measures.perplexity import token_nll
from lit_degrade.measures.published import nats_two_ahead, padded_texts, rank_with_cut
from lit_degrade.seeds import generator
from lit_degrade.stimuli.controls import StimulusData
from lit_degrade.stimuli.protocols import PROTOCOLS, Protocol
from lit_degrade.stimuli.published import embedding_ascent
from lit_degrade.subjects.loading import Subject

AUDIT = ["fit", "--config", str(ROOT / "configs/audit.yaml"), *QUICK]


def test_each_protocol_mends_one_thing() -> None:
    walk = [dataclasses.asdict(protocol) for protocol in PROTOCOLS.values()]
    assert all(walk[0].values())
    assert not any(walk[-1].values())
    for one, two in itertools.pairwise(walk):
        assert [(one[key], two[key]) for key in one if one[key] != two[key]] == [(True, False)]
    assert PROTOCOLS["controlled"] == Protocol()


def test_the_published_optimizers() -> None:
    """Known errors 4 and 5: AdamW was Adafactor, and controls were trained with plain SGD."""
    published, mended = PROTOCOLS["published"], PROTOCOLS["same_optimizer"]
    assert published.optimizer("eigen_prion", "adamw") == "adafactor"
    assert published.optimizer("random_text", "adamw") == "sgd"
    assert PROTOCOLS["true_adamw"].optimizer("eigen_prion", "adamw") == "adamw"
    assert PROTOCOLS["true_adamw"].optimizer("gaussian_noise", "adamw") == "sgd"
    assert {mended.optimizer(s, "adamw") for s in ("eigen_prion", "random_text", "gaussian_noise")} == {"adamw"}


def test_labels_shifted_twice_are_two_tokens_ahead(tiny: Subject) -> None:
    """Known error 1, kept as an arm: position t is scored on token t + 2, in training and in perplexity."""
    tokens = torch.randint(0, 96, (2, 12), generator=generator(0, "tokens"))
    with torch.no_grad():
        logits = tiny.model(input_ids=tokens).logits
        by_hand = torch.stack([-logits[:, t].log_softmax(-1)[torch.arange(2), tokens[:, t + 2]] for t in range(10)])
        assert float(StimulusData(tokens).loss(tiny, labels_shifted_twice=True)) == pytest.approx(
            float(by_hand.mean()), rel=1e-5
        )
        assert float(StimulusData(tokens).loss(tiny)) == pytest.approx(float(token_nll(logits, tokens).mean()))
    found = nats_two_ahead(lambda ids: tiny.model(input_ids=ids).logits, tokens)
    assert found == pytest.approx(float(by_hand.mean()), rel=1e-5)
    uniform = nats_two_ahead(lambda ids: torch.zeros(*ids.shape, 7), tokens % 7)
    assert uniform == pytest.approx(math.log(7), rel=1e-5)


def test_the_published_rank_loses_flat_spectra() -> None:
    """Known error 2: shares below 1 % are cut and the rest not renormalised, so more than 100 equal values count as nothing."""
    assert rank_with_cut(torch.ones(101)) == 0.0
    assert rank_with_cut(torch.ones(50)) == pytest.approx(50, rel=1e-5)
    assert rank_with_cut(torch.tensor([1.0, 0.5])) == pytest.approx(1.8899, abs=1e-4)
    padded = padded_texts(torch.arange(5 * 128).view(5, 128) + 1)
    assert padded.shape == (5, 128)
    assert int((padded == 0).sum()) == 5 * 118


def test_the_published_catalyst_is_its_start(tiny: Subject) -> None:
    """Known error 13."""
    start = torch.randint(1, 1024, (1, 64), generator=generator(0, "start"))
    assert float((embedding_ascent(tiny, start) != start).float().mean()) <= 0.02


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("published")


def test_a_published_run_says_what_it_did(published: Path) -> None:
    summary = summary_of(run(published, "--model.protocol", "published", verb=AUDIT))
    assert (summary["protocol"], summary["optimizer"], summary["optimizer_used"]) == ("published", "adamw", "adafactor")
    assert summary["published_catalyst_tokens_changed"] <= 0.02
    assert summary["null_energy"] < summary["null_energy_eigen_prion"] / 2, "that of the stimulus trained on"
    assert summary["reported_perplexity_pre"] > 3 * summary["perplexity_pre"], "two tokens ahead is far harder"
    assert summary["reported_rank_pre"] != pytest.approx(summary["effective_rank_pre_layer1"], rel=0.1)
    assert summary["reported_rank_change_absolute"] == abs(summary["reported_rank_reduction"])


def test_controlled_reports_what_is_true(published: Path) -> None:
    summary = summary_of(run(published, verb=AUDIT))
    assert summary["reported_perplexity_post"] == summary["perplexity_post"]
    assert summary["reported_rank_reduction"] == summary["rank_reduction"]
    assert summary["reported_log_perplexity_ratio"] == pytest.approx(summary["log_perplexity_ratio"])


def test_random_text_that_ignores_its_seed(published: Path) -> None:
    """Known error 8, kept as an arm, and gone from `seeded_controls` on."""
    from safetensors.torch import load_file

    def text_of(protocol: str, seed: str) -> torch.Tensor:
        args = ["--model.protocol", protocol, "--model.stimulus", "random_text", "--seed_everything", seed]
        return load_file(run(published, *args, "--trainer.max_steps", "1", verb=AUDIT) / "stimulus.safetensors")["tokens"]

    assert torch.equal(text_of("same_optimizer", "1"), text_of("same_optimizer", "2"))
    assert not torch.equal(text_of("seeded_controls", "1"), text_of("seeded_controls", "2"))
