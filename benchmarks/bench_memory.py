"""Peak memory of an attack, by subject and by setting, each in a process of its own.

python benchmarks/bench_memory.py          # the embedded ladder
python benchmarks/bench_memory.py 160m     # random weights in the shape of Pythia-160M, on the CPU: ten minutes on 2 cores
python benchmarks/bench_memory.py flat     # the same subject, an attack inside a flat subspace: five minutes
python benchmarks/bench_memory.py whole    # the same with everything that an attack has, and its time: half an hour
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
LIGHT = ["--config", "configs/null_spaces/light.yaml"]
BRIEF = ["--trainer.max_steps=3", "--text.probe_tokens=2048", "--model.stimuli.evaluations=30"]
SHORT = [
    *BRIEF,
    "--model.null_space.calibration_blocks=1",
    "--model.null_space.random_directions=1",
]
FLAT = [
    "--model.stimulus=eigen_prion",
    "--model.projection=flat",
    "--model.flat.microbatch=1",
    "--model.flat.calibration_blocks=2",
    "--model.flat.products=10",
    "--model.flat.draws=1",
]
FEW_TOKENS = ["--model.flat.tokens_per_input=1", *BRIEF]
WHOLE = ["--model.flat.tokens_per_input=4", "--text.probe_tokens=8192"]
"""12,288 tokens: 16 for each of the 768 inputs that are rotated as a whole."""
VARIANTS = {
    "light null space": LIGHT,
    "light, gradient checkpointing": [*LIGHT, "--gradient_checkpointing=true"],
    "light, checkpointing, adafactor": [*LIGHT, "--gradient_checkpointing=true", "--model.optimizer=adafactor"],
    "light, checkpointing, lora, nf4": [*LIGHT, "--gradient_checkpointing=true", "--adapter=lora", "--precision=nf4"],
    "light, but a signal subspace of ten": [*LIGHT, "--model.null_space.signal=10"],
}


def random_160m(folder: Path) -> None:
    """GPT-NeoX with Pythia-160M's shape and random weights, and an embedded subject's tokenizer."""
    import torch
    from transformers import AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=50304, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072, dtype="float16"
    )
    GPTNeoXForCausalLM(config).half().save_pretrained(folder)
    AutoTokenizer.from_pretrained(ROOT / "lit_degrade/subjects/embedded/tiny-1m").save_pretrained(folder)


def peak(*args: str, config: str = "priority1") -> tuple[int, dict[str, float]]:
    """Peak resident bytes of one attack, and how long its stages took."""
    with tempfile.TemporaryDirectory() as results:
        command = [
            sys.executable,
            "-m",
            "lit_degrade",
            "fit",
            "--config",
            f"configs/{config}.yaml",
            *args,
            f"--results={results}",
        ]
        environment = {**os.environ, "WANDB_MODE": "disabled"}
        subprocess.run(
            [*command, "--cache_gb=0", "--verbosity=quiet"], cwd=ROOT, env=environment, check=True, capture_output=True
        )
        (manifest,) = Path(results).glob("*/*/manifest.json")
        found = json.loads(manifest.read_text())
        return found["peak_memory_bytes"]["cuda"] or found["peak_memory_bytes"]["host"], found["durations_s"]


def main() -> None:
    if sys.argv[1:] == ["160m"]:
        with tempfile.TemporaryDirectory() as temporary:
            random_160m(Path(temporary))
            for name, args in VARIANTS.items():
                found, durations = peak("--subject", temporary, *SHORT, *args)
                print(f"{name:<45}{found / 1e9:6.2f} GB   {durations['total']:6.0f} s", flush=True)
    elif sys.argv[1:] in (["flat"], ["whole"]):
        with tempfile.TemporaryDirectory() as temporary:
            random_160m(Path(temporary))
            size = FEW_TOKENS if sys.argv[1] == "flat" else WHOLE
            found, durations = peak("--subject", temporary, *FLAT, *size, config="flat_attack")
            print(f"flat attack, {sys.argv[1]:<32}{found / 1e9:6.2f} GB   {durations}", flush=True)
    else:
        for subject in ("tiny-60k", "tiny-250k", "tiny-1m", "tiny-3m"):
            for name, args in {"as in priority1": [], "light null space": LIGHT}.items():
                found, durations = peak("--subject", subject, *args)
                print(f"{subject:<12}{name:<20}{found / 1e9:6.2f} GB   {durations['total']:6.0f} s", flush=True)


if __name__ == "__main__":
    main()
