"""The `list` verb: every catalogue, without importing anything heavy."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lit_degrade.errors import UserError, unknown
from lit_degrade.stimuli.catalog import OPTIMIZERS, PROTOCOLS, STIMULI
from lit_degrade.subjects.catalog import ADAPTERS, COMPONENTS, GROUPS, HUB, LADDER, PRECISIONS


def _subjects() -> dict[str, str]:
    embedded = {
        name: f"embedded: GPT-NeoX, {rung.layers} layers of {rung.hidden}, trained on the standard library's documentation"
        for name, rung in LADDER.items()
    }
    return embedded | {name: f"hub: {hub_id}" for name, hub_id in HUB.items()}


def _targets() -> dict[str, str]:
    return COMPONENTS | {name: f"all of {', '.join(parts)}" for name, parts in GROUPS.items()}


def _claims() -> dict[str, str]:
    from lit_degrade.evidence.claims import shipped_designs

    return {f"{design.experiment}/{claim.name}": claim.says for design in shipped_designs() for claim in design.claims}


def _first_lines(folder: str) -> dict[str, str]:
    """First comment line of each YAML file below a folder of the working directory."""
    return {
        str(path): path.read_text().partition("\n")[0].removeprefix("# ") for path in sorted(Path(folder).glob("**/*.yaml"))
    }


KINDS: dict[str, Callable[[], Mapping[str, str]]] = {
    "subjects": _subjects,
    "stimuli": lambda: STIMULI,
    "targets": _targets,
    "optimizers": lambda: OPTIMIZERS,
    "protocols": lambda: PROTOCOLS,
    "precisions": lambda: PRECISIONS,
    "adapters": lambda: ADAPTERS,
    "configs": lambda: _first_lines("configs"),
    "sweeps": lambda: _first_lines("sweeps"),
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
