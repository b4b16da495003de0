"""W&B sweep files: the points and command lines that W&B's own code gives, and refusals in one line."""

import copy
import datetime
import json
import math
import random
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lit_degrade.errors import UserError
from lit_degrade.grids.distributions import DISTRIBUTIONS
from lit_degrade.grids.entries import KINDS
from lit_degrade.grids.sweep_file import command_line, load_sweep, own_arguments, points

SWEEPS = sorted((ROOT / "sweeps").rglob("*.yaml"))
TINY = [path for path in SWEEPS if path.parent.name == "tiny"]
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


def write(folder: Path, content: dict[Any, Any] | None = None, **more: Any) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({"program": "lit_degrade", "method": "grid", "command": COMMAND, **(content or {}), **more}))
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


VALUE = st.one_of(st.none(), st.integers(-3, 3), st.floats(-2, 2, width=16), st.sampled_from(["x", "y"]), st.booleans())
VALUES = st.lists(VALUE, min_size=1, max_size=4)
ENTRY = st.one_of(
    st.builds(lambda v: {"values": v}, VALUES),
    st.builds(lambda v: {"value": v}, st.integers()),
    st.builds(lambda a, n: {"distribution": "int_uniform", "min": a, "max": a + n}, st.integers(-2, 2), st.integers(1, 3)),
    st.builds(
        lambda a, n, q: {"distribution": "q_uniform", "min": a, "max": a + n, "q": q},
        st.sampled_from([0, -1, 0.1, 0.0]), st.sampled_from([1, 2, 0.7, 1.5]), st.sampled_from([0.1, 0.3, 0.25, 1, 2.5]),
    ),
)  # fmt: skip
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


def test_every_distribution_that_is_taken_is_drawn_from() -> None:
    assert KINDS.keys() == DISTRIBUTIONS.keys()


def test_a_capped_grid_is_its_beginning_whatever_its_size(tmp_path: Path) -> None:
    grid = {"a": {"values": [1, 2]}, "b": {"min": 0, "max": 2_000_000_000}, "c": {"values": ["x", None]}}
    grid |= {"d": {"distribution": "q_uniform", "min": 0, "max": 1.0e9, "q": 1.0e-6}}
    found = points(load_sweep(write(tmp_path, parameters=grid, run_cap=5)), 5)
    assert [tuple(point.values()) for point in found] == [(1, 0, "x", step * 1.0e-6) for step in range(5)]
    del grid["d"]
    found = points(load_sweep(write(tmp_path, parameters=grid, run_cap=5)), 5)
    assert [tuple(point.values()) for point in found] == [(1, 0, "x"), (1, 0, None), (1, 1, "x"), (1, 1, None), (1, 2, "x")]


@pytest.mark.parametrize("kind", ["log_uniform", "q_log_uniform", "inv_log_uniform"])
def test_bounds_that_look_like_values_are_doubted(kind: str, tmp_path: Path) -> None:
    """They are taken as W&B takes them, with one line that says so."""

    def doubts(low: float, high: float, distribution: str = kind) -> tuple[str, ...]:
        entry = {"distribution": distribution, "min": low, "max": high}
        return load_sweep(write(tmp_path, method="random", run_cap=3, parameters={"model.lr": entry})).doubts

    (line,) = doubts(1.0e-5, 1.0e-3)
    assert "parameter 'model.lr'" in line
    assert f"use {kind}_values" in line
    assert "from 1.0e-5 to 0.001" in line
    assert doubts(16, 256)
    assert doubts(-11, -2) == doubts(0, 3) == doubts(1.0e-5, 1.0e-3, f"{kind}_values") == ()


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


def one(**entry: Any) -> dict[str, Any]:
    return {"parameters": {"a": entry}}


def drawn(kind: str, **entry: Any) -> dict[str, Any]:
    return {"method": "random", "run_cap": 2, **one(distribution=kind, **entry)}


BAD: dict[str, tuple[dict[Any, Any], str]] = {
    "key": ({"paramters": {}}, "Unknown key of .*'paramters'. Did you mean 'parameters'"),
    "key of no text": ({3: 1}, "Unknown key of .*'3'"),
    "method": ({"method": "gird"}, "Unknown method of .*'gird'. Did you mean 'grid'"),
    "method of no text": ({"method": ["grid"]}, "Unknown method of"),
    "bayes": ({"method": "bayes"}, "method 'bayes' needs the results of earlier runs. Available: grid, random"),
    "early stop": ({"early_terminate": {"type": "hyperband"}}, "'early_terminate' cannot be honoured: runs are never stopped"),
    "no parameters": ({"parameters": {}}, "the grid is empty"),
    "parameters of a list": ({"parameters": [1]}, "the grid is empty"),
    "project": ({"project": 2024}, "'project' must be text, not 2024"),
    "program": ({"program": ["lit_degrade"]}, r"'program' must be text, not \['lit_degrade'\]"),
    "command": ({"command": "python"}, "'command' must be a list, not 'python'"),
    "word of a command": ({"command": ["python", {"args": None}]}, "word 2 of 'command' is {'args': None}: expected text"),
    "empty word": ({"command": [None]}, "word 1 of 'command' is null"),
    "run_cap": ({"run_cap": 0}, "run_cap must be a whole number above 0, not 0"),
    "run_cap of a float": ({"run_cap": 2.0}, "run_cap must be a whole number above 0, not 2.0"),
    "run_cap of a truth": ({"run_cap": True}, "run_cap must be a number, not true"),
    "run_cap of text": ({"run_cap": "5"}, "run_cap '5' is text: write 5"),
    "endless": ({"method": "random", **one(min=0, max=9)}, "say how many runs with run_cap"),
    "name of a number": ({"parameters": {3: {"value": 1}}}, "the parameter name 3 is no key of a run"),
    "name of null": ({"parameters": {None: {"value": 1}}}, "the parameter name null is no key of a run"),
    "name with a dash": ({"parameters": {"--model.lr": {"value": 1}}}, "the parameter name '--model.lr' is no key"),
    "name with a space": ({"parameters": {"model lr": {"value": 1}}}, "the parameter name 'model lr' is no key"),
    "name with a value": ({"parameters": {"a=1": {"value": 1}}}, "the parameter name 'a=1' is no key"),
    "name with a new line": ({"parameters": {"a\nb": {"value": 1}}}, r"the parameter name 'a\\nb' is no key"),
    "name in a block": (one(parameters={"-b": {"value": 1}}), "the parameter name '-b' is no key"),
    "plain value": ({"parameters": {"a": 3}}, "parameter 'a' must have value, values, or a distribution, not 3"),
    "values of text": (one(values="abc"), "parameter 'a': 'values' must be a list with at least one value, not 'abc'"),
    "values by name": (one(values={"x": 1}), "'values' must be a list with at least one value, not {'x': 1}"),
    "no values": (one(values=[]), "parameter 'a': the grid is empty"),
    "value and values": (one(value=1, values=[1]), "parameter 'a' has both value and values"),
    "a date": (one(values=[datetime.date(2026, 1, 2)]), "the value 2026-01-02 is a date to YAML: put it in quotes"),
    "bytes": (one(value=b"x"), "the value b'x' is neither text"),
    "a set": (one(values=[[{1, 2}]]), "the value {1, 2} is neither text"),
    "key in a value": (one(value={1: 2}), "the key 1 in its value is not text"),
    "what no command line holds": (one(values=["a\0b"]), "holds a character that no command line can"),
    "block of nothing": (one(parameters={}), "parameter 'a': the grid is empty"),
    "block of a list": (one(parameters=[1]), r"'parameters' must hold parameters by their names, not \[1\]"),
    "block and value": (one(parameters={"b": {"value": 1}}, value=2), "'parameters' stands alone, without 'value'"),
    "block without parameters": (one(b={"value": 1}), "Unknown key of .*parameter 'a' 'b'. Available: min, max, distribution"),
    "parameter key": (one(valeus=[1]), "parameter 'a'.*'valeus'"),
    "distribution": (one(distribution="cauchy"), "Unknown distribution of .*'cauchy'"),
    "distribution of no text": (one(distribution=["uniform"]), "Unknown distribution of"),
    "incomplete": (one(min=1), "parameter 'a' with distribution 'uniform' needs 'max'"),
    "grid over a line": (one(min=0.0, max=1.0), "a grid needs 'values'"),
    "bounds": (one(min=3, max=3), "parameter 'a': min must be a number below max, not 3 and 3"),
    "bounds in a block": (one(parameters={"b": {"min": 3, "max": 1}}), "parameter 'a.b': min must be a number below max"),
    "bounds of text": (one(min="1e-5", max=1), "parameter 'a': min '1e-5' is text: write 1.0e-5"),
    "large bound of text": (drawn("uniform", min=1, max="2e6"), "max '2e6' is text: write 2000000.0"),
    "larger bound of text": (drawn("uniform", min=1, max="2E30"), r"max '2E30' is text: write 2.0e\+30"),
    "whole bound of text": (one(min=1, max="3"), "max '3' is text: write 3"),
    "bound of words": (one(min=1, max="three"), "max 'three' is text: expected a number"),
    "bound of null": (one(min=None, max=1), "min must be a number, not null"),
    "bounds of truths": (one(min=False, max=True), "min must be a number, not false"),
    "bound that is none": (drawn("uniform", min=math.nan, max=1), "min must be a finite number, not nan"),
    "bound without end": (drawn("uniform", min=0, max=math.inf), "max must be a finite number, not inf"),
    "bound beyond floats": (drawn("uniform", min=0, max=10**400), "max must be a finite number, not 1000"),
    "bounds too far apart": (drawn("uniform", min=-1.0e308, max=1.0e308), "are too far apart"),
    "whole bounds of a float": (one(distribution="int_uniform", min=1.0, max=3.0), "min must be a whole number .*, not 1.0"),
    "whole bounds of a fraction": (drawn("int_uniform", min=1, max=3.5), "max must be a whole number .*, not 3.5"),
    "large whole bounds": (drawn("int_uniform", min=0, max=2**60), r"max must be between -2\^53 and 2\^53"),
    "exponents as values": (drawn("log_uniform", min=100, max=1000000), "max .* no float holds e.1000000.*log_uniform_values"),
    "exponent below all": (drawn("log_uniform", min=-1000, max=1), "min .* no float holds e.-1000"),
    "inverse exponents": (drawn("inv_log_uniform", min=-1000, max=1), "min .* no float holds e.1000.*inv_log_uniform_values"),
    "values of 0": (drawn("log_uniform_values", min=0, max=1), "min must be above 0 with distribution 'log_uniform_values'"),
    "values below 0": (drawn("q_log_uniform_values", min=-1, max=1), "min must be above 0 .*, not -1"),
    "inverse values of 0": (drawn("inv_log_uniform_values", min=0.0, max=1), "min must be above 0 .*, not 0.0"),
    "step of 0": (one(distribution="q_uniform", min=0, max=1, q=0), "parameter 'a': q must be above 0, not 0"),
    "step of text": (one(distribution="q_uniform", min=0, max=1, q="1e-2"), "q '1e-2' is text: write 0.01"),
    "step too small": (one(distribution="q_uniform", min=0, max=1.0e300, q=1.0e-300), "q 1.0e-300 is too small"),
    "sigma": (drawn("normal", sigma=0), "parameter 'a': sigma must be above 0, not 0"),
    "mu": (drawn("normal", mu="zero"), "parameter 'a': mu 'zero' is text: expected a number"),
    "mu of a logarithm": (drawn("log_normal", mu=1000), "mu is an exponent .* no float holds e.1000.$"),
    "a": (drawn("beta", a=0), "parameter 'a': a must be above 0, not 0"),
    "b": (drawn("q_beta", b=-1.5), "parameter 'a': b must be above 0, not -1.5"),
    "a draw without end": (drawn("log_normal", sigma=1.0e5), "a draw from distribution 'log_normal' is inf"),
    "probabilities": (one(values=[1, 2], probabilities=[1.0]), "2 values need as many probabilities"),
    "probabilities by name": (one(values=[1], probabilities={"1": 1}), "'probabilities' must be a list, not {'1': 1}"),
    "probability of text": (one(values=[1], probabilities=["1"]), "probability '1' is text: write 1"),
    "probability below 0": (one(values=[1, 2], probabilities=[1, -0.5]), "probability -0.5 is not between 0 and 1"),
    "probabilities' sum": (one(values=[1, 2], probabilities=[0.5, 0.4]), "the probabilities must sum to 1, not to 0.9"),
    "too many": ({"parameters": {"a": {"min": 1, "max": 11}, "b": {"values": [1, 2]}}}, "22 runs are more than --max-runs 20"),
    "far too many": (one(min=0, max=2_000_000_000), "2000000001 runs are more than --max-runs 20"),
    "a fine step": (one(distribution="q_uniform", min=0, max=2, q=1.0e-9), "2000000000 runs are more than --max-runs 20"),
    "a product": ({"parameters": {f"p{i}": {"min": 0, "max": 9} for i in range(6000)}}, "more than 10.12 runs are more than"),
    "random runs": ({"method": "random", "run_cap": 10**9, **one(min=0, max=9)}, "1000000000 runs are more than --max-runs 20"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_honoured_is_one_line(case: str, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    content, message = BAD[case]
    path = write(tmp_path, {"parameters": {"a": {"value": 1}}, **content})
    with pytest.raises(UserError, match=message) as caught:
        points(load_sweep(path), 20)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert not recwarn.list


GOOD: dict[str, Any] = {
    "program": "lit_degrade", "method": "random", "command": COMMAND, "run_cap": 7, "project": "p", "name": "n",
    "parameters": EVERY_DISTRIBUTION,
}  # fmt: skip
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.just(10**400), st.just(-(2**63)), st.floats(), st.text(max_size=5), st.dates(),
    st.binary(max_size=3), st.sampled_from(["1e-6", "value", "values", "min", "constant", "grid", "--x", "", "\0", "${args}"]),
)  # fmt: skip
ANYTHING = st.recursive(
    ODD, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where a value could stand in nested dicts and lists."""
    inside = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [*([path] if path else ()), *(place for key, value in inside for place in places(value, (*path, key)))]


def points_or_one_line(path: Path) -> None:
    import wandb.sdk.launch.sweeps.utils  # noqa: F401 (imports are not what is timed)

    start, said = time.process_time(), ""
    try:
        sweep = load_sweep(path)
        for point in points(sweep, 50):
            command_line(sweep, point, path.parent)
    except UserError as error:
        said = str(error)
    assert said == "" or (str(path) in said and "\n" not in said)
    assert time.process_time() - start < 1


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(places(GOOD)), st.sampled_from(["grid", "random"]), ANYTHING, st.one_of(st.none(), ODD))
def test_anything_anywhere_gives_points_or_one_line(
    tmp_path: Path, place: tuple[Any, ...], method: str, value: Any, name: Any
) -> None:
    """A value in the place of another, or beside it under another name."""
    content = copy.deepcopy({**GOOD, "method": method})
    if method == "grid":
        content["parameters"] = {
            key: entry for key, entry in content["parameters"].items() if "values" in entry or place[:2] == ("parameters", key)
        }
    node: Any = content
    for key in place[:-1]:
        node = node[key]
    if name is not None and isinstance(node, dict):
        node[name] = value
    else:
        node[place[-1]] = value
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(content))
    points_or_one_line(path)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.floats(0, 1),
    st.integers(0, 8),
    st.one_of(st.text(max_size=4), st.sampled_from(["{", "[", "- ", ": ", "\n\t", "&a ", "*a"])),
)
def test_a_torn_file_gives_points_or_one_line(tmp_path: Path, where: float, cut: int, text: str) -> None:
    whole = yaml.safe_dump(GOOD)
    at = int(where * len(whole))
    path = tmp_path / "sweep.yaml"
    path.write_bytes((whole[:at] + text + whole[at + cut :]).encode())
    points_or_one_line(path)


def test_other_programs_are_refused(tmp_path: Path) -> None:
    sweep = load_sweep(write(tmp_path, command=["python", "train.py", "${args}"], parameters={"a": {"value": 1}}))
    with pytest.raises(UserError, match=r"the command is 'python train\.py --a=1', not"):
        own_arguments(sweep, command_line(sweep, points(sweep, 1)[0], tmp_path))


def test_unreadable_files_are_one_line(tmp_path: Path) -> None:
    files = {
        "list": (b"- 1\n", "holds no keys"),
        "empty": (b"", "holds no keys"),
        "broken": (b"a: [1\n", "is not YAML"),
        "binary": (bytes(range(128, 256)), "is not YAML"),
        "endless": (b"parameters: &p\n  a: {parameters: *p}\n", "cannot be used: Circular reference"),
        "long": (b"run_cap: 0x" + b"f" * 5000, "cannot be used: Exceeds the limit"),
        "deep": (b"a: " + b"[" * 5000, "is not YAML"),
    }
    for name, (content, message) in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message) as caught:
            load_sweep(tmp_path / name)
        assert "\n" not in str(caught.value)
    for name in ("none", "."):
        with pytest.raises(UserError, match="cannot be read"):
            load_sweep(tmp_path / name)


def test_a_file_of_another_encoding_is_read_by_its_mark(tmp_path: Path) -> None:
    path = write(tmp_path, parameters={"a": {"value": "ü"}})
    for encoding in ("utf-8-sig", "utf-16"):
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_bytes()), allow_unicode=True), encoding=encoding)
        assert points(load_sweep(path), 1) == [{"a": "ü"}]


def with_every_value(chosen: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A few points that hold every value of every parameter; of the seeds, which are all alike, any."""
    own = [{(key, str(value)) for key, value in point.items() if key != "seed_everything"} for point in chosen]
    left, few = set().union(*own), []
    while left:
        best = max(range(len(own)), key=lambda i: len(own[i] & left))
        few.append(chosen[best])
        left -= own[best]
    return few


@pytest.mark.parametrize("path", TINY, ids=lambda p: p.name)
def test_shipped_sweeps_resolve(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every value in a tiny sweep makes a command line with a record of its own; slow tests of the ids have all sweeps."""
    from lit_degrade.run import resolve

    monkeypatch.chdir(ROOT)
    sweep = load_sweep(path)
    picked = [own_arguments(sweep, command_line(sweep, point, tmp_path)) for point in with_every_value(points(sweep, 1000))]
    assert len({resolve(line).run_id for line in picked}) == len(picked)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: str(p.relative_to(ROOT)))
def test_headers_of_shipped_sweeps_say_how_many_records_they_make(path: Path) -> None:
    chosen = points(load_sweep(path), 1000)
    header = path.read_text().split("program:")[0]
    for word in ("# Question:", "# Launch:", "# Answer:", "# Cost:"):
        assert word in header
    assert f"{len(chosen)} records" in header
    seeds = sorted({point["seed_everything"] for point in chosen})
    assert seeds == list(range(43, 43 + len(seeds))), "base 42, run k uses 42 + k"


def test_tiny_sweeps_mirror_the_published_scale() -> None:
    for tiny in TINY:
        big = yaml.safe_load((ROOT / "sweeps" / tiny.name).read_text())["parameters"]
        small = yaml.safe_load(tiny.read_text())["parameters"]
        varied = {key for key, entry in small.items() if "values" in entry} - {"subject"}
        assert varied == {key for key, entry in big.items() if "values" in entry} - {"subject"} - (
            {"config"} if tiny.name == "priority1_scaling.yaml" else set()
        )
    assert TINY
