"""The command line: Lightning's verbs carry every experiment, verbs of our own stand around them."""

import sys
from collections.abc import Sequence
from pathlib import Path

from lit_degrade import __version__
from lit_degrade.errors import unknown
from lit_degrade.exits import exit_code
from lit_degrade.extensions import extensions
from lit_degrade.inputs import read_env
from lit_degrade.listing import list_known

VERBS = {
    "fit": "attack or pretrain a subject",
    "validate": "measure a subject (the same as test)",
    "test": "measure a subject, intact or perturbed",
    "predict": "generate text with a subject, intact or perturbed",
    "sweep": "run a W&B sweep file without a W&B server, here or on SLURM",
    "report": "turn run records into statistics, verdicts, figures and pages",
    "list": "show what is known: subjects, stimuli, perturbations, targets, variants, tasks, configs, sweeps, claims and more",
}
HELP = f"""usage: python -m lit_degrade VERB [options]

What does damage do to a language model, and is the claim about it true?

verbs:
{chr(10).join(f"  {verb:<10}{meaning}" for verb, meaning in VERBS.items())}

a run:      python -m lit_degrade fit --config configs/priority3.yaml
a grid:     python -m lit_degrade sweep sweeps/tiny/priority3_optimizer.yaml --workers 2
a report:   python -m lit_degrade report results --html
all keys:   python -m lit_degrade fit --help
exit codes: 0 done, 1 failed (a full disk too), 2 bad input, 3 diverged, 130 interrupted, 143 asked to end by a signal
            (a sweep: 0 when every run is done or diverged)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code (see `exits`)."""
    args = list(sys.argv[1:] if argv is None else argv)
    return exit_code(lambda: _verb(args))


def _verb(args: list[str]) -> int | None:
    read_env(Path(".env"))
    if not args or args[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return None
    if args[0] == "--version":
        print(f"lit_degrade {__version__}")
        return None
    extensions()
    if args[0] == "list":
        list_known(args[1:])
    elif args[0] == "sweep":
        from lit_degrade.grids.sweep import sweep

        return sweep(args[1:])
    elif args[0] == "report":
        from lit_degrade.evidence.pages.report import report

        return report(args[1:])
    elif args[0] in VERBS:
        from lit_degrade.run import run

        run(args)
    else:
        raise unknown("verb", args[0], VERBS)
    return None
