"""The `list` verb: every catalogue, without importing anything heavy."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from lit_degrade.adversarial.catalog import ATTACKS, NORMS, TOKEN_ATTACKS
from lit_degrade.criticality.catalog import CONTROLS, METRICS, MODES
from lit_degrade.curvature.catalog import PARTS, PROJECTIONS
from lit_degrade.errors import UserError, unknown
from lit_degrade.extensions import extensions
from lit_degrade.faults.catalog import ARMS, CONSTRAINTS
from lit_degrade.names import meanings
from lit_degrade.perturbations.catalog import METHODS, SCHEDULES, TARGETS, VARIANTS
from lit_degrade.pruning.catalog import SCOPES, STRUCTURES, pruners
from lit_degrade.stimuli.catalog import OPTIMIZERS, PROTOCOLS, STIMULI
from lit_degrade.subjects.catalog import ADAPTERS, HUB, LADDER, PRECISIONS
from lit_degrade.tasks.benchmarks import BENCHMARKS


def _subjects() -> dict[str, str]:
    embedded = {
        name: f"embedded: GPT-NeoX, {rung.layers} layers of {rung.hidden}, trained on the standard library's documentation"
        for name, rung in LADDER.items()
    }
    return embedded | {name: f"hub: {hub_id}" for name, hub_id in HUB.items()}


def _perturbations() -> dict[str, str]:
    return {name: f"{method.says}; level: {method.dose}, {method.levels} [{method.unit}]" for name, method in METHODS.items()}


def _variants() -> dict[str, str]:
    return {f"{index} {name}": variant.says for index, (name, variant) in enumerate(VARIANTS.items(), 1)}


def _kinds(kind: str, known: Mapping[str, str]) -> dict[str, str]:
    return {f"{kind} {name}": says for name, says in known.items()}


def _attacks() -> dict[str, str]:
    embeddings, tokens = ({name: attack.says for name, attack in known.items()} for known in (ATTACKS, TOKEN_ATTACKS))
    return {**embeddings, **_kinds("norm", meanings(NORMS)), **_kinds("tokens", tokens)}


def _tasks() -> dict[str, str]:
    from lit_degrade.tasks.catalog import TASKS

    return TASKS


def _claims() -> dict[str, str]:
    from lit_degrade.evidence.claims.claims import shipped_designs

    return {f"{design.experiment}/{claim.name}": claim.says for design in shipped_designs() for claim in design.claims}


def _lines(path: Path) -> list[str]:
    """Lines of a file that others may have written, in whatever encoding; one at least."""
    return path.read_text(encoding="utf-8", errors="replace").splitlines() or [""]


def _below(folder: str) -> list[Path]:
    """YAML files below a folder of the working directory."""
    return sorted(Path(folder).glob("**/*.yaml"))


def _first_lines(paths: Iterable[Path]) -> dict[str, str]:
    """First comment line of YAML files."""
    return {str(path): _lines(path)[0].removeprefix("# ") for path in paths}


def _analyses() -> dict[str, str]:
    """Verb and question of each config, which is all that an analysis needs beside its module."""
    own = {path.stem: path for path in sorted(Path("configs").glob("*.yaml"))}
    others = {f"{it.name}/{path.stem}": path for it in extensions() for path in it.configs}
    analyses = {}
    for name, path in (own | others).items():
        lines = _lines(path)
        question = lines[0].removeprefix("# Question: ")
        verb = next((line.partition("lit_degrade ")[2].split()[0] for line in lines if "-m lit_degrade " in line), "?")
        analyses[name] = f"{verb:<8}{question}"
    return analyses


KINDS: dict[str, Callable[[], Mapping[str, str]]] = {
    "subjects": _subjects,
    "stimuli": lambda: STIMULI,
    "parts": lambda: PARTS,
    "projections": lambda: PROJECTIONS,
    "perturbations": _perturbations,
    "targets": lambda: TARGETS,
    "variants": _variants,
    "schedules": lambda: SCHEDULES,
    "metrics": lambda: {name: metric.says for name, metric in METRICS.items()},
    "modes": lambda: meanings(MODES),
    "controls": lambda: meanings(CONTROLS),
    "pruning": lambda: {**meanings(pruners()), **_kinds("scope", SCOPES), **_kinds("structure", STRUCTURES)},
    "faults": lambda: {**_kinds("arm", meanings(ARMS)), **_kinds("constraint", meanings(CONSTRAINTS))},
    "attacks": _attacks,
    "tasks": _tasks,
    "benchmarks": lambda: BENCHMARKS,
    "optimizers": lambda: OPTIMIZERS,
    "protocols": lambda: PROTOCOLS,
    "precisions": lambda: PRECISIONS,
    "adapters": lambda: ADAPTERS,
    "analyses": _analyses,
    "configs": lambda: _first_lines([*_below("configs"), *(path for it in extensions() for path in it.configs)]),
    "sweeps": lambda: _first_lines(_below("sweeps")),
    "claims": _claims,
}


def list_known(args: Sequence[str]) -> None:
    """Print one kind, or all of them."""
    if len(args) > 1:
        raise UserError(f"list takes at most one kind, not {len(args)}. Available: {', '.join(KINDS)}.")
    for kind in args:
        if kind not in KINDS:
            raise unknown("kind", kind, KINDS)
    for kind in args or KINDS:
        known = KINDS[kind]()
        width = max(map(len, known), default=0)
        print(f"{kind}:")
        for name, meaning in known.items():
            print(f"  {name:<{width}}  {meaning}")
