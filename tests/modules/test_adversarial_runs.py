"""Runs of AdversarialModule: tables equal what the functions give, the subject is left alone, bad input is one line."""

from pathlib import Path

import pytest
import torch
from conftest import load
from helpers import ROOT, manifest_of, rows_of, run, summary_of

from lit_degrade.adversarial.embeddings import (
    attacked,
    embedded,
    embedding_changed,
    largest,
    logits,
    loss_of,
    no_change,
    shifted,
    units,
)
from lit_degrade.adversarial.tokens import at_random, by_gradient, input_losses, replacements
from lit_degrade.cli import main
from lit_degrade.modules import adversarial
from lit_degrade.records import tables
from lit_degrade.seeds import generator
from lit_degrade.subjects.loading import Subject
from lit_degrade.text import TextSource

CONFIG = ["test", "--config", str(ROOT / "configs/adversarial.yaml"), "--subject", "tiny-60k", "--verbosity", "quiet"]
SMALL = [
    "--text.probe_tokens", "1024", "--model.windows", "3", "--model.epsilons", "[0.0, 0.3]", "--model.steps", "3",
    "--model.draws", "2", "--model.token_changes", "[1, 3]", "--model.decoding.max_new_tokens", "8",
]  # fmt: skip
COMMAND = [*CONFIG, *SMALL]
DAMAGE = ["nats_per_token", "log_perplexity_ratio", "perplexity", "bits_per_byte", "token_accuracy"]


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("results"), verb=COMMAND)


def test_the_table_of_embeddings_is_what_the_functions_give(record: Path, tiny: Subject) -> None:
    rows = rows_of(record / tables.ADVERSARIAL)
    assert list(rows[0]) == [
        "attack", "norm", "unit", "epsilon", "epsilon_absolute", "draw", "largest", *DAMAGE, "argmax_changed",
    ]  # fmt: skip
    found = [(r["attack"], r["norm"], float(r["epsilon"]), int(r["draw"])) for r in rows]
    assert found == [
        (a, n, e, d)
        for a in ("random", "fgsm", "pgd")
        for n in ("linf", "l2")
        for e in (0.0, 0.3)
        for d in range(2 if e and a != "fgsm" else 1)
    ]
    ids = TextSource(probe_tokens=1024).blocks("probe", tiny.tokenizer, 3).ids
    loss, zero, size = loss_of(tiny, ids, ids), no_change(tiny, ids), units(embedded(tiny, ids))
    scores = logits(tiny, ids)
    for row in rows:
        norm, radius = row["norm"], float(row["epsilon"]) * size[row["norm"]]  # type: ignore[index]
        draws = [generator(43, "adversarial", row["attack"], norm, row["draw"], str(i)) for i in range(3)]
        delta = attacked(row["attack"], loss, zero, norm, radius, 3, draws)  # type: ignore[arg-type]
        with torch.no_grad():
            nats = float(loss(delta).sum()) / (3 * 127)
        with torch.no_grad(), embedding_changed(tiny, shifted(delta)):
            changed = logits(tiny, ids)
        assert row["unit"] == {"linf": "embedding_rms", "l2": "row_norm"}[norm]
        assert float(row["epsilon_absolute"]) == pytest.approx(radius)
        moved = (changed.argmax(-1) != scores.argmax(-1))[:, :-1].double().mean()
        if radius:
            assert float(row["largest"]) == pytest.approx(largest(delta, norm) / radius)  # type: ignore[arg-type]
            assert float(row["largest"]) <= 1
        else:
            assert row["largest"] == ""
            assert float(row["log_perplexity_ratio"]) == float(row["argmax_changed"]) == 0
        if row["attack"] == "pgd" and radius:
            assert float(row["nats_per_token"]) == pytest.approx(nats, rel=0.05), "rounding may turn signs on the way"
        else:
            assert float(row["nats_per_token"]) == pytest.approx(nats, rel=1e-4)
            assert float(row["argmax_changed"]) == pytest.approx(float(moved), abs=2e-2)


def test_the_table_of_tokens_is_what_the_functions_give(record: Path, tiny: Subject) -> None:
    rows = rows_of(record / tables.ADVERSARIAL_TOKENS)
    assert list(rows[0]) == ["attack", "changed", "draw", *DAMAGE, "argmax_changed"]
    assert [(r["attack"], r["draw"], r["changed"]) for r in rows] == [
        (attack, draw, changed)
        for attack, draws in (("gradient", "0"), ("random", "01"), ("characters", "01"))
        for draw in draws
        for changed in ("1", "3")
    ]
    ids, allowed = TextSource(probe_tokens=1024).blocks("probe", tiny.tokenizer, 3).ids, replacements(tiny)
    for row in rows:
        count, total = int(row["changed"]), 0.0
        for i, tokens in enumerate(ids):
            if row["attack"] == "characters":
                continue
            if row["attack"] == "gradient":
                inputs = by_gradient(tiny, tokens, (1, 3), allowed, 127)[count]
            else:
                draws = generator(43, "adversarial", "random", "tokens", row["draw"], str(i))
                inputs = at_random(tokens, (1, 3), allowed, 127, draws)[count]
            total += float(input_losses(tiny, inputs[None], tokens)[0])
        if total:
            assert float(row["nats_per_token"]) == pytest.approx(total / (3 * 127), rel=1e-4)
            assert float(row["argmax_changed"]) > 0
        assert float(row["log_perplexity_ratio"]) > 0


def test_the_summary_compares_with_the_control(record: Path) -> None:
    summary, manifest = summary_of(record), manifest_of(record)
    rows = [r for r in rows_of(record / tables.ADVERSARIAL) if float(r["epsilon"]) == 0.3]
    assert (summary["windows"], summary["probe_tokens"], summary["epsilon"]) == (3, 3 * 127, 0.3)
    for norm in ("linf", "l2"):
        lost = {}
        for attack in ("random", "fgsm", "pgd"):
            own = [float(r["log_perplexity_ratio"]) for r in rows if (r["attack"], r["norm"]) == (attack, norm)]
            lost[attack] = summary[f"nats_lost_{attack}_{norm}"]
            assert lost[attack] == pytest.approx(sum(own) / len(own))
        assert summary[f"fgsm_over_random_{norm}"] == pytest.approx(lost["fgsm"] - lost["random"])
        assert summary[f"pgd_over_fgsm_{norm}"] == pytest.approx(lost["pgd"] - lost["fgsm"])
        assert lost["pgd"] + 1e-5 >= lost["fgsm"] > lost["random"]
    assert summary["gradient_over_random_tokens"] > 0
    assert manifest["sha256"]["subject_after"] == manifest["sha256"]["subject"]


def test_answers(record: Path) -> None:
    answers = {row["subject"]: row for row in rows_of(record / tables.ANSWERS)}
    assert list(answers) == [
        "intact", "random linf 0.3", "random l2 0.3", "fgsm linf 0.3", "fgsm l2 0.3", "pgd linf 0.3", "pgd l2 0.3",
        "gradient tokens 1", "random tokens 1",
    ]  # fmt: skip
    assert list(answers["intact"])[:4] == ["subject", "text", "tokens", "distinct_1"]
    assert answers["pgd linf 0.3"]["text"] != answers["intact"]["text"] != answers["pgd l2 0.3"]["text"]
    prompt = summary_of(record)["prompt"]
    shown = {label: row["prompt"] for label, row in answers.items()}
    assert {shown[label] for label in shown if "tokens" not in label} == {prompt}
    assert shown["gradient tokens 1"] != prompt != shown["random tokens 1"]


def test_same_seed_same_numbers(record: Path, tmp_path: Path) -> None:
    again, other = run(tmp_path / "a", verb=COMMAND), run(tmp_path / "b", "--seed_everything", "44", verb=COMMAND)
    for name in (tables.ADVERSARIAL, tables.ADVERSARIAL_TOKENS, tables.ANSWERS):
        assert (again / name).read_bytes() == (record / name).read_bytes()
    assert (other / tables.ADVERSARIAL).read_bytes() != (record / tables.ADVERSARIAL).read_bytes()


@pytest.mark.parametrize("precision", ["bf16", "int8", "nf4"])
def test_every_format_is_attacked_and_left_alone(precision: str, tmp_path: Path) -> None:
    args = ["--precision", precision, "--subject", "tiny-250k", "--model.norms", "[linf]", "--model.token_changes", "[0]"]
    folder = run(tmp_path, *args, verb=COMMAND)
    summary, manifest = summary_of(folder), manifest_of(folder)
    assert summary["fgsm_over_random_linf"] > 0.5
    assert manifest["sha256"]["subject_after"] == manifest["sha256"]["subject"]
    assert not (folder / tables.ADVERSARIAL_TOKENS).exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model.epsilons", "[0.1, -0.1]"], "model.epsilons: expected a finite number from 0, not -0.1"),
        (["--model.epsilons", "[]"], "model.epsilons: expected one or more, not []"),
        (["--model.attacks", "[fgms]"], "Unknown attack 'fgms'. Did you mean 'fgsm'? Available: random, fgsm, pgd"),
        (["--model.attacks", "[]"], "Unknown attack ''"),
        (["--model.norms", "[l1]"], "Unknown norm 'l1'"),
        (["--model.windows", "9"], "windows=9: the probe has 8 of 128 tokens"),
        (["--model.token_changes", "[128]"], "token_changes=[128]: expected numbers below the 128 tokens"),
        (["--model.token_changes", "[100]"], "a prompt has 6 tokens that can be changed"),
        (["--model.prompt", " "], "the prompt is empty"),
    ],
)
def test_bad_input(args: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMAND, *args, "--results", str(tmp_path / "results")]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failure", ["raises", "zero"])
def test_a_subject_without_gradients_is_named(
    failure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def gradient(subject: Subject, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if failure == "raises":
            raise RuntimeError("derivative is\nnot implemented")
        return torch.zeros(1)

    monkeypatch.setattr(adversarial, "gradient_of", gradient)
    assert main([*COMMAND, "--precision", "nf4", "--results", str(tmp_path / "results")]) == 2
    err = capsys.readouterr().err
    assert f"'tiny-60k' at precision 'nf4' does not give: {'derivative is not' if failure == 'raises' else 'it is zero'}" in err
    assert len(err.strip().splitlines()) == 1 or "bitsandbytes decodes NF4 rows" in err
    assert list(tmp_path.iterdir()) == []
    only = ["--model.attacks", "[random]", "--model.token_changes", "[]"]
    assert set(summary_of(run(tmp_path, *only, verb=COMMAND))) >= {"nats_lost_random_linf"}
    assert load("tiny-60k").model.get_input_embeddings()._forward_hooks == {}
