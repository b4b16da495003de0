"""What a run of a sweep costs beside itself: our launcher against the real `wandb agent`, and that both get the same numbers.

    python benchmarks/bench_sweep.py                      # sweeps/tiny/priority3_optimizer.yaml with quick settings, 20 runs
    python benchmarks/bench_sweep.py FILE [--workers 2]   # a sweep file as it is

Overhead = (wall time x workers - what the runs' own records say they took) / runs. Our wall time is counted after one start-up
of the workers, which is that of the same sweep file with one point that is recorded already. The agent runs against a W&B
server on 127.0.0.1, its children offline.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from loopback import WANDB, Client, LoopbackServer  # noqa: E402

QUICK = {
    "subject": "tiny-60k", "model.null_space.products": 20, "model.null_space.random_directions": 3,
    "model.stimuli.evaluations": 60, "trainer.max_steps": 6, "text.probe_tokens": 2048,
}  # fmt: skip


def quick() -> dict[str, Any]:
    content = yaml.safe_load((ROOT / "sweeps/tiny/priority3_optimizer.yaml").read_text())
    content["parameters"] |= {key: {"value": value} for key, value in QUICK.items()}
    content["parameters"]["seed_everything"] = {"values": [43, 44]}
    return content


def write(content: dict[str, Any], folder: Path, results: Path) -> Path:
    content = {**content, "parameters": {**content["parameters"], "results": {"value": str(results)}}}
    path = folder / f"{results.name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def records(results: Path) -> tuple[dict[str, Any], float]:
    """Summaries by run id, and the seconds that the runs say they took."""
    summaries = {p.parent.name: json.loads(p.read_text()) for p in results.glob("*/*/summary.json")}
    manifests = [json.loads(p.read_text()) for p in results.glob("*/*/manifest.json")]
    return summaries, sum(m["durations_s"]["total"] for m in manifests)


def seconds(*commands: list[str], environment: dict[str, str]) -> float:
    """Wall time of commands that run side by side."""
    start = time.monotonic()
    running = [
        subprocess.Popen(c, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for c in commands
    ]
    codes = [process.wait() for process in running]
    assert set(codes) == {0}, codes
    return time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    content = yaml.safe_load(Path(options.file).read_text()) if options.file else quick()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        offline = {**os.environ, "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
        sweep = [sys.executable, "-m", "lit_degrade", "sweep"]
        ours = write(content, folder, folder / "ours")
        one = [*sweep, str(write({**content, "run_cap": 1}, folder, folder / "one")), f"--results={folder / 'one'}"]
        seconds(one, environment=offline)
        (folder / "one/.sweeps/one/resolved.json").unlink()  # else nothing would be started
        start_up = seconds(one, environment=offline)
        wall = seconds([*sweep, str(ours), f"--workers={options.workers}", f"--results={folder / 'ours'}"], environment=offline)
        summaries, own = records(folder / "ours")
        n = len(summaries)
        print(
            f"{n} runs, {options.workers} workers, the runs themselves {own / n:.2f} s each, start-up once {start_up:.1f} s",
            flush=True,
        )
        overhead = ((wall - start_up) * options.workers - own) / n
        print(f"lit_degrade sweep   wall {wall:7.1f} s   overhead {overhead:5.2f} s a run   (target at most 0.5)", flush=True)
        with LoopbackServer(folder / "server") as server:
            client = Client(server, folder)
            theirs = write(content, folder, folder / "theirs")
            said = client.run(*WANDB, "sweep", "--project", "lit_degrade", str(theirs))
            name = next(line.split("wandb agent ")[1].strip() for line in said.splitlines() if "wandb agent " in line)
            alike = {"WANDB_MODE": "offline", "OMP_NUM_THREADS": "1", "WANDB_AGENT_DISABLE_FLAPPING": "true"}
            environment = {**os.environ, **client.environment, **alike}  # of the user's: what chooses BLAS kernels
            agents = [[*WANDB, "agent", name]] * options.workers
            wall = seconds(*agents, environment=environment)
        found, own = records(folder / "theirs")
        overhead = (wall * options.workers - own) / n
        print(f"wandb agent         wall {wall:7.1f} s   overhead {overhead:5.2f} s a run", flush=True)
        same = found == summaries
        print(f"the same {n} runs with the same summaries: {same}")
        sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
