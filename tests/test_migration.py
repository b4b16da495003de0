"""The page "Coming from the earlier scripts": nothing that they offered is missing, and every line that replaces it runs.

Lines run as they stand, in a folder with copies of `configs/` and `sweeps/` that ask for little, with tiny subjects instead of
those that need the hub. Every `list`, the help and plain evaluations always run; all others with the slow tests.
"""

import copy
import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
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

PAGE = (ROOT / "docs/migration.md").read_text(encoding="utf-8")
BEGINS = "python -m lit_degrade "
SPAN = re.compile(r"`([^`\n]+)`")
FOUND = [span for span in SPAN.findall(PAGE) if span.startswith(BEGINS)]
COMMANDS = list(dict.fromkeys(FOUND))
LEAST = 88
"""Distinct commands that were counted on the page when it was written."""

PROBE = {"text.probe_tokens": 1024}
ATTACK = PROBE | {
    "model.null_space.products": 20, "model.null_space.random_directions": 3, "model.stimuli.evaluations": 30,
    "trainer.max_steps": 3,
}  # fmt: skip
SHRUNK: dict[str, dict[str, Any]] = {
    "adversarial": PROBE | {
        "model.epsilons": [0.0, 0.1], "model.steps": 2, "model.draws": 1, "model.windows": 2, "model.token_changes": [1],
        "model.decoding.max_new_tokens": 4,
    },
    "audit": ATTACK,
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
        for path in (ROOT / "sweeps").glob("*.yaml"):
            self._write(path, self._small_sweep(path))
        (folder / "my_text.txt").write_text("\n".join(itertools.chain.from_iterable(stdlib_paragraphs())), encoding="utf-8")
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
            for place in (arg for arg in args[1:2] if not arg.startswith("-")):
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


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("workplace"))


@pytest.fixture
def workplace(made: Workplace, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    monkeypatch.chdir(made.folder)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    return made


def run_of(out: str) -> Path:
    """The record that a run names in its last line."""
    return Path(out.strip().splitlines()[-1])


LIGHT = ("list ", "predict --help", "fit --help", "test --config configs/evaluate.yaml")
"""How commands begin that are always run; all others run with the slow tests."""


def _lines() -> list[Any]:
    """Every command of the page."""
    lines = []
    for command in COMMANDS:
        words = command.removeprefix(BEGINS)
        lines.append(pytest.param(command, id=words, marks=[] if words.startswith(LIGHT) else [pytest.mark.slow]))
    return lines


@pytest.mark.parametrize("command", _lines())
def test_the_line_runs(command: str, workplace: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
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
            assert said.out.startswith(f"{args[1]}:\n  ")
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


def test_no_command_escapes() -> None:
    """Every mention of our command line is a whole span of code on one line, and none is lost."""
    assert PAGE.count(BEGINS.strip()) == len(FOUND)
    assert len(COMMANDS) >= LEAST
    assert "```" not in PAGE


def test_everything_that_is_run_is_made_small() -> None:
    text = "\n".join(COMMANDS)
    sweeps = set(re.findall(r"sweeps/(\w+)\.yaml", text))
    assert sweeps == set(KEPT)
    text += "\n".join((ROOT / f"sweeps/{name}.yaml").read_text() for name in sweeps)
    assert set(re.findall(r"\bconfigs/(\w+)\.yaml", text)) <= set(SHRUNK)


@pytest.mark.parametrize(("place", "anchor"), re.findall(r"\]\(([^)#]*)(#[^)]*)?\)", PAGE))
def test_links_lead_somewhere(place: str, anchor: str) -> None:
    path = ROOT / "docs" / place if place else ROOT / "docs/migration.md"
    headings = [line.lstrip("#").strip().lower() for line in path.read_text().splitlines() if line.startswith("#")]
    assert not anchor or anchor[1:] in [re.sub(r"[^\w -]", "", heading).replace(" ", "-") for heading in headings]


LLAMA = "phase1_runner_enhanced.py --model meta-llama/Llama-3.1-8B"
OLD = "./experiments/results/"
THERE: dict[str, list[str]] = {
    "1. LLM degradation experiments": [
        "src.main --task dreams_it --variants gauss_attn",
        "src.main --task iq_it --variants gauss_attn,gauss_mlp",
        "src.main --task cookie_theft_it --variant-indexes 1-5",
        "src.main --help",
    ],
    "2. Weight sensitivity analysis framework": [
        "run_analysis.py",
        "run_analysis.py --model gpt-neo-125m --analysis sensitivity",
        "run_analysis.py --model MODEL_NAME --analysis ANALYSIS_TYPE",
        "run_analysis.py --model llama-2-7b",
        "run_analysis.py --analysis pruning",
        "run_analysis.py --model gpt-neo-125m --analysis pruning",
        "run_analysis.py --model gpt-neo-125m --analysis robustness",
        "run_analysis.py --list-models",
        "run_analysis.py --list-analyses",
        "run_analysis.py --skip-finetune",
        "run_analysis.py --output-dir ./my_custom_output",
        'run_model.py --model MODEL_NAME --prompt "Your prompt here"',
        'layers_to_ablate = ["model.layers.5.mlp.gate_proj.weight"]',
    ],
    "3. Eigen-prion experiments on Pythia": [
        "experiment_orchestrator.py --priority 1 --num-runs 10",
        "experiment_orchestrator.py --priority 2 --num-runs 3",
        "experiment_orchestrator.py --priority 3 --num-runs 3",
        "experiment_orchestrator.py --priority 4 --model 1b --num-runs 3",
        "experiment_orchestrator.py --priority 2",
        "experiment_orchestrator.py --priority 3",
        "experiment_orchestrator.py --priority 4 --model 1b",
        "run_experiment.py --model 70m --quantization fp16 --force-fft --num-runs 10 --seed 42 "
        f"--output-dir {OLD}priority1_scaling_law/raw_data/ --control-type none --verbosity normal",
        f"run_experiment.py --model 160m --quantization fp16 --force-fft --control-type none --output-dir {OLD}",
        "run_experiment.py --help",
        f"analyze_experiments.py 1 --results-dir {OLD}priority1_scaling_law/raw_data/ --models 70m 160m 410m 1b "
        f"--output-dir {OLD}priority1_scaling_law/",
        "--filter-method iqr --filter-metric perplexity_increase --filter-iqr-multiplier 1.5",
        f"analyze_experiments.py 2 --results-dir {OLD}priority2_placebo/raw_data/ --model 410m "
        f"--treatments eigen_prion gaussian_noise random_text --output-dir {OLD}priority2_placebo/",
        f"analyze_experiments.py 3 --results-dir {OLD}priority3_mechanism/raw_data/ --model 410m --optimizers adamw sgd "
        f"--output-dir {OLD}priority3_mechanism/",
        f"analyze_experiments.py 4 --results-dir {OLD}priority4_shield/raw_data/ --model 1b --precisions fp16 8bit 4bit "
        f"--output-dir {OLD}priority4_shield/",
        f"analyze_priority1.py --results-dir {OLD} --models 70m 160m 410m 1b --output-dir {OLD}scaling_law_analysis/",
    ],
    "4. Sensitivity and robustness pipeline": ["llm_main_v4.py"],
    "5. Critical weight analysis": [
        "phase1_runner_enhanced.py --model gpt2 --metric grad_x_weight --topk 100 --mode per_layer --save-plots "
        "--out-dir results/gpt2_analysis",
        f"{LLAMA} --metric hutchinson_diag --topk 100 --mode global --perturb sign_flip --perturb-scale 1.0 "
        "--controls random_k,bottom_k --seeds 0,1,2 --stability-check --save-plots "
        "--out-dir outputs/llama31_8b_hutch_diag_k100",
        "phase1_runner_enhanced.py --model gpt2 --metric magnitude --topk 50 --max-samples 10 --save-plots "
        "--out-dir results/quick_validation",
        f"{LLAMA} --metric grad_x_weight --topk 500 --mode per_layer --perturb sign_flip --controls random_k,bottom_k "
        "--seeds 0,1,2 --stability-check --device cuda --max-samples 50 --save-plots --out-dir results/llama31_comprehensive",
        "phase1_runner_enhanced.py --model $model --metric grad_x_weight --topk 300 --mode per_layer --perturb sign_flip "
        "--controls random_k,bottom_k --seeds 0,1,2 --stability-check --save-plots --out-dir results/comparison/${model_name}",
        f"{LLAMA} --metric grad_x_weight --topk 500 --mode per_layer --save-plots --out-dir results/llama/analysis/",
        "phase1_runner_enhanced.py --model mistralai/Mistral-7B-v0.1 --metric grad_x_weight --topk 500 --mode per_layer "
        "--save-plots --out-dir results/mistral/analysis/",
        f"{LLAMA} --metric magnitude --topk 100 --max-samples 20 --max-length 256 --out-dir results/memory_optimized/",
        "run_research_tests.sh",
        "run_research_tests.sh validation",
        "run_research_tests.sh llama",
        "run_research_tests.sh mistral",
        "run_research_tests.sh perturbation",
        "generate_research_report.py --input-dirs results/ --output research_summary",
        "generate_research_report.py --input-dirs results/ --output final_research_summary",
        "python -c \"import torch; print('CUDA available:', torch.cuda.is_available())\"",
    ],
}
"""Every command that the documents of each collection show, without `python` and the folder of the script."""

WORDS: dict[str, str] = {
    "1. LLM degradation experiments": """
        --task --variants --variant-indexes dreams_it iq_it cookie_theft_it mult_gauss ablation uni_quant attn_only mlp_only
        embed_only gauss_attn gauss_mlp gauss_embed ablation_attn quant_attn results/outputs_{method}_{model}_{task}.json logs/
        configs/prompts.py configs/experiment_configs.py src/degradation.py src/generation.py src/model_loader.py
        src/pipeline.py src/utils.py docs/guide.md docs/output_schema.md""",
    "2. Weight sensitivity analysis framework": """
        --model --analysis --list-models --list-analyses --prompt --skip-finetune --output-dir sensitivity pruning robustness
        adversarial bit-level integrated evaluate config.py run_analysis.py run_model.py iterate.py
        llm_weight_sensitivity_analysis.py llm_prune_model.py llm_robustness_test.py llm_adversarial_test.py
        llm_bit_level_and_ablation_analysis.py llm_evaluate_models.py llm_integrated_analysis.py llm_analyze_sensitivity.py
        llm_super_weights.py llm_robust_analysis_display.py llm_train.py LLM_RESEARCH.md model_cache/
        data/gpu_llm_finetuned_* data/gpu_llm_pruned_*.pth data/gpu_llm_noisy_*.pth outputs/ANALYSIS_TYPE_MODEL_NAME_TIMESTAMP/
        ablation_results.json ablation_results.png analysis_report.txt utils/ llm_analysis/ archive/ llm_my_analysis.py""",
    "3. Eigen-prion experiments on Pythia": """
        --priority --num-runs --seed --model --output-dir --verbosity quiet normal verbose --quantization none fp16 8bit 4bit
        --force-fft --optimizer adamw sgd --control-type random_tokens gaussian_noise random_text eigen_prion
        --results-dir --models --use-absolute --no-absolute --filter-method iqr zscore --filter-metric rank_reduction
        perplexity_increase perplexity_post --filter-iqr-multiplier --filter-zscore-threshold --treatments --optimizers
        --precisions scaling_law_summary.csv scaling_law_summary.json scaling_law_curve.png placebo_summary.csv
        placebo_summary.json placebo_comparison.png mechanism_summary.csv mechanism_summary.json mechanism_comparison.png
        shield_summary.csv shield_summary.json shield_matrix.png priority1_scaling_law/ priority2_placebo/
        priority3_mechanism/ priority4_shield/ raw_data/ pythia_<SIZE>_pythia-<SIZE>_run<NN>_<PRECISION>/
        aggregate_summary_*.csv""",
    "4. Sensitivity and robustness pipeline": """
        load_or_train_model() prune_model() apply_robustness_test() evaluate_model() test_adversarial_robustness()
        run_integrated_analysis() data/gpu_llm_finetuned_llama27bhf data/gpu_llm_pruned_llama27bhf.pth
        data/gpu_llm_noisy_llama27bhf.pth llm_prune_model.py llm_robustness_test.py llm_evaluate_models.py
        llm_adversarial_test.py llm_integrated_analysis.py""",
    "5. Critical weight analysis": """
        --model --metric --topk --mode --device --max-samples --max-length --perturb --perturb-scale --perturb-prob --controls
        random_k,bottom_k --seeds --stability-check --save-plots --out-dir --data-file --downstream-tasks --task-samples
        --weight-analysis grad_x_weight grad_squared hutchinson_diag magnitude act_mag random
        sign_flip gauss_noise bit_flip zero src/sensitivity/metrics.py rank.py perturb.py
        src/eval/perplexity.py downstream.py src/models/loader.py
        src/utils/manifest.py src/utils/visualize.py enhanced_visualize.py src/data/ install_uv.sh research_summary.md
        research_summary_plots/ RESEARCH_TESTING_GUIDE.md QUICK_RESEARCH_COMMANDS.md .github/copilot-instructions.md""",
}
"""Every option, choice, name and file that the documents list."""


def there(section: str) -> list[str]:
    """Code in the left column of the tables of a section."""
    body = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return [span for line in body.splitlines() if line.startswith("| ") for span in SPAN.findall(line.split(" | ")[0])]


@pytest.mark.parametrize(("section", "command"), [(name, command) for name, shown in THERE.items() for command in shown])
def test_every_command_shown_there_has_a_row(section: str, command: str) -> None:
    assert command in there(section)


@pytest.mark.parametrize("section", WORDS)
def test_every_option_and_name_there_has_a_row(section: str) -> None:
    assert section in THERE
    known = {word for span in there(section) for word in span.split()}
    assert sorted(set(WORDS[section].split()) - known) == []


def test_the_models_that_were_listed_are_subjects() -> None:
    """Of the second collection, by the names that it had; pythia-SIZE for the third."""
    listed = PAGE.partition("\nModels: ")[2].partition(":")[0]
    names = SPAN.findall(listed)
    assert len(names) == 13
    sizes = [f"pythia-{size}" for size in ("70m", "160m", "410m", "1b", "1.4b", "2.8b")]
    assert {*names, *sizes, "gpt2", "llama-3.1-8b", "gemma-3-4b-it"} <= set(HUB)
