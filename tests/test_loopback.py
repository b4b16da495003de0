"""The real W&B clients work against the server of the tests, without an account or a network."""

import json
import re
import sys
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from loopback import WANDB, Client, LoopbackServer, finished, grid

ONLINE = """
import pathlib, wandb
settings = wandb.Settings(console="off")
run = wandb.init(project="p", id="one", name="first", group="g", config={"a.b": 1, "nested": {"c": [1, 2]}}, settings=settings)
run.define_metric("step")
run.define_metric("*", step_metric="step")
for step in range(3):
    run.log({"step": step, "loss": 1 / (step + 1)})
run.config.update({"late": "yes"})
run.summary["best"] = {"loss": 0.25}
pathlib.Path("a note.txt").write_text("hello")
run.save("a note.txt")
run.finish(exit_code=3)
"""


def test_config_history_summary_files_and_exit_code_arrive(server: LoopbackServer, client: Client) -> None:
    client.run(sys.executable, "-c", ONLINE)
    run = server.runs["one"]
    assert (run.entity, run.project, run.details["displayName"], run.details["groupName"]) == ("local", "p", "first", "g")
    assert run.config == {"a.b": 1, "nested": {"c": [1, 2]}, "late": "yes"}
    assert [(row["_step"], row["step"], row["loss"]) for row in run.history] == [(0, 0, 1), (1, 1, 0.5), (2, 2, 1 / 3)]
    assert run.summary["best"] == {"loss": 0.25}
    assert run.summary["loss"] == 1 / 3
    assert (run.state, run.exit_code, run.sweep) == ("failed", 3, None)
    assert run.files["a note.txt"].read_text() == "hello"
    assert "config.yaml" in run.files


LOG = """
import pathlib, wandb
pathlib.Path("data").mkdir(exist_ok=True)
pathlib.Path("data", "a file").write_text(CONTENT)
pathlib.Path("data", "empty").touch()
with wandb.init(project="p", id=RUN) as run:
    artifact = wandb.Artifact("numbers", "dataset", metadata={"sha256": "abc"})
    artifact.add_dir("data", name="sub")
    run.log_artifact(artifact, aliases=[RUN])
"""
USE = """
import pathlib, wandb
with wandb.init(project="p", id="user") as run:
    artifact = run.use_artifact("local/p/numbers:latest")
    assert artifact.metadata == {"sha256": "abc"} and artifact.type == "dataset"
    assert pathlib.Path(artifact.download(), "sub", "a file").read_text() == "two"
    fresh = wandb.Artifact("fresh", "dataset")
    with fresh.new_file("x") as file:
        file.write("fresh")
    run.use_artifact(fresh)
    run.use_artifact(wandb.Artifact("bare", "subject", metadata={"name": "no files"}))
folder = wandb.Api().artifact("local/p/numbers:log-1").download("elsewhere")
assert pathlib.Path(folder, "sub", "a file").read_text() == "one"
"""


def test_artifacts_are_logged_used_and_downloaded_with_lineage(server: LoopbackServer, client: Client) -> None:
    for run, content in (("log-1", "one"), ("log-2", "two"), ("log-3", "two")):
        client.run(sys.executable, "-c", f"RUN, CONTENT = {run!r}, {content!r}\n{LOG}")
    client.run(sys.executable, "-c", USE)
    lineage = {path: (artifact.logged_by, artifact.used_by) for path, artifact in server.artifacts.items()}
    assert lineage == {
        "local/p/numbers:v0": (["log-1"], []),
        "local/p/numbers:v1": (["log-2", "log-3"], ["user"]),  # the same content is the same version
        "local/p/fresh:v0": ([], ["user"]),
        "local/p/bare:v0": ([], ["user"]),
    }
    first, second = server.artifacts["local/p/numbers:v0"], server.artifacts["local/p/numbers:v1"]
    assert (first.aliases, set(second.aliases)) == (["log-1"], {"latest", "log-2", "log-3"})
    assert {name: path.read_text() for name, path in second.files.items()} == {"sub/a file": "two", "sub/empty": ""}
    assert server.artifacts["local/p/bare:v0"].metadata == {"name": "no files"}


SWEEP: dict[str, Any] = {
    "method": "grid",
    "program": "child.py",
    "parameters": {
        "model.width": {"values": [0.5, 2]},
        "attack": {"parameters": {"kind": {"values": ["drop", "noise"]}, "seed": {"value": 7}}},
    },
}
CHILD = """
import sys, wandb
with wandb.init(config={"arguments": sys.argv[1:]}) as run:
    run.log({"width": run.config["model.width"]})
"""


@pytest.mark.slow
def test_two_agents_share_the_points_of_a_grid(server: LoopbackServer, client: Client) -> None:
    (client.folder / "child.py").write_text(CHILD)
    (client.folder / "sweep.yaml").write_text(json.dumps(SWEEP))
    path = re.search(r"wandb agent (local/p/\w+)", client.run(*WANDB, "sweep", "-p", "p", "sweep.yaml"))
    assert path
    agents = [client.start(*WANDB, "agent", *options, path[1]) for options in (["--count", "1"], [])]
    counts = [finished(agent).count("About to run command") for agent in agents]
    assert counts == [1, 3]
    (sweep,) = server.sweeps.values()
    assert sweep.state == "FINISHED"
    assert sweep.config == SWEEP
    assert list(sweep.given.values()) == list(grid(SWEEP["parameters"]))
    assert server.runs.keys() == sweep.given.keys()
    for run_id, run in server.runs.items():
        point = sweep.given[run_id]
        flags = [f"--attack={point['attack']}", f"--model.width={point['model.width']}"]
        assert run.config == {**point, "arguments": flags}
        assert (run.sweep, run.state, run.summary["width"]) == (sweep.id, "finished", point["model.width"])


OFFLINE = """
import wandb
with wandb.init(project="p", id="later", config={"a.b": 1}) as run:
    for step in range(3):
        run.log({"loss": step})
    artifact = wandb.Artifact("numbers", "dataset")
    with artifact.new_file("x") as file:
        file.write("kept")
    run.log_artifact(artifact)
"""


def test_an_offline_run_arrives_with_wandb_sync(server: LoopbackServer, client: Client) -> None:
    client.run(sys.executable, "-c", OFFLINE, WANDB_MODE="offline")
    assert server.runs == {}
    (folder,) = client.folder.glob("wandb/offline-run-*")
    client.run(*WANDB, "sync", str(folder))
    run = server.runs["later"]
    assert (run.config, run.state, run.exit_code) == ({"a.b": 1}, "finished", 0)
    assert [row["loss"] for row in run.history] == [0, 1, 2]
    artifact = server.artifacts["local/p/numbers:v0"]
    assert (artifact.logged_by, artifact.files["x"].read_text()) == (["later"], "kept")


def test_grid_points_follow_sorted_keys() -> None:
    nested = {"parameters": {"d": {"values": [1, 2]}, "c": {"value": 0}}}
    assert list(grid({"e": {"values": ["x", "y"]}, "a.b": nested})) == [
        {"a.b": {"c": 0, "d": 1}, "e": "x"},
        {"a.b": {"c": 0, "d": 1}, "e": "y"},
        {"a.b": {"c": 0, "d": 2}, "e": "x"},
        {"a.b": {"c": 0, "d": 2}, "e": "y"},
    ]
    with pytest.raises(ValueError, match="'a' of a grid has none of value, values, parameters"):
        list(grid({"a": {"min": 0, "max": 1}}))


def test_an_unknown_request_gets_an_error_that_names_it(tmp_path: Path) -> None:
    with LoopbackServer(tmp_path) as server:
        request = json.dumps({"query": "mutation MakeTea($sugar: Int) { makeTea }"}).encode()
        with urlopen(f"{server.url}/graphql", request) as answer:
            assert "MakeTea" in json.load(answer)["errors"][0]["message"]
        with pytest.raises(HTTPError, match="404"):
            urlopen(f"{server.url}/nothing")
        assert server.unknown == ["MakeTea", "GET /nothing"]
