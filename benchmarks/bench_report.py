"""What a report costs: seconds for given records with --html, against parsing their files.

    python benchmarks/bench_report.py results/priority1 results/priority2 ...
    python benchmarks/bench_report.py                       # 200 made records of one experiment

The reference is the least that has to be done: parsing summary.json, config.yaml and metrics.csv of every record.
"""

import contextlib
import io
import json
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import yaml

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from made import placebo

from lit_degrade.cli import main


def parse(folders: list[Path]) -> int:
    """Parse the three files of every record; returns their number."""
    found = [path.parent for folder in folders for path in folder.rglob("manifest.json")]
    for folder in found:
        json.loads((folder / "summary.json").read_text())
        yaml.load((folder / "config.yaml").read_text(), yaml.CSafeLoader)
        pd.read_csv(folder / "metrics.csv")
    return len(found)


def run(folders: list[Path], output: Path) -> None:
    start = time.perf_counter()
    n = parse(folders)
    reference = time.perf_counter() - start
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        main(["report", *map(str, folders), "--output", str(output), "--html"])
    seconds = time.perf_counter() - start
    each = 200 * seconds / n
    print(f"{n} records: {seconds:.1f} s, {seconds / reference:.1f} times parsing them ({reference:.2f} s)")
    print(f"for 200 records: {each:.1f} s (target at most 20){'' if each <= 20 else '   MISS'}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        given = [Path(word) for word in sys.argv[1:]]
        if not given:
            given = [Path(temporary) / "results"]
            placebo(
                given[0], seeds=40, eigen_prion=0.5, random_tokens=0.3, gaussian_noise=0.1, random_text=0.1, loss_ascent=0.2
            )
        run(given, Path(temporary) / "report")
