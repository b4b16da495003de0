"""Run ids: pinned, blind to what changes no number, changed by every content that does; records of version 0.1 are found."""

import inspect
import json
import shutil
from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import CONFIGS, ROOT, verb_of
from safetensors.torch import save_file

from lit_degrade import modules
from lit_degrade.cli import main
from lit_degrade.evidence.reading.runs import read_runs
from lit_degrade.grids.sweep_file import command_line, load_sweep, own_arguments, points
from lit_degrade.modules import FinetuneModule
from lit_degrade.records import paths
from lit_degrade.run import resolve
from lit_degrade.stimuli.catalog import OptimizerName
from lit_degrade.subjects.catalog import EMBEDDED_FOLDER, SubjectSpec
from lit_degrade.text import TextSource

PINNED = json.loads((ROOT / "tests/ids.json").read_text())
OLD = ROOT / "tests/records_0_1"
"""Records that version 0.1 made, without their tensors."""
SWEEPS = sorted((ROOT / "sweeps").rglob("*.yaml"))
FIT = ["fit", "--config", str(ROOT / "configs/finetune.yaml")]
TEST = ["test", "--config", str(ROOT / "configs/evaluate.yaml")]


def id_of(*args: str) -> str:
    return resolve(args).run_id


def sweep_ids(path: Path, which: Sequence[int]) -> list[str]:
    """Ids of some points of a sweep file."""
    found = load_sweep(path)
    chosen = points(found, 1000)
    with chdir(ROOT):
        return [id_of(*own_arguments(found, command_line(found, chosen[i], Path("unused")))) for i in which]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda p: p.name)
def test_ids_of_configs_are_pinned(config: Path) -> None:
    with chdir(ROOT):
        assert id_of(verb_of(config), "--config", str(config)) == PINNED["configs"][config.stem]


@pytest.mark.parametrize("path", [path for path in SWEEPS if path.parent.name == "tiny"], ids=lambda p: p.name)
def test_ids_of_sweeps_are_pinned(path: Path) -> None:
    """One point of each; the slow test below has more."""
    pinned = PINNED["sweeps"][str(path.relative_to(ROOT / "sweeps"))]
    assert sweep_ids(path, [len(pinned) // 2]) == [pinned[len(pinned) // 2]]


@pytest.mark.slow
@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: str(path.relative_to(ROOT / "sweeps")))
def test_ids_of_all_sweeps_are_pinned(path: Path) -> None:
    """Every point with the first seed, and the first of them with every seed."""
    pinned = PINNED["sweeps"][str(path.relative_to(ROOT / "sweeps"))]
    chosen = points(load_sweep(path), 1000)
    first, others = chosen[0], len(chosen[0]) - 1
    alike = [sum(point[key] == first[key] for key in point if key != "seed_everything") == others for point in chosen]
    which = [i for i, point in enumerate(chosen) if alike[i] or point["seed_everything"] == first["seed_everything"]]
    assert sweep_ids(path, which) == [pinned[i] for i in which]
    assert len(set(pinned)) == len(pinned) == len(chosen)


def defaults() -> dict[str, Any]:
    """Every default of every module and of text and subject, as text."""
    owners = [*(getattr(modules, name) for name in modules.__all__), TextSource, SubjectSpec]
    empty = inspect.Parameter.empty
    return {
        owner.__name__: {k: repr(p.default) for k, p in inspect.signature(owner).parameters.items() if p.default is not empty}
        for owner in owners
    }


def test_defaults_are_pinned() -> None:
    """An id says only what differs from the defaults. Where one must change, its key needs another name: else a record of the
    old default would answer for the new one. New keys are added to the file.
    """
    pinned = PINNED["defaults"]
    found = {
        owner: {key: text for key, text in keys.items() if key in pinned.get(owner, {})} for owner, keys in defaults().items()
    }
    # settings are printed with all their fields: a new field at the end is no change
    for owner, keys in pinned.items():
        for key, text in keys.items():
            assert found[owner][key].rstrip(")").startswith(text.rstrip(")")), f"{owner}.{key}"


SAME = {
    "results": ["--results", "elsewhere"],
    "verbosity": ["--verbosity", "quiet"],
    "cache": ["--cache_gb", "0"],
    "repeat": ["--repeat", "true"],
    "log interval": ["--trainer.log_every_n_steps", "1"],
    "device": ["--trainer.devices", "[0]"],
    "bar": ["--trainer.enable_progress_bar", "true"],
    "a default said": ["--model.batch", "8"],
    "no clipping": ["--trainer.gradient_clip_val", "0"],
    "whole number": ["--model.lr", "0.0001"],
}
OTHER = {
    "seed": ["--seed_everything", "44"],
    "subject": ["--subject", "tiny-60k"],
    "precision": ["--precision", "bf16"],
    "adapter": ["--adapter", "lora"],
    "lr": ["--model.lr", "1e-3"],
    "steps": ["--trainer.max_steps", "99"],
    "clipping": ["--trainer.gradient_clip_val", "1"],
    "text": ["--text.block", "64"],
    "experiment": ["--experiment", "other"],
    "attack": ["--attacked_by", str(ROOT / "configs/priority3.yaml")],
    "callbacks": ["--trainer.callbacks", "[{class_path: LogDamage}]"],
}


@pytest.mark.parametrize("case", SAME)
def test_what_changes_no_number_changes_no_id(case: str) -> None:
    assert id_of(*FIT, *SAME[case]) == PINNED["configs"]["finetune"]


def test_what_changes_numbers_changes_the_id() -> None:
    ids = {case: id_of(*FIT, *args) for case, args in OTHER.items()}
    assert len({*ids.values(), PINNED["configs"]["finetune"]}) == len(OTHER) + 1


def test_a_new_key_whose_default_means_as_before_leaves_ids_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class WithANewKey(FinetuneModule):
        def __init__(
            self, subject: SubjectSpec, text: TextSource, seed: int, lr: float = 1e-4, batch: int = 8, block: int = 128,
            optimizer: OptimizerName = "adamw", keep_zeros: bool = False, momentum: float = 0.0,
        ) -> None:  # fmt: skip
            super().__init__(subject, text, seed, optimizer, lr, batch, block, keep_zeros)
            self.momentum = momentum

    WithANewKey.__name__ = WithANewKey.__qualname__ = "FinetuneModule"
    WithANewKey.__module__ = "lit_degrade.modules"
    monkeypatch.setattr(modules, "FinetuneModule", WithANewKey)
    config = tmp_path / "finetune.yaml"
    config.write_text((ROOT / "configs/finetune.yaml").read_text().replace(": Fine", ": lit_degrade.modules.Fine"))
    fit = ["fit", "--config", str(config)]
    assert id_of(*fit) == PINNED["configs"]["finetune"]
    assert len({id_of(*fit), id_of(*fit, "--model.momentum", "0.5"), id_of(*fit, "--model.momentum", "0.9")}) == 3


def test_a_new_field_of_settings_leaves_ids_alone() -> None:
    """Settings inside lists too, where no default of the module says what they are."""
    from dataclasses import dataclass, field

    from lit_degrade.records.identity import changed

    @dataclass(frozen=True)
    class Settings:
        a: int = 1
        new: float = 0.0
        deep: list[int] = field(default_factory=list)

    def module(one: Settings = Settings(a=2), many: Sequence[Settings] = (), none: Settings | None = None) -> None: ...

    full = {"a": 2, "new": 0.0, "deep": []}
    module.__annotations__ = {"one": Settings, "many": Sequence[Settings], "none": Settings | None}
    assert changed(module, {"one": full, "many": [], "none": None}) == {}
    assert changed(module, {"one": {**full, "a": 1}}) == {"one": {"a": 1}}
    assert changed(module, {"many": [full, {**full, "a": 1.0}]}) == {"many": [{"a": 2}, {}]}
    assert changed(module, {"none": {**full, "new": 0.5}})["none"]["new"] == 0.5


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Everything that a config can name by its place."""
    here = tmp_path / "here"
    here.mkdir()
    (here / "text.txt").write_text("one\ntwo\n")
    (here / "items.jsonl").write_text('{"text": "the last word"}\n')
    (here / "picture.png").write_bytes(b"a picture")
    (here / "tasks").mkdir()
    (here / "tasks/task.yaml").write_text("task: mine\n")
    save_file({"a": torch.arange(3)}, here / "chosen.safetensors")
    shutil.copytree(EMBEDDED_FOLDER / "tiny-60k", here / "subject")
    (here / "adapters").mkdir()
    (here / "adapters/adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(here / "subject")}))
    (here / "adapters/base_subject.json").write_text(json.dumps({"base_subject": str(here / "subject")}))
    return here


BENCHMARKS = ["test", "--config", str(ROOT / "configs/benchmarks.yaml")]
PROMPT = ["predict", "--config", str(ROOT / "configs/prompt.yaml")]
NAMED = {
    "text.txt": (TEST, "--text.source={}/text.txt"),
    "items.jsonl": (BENCHMARKS, "--model.benchmarks=[hellaswag, 'lambada={}/items.jsonl']"),
    "tasks/task.yaml": (BENCHMARKS, "--model.include_path={}/tasks"),
    "picture.png": (PROMPT, "--model.image={}/picture.png"),
    "chosen.safetensors": (TEST, "--model.perturbation.selection={}/chosen.safetensors"),
    "subject/config.json": (TEST, "--subject={}/subject"),
    "subject/tokenizer.json": (PROMPT, "--model.beside=[tiny-60k, '{}/subject']"),
    "subject/model.safetensors": (TEST, "--subject={}/adapters"),
}


@pytest.mark.parametrize("file", NAMED)
def test_what_is_named_by_its_place_enters_by_its_content(file: str, files: Path) -> None:
    args, option = NAMED[file]
    before = resolve([*args, option.format(files)])
    assert before.run_id != id_of(*args)
    assert str(files / file) in before.files
    shutil.copytree(files, files.with_name("moved"))
    if "adapters" not in option:  # they name their base by its place
        assert id_of(*args, option.format(files.with_name("moved"))) == before.run_id
    (files / file).write_bytes((files / file).read_bytes() + b"\n")
    assert id_of(*args, option.format(files)) != before.run_id


def test_a_missing_file_is_one_line(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args, option = NAMED["items.jsonl"]
    assert main([*args, option.format(files / "elsewhere"), "--results", str(files / "results")]) == 2
    err = capsys.readouterr().err
    assert "Benchmark file" in err
    assert "cannot be read: No such file or directory" in err
    assert len(err.splitlines()) == 1
    assert not (files / "results").exists()


def old(folder: Path) -> Path:
    shutil.copytree(OLD, folder / "results")
    return folder / "results"


BEFORE = {"model.lr": ["1.0e-4", "1.0e-3"], "seed_everything": ["43", "44"]}
SHARED = ["--subject=tiny-60k", "--text.probe_tokens=2048", "--trainer.max_steps=2"]


def test_records_of_version_0_1_are_found_and_reported_with_new_ones(tmp_path: Path) -> None:
    results = f"--results={old(tmp_path)}"
    with chdir(ROOT):  # where the attack's config lies
        found = [resolve([*FIT, *SHARED, results, f"--model.lr={lr}", f"--seed_everything={seed}"])
                 for lr in BEFORE["model.lr"] for seed in BEFORE["seed_everything"]]  # fmt: skip
        heal = ["fit", "--config=configs/healing.yaml", *SHARED, results]
        attack = "--attacked_by=configs/finetune.yaml --model.lr=1.0e-3 --trainer.max_steps=2"
        found += [resolve([*heal, attack, f"--seed_everything={seed}"]) for seed in (43, 44)]
        assert resolve([*heal, attack, "--seed_everything=45"]).finished() is None
    assert [record.finished() for record in found] == ["done"] * 6
    assert {record.run_id for record in found} == {p.parent.name for p in OLD.glob("[fh]*/*/manifest.json")}
    assert main([*FIT, *SHARED, results, "--verbosity=quiet", "--seed_everything=45"]) == 0
    runs = read_runs([tmp_path / "results/finetune"])
    assert runs.defects == []
    assert len(runs.table) == 5
    assert list(runs.table.groupby("lr").size()) == [3, 2]


def test_a_repeated_record_keeps_its_earlier_id(tmp_path: Path) -> None:
    args = [*FIT, *SHARED, f"--results={old(tmp_path)}", "--verbosity=quiet"]
    before = resolve(args)
    assert main([*args, "--repeat=true"]) == 0
    again = resolve(args)
    assert (again.folder, again.finished()) == (before.folder, "done")
    assert json.loads((again.folder / paths.MANIFEST).read_text())["identity"] == again.identity.what
    assert len(list((tmp_path / "results/finetune").iterdir())) == 4


@pytest.mark.parametrize("changed", ["", "old.txt", "sub/config.json"])
def test_records_of_version_0_1_are_found_only_while_their_inputs_are_the_same(changed: str, tmp_path: Path) -> None:
    old(tmp_path)
    lines = (f"Paragraph {i} says that item {i * 7 % 101} is worth {i * i % 977}." for i in range(3000))
    (tmp_path / "old.txt").write_text("\n".join(lines))
    shutil.copytree(EMBEDDED_FOLDER / "tiny-60k", tmp_path / "sub")
    if changed:
        (tmp_path / changed).write_text((tmp_path / changed).read_text() + "\n\nmore" * (changed == "old.txt") + "\n")
    args = [*TEST, "--subject=sub", "--text.source=old.txt", "--text.block=32", "--text.probe_tokens=320"]
    with chdir(tmp_path):
        assert resolve(args).finished() == (None if changed else "done")
