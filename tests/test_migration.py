"""The page "Coming from the earlier scripts": nothing that they offered is missing, and every line that replaces it runs.

Lines run as they stand, in a folder with copies of `configs/` and `sweeps/` that ask for little, with tiny subjects instead of
those that need the hub. Every `list`, the help and plain evaluations always run; all others with the slow tests.
"""

import re

import pytest
from helpers import ROOT
from workplace import BEGINS, KEPT, SHRUNK, Workplace, check_line, lines

from lit_degrade.subjects.catalog import HUB

PAGE = (ROOT / "docs/migration.md").read_text(encoding="utf-8")
SPAN = re.compile(r"`([^`\n]+)`")
FOUND = [span for span in SPAN.findall(PAGE) if span.startswith(BEGINS)]
COMMANDS = list(dict.fromkeys(FOUND))
LEAST = 88
"""Distinct commands that were counted on the page when it was written."""


@pytest.mark.parametrize("command", lines(COMMANDS))
def test_the_line_runs(command: str, workplace: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    check_line(command, workplace, capsys)


def test_no_command_escapes() -> None:
    """Every mention of our command line is a whole span of code on one line, and none is lost."""
    assert PAGE.count(BEGINS.strip()) == len(FOUND)
    assert len(COMMANDS) >= LEAST
    assert "```" not in PAGE


def test_everything_that_is_run_is_made_small() -> None:
    text = "\n".join(COMMANDS)
    sweeps = set(re.findall(r"sweeps/(\w+)\.yaml", text))
    assert sweeps <= set(KEPT)
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
