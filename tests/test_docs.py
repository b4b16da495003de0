"""Every command of the README and of all pages runs; those of migration.md and extending.md have tests of their own."""

import re
import shlex
from pathlib import Path

import pytest
from helpers import ROOT
from workplace import BEGINS, KEPT, SHRUNK, Workplace, check_line, lines

from lit_degrade.cli import main

PAGES = sorted(
    path for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")] if path.name not in ("migration.md", "extending.md")
)
ELSEWHERE = {
    "--launcher slurm": "grids/test_slurm.py has a SLURM to run it on",
    "lm_eval:": "measures/test_harness.py, where the harness is installed",
    " --wandb": "evidence/test_dashboards.py has a server",
    "fit --help": "migration.md has it",
}
"""What a command holds that does not run here -> what runs it."""
FORMS = (" DIR", "ENTITY")
"""Of what is shown as a form to be filled in."""
TWINS = ("criticality", "degradation", "exchange_rate", "integrated", "pipeline", "priority3_optimizer")
"""Tiny sweeps whose twins migration.md runs: they are resolved to the last run, and not run again."""


def commands(page: Path) -> list[str]:
    """Commands of a page: whole lines of shell, without their comments, and spans of code."""
    text = page.read_text(encoding="utf-8")
    fenced = [line for block in re.findall(r"```bash\n(.*?)```", text, re.S) for line in block.splitlines()]
    found = [re.split(r"\s+# ", line)[0].strip() for line in fenced]
    found += re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
    return [line for line in found if line.startswith(BEGINS) and not any(form in line for form in FORMS)]


EVERY = list(dict.fromkeys(line for page in PAGES for line in commands(page)))
HERE = [line for line in EVERY if not any(part in line for part in ELSEWHERE)]


@pytest.mark.parametrize("command", lines(HERE))
def test_the_line_runs(command: str, workplace: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    if any(f"sweeps/tiny/{name}.yaml" in command for name in TWINS):
        assert main([*shlex.split(command)[3:], "--dry-run"]) == 0
        assert capsys.readouterr().out.count("to run") >= 1
    else:
        check_line(command, workplace, capsys)


def test_no_command_is_forgotten() -> None:
    """As many as there were; each mention of the command line is a whole command, or a form."""
    assert len(HERE) > 50
    assert all(any(part in line for line in EVERY) for part in ELSEWHERE)


def test_everything_that_is_run_is_made_small() -> None:
    text = "\n".join(HERE)
    sweeps = set(re.findall(r"sweeps/(?:tiny/)?(\w+)\.yaml", text))
    assert sweeps <= set(KEPT)
    text += "\n".join((ROOT / f"sweeps/{name}.yaml").read_text() for name in sweeps)
    assert set(re.findall(r"\bconfigs/(\w+)\.yaml", text)) <= set(SHRUNK)
