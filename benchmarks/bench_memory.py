"""Peak memory of an attack, by subject and by setting, each in a process of its own.

python benchmarks/bench_memory.py          # the embedded ladder
python benchmarks/bench_memory.py 160m     # random weights in the shape of Pythia-160M, on the CPU: ten minutes on 2 cores
python benchmarks/bench_memory.py flat     # the same subject, an attack inside a flat subspace: five minutes
python benchmarks/bench_memory.py whole    # the same with everything that an attack has, and its time: 20 minutes
python benchmarks/bench_memory.py terms    # the same subject, the terms of docs/flatness.md one by one: two minutes
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

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


def resident(key: str) -> int:
    """Bytes of this process that are in memory: VmRSS now, VmHWM at most since the last reset."""
    found = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())[key]
    return 1024 * int(found.split()[0])


def terms() -> None:
    """What each stage of an attack inside a flat subspace holds, beside the formula; activations of 16 tokens only."""
    if os.environ.get("MALLOC_MMAP_THRESHOLD_") is None:  # or else the C library keeps what was freed
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "MALLOC_MMAP_THRESHOLD_": "262144"})

    import torch

    from lit_degrade.curvature.certificates import extreme_eigenvalue
    from lit_degrade.curvature.flat_subspace import find_basis, flat_subspace, shapes, to_tensors
    from lit_degrade.curvature.products import HessianProducts
    from lit_degrade.measures.perplexity import token_nll
    from lit_degrade.modules.optimizers import ProjectedSteps, build_optimizer
    from lit_degrade.subjects.catalog import SubjectSpec
    from lit_degrade.subjects.loading import load_subject

    def told(what: str, function: Callable[[], Any], formula: float, above: int) -> Any:
        """Run something and print the most that it held above a baseline."""
        Path("/proc/self/clear_refs").write_text("5")
        result = function()
        print(f"{what:<40}{(resident('VmHWM') - above) / 1e9:6.2f} GB   {formula / 1e9:6.2f} by formula", flush=True)
        return result

    with tempfile.TemporaryDirectory() as temporary:
        random_160m(Path(temporary))
        subject = load_subject(SubjectSpec(temporary), 0, torch.device("cpu"), train=True)
    model, parameters = subject.model, subject.parameters("blocks")
    matrices = shapes(subject.anatomy, parameters)
    ids = torch.randint(1000, (1, 16), generator=torch.Generator().manual_seed(0))
    d, h, n_layers = model.config.hidden_size, subject.anatomy.head_dim, model.config.num_hidden_layers
    n, moved = (sum(p.numel() for p in some) for some in (model.parameters(), parameters.values()))
    kept = 4 * n_layers * (10 * d**2 + 3 * d * h)
    sums = 8 * n_layers * (5 * d**2 + 3 * d * h) + 64 * n_layers * d**2

    def loss() -> torch.Tensor:
        return token_nll(model(input_ids=ids, use_cache=False).logits, ids).mean()

    def lanczos(parts: int) -> None:
        hessian = HessianProducts([loss] * parts, parameters)

        def inside(v: Any) -> Any:
            image = hessian.along(v)
            subspace.project_(image, "flat")
            return image

        extreme_eigenvalue(inside, lambda: subspace.draw("flat", torch.Generator().manual_seed(0)), 4)

    def steps() -> None:
        optimizer = build_optimizer("adamw", parameters.values(), 1e-4)
        confined = ProjectedSteps(parameters, subspace, "flat")
        for _ in range(2):
            optimizer.zero_grad()
            loss().backward(inputs=list(parameters.values()))
            with confined.step():
                optimizer.step()

    loaded = resident("VmRSS")
    libraries = loaded - 4 * n
    bases = told("sums and basis", lambda: find_basis(model, parameters, matrices, [loss]), sums + kept, loaded)
    held = sum(t.numel() * t.element_size() for t in to_tensors(bases).values())
    print(f"{'basis':<40}{held / 1e9:6.2f} GB   {kept / 1e9:6.2f} by formula")
    subspace = flat_subspace(bases, 0.5, 0)
    for parts in (1, 2):
        formula = 4 * n + kept + (16 if parts == 1 else 20) * moved
        told(f"certificates, text in {parts} parts", partial(lanczos, parts), formula, libraries)
    told("AdamW steps", steps, 4 * n + kept + 16 * moved, libraries)


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
    elif sys.argv[1:] == ["terms"]:
        terms()
    else:
        for subject in ("tiny-60k", "tiny-250k", "tiny-1m", "tiny-3m"):
            for name, args in {"as in priority1": [], "light null space": LIGHT}.items():
                found, durations = peak("--subject", subject, *args)
                print(f"{subject:<12}{name:<20}{found / 1e9:6.2f} GB   {durations['total']:6.0f} s", flush=True)


if __name__ == "__main__":
    main()
