"""Commands of the documentation, run as they stand: small configs and sweeps, and tiny subjects for those that need the hub."""

import copy
import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import FOLDER_CONTEXT, random_folder, random_model
from helpers import ROOT, manifest_of, published_run
from transformers import AutoTokenizer

from lit_degrade.cli import VERBS, main
from lit_degrade.records import paths
from lit_degrade.subjects.catalog import HUB, LADDER
from lit_degrade.text import stdlib_paragraphs

BEGINS = "python -m lit_degrade "
PROBE = {"text.probe_tokens": 1024}
ATTACK = PROBE | {
    "model.null_space.products": 20, "model.null_space.random_directions": 3, "model.stimuli.evaluations": 30,
    "trainer.max_steps": 3,
}  # fmt: skip
FLAT = PROBE | {
    "model.flat.tokens_per_input": 1, "model.flat.calibration_blocks": 1, "model.flat.draws": 1, "model.flat.products": 2,
}  # fmt: skip
SHRUNK: dict[str, dict[str, Any]] = {
    "adversarial": PROBE | {
        "model.epsilons": [0.0, 0.1], "model.steps": 2, "model.draws": 1, "model.windows": 2, "model.token_changes": [1],
        "model.decoding.max_new_tokens": 4,
    },
    "audit": ATTACK,
    "catalysts": {key: value for key, value in ATTACK.items() if key != "trainer.max_steps"},
    "healing": PROBE | {"trainer.max_steps": 2},
    "pretrain_tiny": PROBE | {"trainer.max_steps": 2},
    "benchmarks": PROBE,
    "bit_faults": PROBE | {"model.levels": [1e-4], "model.repetitions": 1},
    "bit_search": PROBE | {
        "model.candidates": 8, "model.search_blocks": 1, "model.budget": 2, "model.control_budget": 4, "model.draws": 1,
    },
    "bit_sensitivity": PROBE | {"model.k": 1, "model.layers": "0", "model.blocks": 1, "model.calibration_blocks": 2},
    "comparison": PROBE | {
        "model.prune": [{"method": "magnitude", "sparsity": 0.5}], "model.attacks": ["fgsm"],
        "model.perturb": [{"method": "add_gauss", "target": "all", "level": 0.05}], "model.decoding.max_new_tokens": 4,
    },
    "criticality": PROBE | {
        "model.scores.calibration_blocks": 4, "model.scores.batches": 2, "model.scores.probes": 2, "model.k": [10],
        "model.draws": 1,
    },
    "degradation": PROBE | {"model.repetitions": 1, "model.decoding.max_new_tokens": 2},
    "evaluate": PROBE,
    "exchange_rate": PROBE | {"model.methods": "zero", "model.targets": "mlp_only", "model.repetitions": 1},
    "finetune": PROBE | {"trainer.max_steps": 2},
    "flat_attack": FLAT | {"trainer.max_steps": 2, "model.stimuli.evaluations": 30},
    "flatness": FLAT | {"model.relative_norms": [0.1], "model.draws": 1},
    "layer_ablation": PROBE,
    "priority1": ATTACK,
    "priority2": ATTACK,
    "priority3": ATTACK,
    "priority4": ATTACK,
    "prompt": PROBE | {"model.levels": [0.1], "model.decoding.max_new_tokens": 4},
    "prune": PROBE | {"model.prune.calibration_blocks": 2},
    "robustness": PROBE | {"model.levels": [0.0, 0.05], "model.repetitions": 1},
    "super_weights": PROBE | {
        "model.calibration_blocks": 2, "model.null_models": 1, "model.controls": 5, "model.most": 2,
    },
}  # fmt: skip
"""What makes each config that occurs small."""
KEPT = {
    "priority1_scaling": ("model.stimulus",), "priority2_placebo": ("model.stimulus",),
    "priority3_optimizer": ("model.optimizer",),
    "priority4_shield": ("config",), "audit": ("model.protocol",), "robustness": ("model.perturbation.method",),
    "integrated": ("config",), "pipeline": ("config",), "criticality": (), "exchange_rate": (), "degradation": (),
    "adversarial": (), "flat_attack": ("model.projection",), "flatness": (), "pruning": ("model.prune.method",),
}  # fmt: skip
"""Sweep -> the parameters that it is about: they keep two values (configs of analyses: all), every other one keeps one."""
LEVELS = {"degradation": [0.0, 0.5]}
"""Sweeps whose config leaves the levels to the variant."""
RUN = re.compile(r"results/(\w+)/RUN")
"""A record on the page, as in results/pruning/RUN."""


def set_key(config: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key of the command line in a config."""
    *groups, last = key.replace("model.", "model.init_args.", 1).split(".")
    for group in groups:
        config = config.setdefault(group, {})
    config[last] = value


class Workplace:
    """A folder in which the page's lines run, and the subjects that stand for those of the hub."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.subjects = {"gemma-3-4b-it": random_folder("gemma3", folder / "gemma"), "mistral-7b": self._mistral()}
        self.subjects |= dict.fromkeys(("llama-3.1-8b", "meta-llama/Llama-3.1-8B"), "tiny-250k")
        for path in (ROOT / "configs").rglob("*.yaml"):
            self._write(path, self._small_config(path))
        for path in (ROOT / "sweeps").rglob("*.yaml"):
            self._write(path, self._small_sweep(path))
        (folder / "my_text.txt").write_text("\n".join(itertools.chain.from_iterable(stdlib_paragraphs())), encoding="utf-8")
        for name, own in (("val.jsonl", "hellaswag_own.jsonl"), ("test.jsonl", "lambada_own.jsonl")):
            shutil.copy(ROOT / "lit_degrade/tasks" / own, folder / name)
        published_run(folder / "experiments/results/priority1_scaling_law/raw_data", "pythia_70m_pythia-70m_run01_fp16")

    def _mistral(self) -> str:
        """Six layers, and matrices of at least a thousand weights."""
        place = random_folder("mistral", self.folder / "mistral")
        sizes = {"max_position_embeddings": FOLDER_CONTEXT, "num_hidden_layers": 6, "num_key_value_heads": 4}
        random_model("mistral", 0, len(AutoTokenizer.from_pretrained(place)), **sizes).save_pretrained(place)
        return place

    def _write(self, path: Path, content: dict[str, Any]) -> None:
        """A copy with the same comments, which `list` reads."""
        copied = self.folder / path.relative_to(ROOT)
        copied.parent.mkdir(parents=True, exist_ok=True)
        comments = itertools.takewhile(lambda line: line.startswith("#"), path.read_text().splitlines())
        copied.write_text("\n".join([*comments, yaml.safe_dump(content, sort_keys=False)]))

    def tiny(self, subject: str) -> str:
        """What stands for a subject of the page."""
        assert subject in (*HUB, *LADDER, "meta-llama/Llama-3.1-8B"), f"no subject is called {subject}"
        return self.subjects.get(subject, "tiny-60k")

    def _small_config(self, path: Path) -> dict[str, Any]:
        config = yaml.safe_load(path.read_text())
        if "subject" in config:
            config["subject"] = self.tiny(config["subject"])
        for key, value in SHRUNK.get(path.stem, {}).items() if path.parent.name == "configs" else ():
            set_key(config, key, value)
        if path.parent.name == "modes":
            set_key(config, "model.k", SHRUNK["criticality"]["model.k"])
        return config

    def _small_sweep(self, path: Path) -> dict[str, Any]:
        sweep = copy.deepcopy(yaml.safe_load(path.read_text()))
        for key, entry in sweep["parameters"].items():
            if "values" in entry and not (key == "config" and path.stem in ("integrated", "pipeline")):
                entry["values"] = entry["values"][: 2 if key in KEPT.get(path.stem, ()) else 1]
            if key == "subject":
                sweep["parameters"][key] = {"value": self.tiny(entry.get("value") or entry["values"][0])}
        for key in ("model.decoding.max_new_tokens", "model.repetitions", "model.scores.metrics"):
            if key in sweep["parameters"]:
                sweep["parameters"][key] = {"value": {"model.scores.metrics": "magnitude,act_mag"}.get(key, 2)}
        if path.stem in LEVELS:
            sweep["parameters"]["model.levels"] = {"value": LEVELS[path.stem]}
        return sweep

    def words(self, command: str) -> list[str]:
        """Arguments of a line of the page, with subjects and records that are here."""
        args = shlex.split(command.removeprefix(BEGINS))
        args = [RUN.sub(lambda found: self.records(found[1])[0], arg) for arg in args]
        if "--subject" in args and not Path(args[at := args.index("--subject") + 1]).is_dir():
            args[at] = self.tiny(args[at])
        if args[0] == "report" and "published" not in args:
            for place in itertools.takewhile(lambda arg: not arg.startswith("-"), args[1:]):
                self.records(Path(place).name if place != "results" else "layer_ablation")
        return args

    def records(self, experiment: str) -> list[str]:
        """Records of a config, made now if there are none."""
        wanted = [("43", []), ("44", [])] if experiment.startswith("priority") else [("43", [])]
        config = {"pruning": "prune"}.get(experiment, experiment)
        header = (ROOT / f"configs/{config}.yaml").read_text()
        verb = re.search(r"python -m lit_degrade (\w+)", header)
        assert verb
        for seed, rest in wanted:
            line = [verb[1], "--config", f"configs/{config}.yaml", "--seed_everything", seed, "--verbosity", "quiet", *rest]
            assert main(line) == 0
        return sorted(str(path.parent) for path in Path("results").glob(f"{experiment}/*/{paths.SUMMARY}"))


def run_of(out: str) -> Path:
    """The record that a run names in its last line."""
    return Path(out.strip().splitlines()[-1])


LIGHT = ("list ", "predict --help", "fit --help", "test --config configs/evaluate.yaml")
"""How commands begin that are always run; all others run with the slow tests."""


def lines(commands: Sequence[str]) -> list[Any]:
    """Commands as parameters of a test, those that take long with the slow tests."""
    shown = {command: command.removeprefix(BEGINS) for command in commands}
    return [
        pytest.param(command, id=words, marks=[] if words.startswith(LIGHT) else [pytest.mark.slow])
        for command, words in shown.items()
    ]


def check_line(command: str, workplace: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    """Run a command line as a page has it, and see that it leaves what it should."""
    args = workplace.words(command)
    verb = args[0]
    assert verb in VERBS
    capsys.readouterr()
    if "--help" in args:
        with pytest.raises(SystemExit) as end:
            main(args)
        assert end.value.code in (0, None)
        assert "usage:" in capsys.readouterr().out
    elif verb == "sweep":
        check_sweep(args)
    else:
        code = main(args)
        said = capsys.readouterr()
        assert code == 0, said.err
        if verb == "list":
            assert said.out.startswith(f"{args[1] if args[1:] else 'subjects'}:\n  ")
        elif verb == "report":
            check_report(args)
        else:
            record = run_of(said.out)
            assert manifest_of(record)["exit_state"] == "done"
            assert record.is_relative_to(args[args.index("--results") + 1] if "--results" in args else "results")


def check_sweep(args: list[str]) -> None:
    """Run it in a process of its own: its workers start where the process that imported them did."""
    name = Path(args[1]).stem
    results = Path("sweep_results") / name
    line = [sys.executable, "-m", "lit_degrade", *args, "--results", str(results)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    states = [manifest_of(path.parent)["exit_state"] for path in results.glob(f"*/*/{paths.MANIFEST}")]
    asked = json.loads((results / paths.SWEEPS / name / paths.PLAN).read_text())
    assert len(states) >= len(asked["runs"]) >= (2 if KEPT[name] else 1)
    assert set(states) == {"done"}
    if "--report" in args:
        assert (results / "reports" / name / "report.html").is_file()


OUTPUTS = {
    "priority1": ("scaling_law_summary.csv", "scaling_law_summary.json", "scaling_law_curve.png"),
    "priority2": ("placebo_summary.csv", "placebo_summary.json", "placebo_comparison.png"),
    "priority3": ("mechanism_summary.csv", "mechanism_summary.json", "mechanism_comparison.png"),
    "priority4": ("shield_summary.csv", "shield_summary.json", "shield_matrix.png"),
    "layer_ablation": ("ablation_map.png",),
}
"""What the page promises below the folder of a report."""


def check_report(args: list[str]) -> None:
    """Pages and promised files, once; then out of the way of the next report."""
    output = Path(args[args.index("--output") + 1]) if "--output" in args else Path(args[1]) / "report"
    assert (output / "report.md").is_file()
    assert ("--html" in args) == (output / "report.html").is_file()
    for name in OUTPUTS.get(Path(args[1]).name, ()):
        assert (output / Path(args[1]).name / name).is_file()
    shutil.rmtree(output)
