"""`predict`: text under every dose, in the published schema, the same whatever happens on the way; single prompts."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_folder
from helpers import DEGRADE, ROOT, SHORT, manifest_of, rows_of, run, summary_of

from lit_degrade.cli import main
from lit_degrade.modules.outputs import CLOCK
from lit_degrade.perturbations.catalog import METHODS, VARIANTS, Variant, choose_variants
from lit_degrade.records import paths, tables
from lit_degrade.records.journal import Journal
from lit_degrade.subjects.loading import Subject
from lit_degrade.tasks.catalog import PICTURE, load_task

PROMPT = [
    "predict", "--config", str(ROOT / "configs/prompt.yaml"), "--subject", "tiny-60k", "--text.probe_tokens", "2048",
    "--verbosity", "quiet", "--model.decoding.max_new_tokens", "4",
]  # fmt: skip
SCHEMA = {
    "timestamp", "config_name", "model_name", "model_variant", "device", "dtype", "load_4bit", "restore_strategy",
    "degradation_method", "param_group_name", "degrad_level", "level_index", "repeat_index", "prompt_group", "prompt_id",
    "prompt_text", "output", "tokens_in", "tokens_out", "duration", "gen_params", "seed", "batch_size_effective", "image_used",
    "image_filename", "vram_usage_percent", "perplexity", "std_dev", "tokens", "usar_4bit",
}  # fmt: skip


def outputs_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {path.name: json.loads(path.read_text()) for path in sorted(folder.glob(paths.OUTPUTS))}


def lasting(folder: Path) -> bytes:
    """Everything that a run leaves and that two runs must share, in bytes."""
    objects = {
        name: [{k: v for k, v in row.items() if k not in CLOCK} for row in rows] for name, rows in outputs_of(folder).items()
    }
    left = [(folder / name).read_bytes() for name in (tables.DOSES, tables.EDITS, tables.GENERATIONS)]
    return b"".join([json.dumps(objects).encode(), *left])


@pytest.fixture(scope="module")
def degraded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("degraded")
    return run(results, *SHORT, "--variants", "gauss_attn", "--tasks", "iq_it", "--model.repetitions", "2", verb=DEGRADE)


def test_the_published_schema_is_complete(degraded: Path) -> None:
    ((name, rows),) = outputs_of(degraded).items()
    assert name == "outputs_mult_gauss_tiny-60k_iq_it.json"
    assert len(rows) == 2 * 2 * 65
    task = load_task("iq_it")
    for row in rows:
        assert set(row) == SCHEMA
        prompt = task.prompts[row["prompt_id"] - 1]
        assert (row["prompt_text"], row["prompt_group"]) == (prompt.text, prompt.group)
        assert row["output"].startswith(prompt.text)
        assert row["tokens_out"] <= row["gen_params"]["max_new_tokens"] == 4
        assert row["std_dev"] == row["degrad_level"] == [0.0, 0.5][row["level_index"]]
        assert row["batch_size_effective"] in (64, 1)
    cells = [(row["level_index"], row["repeat_index"], row["prompt_id"]) for row in rows]
    assert len(set(cells)) == len(cells)


def test_the_record_has_doses_edits_and_measures(degraded: Path) -> None:
    doses, edits, texts = (rows_of(degraded / name) for name in (tables.DOSES, tables.EDITS, tables.GENERATIONS))
    assert [(d["level"], d["repetition"], d["random"]) for d in doses] == [
        ("0.0", "0", "False"), ("0.0", "1", "False"), ("0.5", "0", "True"), ("0.5", "1", "True"),
    ]  # fmt: skip
    assert len(edits) == 4 * 2  # doses x layers
    assert len(texts) == summary_of(degraded)["generations"] == 4 * 65
    assert (
        float(doses[0]["log_perplexity_ratio"]) == float(doses[0]["kl_from_intact"]) == float(doses[0]["rank_reduction"]) == 0
    )
    assert doses[2]["nats_per_token"] != doses[3]["nats_per_token"]
    here = [row for row in texts if (row["level_index"], row["repetition"]) == ("1", "1")]
    assert float(doses[3]["iq_it.accuracy"]) == pytest.approx(sum(float(row["accuracy"]) for row in here) / 65)
    assert {"iq_it.accuracy_maths", "iq_it.accuracy_language", "iq_it.accuracy_logic", "iq_it.parse_failure_rate"} <= set(
        doses[0]
    )
    assert manifest_of(degraded)["sha256"]["subject_after"] == manifest_of(degraded)["sha256"]["subject"]
    assert not (degraded / paths.JOURNAL).exists()


def test_level_zero_is_the_intact_subjects_greedy_text(degraded: Path, tiny: Subject) -> None:
    (rows,) = outputs_of(degraded).values()
    for row in [row for row in rows if row["level_index"] == 0 and row["repeat_index"] == 0][:20]:
        ids = tiny.tokenizer(row["prompt_text"], return_tensors="pt").input_ids
        with torch.no_grad():
            tokens = tiny.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)
        assert row["output"] == row["prompt_text"] + tiny.tokenizer.decode(tokens[0, ids.shape[1] :], skip_special_tokens=True)


def test_a_second_run_makes_the_same(degraded: Path, tmp_path: Path) -> None:
    again = run(tmp_path, *SHORT, "--variants", "1", "--tasks", "iq_it", "--model.repetitions", "2", verb=DEGRADE)
    assert lasting(again) == lasting(degraded)


def test_sampled_text_depends_on_the_repetition_and_not_on_the_level(tmp_path: Path) -> None:
    sampled = ["--model.decoding.do_sample", "true", "--model.repetitions", "2", "--model.levels", "[4096, .inf]"]
    folder = run(tmp_path, "--variants", "quant_attn", *sampled, verb=DEGRADE)
    (rows,) = outputs_of(folder).values()
    texts = {(row["level_index"], row["repeat_index"], row["prompt_id"]): row["output"] for row in rows}
    same = [texts[0, 0, i] == texts[1, 0, i] for i in range(1, 39)]
    other = [texts[1, 0, i] == texts[1, 1, i] for i in range(1, 39)]
    assert sum(same) > 30  # 4096 values change next to nothing, and the draws are shared
    assert sum(other) < 10


def _stopped_after(batches: int, monkeypatch: pytest.MonkeyPatch, results: Path, *args: str) -> Path:
    """Stop a run after some batches; returns what it leaves to go on from."""
    kept = Journal.append

    def append(self: Journal, entry: dict[str, Any]) -> None:
        if len(self.entries) == batches:
            raise KeyboardInterrupt
        kept(self, entry)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", append)
        assert main([*DEGRADE, *SHORT, *args, "--results", str(results)]) == 130
    (journal,) = results.glob(f"degradation/*/{paths.JOURNAL}")
    return journal


def test_an_interrupted_run_is_recorded_and_goes_on(monkeypatch: pytest.MonkeyPatch, degraded: Path, tmp_path: Path) -> None:
    args = ["--variants", "gauss_attn", "--tasks", "iq_it", "--model.repetitions", "2"]
    journal = _stopped_after(4, monkeypatch, tmp_path, *args)
    assert manifest_of(journal.parent)["exit_state"] == "interrupted"
    with journal.open("ab") as file:
        file.write(b'{"cell": "gauss_attn/0/1", "made": [{"te')  # as a kill in the middle of a line leaves it
    begun = journal.read_bytes().splitlines()[:4]
    seen: list[int] = []
    kept = Journal.append
    monkeypatch.setattr(Journal, "append", lambda self, entry: (seen.append(len(self.entries)), kept(self, entry))[1])
    folder = run(tmp_path, *SHORT, *args, verb=DEGRADE)
    assert lasting(folder) == lasting(degraded)
    assert seen[0] == 4 == len(begun), "what was made is not made again"


def test_a_journal_that_is_broken_in_the_middle_is_refused_and_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    journal = _stopped_after(3, monkeypatch, tmp_path)
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(lines[0] + b"{half" + b"\n" + lines[2])
    capsys.readouterr()
    assert main([*DEGRADE, *SHORT, "--results", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert len(err.strip().splitlines()) == 1
    assert f"{paths.JOURNAL}', line 2, is broken" in err
    assert journal.read_bytes().count(b"\n") == 3, "nothing is lost"


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_all_variants_and_tasks_in_one_command(family: str, tmp_path: Path) -> None:
    """Text subjects are asked the two tasks of text; image-text subjects the one about the picture too."""
    folder = random_folder(family, tmp_path / "subject-1")
    tasks = ["dreams_it", "iq_it"] + (["cookie_theft_it"] if family == "gemma3" else [])
    command = ["--subject", folder, "--variants", "1-5", "--tasks", ",".join(tasks), "--model.decoding.max_new_tokens", "1"]
    record = run(tmp_path / "results", *command, verb=DEGRADE)
    found = outputs_of(record)
    assert set(found) == {
        f"outputs_{method}_subject-1_{task}.json" for method in ("mult_gauss", "ablation", "uni_quant") for task in tasks
    }
    steps = {"mult_gauss": 15 + 11 + 21, "ablation": 17, "uni_quant": 9}
    for name, rows in found.items():
        method = next(method for method in steps if method in name)
        task = next(task for task in tasks if task in name)
        assert len(rows) == steps[method] * len(load_task(task).prompts)
        assert {row["image_used"] for row in rows} == {task == "cookie_theft_it"}
        assert {row["image_filename"] for row in rows} == {PICTURE.name if task == "cookie_theft_it" else None}
    assert [row["variant"] for row in rows_of(record / tables.DOSES)][:: sum(steps.values()) - 1] == [
        "gauss_attn",
        "quant_attn",
    ]


def test_the_users_own_picture(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (32, 24), "red").save(tmp_path / "red.png")
    folder = random_folder("gemma3", tmp_path / "subject")
    own = ["--subject", folder, "--tasks", "cookie_theft_it", "--model.image", str(tmp_path / "red.png")]
    (rows,) = outputs_of(run(tmp_path / "results", *SHORT, *own, verb=DEGRADE)).values()
    assert {row["image_filename"] for row in rows} == {"red.png"}


OWN = ["--variants", "", "--model.perturbation.method"]
BAD = {
    "negative sigma": (["--model.levels", "[-0.1]"], "levels: -0.1 of mult_gauss is outside its range: expected 0 or more"),
    "share above 1": (["--variants", "4", "--model.levels", "[1.1]"], "1.1 of ablation is outside its range: expected 0 to 1"),
    "one level": (["--variants", "5", "--model.levels", "[1]"], "uni_quant is outside its range: expected a whole number"),
    "half a level": (["--variants", "5", "--model.levels", "[2.5]"], "model.levels: 2.5 of uni_quant"),
    "variant": (["--variants", "gauss_atn"], "Unknown variant 'gauss_atn'. Did you mean 'gauss_attn'?"),
    "index": (["--variants", "3-6"], "Variant 6 does not exist. Available: 1 gauss_attn, 2 gauss_mlp"),
    "index nought": (["--variants", "0"], "Variant 0 does not exist"),
    "no range": (["--variants", "3-"], "variants '3-' is neither 'all' nor numbers and ranges"),
    "task": (["--tasks", "dream_it"], "Unknown task 'dream_it'. Did you mean 'dreams_it'? Available: dreams_it, iq_it"),
    "text subject": (["--tasks", "cookie_theft_it"], "An image task needs an image-text subject; 'tiny-60k' is gpt_neox"),
    "missing picture": (["--tasks", "cookie_theft_it", "--model.image", "no.png"], "Picture 'no.png' cannot be read: No such"),
    "broken picture": (["--tasks", "cookie_theft_it", "--model.image", __file__], "cannot be read: cannot identify image file"),
    "no dose": (["--variants", ""], "nothing to generate under"),
    "no repetition": (["--model.repetitions", "0"], "model.repetitions: expected a whole number from 1, not 0"),
    "tokens": (["--model.decoding.max_new_tokens", "0"], "model.decoding.max_new_tokens: expected a whole number from 1"),
    "target": ([*OWN, "zero", "--model.perturbation.target", "mlp_gate"], "Unknown target for gpt_neox 'mlp_gate'"),
    "layer": (["--model.perturbation.layers", "7"], "Layer 7 does not exist: gpt_neox subject with layers 0 to 1"),
    "bits": ([*OWN, "bit_flip", "--model.perturbation.bits", "32"], "Available: all, sign, exponent, mantissa, 0 to 31"),
    "unknown target": ([*OWN, "zero", "--model.perturbation.target", "attention"], "Unknown target 'attention'. Did you mean"),
    "layers": (["--model.perturbation.layers", "first"], "layers 'first' is neither 'all' nor numbers"),
    "method": ([*OWN, "gauss"], "Available: mult_gauss, add_gauss"),
    "selection": (["--model.perturbation.selection", "no.safetensors"], "Selection 'no.safetensors' cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args, message = BAD[case]
    assert main([*DEGRADE, "--model.levels", "[0.5]", *args, "--results", str(tmp_path / "results")]) == 2
    err = capsys.readouterr().err
    assert len(err.strip().splitlines()) == 1, err
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_a_prompt_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = [
        "--prompt",
        "The with statement",
        "--model.beside",
        "[tiny-250k]",
        "--model.levels",
        "[0.0, 3.0]",
        "--verbosity",
        "normal",
    ]
    folder = run(tmp_path, *args, verb=PROMPT)
    answers = {row["subject"]: row["text"] for row in rows_of(folder / tables.ANSWERS)}
    assert list(answers) == ["intact", "mult_gauss_blocks 0", "mult_gauss_blocks 3", "tiny-250k"]
    assert answers["intact"] == answers["mult_gauss_blocks 0"] != answers["mult_gauss_blocks 3"]
    summary = summary_of(folder)
    assert summary["prompt"] == "The with statement"
    assert summary["answers"] == 4
    assert all(key.isidentifier() for key in summary)
    assert "mult_gauss_blocks 3" in capsys.readouterr().out


def test_a_pruned_and_an_attacked_subject_beside_the_intact_one(tmp_path: Path) -> None:
    from helpers import QUICK

    attacked = run(tmp_path / "attacks", verb=["fit", "--config", str(ROOT / "configs/priority3.yaml"), *QUICK])
    pruned = ["--model.perturbation.method", "prune_magnitude", "--model.levels", "[0.9]", "--model.beside", f"[{attacked}]"]
    folder = run(tmp_path / "results", *pruned, verb=PROMPT)
    assert [row["subject"] for row in rows_of(folder / tables.ANSWERS)] == [
        "intact",
        "prune_magnitude_blocks 0.9",
        str(attacked),
    ]


def test_an_empty_prompt_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PROMPT, "--prompt", " ", "--results", str(tmp_path)]) == 2
    assert "the prompt is empty" in capsys.readouterr().err


def test_variants_by_name_index_and_range() -> None:
    assert list(VARIANTS) == ["gauss_attn", "gauss_mlp", "gauss_embed", "ablation_attn", "quant_attn"]
    assert choose_variants("gauss_mlp,4-5,2") == ["gauss_mlp", "ablation_attn", "quant_attn"]
    assert choose_variants("all") == choose_variants("1-5") == list(VARIANTS)


def test_levels_of_the_variants() -> None:
    expected = {"gauss_attn": (0, 1.4, 15), "gauss_mlp": (0, 0.5, 11), "gauss_embed": (0, 1, 21), "ablation_attn": (0, 0.8, 17)}
    for name, (first, last, steps) in expected.items():
        levels = VARIANTS[name].levels
        assert (levels[0], levels[-1], len(levels)) == (first, last, steps)
        assert len({round(b - a, 9) for a, b in pairwise(levels)}) == 1
    assert VARIANTS["quant_attn"].levels == [1024, 512, 256, 128, 64, 32, 16, 8, 4]
    for variant in VARIANTS.values():
        assert isinstance(variant, Variant)
        for level in variant.levels:
            METHODS[variant.method].check(variant.method, level)
