"""Every recipe of docs/extending.md: its files are written as they stand, and its commands run in their order."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers import ROOT, manifest_of, rows_of, summary_of

import lit_degrade.extensions
from lit_degrade import text
from lit_degrade.cli import main

PAGE = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.S | re.M))
VARIABLE = lit_degrade.extensions.ASKED


def cook(recipe: str, folder: Path) -> list[str]:
    """Write the files of a recipe and run its commands; returns what each printed."""
    for language, content in re.findall(r"```(\w+)\n(.*?)```", RECIPES[recipe], re.S):
        if language in ("python", "yaml"):
            name, _, rest = content.partition("\n")
            path = folder / name.removeprefix("# ")
            path.parent.mkdir(exist_ok=True)
            path.write_text(rest, encoding="utf-8")
    commands = "\n".join(re.findall(r"```bash\n(.*?)```", RECIPES[recipe], re.S)).strip().splitlines()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WANDB_MODE": "disabled", "PYTHONWARNINGS": "ignore"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    exports = [line for line in commands if line.startswith("export ")]
    said = []
    for line in (line for line in commands if line not in exports):
        script = "\n".join([*exports, line])
        done = subprocess.run(["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        assert not done.stderr or "lit_degrade" not in line, (line, done.stderr)
        said.append(done.stdout)
    return said


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kitchen")
    (folder / "configs").symlink_to(ROOT / "configs")
    return folder


def first(args: tuple[str, ...]) -> str:
    return args[0]


def record_of(said: str, folder: Path) -> Path:
    return folder / said.splitlines()[-1]


@pytest.mark.slow
def test_a_method(kitchen: Path) -> None:
    (said,) = cook("A method", kitchen)
    rows = {float(row["level"]): float(row["log_perplexity_ratio"]) for row in rows_of(record_of(said, kitchen) / "doses.csv")}
    assert rows[float("inf")] == 0
    assert abs(rows[8.0]) < rows[2.0]
    versions = manifest_of(record_of(said, kitchen))["versions"]
    assert re.fullmatch(r"[0-9a-f]{12}", versions["extension few_bits"])


@pytest.mark.slow
def test_a_metric_a_figure_and_a_claim(kitchen: Path) -> None:
    measured, pruned = cook("A metric", kitchen)
    assert {row["metric"] for row in rows_of(record_of(measured, kitchen) / "effects.csv")} == {"magnitude", "row_share"}
    assert summary_of(record_of(pruned, kitchen))["method"] == "row_share"
    cook("A figure", kitchen)
    assert (kitchen / "report_of_figures/pruning/by_weights.svg").is_file()
    text = (kitchen / "report_of_figures/report.md").read_text()
    assert "Points: runs." in text
    assert "share of its row" in text
    cook("A claim", kitchen)
    claimed = (kitchen / "report_of_claims/report.md").read_text()
    assert re.search(r"A subject without half of its weights loses more .*\*\*supported\*\*", claimed)


@pytest.mark.slow
def test_an_architecture(kitchen: Path) -> None:
    _, said = cook("An architecture", kitchen)
    units = {row["unit"] for row in rows_of(record_of(said, kitchen) / "ablation.csv")}
    assert {"layer 0", "layer 1", "attn_q 0", "mlp_gate 1"} <= units


@pytest.mark.slow
def test_a_text(kitchen: Path) -> None:
    (said,) = cook("A text", kitchen)
    assert summary_of(record_of(said, kitchen))["probe_tokens"] == 16 * 127


SEEDS = {
    "program": "lit_degrade", "method": "grid", "command": ["${env}", "python", "-m", "lit_degrade", "test", "${args}"],
    "parameters": {
        "config": {"value": "positions/positions.yaml"}, "subject": {"value": "tiny-60k"},
        "text.probe_tokens": {"value": 2048}, "seed_everything": {"values": [45, 46]},
    },
}  # fmt: skip


@pytest.mark.slow
def test_an_analysis(kitchen: Path) -> None:
    listed, first, _, _ = cook("An analysis", kitchen)
    assert re.search(r"positions/positions +test +does a subject make use of its context\?", listed)
    rows = rows_of(record_of(first, kitchen) / "positions.csv")
    assert len(rows) == 127
    start, end = (sum(float(row["nats_per_token"]) for row in part) / 31 for part in (rows[:31], rows[-31:]))
    assert summary_of(record_of(first, kitchen))["nats_gained"] == pytest.approx(start - end)
    assert manifest_of(record_of(first, kitchen))["sha256"]["subject_after"]
    report = kitchen / "results/positions/report"
    assert (report / "positions/likelihood_by_position.svg").is_file()
    assert (report / "positions/positions_summary_positions.csv").is_file()
    text = (report / "report.md").read_text()
    assert re.search(r"Tokens late in a window are more likely .*\*\*(supported|inconclusive)\*\*", text)
    assert "Likelihood by position" in text
    assert "Lines: runs." in (report / "report.html").read_text()
    (kitchen / "sweep.yaml").write_text(yaml.safe_dump(SEEDS))
    script = "python -m lit_degrade sweep sweep.yaml"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WANDB_MODE": "disabled", VARIABLE: "positions"}
    subprocess.run([sys.executable, *script.split()[1:]], cwd=kitchen, env=environment, capture_output=True, check=True)
    assert len(list((kitchen / "results/positions").glob("*/positions.csv"))) == 4


SWEEP = str(ROOT / "sweeps/tiny/priority2_placebo.yaml")
BAD = {
    "nowhere": "'nowhere' is not the folder of a Python package. Expected one with an __init__.py",
    "no-name": "'no-name' is not the folder of a Python package",
    "turtle": "'turtle' has the name of another module",
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("args", [("list", "methods"), ("test",), ("report", "."), ("sweep", SWEEP, "--dry-run")], ids=first)
def test_an_extension_that_cannot_be_is_one_line(
    name: str, args: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("no-name", "turtle"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").touch()
    monkeypatch.setenv(VARIABLE, name)
    lit_degrade.extensions.extensions.cache_clear()
    try:
        assert main(list(args)) == 2
    finally:
        lit_degrade.extensions.extensions.cache_clear()
    (line,) = capsys.readouterr().err.splitlines()
    assert BAD[name] in line
    assert line.startswith(f"{VARIABLE}: ") or VARIABLE in line


def test_an_installed_package_is_found_by_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shades").mkdir()
    (tmp_path / "shades/__init__.py").write_text("from lit_degrade.text import SOURCES\nSOURCES['shades'] = list\n")
    (tmp_path / "shades/claims.yaml").touch()
    (tmp_path / "shades/dark.yaml").touch()
    facts = tmp_path / "shades-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: shades\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(f"[{lit_degrade.extensions.GROUP}]\nshades = shades\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv(VARIABLE, raising=False)
    lit_degrade.extensions.extensions.cache_clear()
    try:
        (found,) = lit_degrade.extensions.extensions()
        assert "shades" in text.SOURCES
    finally:
        lit_degrade.extensions.extensions.cache_clear()
        text.SOURCES.pop("shades", None)
    assert (found.name, found.folder) == ("shades", tmp_path / "shades")
    assert ([path.name for path in found.configs], [path.name for path in found.claims]) == (["dark.yaml"], ["claims.yaml"])
