"""Every number of every module, callback and settings class has bounds, which are kept before anything is loaded."""

import inspect
import math
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from helpers import ROOT

from lit_degrade import callbacks, modules
from lit_degrade.checks import above, at_least, finite, share, some
from lit_degrade.cli import main
from lit_degrade.command_line import LINKED
from lit_degrade.criticality.catalog import ScoreSettings
from lit_degrade.curvature.null_space import NullSpaceSettings
from lit_degrade.errors import UserError
from lit_degrade.generation.generator import Decoding
from lit_degrade.modules.comparison import DoseSettings
from lit_degrade.modules.stimulus import StimulusSettings
from lit_degrade.perturbations.catalog import PerturbationSettings
from lit_degrade.pruning.catalog import PruneSettings
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.text import TextSource

NAN, INF = math.nan, math.inf
ZERO = PerturbationSettings("zero")
NEEDED: dict[type, dict[str, Any]] = {
    modules.BenchmarkModule: {"perturbation": ZERO, "levels": [0.5]},
    modules.EvaluateModule: {"perturbation": ZERO, "levels": [0.5]},
    modules.GenerateModule: {"perturbation": ZERO, "levels": [0.5]},
    modules.PromptModule: {"perturbation": ZERO, "levels": [0.5], "prompt": "a"},
    Decoding: {"do_sample": True},
    DoseSettings: {"method": "zero"},
}
"""Arguments without which a number is not used, or which have no default."""


def made(owner: type, **arguments: Any) -> Any:
    """One of its kind, on a subject that nothing is loaded of."""
    linked = {"subject": SubjectSpec("tiny-60k"), "text": TextSource(), "seed": 0}
    wanted = inspect.signature(owner).parameters
    given = {key: value for key, value in linked.items() if key in wanted}
    return owner(**{**given, **NEEDED.get(owner, {}), **arguments})


def owners() -> list[type]:
    """Modules, callbacks, the text, and every settings class that one of them takes."""
    found = [getattr(modules, name) for name in modules.__all__]
    found += [getattr(callbacks, name) for name in callbacks.__all__]
    found.append(TextSource)
    for owner in found:  # it grows on the way
        for hint in hints(owner).values():
            found += [part for part in (hint, *get_args(hint)) if is_dataclass(part) and part not in found]
    return found


def hints(owner: type) -> dict[str, Any]:
    return {key: hint for key, hint in get_type_hints(owner.__init__).items() if key in inspect.signature(owner).parameters}


def silly(hint: Any) -> list[Any]:
    """Values that no argument of this type may have; none where it holds no numbers."""
    if hint is int:
        return [-1, -(10**30), True]
    if hint is float:
        return [NAN, INF, -INF, -1.0]
    each = [value for part in get_args(hint) for value in silly(part)]
    return [[value] for value in each] if get_origin(hint) is Sequence else each


def unchecked(owner: type) -> Iterator[str]:
    """Numbers that are taken although they are silly, or refused without their key."""
    for key, hint in hints(owner).items():
        for value in silly(hint) if key not in LINKED else ():  # the seed is checked where it is said
            try:
                made(owner, **{key: value})
            except UserError as error:
                if re.search(rf"\b{key}\b", str(error)) and "\n" not in str(error):
                    continue
            yield f"{owner.__name__}.{key}={value}"


@pytest.mark.parametrize("owner", owners(), ids=lambda owner: owner.__name__)
def test_every_number_has_bounds(owner: type) -> None:
    assert list(unchecked(owner)) == []


def test_a_number_without_bounds_is_found() -> None:
    class Knob:
        def __init__(self, name: str = "", whole: int = 1, real: float | None = 1.0, several: Sequence[float] = ()) -> None:
            at_least("whole", whole, 0)
            finite("other", real or 0, 0)

    found = {line.partition("=")[0] for line in unchecked(Knob)}
    assert found == {"Knob.real", "Knob.several"}
    numbers = [f"{owner.__name__}.{key}" for owner in owners() for key, hint in hints(owner).items() if silly(hint)]
    assert {"LogDamage.every", "PruneSettings.sparsity", "DoseSettings.level", "CriticalityModule.k"} <= set(numbers)


BOUNDS: list[tuple[type, str, list[Any], list[Any]]] = [
    (callbacks.LogDamage, "every", [1], [0]),
    (callbacks.LogSpectrum, "every", [1], [0]),
    (TextSource, "block", [2, 49152], [1, 49153]),
    (TextSource, "probe_tokens", [128], [127]),
    (TextSource, "max_documents", [1], [0]),
    (NullSpaceSettings, "directions", [1, 30], [0, 31]),
    (NullSpaceSettings, "signal", [1, 30], [0, 31]),
    (NullSpaceSettings, "products", [20], [19, 0]),
    (NullSpaceSettings, "random_directions", [1], [0]),
    (NullSpaceSettings, "calibration_blocks", [1], [0]),
    (NullSpaceSettings, "microbatch", [0], []),
    (StimulusSettings, "tokens", [2], [1]),
    (StimulusSettings, "sequences", [1], [0]),
    (StimulusSettings, "evaluations", [1], [0]),
    (ScoreSettings, "calibration_blocks", [4], [0, 6]),
    (ScoreSettings, "batches", [1, 32], [0, 3]),
    (ScoreSettings, "probes", [2], [1]),
    (PruneSettings, "sparsity", [0.0, 0.999], [1.0]),
    (PruneSettings, "calibration_blocks", [1], [0]),
    (PruneSettings, "damping", [1e-300], [0.0]),
    (PruneSettings, "block_columns", [1], [0]),
    (Decoding, "max_new_tokens", [1], [0]),
    (Decoding, "batch", [1], [0]),
    (Decoding, "temperature", [1e-3], [0.0]),
    (DoseSettings, "level", [0.0, 1.0], [1.001]),
    (modules.AdversarialModule, "epsilons", [[0.0]], [[], [0.1, -1e-9]]),
    (modules.AdversarialModule, "answer_epsilon", [0.0], [-1e-9]),
    (modules.AdversarialModule, "steps", [1], [0]),
    (modules.AdversarialModule, "draws", [1], [0]),
    (modules.AdversarialModule, "windows", [1], [0]),
    (modules.AdversarialModule, "token_changes", [[], [0], [127]], [[128], [1, -1]]),
    (modules.AttackModule, "lr", [1e-300], [0.0]),
    (modules.AttackModule, "stimuli", [StimulusSettings(tokens=2)], []),
    (modules.BenchmarkModule, "limit", [0], []),
    (modules.BenchmarkModule, "levels", [[0.0, 1.0]], [[0.5, 2.0], []]),
    (modules.BenchmarkModule, "repetitions", [1], [0]),
    (modules.BitSearchModule, "candidates", [1], [0]),
    (modules.BitSearchModule, "search_blocks", [1], [0]),
    (modules.BitSearchModule, "budget", [1], [0]),
    (modules.BitSearchModule, "control_budget", [1], [0]),
    (modules.BitSearchModule, "draws", [1], [0]),
    (modules.BitSensitivityModule, "k", [1], [0]),
    (modules.BitSensitivityModule, "blocks", [1, 384], [0, 385]),
    (modules.BitSensitivityModule, "calibration_blocks", [1], [0]),
    (modules.CatalystModule, "n_seeds", [1], [0]),
    (modules.ComparisonModule, "epsilon", [0.0], [-1e-9]),
    (modules.ComparisonModule, "steps", [1], [0]),
    (modules.CriticalityModule, "k", [[1]], [[], [0], [5, -5]]),
    (modules.CriticalityModule, "level", [0.1, 1.0], [0.0, 1.001]),
    (modules.CriticalityModule, "draws", [1], [0]),
    (modules.EvaluateModule, "repetitions", [1], [0]),
    (modules.ExchangeRateModule, "cost", [1e-300], [0.0]),
    (modules.ExchangeRateModule, "repetitions", [1], [0]),
    (modules.FinetuneModule, "lr", [1e-300], [0.0]),
    (modules.FinetuneModule, "batch", [1], [0]),
    (modules.FinetuneModule, "block", [2], [1]),
    (modules.GenerateModule, "repetitions", [1], [0]),
    (modules.LayerAblationModule, "level", [0.0, 1.0], [1.001]),
    (modules.LayerAblationModule, "draws", [1], [0]),
    (modules.PretrainModule, "vocabulary", [257], [256]),
    (modules.PretrainModule, "context", [2], [1]),
    (modules.PretrainModule, "batch", [1], [0]),
    (modules.PretrainModule, "lr", [None, 1e-300], [0.0]),
    (modules.PretrainModule, "weight_decay", [0.0], [-1e-9]),
    (modules.PretrainModule, "dropout", [0.0, 0.999], [1.0]),
    (modules.PretrainModule, "warmup_steps", [0], []),
    (modules.PromptModule, "repetitions", [1], [0]),
    (modules.SuperWeightModule, "calibration_blocks", [1], [0]),
    (modules.SuperWeightModule, "null_models", [1], [0]),
    (modules.SuperWeightModule, "margin", [1.0], [0.999]),
    (modules.SuperWeightModule, "most", [1], [0]),
    (modules.SuperWeightModule, "controls", [5], [4]),
]


@pytest.mark.parametrize(("owner", "key", "allowed", "refused"), BOUNDS, ids=lambda part: getattr(part, "__name__", None))
def test_both_sides_of_a_bound(owner: type, key: str, allowed: list[Any], refused: list[Any]) -> None:
    for value in allowed:
        made(owner, **{key: value})
    for value in refused:
        with pytest.raises(UserError, match=rf"\b{key}\b"):
            made(owner, **{key: value})


def test_numbers_that_others_decide_about() -> None:
    made(Decoding, do_sample=False, temperature=0.0)  # not used when greedy
    two = StimulusSettings(tokens=2)
    with pytest.raises(
        UserError, match=r"model\.stimuli\.tokens \(protocol 'published'\): expected a whole number from 3, not 2"
    ):
        made(modules.AttackModule, stimuli=two, protocol="published")
    made(modules.AttackModule, stimuli=StimulusSettings(tokens=3), protocol="published")


def test_what_checks_say() -> None:
    said: list[str] = []
    for check, *arguments in (
        (at_least, 2.0, 2), (at_least, False, 0), (finite, NAN, 0), (above, 0.0, 0), (share, 1.0), (some, ()),
    ):  # fmt: skip
        with pytest.raises(UserError) as caught:
            check("model.x", *arguments)  # type: ignore[operator]
        said.append(str(caught.value))
    assert said == [
        "model.x: expected a whole number from 2, not 2.0.",
        "model.x: expected a whole number from 0, not false.",
        "model.x: expected a finite number from 0, not nan.",
        "model.x: expected a finite number above 0, not 0.0.",
        "model.x: expected a share from 0 to below 1, not 1.0.",
        "model.x: expected one or more, not [].",
    ]


def config(name: str) -> str:
    return str(ROOT / "configs" / f"{name}.yaml")


COMMANDS = {
    "callback": (
        ["fit", "--config", config("finetune"), "--trainer.callbacks+=LogDamage", "--trainer.callbacks.every=0"],
        "trainer.callbacks.every (LogDamage): expected a whole number from 1, not 0.",
    ),
    "settings": (
        ["fit", "--config", config("priority3"), "--model.null_space.products", "19"],
        "model.null_space.products=19: expected 20 or more",
    ),
    "behind an attack": (
        ["fit", "--config", config("finetune"), "--model.lr", ".inf", "--attacked_by", config("priority3")],
        "model.lr: expected a finite number above 0, not inf.",
    ),
    "disk": (
        ["test", "--config", config("evaluate"), "--cache_gb", ".nan"],
        "cache_gb: expected a finite number from 0, not nan.",
    ),
    "log steps": (
        ["fit", "--config", config("finetune"), "--trainer.log_every_n_steps", "0"],
        "trainer.log_every_n_steps: expected a whole number from 1, not 0.",
    ),
}


@pytest.mark.parametrize("case", COMMANDS)
def test_nothing_is_loaded_for_a_number_that_is_wrong(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def reached(*given: Any, **options: Any) -> None:
        raise AssertionError("a subject was loaded")

    for name, module in list(sys.modules.items()):
        if name.startswith("lit_degrade.modules.") and hasattr(module, "load_subject"):
            monkeypatch.setattr(module, "load_subject", reached)
    args, message = COMMANDS[case]
    assert main([*args, "--subject", "tiny-60k", "--results", str(tmp_path / "results")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert list(tmp_path.iterdir()) == []
