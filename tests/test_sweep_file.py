"""W&B sweep files: the points and command lines that W&B's own code gives, and refusals in one line."""

import json
import os
import random
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_degrade.errors import UserError
from lit_degrade.grids.sweep_file import command_line, load_sweep, own_arguments, points

ROOT = Path(__file__).parent.parent
SWEEPS = sorted((ROOT / "sweeps").rglob("*.yaml"))
COMMAND = ["${env}", "${interpreter}", "-m", "${program}", "fit", "${args}"]
EVERY_DISTRIBUTION = {
    "a": {"values": [1, "x", True]},
    "b": {"value": 3},
    "c": {"min": 1, "max": 9},
    "d": {"min": 0.5, "max": 2},
    "e": {"distribution": "q_uniform", "min": 0, "max": 3, "q": 0.25},
    "f": {"distribution": "log_uniform_values", "min": 1.0e-5, "max": 0.1},
    "g": {"distribution": "log_uniform", "min": -3, "max": 1},
    "h": {"distribution": "q_log_uniform_values", "min": 1, "max": 100, "q": 2},
    "i": {"distribution": "q_log_uniform", "min": 0, "max": 3},
    "j": {"distribution": "inv_log_uniform", "min": 0, "max": 3},
    "k": {"distribution": "inv_log_uniform_values", "min": 1, "max": 9},
    "l": {"distribution": "normal"},
    "m": {"distribution": "q_normal", "mu": 3, "sigma": 2, "q": 1},
    "n": {"distribution": "log_normal", "mu": 1},
    "o": {"distribution": "q_log_normal"},
    "p": {"distribution": "beta", "a": 2, "b": 3},
    "q": {"distribution": "q_beta", "q": 0.1},
    "r": {"values": [1, 2, 3], "probabilities": [0.2, 0.5, 0.3]},
    "s": {"parameters": {"z": {"values": [1, 2]}, "y": {"parameters": {"deep": {"min": 0.0, "max": 1.0}}}}},
    "model.lr": {"values": [1.0e-4, 2.0e-4]},
}


def write(folder: Path, **content: Any) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({"program": "lit_degrade", "method": "grid", "command": COMMAND, **content}))
    return path


def official(module: str) -> Any:
    """W&B's published package, which pins an old NumPy and so is installed without its requirements."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(
            f"sweeps.{module}", reason="pip install --no-deps sweeps==0.3.0 && pip install jsonref jsonschema"
        )


def plain(runs: list[Any]) -> list[dict[str, Any]]:
    return [{key: entry["value"] for key, entry in run.config.items()} for run in runs if run is not None]


def test_random_points_are_those_of_the_published_package(tmp_path: Path) -> None:
    theirs = official("random_search")
    found = points(load_sweep(write(tmp_path, method="random", run_cap=200, parameters=EVERY_DISTRIBUTION)), 200)
    random.seed(42)
    assert found == plain(theirs.random_search_next_runs({"method": "random", "parameters": EVERY_DISTRIBUTION}, n=200))


VALUE = st.one_of(st.integers(-3, 3), st.floats(-2, 2, width=16), st.sampled_from(["x", "y"]), st.booleans())
VALUES = st.lists(VALUE, min_size=1, max_size=4)
ENTRY = st.one_of(
    st.builds(lambda v: {"values": v}, VALUES),
    st.builds(lambda v: {"value": v}, st.integers()),
    st.builds(lambda a, n: {"distribution": "int_uniform", "min": a, "max": a + n}, st.integers(-2, 2), st.integers(1, 3)),
    st.builds(lambda n: {"distribution": "q_uniform", "min": 0, "max": n, "q": 0.5}, st.integers(1, 2)),
)
BLOCK = st.dictionaries(st.sampled_from("abcd"), ENTRY, min_size=1, max_size=2)


NAMES = st.sampled_from(["p", "q", "m.x", "m.y"])
PARAMETERS = st.dictionaries(NAMES, st.one_of(ENTRY, BLOCK.map(lambda b: {"parameters": b})), min_size=1, max_size=3)


@settings(max_examples=60, deadline=None)
@given(PARAMETERS)
def test_grid_points_are_those_of_the_published_package_in_its_order(parameters: dict[str, Any]) -> None:
    theirs = official("grid_search")
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        found = points(load_sweep(write(Path(folder), parameters=parameters)), 100_000)
    assert found == plain(theirs.grid_search_next_runs([], {"method": "grid", "parameters": parameters}, n=100_000))


def test_macros_expand_as_the_agent_expands_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERE", "here")
    point = {"flag": True, "lr": 0.1, "lst": [1, 2], "off": False, "small": 1e-05, "m.x": "a b"}

    def words(*command: str) -> list[str]:
        sweep = load_sweep(write(tmp_path, command=list(command), parameters={"a": {"value": 1}}))
        return command_line(sweep, point, tmp_path / "json")

    flags = ["flag=True", "lr=0.1", "lst=[1, 2]", "off=False", "small=1e-05", "m.x=a b"]
    assert words("${env}", "${interpreter}", "-m", "${program}") == ["/usr/bin/env", "python", "-m", "lit_degrade"]
    assert words("${args}") == [f"--{flag}" for flag in flags]
    assert words("${args_no_hyphens}") == flags
    assert words("${args_no_boolean_flags}") == [
        "--flag",
        *(f"--{flag}" for flag in flags if not flag.startswith(("flag", "off"))),
    ]
    assert words("${args_no_equals}") == [word for flag in flags for word in f"--{flag}".split("=")]
    assert words("--x=${args}", "in-${envvar:WHERE}-${envvar:ABSENT}") == ["--x=${args}", "in-here-ABSENT"]
    (text,) = words("${args_json}")
    (file,) = words("${args_json_file}")
    assert json.loads(text) == json.loads(Path(file).read_text()) == point
    assert command_line(
        load_sweep(write(tmp_path, parameters={"o": {"parameters": {"x": {"value": 1}}}})), {"o": {"x": 1}}, tmp_path
    )[-1] == "--o={'x': 1}"  # fmt: skip
    with pytest.raises(UserError, match=r"Unknown macro in the command of .* '\$\{arguments\}'. Did you mean '\$\{args\}'"):
        words("${arguments}")


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "key": ({"paramters": {}}, "Unknown key of .*'paramters'. Did you mean 'parameters'"),
    "method": ({"method": "gird"}, "Unknown method of .*'gird'. Did you mean 'grid'"),
    "bayes": ({"method": "bayes"}, "method 'bayes' needs the results of earlier runs. Available: grid, random"),
    "early stop": ({"early_terminate": {"type": "hyperband"}}, "'early_terminate' cannot be honoured: runs are never stopped"),
    "no parameters": ({"parameters": {}}, "the grid is empty"),
    "no values": ({"parameters": {"a": {"values": []}}}, "parameter 'a': the grid is empty"),
    "parameter key": ({"parameters": {"a": {"valeus": [1]}}}, "parameter 'a'.*'valeus'"),
    "distribution": ({"parameters": {"a": {"distribution": "cauchy"}}}, "Unknown distribution of .*'cauchy'"),
    "incomplete": ({"parameters": {"a": {"min": 1}}}, "parameter 'a' with distribution 'uniform' needs 'max'"),
    "bounds": ({"parameters": {"a": {"min": 3, "max": 3}}}, "min must be a number below max, not 3 and 3"),
    "bounds of text": ({"parameters": {"a": {"min": "1e-5", "max": 1}}}, "min must be a number below max, not 1e-5 and 1"),
    "grid over a line": ({"parameters": {"a": {"min": 0.0, "max": 1.0}}}, "a grid needs 'values'"),
    "plain value": ({"parameters": {"a": 3}}, "parameter 'a' must have value, values, or a distribution, not 3"),
    "probabilities": ({"parameters": {"a": {"values": [1, 2], "probabilities": [1.0]}}, "method": "random"}, "as many"),
    "too many": ({"parameters": {"a": {"min": 1, "max": 11}, "b": {"values": [1, 2]}}}, "22 runs are more than --max-runs 20"),
    "endless": ({"method": "random", "parameters": {"a": {"min": 0, "max": 9}}}, "say how many runs with run_cap"),
    "run_cap": ({"run_cap": 0}, "run_cap must be a whole number above 0, not 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_honoured_is_one_line(case: str, tmp_path: Path) -> None:
    content, message = BAD[case]
    with pytest.raises(UserError, match=message) as caught:
        points(load_sweep(write(tmp_path, **{"parameters": {"a": {"value": 1}}, **content})), 20)
    assert "\n" not in str(caught.value)


def test_other_programs_are_refused(tmp_path: Path) -> None:
    sweep = load_sweep(write(tmp_path, command=["python", "train.py", "${args}"], parameters={"a": {"value": 1}}))
    with pytest.raises(UserError, match=r"the command is 'python train\.py --a=1', not"):
        own_arguments(sweep, command_line(sweep, points(sweep, 1)[0], tmp_path))


def test_unreadable_files_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    for name, message in (("no", "cannot be read"), ("list.yaml", "holds no keys"), ("broken.yaml", "is not YAML")):
        with pytest.raises(UserError, match=message):
            load_sweep(tmp_path / name)


def with_every_value(chosen: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A few points that hold every value of every parameter; of the seeds, which are all alike, any."""
    own = [{(key, str(value)) for key, value in point.items() if key != "seed_everything"} for point in chosen]
    left, few = set().union(*own), []
    while left:
        best = max(range(len(own)), key=lambda i: len(own[i] & left))
        few.append(chosen[best])
        left -= own[best]
    return few


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: str(p.relative_to(ROOT)))
def test_shipped_sweeps_resolve(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every value in every shipped sweep makes a command line with a record of its own, and the header says how many."""
    from lit_degrade.run import resolve

    monkeypatch.chdir(ROOT)
    sweep = load_sweep(path)
    chosen = points(sweep, 1000)
    picked = [own_arguments(sweep, command_line(sweep, point, tmp_path)) for point in with_every_value(chosen)]
    assert len({resolve(line).run_id for line in picked}) == len(picked)
    header = path.read_text().split("program:")[0]
    for word in ("# Question:", "# Launch:", "# Answer:", "# Cost:"):
        assert word in header
    assert f"{len(chosen)} records" in header
    seeds = sorted({point["seed_everything"] for point in chosen})
    assert seeds == list(range(43, 43 + len(seeds))), "base 42, run k uses 42 + k"


def test_tiny_sweeps_mirror_the_published_scale() -> None:
    for tiny in (ROOT / "sweeps/tiny").glob("*.yaml"):
        big = yaml.safe_load((ROOT / "sweeps" / tiny.name).read_text())["parameters"]
        small = yaml.safe_load(tiny.read_text())["parameters"]
        varied = {key for key, entry in small.items() if "values" in entry} - {"subject"}
        assert varied == {key for key, entry in big.items() if "values" in entry} - {"subject"} - (
            {"config"} if tiny.name == "priority1_scaling.yaml" else set()
        )
    assert os.listdir(ROOT / "sweeps/tiny") != []
