"""What tests of several rooms share: quick settings, runs, records, sections and figures, sweeps, published records."""

import contextlib
import csv
import io
import json
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib.figure import Figure

from lit_degrade.cli import main
from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.drawing.panels import Plate
from lit_degrade.evidence.drawing.tables import Table
from lit_degrade.evidence.drawing.topic import Topic
from lit_degrade.evidence.numbers import statistics as s
from lit_degrade.evidence.pages.figures import compose
from lit_degrade.evidence.pages.sections import make_sections
from lit_degrade.evidence.reading.runs import read_runs
from lit_degrade.records import paths
from lit_degrade.subjects.catalog import EMBEDDED_FOLDER

ROOT = Path(__file__).parent.parent
QUICK = [
    "--subject", "tiny-60k", "--model.null_space.products", "20", "--model.null_space.random_directions", "3",
    "--model.null_space.calibration_blocks", "2", "--model.stimuli.evaluations", "60", "--trainer.max_steps", "6",
    "--text.probe_tokens", "2048", "--verbosity", "quiet",
]  # fmt: skip
PRIORITY3 = ["fit", "--config", str(ROOT / "configs/priority3.yaml"), *QUICK]


def run(results: Path, *args: str, rc: int = 0, verb: list[str] | None = None) -> Path:
    """Run once; returns the folder of the record that this has written."""
    before = _summaries(results)
    assert main([*(verb or PRIORITY3), "--results", str(results), *args]) == rc
    ((summary, _),) = _summaries(results) - before
    return summary.parent


def _summaries(results: Path) -> set[tuple[Path, int]]:
    return {(path, path.stat().st_mtime_ns) for path in results.glob(f"*/*/{paths.SUMMARY}")}


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / paths.SUMMARY).read_text())


def manifest_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / paths.MANIFEST).read_text())


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


class Page(HTMLParser):
    """Collects what a page refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids += [found["id"] or ""] if "id" in found else []
        self.links += [found["href"] or ""] if "href" in found else []
        self.sources += [found["src"] or ""] if "src" in found else []
        assert tag != "script"


def section(results: Path) -> Section:
    (found,) = make_sections(read_runs([results]), [])
    return found


def plates(results: Path) -> dict[str, Plate]:
    return {plate.name: plate for plate in compose(section(results))}


def plates_of(found: Section, topics: Sequence[Topic]) -> dict[str, Plate]:
    """Figures that some topics draw of a section."""
    return {plate.name: plate for plate in compose(found, topics)}


def tables_of(found: Section, folder: Path, topics: Sequence[Topic]) -> list[Table]:
    """Tables that some topics write of a section."""
    return [table for topic in topics if topic.tables for table in topic.tables(found, folder)]


def texts(figure: Figure) -> list[str]:
    return [item.get_text() for item in figure.findobj(lambda item: hasattr(item, "get_text")) if item.get_text()]


COMMAND = [
    "${env}", "${interpreter}", "-m", "${program}", "fit", f"--config={ROOT}/configs/priority3.yaml", "--cache_gb=1", "${args}",
]  # fmt: skip
"""Of a sweep of quick runs."""
CONSTANTS = {key.removeprefix("--"): {"value": value} for key, value in zip(QUICK[::2], QUICK[1::2], strict=True)}


def sweep_file(folder: Path, name: str = "grid", command: list[str] = COMMAND, **parameters: Any) -> Path:
    path = folder / f"{name}.yaml"
    content = {"program": "lit_degrade", "method": "grid", "command": command, "parameters": CONSTANTS | parameters}
    path.write_text(yaml.safe_dump(content))
    return path


def sweep(path: Path, *args: str, rc: int = 0) -> str:
    """Run a sweep in this process, whose fork server serves all tests; returns what it printed."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), contextlib.chdir(ROOT):
        found = main(["sweep", str(path), "--results", str(path.parent / "results"), *args])
    assert found == rc, out.getvalue()
    return out.getvalue()


def states(path: Path) -> dict[str, str]:
    found = {}
    for manifest in (path.parent / "results").glob("*/*/manifest.json"):
        found[manifest.parent.name] = json.loads(manifest.read_text())["exit_state"]
    return found


DEGRADE = [
    "predict", "--config", str(ROOT / "configs/degradation.yaml"), "--subject", "tiny-60k", "--text.probe_tokens", "2048",
    "--verbosity", "quiet", "--model.decoding.max_new_tokens", "4", "--model.repetitions", "1",
]  # fmt: skip
SHORT = ["--model.levels", "[0.0, 0.5]"]


SMALL = ["--subject", "tiny-60k", "--text.probe_tokens", "2048", "--verbosity", "quiet", "--trainer.max_steps", "5"]
ATTACK = f"{ROOT}/configs/priority2.yaml " + " ".join(
    f"{key}={value}" for key, value in zip(QUICK[2::2], QUICK[3::2], strict=True) if not key.startswith(("--text", "--verb"))
)
HEAL = ["fit", "--config", str(ROOT / "configs/healing.yaml"), *SMALL, "--model.lr", "1e-3"]


CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def verb_of(config: Path) -> str:
    launch = next(line for line in config.read_text().splitlines() if "python -m lit_degrade" in line)
    return launch.split("lit_degrade ")[1].split()[0]


def published_run(
    folder: Path, name: str, pre: float = 5000.0, post: float = 9000.0, ranks: tuple[float, float] = (2.4, 2.5)
) -> Path:
    """One run in the published layout."""
    path = folder / name
    path.mkdir(parents=True)
    config = {"model": {"use_fft": True}, "attack": {"learning_rate": 1e-4, "num_steps": 100, "catalyst_length": 64}}
    (path / "config.json").write_text(json.dumps(config))
    lines = [
        {"baseline_perplexity": pre, "baseline_effective_rank": ranks[0]},
        {"post_attack_perplexity": post, "post_attack_effective_rank": ranks[1]},
    ]
    (path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return path


CONFIG = {"seed_everything": 1, "model": {"lr": 0.1}, "experiment": "e", "results": "somewhere", "verbosity": "quiet"}


def card_of(name: str) -> dict[str, float | str]:
    return json.loads((EMBEDDED_FOLDER / name / "card.json").read_text())


EIGEN = np.array([-2.366238, 3.639074, -12.412432])
A, B = np.array([0.31, 1.72, 0.94, 2.41, 1.15]), np.array([0.12, 0.55, -0.41, 0.83, 0.26, 0.71, -0.1])
CONSTANT, HIGHER = np.full(5, 0.3), np.full(4, 0.1 + 0.4)
DIRECTIONS: tuple[s.Direction, ...] = ("greater", "less", "different")


def tails(null: np.ndarray, seen: float) -> dict[str, float]:
    greater, less = (null >= round(seen, 9)).mean(), (null <= round(seen, 9)).mean()
    return {"greater": greater, "less": less, "different": min(1.0, 2 * min(greater, less))}
