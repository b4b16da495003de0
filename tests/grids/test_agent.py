"""The real `wandb sweep` and `wandb agent`, on our sweep files, against the server of the tests; and lineage online."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import ATTACK, HEAL, QUICK, ROOT, SMALL
from loopback import WANDB, Client, LoopbackServer, finished


@pytest.fixture
def workplace(client: Client, tmp_path: Path) -> Client:
    """The clients run where the configs are, and write elsewhere."""
    client.folder = ROOT
    client.environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_AGENT_DISABLE_FLAPPING": "true"}
    return client


def sweep_id(output: str) -> str:
    return next(line.split("wandb agent ")[1].strip() for line in output.splitlines() if "wandb agent " in line)


def summaries(results: Path) -> dict[str, dict[str, Any]]:
    return {p.parent.name: json.loads(p.read_text()) for p in results.glob("*/*/summary.json")}


@pytest.mark.slow
def test_the_agent_and_our_launcher_run_the_same_thing(server: LoopbackServer, workplace: Client, tmp_path: Path) -> None:
    """The shipped sweep, less of it, quick settings, a nested block beside the dotted keys, and its own command."""
    content = yaml.safe_load((ROOT / "sweeps/tiny/priority3_optimizer.yaml").read_text())
    for key in ("model.optimizer", "model.stimulus"):
        content["parameters"][key]["values"] = content["parameters"][key]["values"][:2]
    content["parameters"] |= {key.removeprefix("--"): {"value": v} for key, v in zip(QUICK[::2], QUICK[1::2], strict=True)}
    for key in ("products", "random_directions"):
        del content["parameters"][f"model.null_space.{key}"]
    nested = {"products": {"value": 20}, "random_directions": {"value": 3}}
    content["parameters"] |= {"seed_everything": {"values": [43]}, "model.null_space": {"parameters": nested}}
    del content["parameters"]["verbosity"]  # the command has it
    files = {}
    for who in ("agent", "ours"):
        content["parameters"]["results"] = {"value": str(tmp_path / who)}
        files[who] = tmp_path / f"{who}.yaml"
        files[who].write_text(yaml.safe_dump(content))

    found = sweep_id(workplace.run(*WANDB, "sweep", "--project", "lit_degrade", str(files["agent"])))
    agents = [workplace.start(*WANDB, "agent", found) for _ in range(2)]
    outputs = [finished(agent) for agent in agents]
    theirs = summaries(tmp_path / "agent")
    assert len(theirs) == 4, outputs

    ours = ["sweep", str(files["ours"]), "--workers", "2", "--results", str(tmp_path / "ours")]
    workplace.run(sys.executable, "-m", "lit_degrade", *ours, WANDB_MODE="disabled")
    assert summaries(tmp_path / "ours") == theirs

    (swept,) = server.sweeps.values()
    assert len(swept.given) == 4
    assert {run.state for run in server.runs.values()} == {"finished"}
    for name, point in swept.given.items():
        online = server.runs[name]
        assert online.sweep == found.rsplit("/", 1)[1]
        record = theirs[online.summary["run_id"]]
        assert online.summary["perplexity_post"] == pytest.approx(record["perplexity_post"])
        assert (record["optimizer"], record["stimulus"]) == (point["model.optimizer"], point["model.stimulus"])
        assert online.config["seed_everything"] == record["seed"] == 43


@pytest.mark.slow
def test_lineage_online_from_intact_to_attacked_to_healed(server: LoopbackServer, workplace: Client, tmp_path: Path) -> None:
    lit_degrade = (sys.executable, "-m", "lit_degrade")
    results = tmp_path / "results"
    workplace.run(*lit_degrade, *HEAL, f"--results={results}", f"--attacked_by={ATTACK}")
    found = summaries(results)
    (attack,), (heal,) = ([k for k, s in found.items() if s["experiment"] == name] for name in ("priority2", "healing"))
    assert set(server.runs) == {attack, heal}
    assert server.runs[heal].summary["recovery"] == pytest.approx(found[heal]["recovery"])
    project = "local/lit_degrade"
    intact = server.artifacts[f"{project}/subject-tiny-60k:v0"]
    attacked, healed = (server.artifacts[f"{project}/subject-{run}:v0"] for run in (attack, heal))
    assert (intact.logged_by, intact.used_by) == ([], [attack])
    assert (attacked.logged_by, attacked.used_by) == ([attack], [heal])
    assert (healed.logged_by, healed.used_by) == ([heal], [])
    assert [stage.get("run_id") for stage in healed.metadata["lineage"]] == [None, attack, heal]

    # an attacked subject can be taken from W&B alone
    elsewhere = tmp_path / "elsewhere"
    artifact = f"--subject=wandb-artifact:{project}/subject-{attack}:latest"
    workplace.run(*lit_degrade, *HEAL, f"--results={elsewhere}", "--attacked_by=", artifact)
    (again,) = summaries(elsewhere).values()
    assert again["perplexity_post"] == found[heal]["perplexity_post"]
    assert again["attacked_by_run"] == attack
    assert len(attacked.used_by) == 2


USE = """
import sys
import wandb
from lit_degrade.records.tracking import use_subject
with wandb.init(project="p", id="one", dir=sys.argv[1]) as run:
    for sha in ("a" * 64, "b" * 64, "a" * 64):
        use_subject(run, [{"name": "x", "sha256": sha}])
"""


@pytest.mark.slow
def test_another_intact_subject_is_another_artifact(server: LoopbackServer, workplace: Client, tmp_path: Path) -> None:
    """W&B tells artifacts apart by their files, not by their metadata."""
    workplace.run(sys.executable, "-c", USE, str(tmp_path))
    assert {a.metadata["sha256"][0] for key, a in server.artifacts.items() if "subject-x" in key} == {"a", "b"}
    assert len([key for key in server.artifacts if "subject-x" in key]) == 2


@pytest.mark.slow
def test_the_agent_heals_and_keeps_its_own_run(server: LoopbackServer, workplace: Client, tmp_path: Path) -> None:
    """The attack that a healing run starts first is a run of its own, and not the one that the agent waits for."""
    values = {"results": str(tmp_path / "results"), "attacked_by": ATTACK, "model.lr": 1.0e-3}
    values |= {key.removeprefix("--"): v for key, v in zip(SMALL[::2], SMALL[1::2], strict=True) if key != "--verbosity"}
    content = yaml.safe_load((ROOT / "sweeps/tiny/healing.yaml").read_text())
    path = tmp_path / "healing.yaml"
    path.write_text(yaml.safe_dump({**content, "parameters": {key: {"value": value} for key, value in values.items()}}))
    found = sweep_id(workplace.run(*WANDB, "sweep", "--project", "lit_degrade", str(path)))
    workplace.run(*WANDB, "agent", found)
    records = summaries(tmp_path / "results")
    (name,) = next(iter(server.sweeps.values())).given
    healed, attack = server.runs[name], next(run for key, run in server.runs.items() if key != name)
    assert (healed.sweep, attack.sweep) == (found.rsplit("/", 1)[1], None)
    assert healed.summary["recovery"] == pytest.approx(records[healed.summary["run_id"]]["recovery"])
    assert attack.summary["run_id"] == records[healed.summary["run_id"]]["attacked_by_run"]


@pytest.mark.slow
def test_generated_text_arrives_as_files_and_as_a_table(server: LoopbackServer, workplace: Client, tmp_path: Path) -> None:
    args = ["--variants", "gauss_attn", "--model.levels", "[0.0, 0.5]", "--model.repetitions", "1", "--subject", "tiny-60k"]
    small = ["--text.probe_tokens", "2048", "--model.decoding.max_new_tokens", "2", "--results", str(tmp_path / "results")]
    config = ["predict", "--config", "configs/degradation.yaml"]
    workplace.run(sys.executable, "-m", "lit_degrade", *config, *args, *small)
    ((name, run),) = server.runs.items()
    (record,) = summaries(tmp_path / "results").values()
    assert run.summary["generations"] == record["generations"] == 2 * 38
    kinds = {key.rsplit("/", 1)[1]: artifact for key, artifact in server.artifacts.items()}
    outputs = kinds[f"outputs-{name}:v0"]
    assert outputs.logged_by == [name]
    (table,) = (json.loads(path.read_text()) for path in server.folder.rglob("*.table.json") if "generations" in path.name)
    assert len(table["data"]) == 2 * 38
    assert {"prompt_text", "output", "degrad_level", "temperature"} <= set(table["columns"])
