"""The certificates and the catalyst's advantage on the trained 1M subject, as the README states them."""

import csv
from pathlib import Path

import pytest
from helpers import ROOT, run, summary_of

from lit_degrade.records import tables

pytestmark = pytest.mark.slow


def test_null_directions_are_certified_and_the_eigen_prion_wins(tmp_path: Path) -> None:
    """With the main job's budget of evaluations, which is less than the config's."""
    verb = [
        "test",
        "--config",
        str(ROOT / "configs/catalysts.yaml"),
        "--verbosity",
        "quiet",
        "--model.stimuli.evaluations",
        "600",
    ]
    folder = run(tmp_path, verb=verb)
    summary = summary_of(folder)
    assert summary["null_products"] == 100 + 10 + 200
    assert summary["null_ratio_best"] <= 1e-3
    assert summary["null_best_below_random"] >= 4
    assert summary["null_median_below_random"] >= 2
    directions = list(csv.DictReader((folder / tables.DIRECTIONS).open()))
    assert len(directions) == 10
    assert all(float(row["share_of_random_below"]) == 0 for row in directions)
    assert summary["eigen_prion_wins"] == summary["n_seeds"] == 5
    assert summary["eigen_prion_tokens_changed_min"] > 0.5
    means = {key: value for key, value in summary.items() if key.startswith("null_energy_mean_")}
    assert max(means, key=means.__getitem__) == "null_energy_mean_eigen_prion"


def test_pretraining_again_reproduces_the_shipped_perplexity(tmp_path: Path) -> None:
    from helpers import card_of

    from lit_degrade.text import TextSource

    card = card_of("tiny-60k")
    if TextSource().sha256 != card["corpus_sha256"]:
        pytest.skip(f"this Python's documentation is not that of Python {card['python']}")
    verb = ["fit", "--config", str(ROOT / "configs/pretrain_tiny.yaml"), "--subject", "tiny-60k", "--verbosity", "quiet"]
    again = summary_of(run(tmp_path, verb=verb))
    assert again["perplexity_post"] == pytest.approx(float(card["held_out_perplexity"]), rel=0.02)
