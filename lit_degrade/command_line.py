"""What a user says on the command line of a run: text taken as it is, settings that cannot be obeyed refused."""

import ast
import functools
import inspect
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from lightning.pytorch import Trainer

from lit_degrade import modules
from lit_degrade.checks import at_least, finite
from lit_degrade.curvature.certificates import FlatSettings
from lit_degrade.curvature.null_space import NullSpaceSettings
from lit_degrade.errors import UserError, unknown
from lit_degrade.modules.stimulus import StimulusSettings
from lit_degrade.records.identity import class_at
from lit_degrade.text import TextSource

DEFAULTS = Path(__file__).parent / "defaults.yaml"
TOP_KEYS = (
    "subject", "attacked_by", "precision", "adapter", "gradient_checkpointing", "experiment", "results", "cache_gb", "repeat",
    "verbosity", "seed_everything", "config", "text", "model", "trainer",
)  # fmt: skip
GROUPS = {
    "trainer": Trainer,
    "text": TextSource,
    "null_space": NullSpaceSettings,
    "flat": FlatSettings,
    "stimuli": StimulusSettings,
}
"""What an unknown key is compared with."""
LINKED = {"subject": "subject", "text": "text", "seed": "seed_everything"}
"""Arguments of every module -> the top-level key that they are taken from."""
SHORT = ("prompt", "tasks", "variants")
"""Keys of modules that may go without `--model.`."""
TEXT = ("--subject", "--attacked_by", "--experiment", "--results", "--text.source")
"""Keys beside the module's that are text, which the parser takes as it is."""
TRAINER_KEYS = (
    "accelerator", "devices", "max_steps", "gradient_clip_val", "gradient_clip_algorithm", "deterministic", "callbacks",
    "inference_mode", "log_every_n_steps", "enable_progress_bar", "enable_model_summary", "profiler",
)  # fmt: skip
"""Keys of the trainer that are obeyed; any other must keep its default."""
INSTEAD = {
    "precision": "use --precision",
    "strategy": "a run has one device",
    "num_nodes": "a run has one device",
    "accumulate_grad_batches": "use --model.batch",
    "max_epochs": "training is counted in steps: use --trainer.max_steps",
    "min_epochs": "training is counted in steps: use --trainer.max_steps",
    "max_time": "training is counted in steps: use --trainer.max_steps",
    "fast_dev_run": "use --trainer.max_steps and --subject tiny-60k",
    "logger": "W&B is told by WANDB_MODE",
}
"""Keys of the trainer that are not obeyed -> what to do."""
NOT_TAKEN = {
    "ckpt_path": "a run starts from its subject: use --subject FOLDER",
    "weights_only": "a run starts from its subject: use --subject FOLDER",
    "data": "use --text.source",
}
"""Other keys of Lightning's that are not obeyed -> what to do."""
MAX_SEED = 2**32 - 1


def in_full(args: Sequence[str]) -> list[str]:
    """A command line with short forms written out, and each value in a form that the parser takes as it is meant.

    The parser reads a value as YAML first, in which `Q: what is this?` is a mapping and `1e3` a number; and in which the `None`
    that `wandb agent` writes for null is text, alone as well as in lists and mappings.

    Raises: UserError for a key of free text without a value.
    """
    words = iter(args)
    return [said for word in words for said in _in_full(word, words)]


def _in_full(word: str, words: Iterator[str]) -> list[str]:
    option, given, value = re.sub(rf"^--({'|'.join(SHORT)})(?==|$)", r"--model.\1", word).partition("=")
    key = option.removeprefix("--model.").removeprefix("init_args.")
    if option in TEXT:
        return [word] if given else [word, *itertools.islice(words, 1)]
    if not option.startswith("--"):
        return [_from_python(word)]
    if not option.startswith("--model.") or key not in text_keys():
        return [option + given + _from_python(value)]
    text = value if given else next(words, None)
    if text is None:
        raise UserError(f"{option}: expected a text after it.")
    arguments: Any = text
    for name in reversed(key.split(".")):
        arguments = {name: arguments}
    return ["--config", _yaml({"model": {"init_args": arguments}})]


def _from_python(value: str) -> str:
    """A value that Python has written, as YAML; any other as it is."""
    if value == "None":
        return "null"
    try:
        literal = ast.literal_eval(value) if value.startswith(("[", "{")) else None
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # as it documents them
        return value
    return _yaml(literal) if isinstance(literal, list | dict) and repr(literal) == value else value


def _yaml(value: Any) -> str:
    """Plain data as JSON, with YAML's escapes: it does not know the pairs of JSON's that stand for one character."""
    return "".join(c if " " <= c <= "~" else f"\\U{ord(c):08x}" for c in json.dumps(value, ensure_ascii=False))


@functools.cache
def text_keys() -> frozenset[str]:
    """Arguments of modules, dots between those of settings, that are text."""
    return frozenset(key for name in modules.__all__ for key in _text_keys(getattr(modules, name).__init__, ""))


def _text_keys(function: Callable[..., Any], prefix: str) -> Iterator[str]:
    for key, hint in get_type_hints(function).items():
        if hint is str:
            yield prefix + key
        elif isinstance(hint, type) and is_dataclass(hint) and key not in LINKED:
            yield from _text_keys(hint.__init__, f"{prefix}{key}.")


def refuse_linked_keys(args: Sequence[str]) -> None:
    """Refuse keys that are computed from others, which the parser would ignore without a word."""
    for arg in args:
        match = re.match(r"--model\.(?:init_args\.)?(subject|seed|text)\b", arg)
        if match:
            raise UserError(f"'{arg}' cannot be set there: use --{LINKED[match[1]]}.")


def refuse_abbreviations(args: Sequence[str], model: Mapping[str, Any]) -> None:
    """Refuse shortened keys of the model, which the parser completes without a word."""
    for arg in args:
        if arg.startswith("--model."):
            here = model.get("init_args", {})
            for key in arg.partition("=")[0].removeprefix("--model.").removeprefix("init_args.").split("."):
                if isinstance(here, dict) and key not in here and key != "class_path":
                    raise unknown(f"key in {arg}", key, here)
                here = here[key] if isinstance(here, dict) else None


def check_options(verb: str, options: Any) -> None:
    """Raise: UserError for a setting that the record would give and the run would not obey."""
    module = class_at(options.model.class_path)
    if verb not in module.verbs:
        raise UserError(f"{module.__name__} does not answer '{verb}'. Available: {', '.join(module.verbs)}.")
    seed = options.seed_everything
    if isinstance(seed, bool) or not 0 <= seed <= MAX_SEED:
        raise UserError(f"seed_everything: expected a whole number from 0 to {MAX_SEED}, not {str(seed).lower()}.")
    if not re.fullmatch(r"[\w-][\w.-]*", options.experiment):
        raise UserError(f"experiment '{options.experiment}' is not a folder name: expected letters, digits, '-', '_' and '.'.")
    finite("cache_gb", options.cache_gb, 0)
    for key, instead in NOT_TAKEN.items():
        if options.get(key) is not None:
            raise UserError(f"{key}: not taken here; {instead}.")
    _check_trainer(verb, vars(options.trainer))


def _check_trainer(verb: str, trainer: Mapping[str, Any]) -> None:
    for key, value in trainer.items():
        if key not in TRAINER_KEYS and value != _trainer_defaults().get(key):
            raise UserError(f"trainer.{key}: not taken here; {INSTEAD.get(key, 'only its default is obeyed')}.")
    devices = trainer["devices"]
    if str(devices) != "1" and not re.fullmatch(r"\[\d+\]|\d+,", str(devices)):
        raise UserError(f"trainer.devices: a run has one device: expected 1, or [INDEX] for one of several, not {devices}.")
    clip, steps = trainer["gradient_clip_val"], trainer["max_steps"]
    if clip is not None and not 0 <= clip < math.inf:
        raise UserError(f"trainer.gradient_clip_val: expected 0 (no clipping) or more, not {clip}.")
    if trainer["log_every_n_steps"] is not None:
        at_least("trainer.log_every_n_steps", trainer["log_every_n_steps"], 1)
    if verb == "fit" and steps < 1:
        raise UserError(f"trainer.max_steps: expected 1 or more, not {steps}.")
    if verb != "fit" and (steps != -1 or clip):
        raise UserError(f"trainer.{'gradient_clip_val' if steps == -1 else 'max_steps'}: '{verb}' does not train.")


@functools.cache
def _trainer_defaults() -> dict[str, Any]:
    signature = {key: parameter.default for key, parameter in inspect.signature(Trainer.__init__).parameters.items()}
    return signature | {"logger": False} | yaml.safe_load(DEFAULTS.read_text(encoding="utf-8"))["trainer"]


def one_line(message: str) -> str:
    """What the parser says, as one line that names the key, the value, what was expected and what there is."""
    flat = " ".join(message.split())
    return _unknown_name(flat) or _wrong_value(flat) or flat.partition(" Given value type")[0]


def _unknown_name(message: str) -> str:
    """A choice or a key that does not exist, with those that do."""
    if match := re.search(r"Parser key \"([\w.]+)\": Expected a typing\.Literal\[(.*?)\]\. Got value: (\S+)", message):
        key, choices, value = match.groups()
        return str(unknown(key, value, re.findall(r"'(.*?)'", choices)))
    if match := re.search(r"class_path '([\w.]+)': (?:Option|Key) '([\w]+)' is not (?:accepted|expected)", message):
        owner = class_at(match[1])
        return str(unknown(f"key of {owner.__name__}", match[2], _keys(owner)))
    if match := re.search(r"unrecognized arguments: (\S+)|(?:Key|Option) ['\"](\S+?)['\"] is not", message):
        group, _, key = (match[1] or match[2]).removeprefix("--").partition("=")[0].rpartition(".")
        if group in GROUPS:
            return str(unknown(f"key of {group}", key, _keys(GROUPS[group])))
        return str(unknown("key", f"{group}.{key}".strip("."), TOP_KEYS))
    return ""


def _wrong_value(message: str) -> str:
    """A value of another type than its key's."""
    value = r"(.*?)(?= - Expected a | Given value type|$)"
    if match := re.search(rf"Parser key \"([\w.]+)\": (Expected a .*?\. Got value: {value})", message):
        said = re.sub(r"<class '([\w.]+)'>", r"\1", match[2])
        return f"{LINKED.get(match[1], match[1])}: {said}"
    if match := re.search(r"Parser key \"([\w.]+)\": Does not .*? Subtypes: \[(<class .*?)\] .* Given value: (.*)", message):
        types = [name.replace("NoneType", "null") for name in re.findall(r"<class '([\w.]+)'>", match[2])]
        return f"{match[1]}: expected {' or '.join(types)}, not {match[3]}."
    return ""


def _keys(owner: type) -> list[str]:
    return [key for key in inspect.signature(owner).parameters if key not in LINKED]
