"""From a command line to a finished run: LightningCLI with our top-level keys, our loggers and the run record."""

import inspect
import json
import logging
import os
import shlex
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, cast

import jsonargparse
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from rich.console import Console
from rich.table import Table

from lit_degrade.callbacks import Perturb, ShowProgress, WriteRecord
from lit_degrade.command_line import (
    DEFAULTS,
    LINKED,
    check_options,
    in_full,
    one_line,
    refuse_abbreviations,
    refuse_linked_keys,
)
from lit_degrade.errors import Diverged, OutOfMemory, UserError
from lit_degrade.extensions import extensions
from lit_degrade.generation.generator import out_of_memory
from lit_degrade.inputs import check_configs, file_sha256
from lit_degrade.modules import SubjectModule
from lit_degrade.records import paths
from lit_degrade.records.cache import Cache
from lit_degrade.records.earlier import recorded_as
from lit_degrade.records.identity import class_at, identify
from lit_degrade.records.mode import of_no_run, wandb_mode
from lit_degrade.records.run_record import ENDED, RunRecord
from lit_degrade.records.tracking import RecordLogger, fetch_subject, wandb_tracker
from lit_degrade.subjects.catalog import Adapter, Precision, SubjectSpec
from lit_degrade.text import TextSource

ARTIFACT = "wandb-artifact:"
"""What a --subject that is a W&B artifact starts with."""
Verbosity = Literal["quiet", "normal", "verbose"]
NOISY = ("lightning.pytorch", "lightning.fabric", "torch", "transformers", "bitsandbytes", "wandb")


class DegradeCLI(LightningCLI):
    """LightningCLI whose runs have a subject, a text, and a record."""

    record: RunRecord
    model: SubjectModule
    given: Sequence[str]
    """the command line"""
    configs: list[Path]
    """YAML files that it names, and that these name"""

    def __init__(self, args: Sequence[str], resolve_only: bool, **options: Any) -> None:
        """Parse `args` and run them; with `resolve_only` stop where the record is known."""
        self.given = args
        self.configs = check_configs(args)
        self.resolve_only = resolve_only
        try:
            super().__init__(SubjectModule, args=list(args), **options)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if out_of_memory(error):
                raise OutOfMemory(f"out of memory. {_less_memory(self.config[self.subcommand])}") from error
            raise

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The verb of the command line only: building the parsers of all four takes longer than parsing."""
        return {verb: skipped for verb, skipped in LightningCLI.subcommands().items() if verb == self.given[0]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Keys that mean the same on every verb."""
        parser.add_argument("--subject", type=str, default="tiny-1m", help="name (`list subjects`), hub id or folder")
        parser.add_argument(
            "--attacked_by", type=str, default="", help="CONFIG [OPTIONS] of the attack to run first, unless it is recorded"
        )
        parser.add_argument("--precision", type=Precision, default="fp32", help="compute and storage format")
        parser.add_argument("--adapter", type=Adapter, default="full", help="which weights training may change")
        parser.add_argument("--gradient_checkpointing", type=bool, default=False, help="less memory, more time")
        parser.add_argument("--experiment", type=str, default="runs", help="folder of the record below --results")
        parser.add_argument("--results", type=str, default="results", help="root folder of all records")
        parser.add_argument("--cache_gb", type=float, default=4.0, help="disk for what runs share, below --results; 0: none")
        parser.add_argument("--repeat", type=bool, default=False, help="run again although a finished record exists")
        parser.add_argument("--verbosity", type=Verbosity, default="normal", help="how much is printed")
        parser.add_class_arguments(TextSource, "text")
        parser.link_arguments(
            ("subject", "precision", "adapter", "gradient_checkpointing"), "model.init_args.subject", compute_fn=_subject_spec
        )
        parser.link_arguments("seed_everything", "model.init_args.seed")
        parser.link_arguments("text", "model.init_args.text", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and refuse what cannot be obeyed."""
        super().parse_arguments(parser, args)
        check_options(str(self.config.subcommand), self.config[self.config.subcommand])

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer, or one line that says why there can be none."""
        try:
            return super().instantiate_trainer(**kwargs)
        except (ValueError, TypeError, MisconfigurationException) as error:
            raise UserError(f"trainer: {one_line(str(error))}") from error

    def before_instantiate_classes(self) -> None:
        """Recognise a run that has a record, before anything heavy happens."""
        options = self.config[self.subcommand]
        if options.verbosity == "verbose":
            _set_log_level(logging.INFO)
        config = self._plain()
        refuse_abbreviations(self.given, config["model"])
        attack = self._attack_arguments(options) if options.attacked_by else None
        before = resolve(attack) if attack else None
        self.record = self._identify(config, options, before)
        if self.resolve_only:
            self.parser.instantiate_classes(self.config)  # what is wrong with its arguments is said before any run begins
            raise ResolvedOnly(self.record)
        self._refuse_recorded(options.repeat)
        if attack:
            self.parser.instantiate_classes(self.config)  # what is wrong with this run is said before another one begins
            options.model.init_args.subject["name"] = str(self._attack(attack).folder)

    def _plain(self) -> dict[str, Any]:
        """The resolved config as plain data, without what other keys decide; the parser's own dump reads text as YAML again."""
        config = jsonargparse.strip_meta(self.config[self.subcommand]).as_dict()
        del config["config"]
        for key in LINKED:
            config["model"]["init_args"].pop(key, None)
        return json.loads(json.dumps(config))

    def _identify(self, config: dict[str, Any], options: Any, before: RunRecord | None) -> RunRecord:
        """The record of this run, after the one of its attack; a subject that is an artifact is fetched."""
        subject = options.model.init_args.subject
        if options.subject.startswith(ARTIFACT):
            root = Path(options.results).expanduser() / ".artifacts"
            subject["name"] = str(fetch_subject(options.subject.removeprefix(ARTIFACT), root))
        identity = identify(str(self.subcommand), config, subject["name"], before.identity.run_id if before else "")
        experiment = Path(options.results).expanduser() / options.experiment
        known = recorded_as(experiment, config, identity, subject["name"], before.run_id if before else "")
        record = RunRecord(str(self.subcommand), config, identity, known)
        record.files |= {str(path): file_sha256(path) for path in (*self.configs, *_sources(config))}
        if before:
            record.ancestors = [*before.ancestors, before.folder]
            record.files |= before.files
        return record

    def _attack_arguments(self, options: Any) -> list[str]:
        """The command line of the attack: what was asked for, on the same subject, text and seed as this run."""
        same = [
            f"--{key}={options[key]}" for key in ("subject", "precision", "adapter", "seed_everything", "results", "cache_gb")
        ]
        same += [f"--gradient_checkpointing={str(options.gradient_checkpointing).lower()}", "--verbosity=quiet"]
        same += [f"--text.{key}={value}" for key, value in vars(options.text).items()]
        try:
            return ["fit", "--config", *shlex.split(options.attacked_by), *same]
        except ValueError as error:
            raise UserError(f"attacked_by '{options.attacked_by}': {str(error).lower()}.") from error

    def _attack(self, args: list[str]) -> RunRecord:
        """The record of the attack, after running it where there is none."""
        record = resolve(args)
        if record.finished() not in ENDED:
            with _hidden_from_agent(), suppress(AlreadyRecordedError, Diverged):
                _parse(args, resolve_only=False)
        if record.finished() == "diverged":
            raise UserError(f"--attacked_by: that attack diverged, so there is no subject to go on with: {record.folder}")
        return record

    def _refuse_recorded(self, repeat: bool) -> None:
        if self.record.finished() in ENDED and not repeat:
            raise AlreadyRecordedError(self.record)

    def after_instantiate_classes(self) -> None:
        """Load everything that a user can get wrong, then start the loggers."""
        shown = self.config[self.subcommand].verbosity != "quiet" and sys.stderr.isatty()
        self.record.open(self.model.journal_name)
        write_record = WriteRecord(self.record)
        try:
            self._refuse_recorded(self.config[self.subcommand].repeat)  # another process may have been writing it
            options = self.config[self.subcommand]
            self.model.record = self.record
            self.model.cache = Cache(Path(options.results).expanduser() / ".cache", options.cache_gb)
            self.model.show_progress = shown
            with self.record.timed("prepare"):
                self.model.prepare(self.trainer.strategy.root_device)
            mode = wandb_mode()
            self.trainer.loggers = [RecordLogger(self.record)]  # first: `log_step` gives it every step
            if mode != "disabled" and (tracker := wandb_tracker(self.record, mode)):
                self.trainer.loggers.append(tracker)
        except (UserError, AlreadyRecordedError):
            self.record.discard()
            raise
        except BaseException as error:
            write_record.on_exception(self.trainer, self.model, error)
            raise
        cast(Any, self.trainer).callbacks += [Perturb(), ShowProgress(), write_record]


class AlreadyRecordedError(Exception):
    """The same config has run before: its record is the answer."""

    def __init__(self, record: RunRecord) -> None:
        """Keep the record."""
        super().__init__(record.run_id)
        self.record = record


class ResolvedOnly(Exception):
    """The record that a command line would write, found without running anything."""

    def __init__(self, record: RunRecord) -> None:
        """Keep the record."""
        super().__init__(record.run_id)
        self.record = record


def run(args: Sequence[str]) -> None:
    """Run one of Lightning's verbs, and print its headline numbers and its folder.

    Raises: UserError for bad input (nothing is left behind), Diverged when the run has ended in non-finite numbers.
    """
    try:
        cli = _parse(args, resolve_only=False)
    except AlreadyRecordedError as error:
        record = error.record
        if record.finished() == "diverged":
            step = json.loads((record.folder / paths.SUMMARY).read_text())["diverged_at_step"]
            raise Diverged(step, f"the recorded run in {record.folder}") from None
        print(f"This run is already recorded; --repeat true runs it again.\n{record.folder}")
        return
    options = cli.config[cli.subcommand]
    if options.verbosity != "quiet":
        _print_told(cli.record, cli.model.told())
    print(cli.record.folder)


def resolve(args: Sequence[str]) -> RunRecord:
    """The record that a command line writes, or has written; nothing is run.

    Raises: UserError for bad input that shows in the config alone.
    """
    try:
        _parse(args, resolve_only=True)
    except ResolvedOnly as error:
        return error.record
    raise AssertionError("a resolved command line raises ResolvedOnly")


def _parse(args: Sequence[str], resolve_only: bool) -> DegradeCLI:
    """Parse a command line and, unless only its record is wanted, run it."""
    extensions()
    args = in_full(args)
    refuse_linked_keys(args)
    _set_log_level(logging.ERROR)
    os.environ.setdefault("WANDB_SILENT", "true")
    warnings.simplefilter("ignore")
    verb: dict[str, Any] = {"exit_on_error": False, "default_config_files": [str(DEFAULTS)]}
    try:
        return DegradeCLI(
            args,
            resolve_only,
            subclass_mode_model=True,
            save_config_callback=None,
            seed_everything_default=42,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            trainer_defaults={"logger": False, "callbacks": []},
            parser_kwargs={"exit_on_error": False, "allow_abbrev": False, args[0]: verb},
        )
    except jsonargparse.ArgumentError as error:
        raise UserError(one_line(str(error))) from error
    except ValueError as error:
        if own := _own(error):
            raise own from error
        raise


def _own(error: BaseException) -> UserError | None:
    """What a module or its settings said about their arguments, where the parser has wrapped it in words of its own."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, UserError):
        cause = cause.__cause__
    return cause


@contextmanager
def _hidden_from_agent() -> Iterator[None]:
    """A run within a run is not the one that `wandb agent` waits for. The client reads its environment once, so it is ended.

    So it is before, or what it has started would be named by the environment afterwards and be no more.
    """
    import wandb

    wandb.teardown()
    with of_no_run():
        try:
            yield
        finally:
            wandb.teardown()


def _sources(config: Mapping[str, Any]) -> list[Path]:
    """Files of the classes that a config names and that are not of this package."""
    names = [entry["class_path"] for entry in (config["model"], *(config["trainer"]["callbacks"] or ()))]
    return [Path(inspect.getfile(class_at(name))) for name in names if not name.startswith("lit_degrade.")]


def _less_memory(options: Any) -> str:
    """The first three settings that are not in use yet and would save the most."""
    arguments = options.model.init_args
    space, flat = arguments.get("null_space"), arguments.get("flat")
    if space is not None and space.method == "flat":
        space = None
    wanted = [
        ("--gradient_checkpointing true", not options.gradient_checkpointing),
        ("--model.flat.microbatch 1", flat is not None and space is None and flat.microbatch != 1),
        ("--model.null_space.offload true", space is not None and not space.offload),
        ("--model.null_space.microbatch 1", space is not None and space.microbatch != 1),
        ("--model.null_space.directions 3 --model.null_space.products 20", space is not None and space.directions > 3),
        ("--adapter lora", options.adapter != "lora"),
        ("--model.optimizer adamw8bit", arguments.get("optimizer") == "adamw"),
        ("--text.probe_tokens 8192", options.text.probe_tokens > 8192),
        ("a smaller --subject", True),
        ("--precision nf4", options.precision != "nf4"),
        ("more memory", True),
    ]
    return f"These would help: {', or '.join([setting for setting, useful in wanted if useful][:3])}."


def _print_told(record: RunRecord, told: Mapping[str, Any]) -> None:
    table = Table("measure", "value", title=f"{record.experiment} {record.run_id}")
    for name, value in told.items():
        table.add_row(name, f"{value:.6g}" if isinstance(value, float) else str(value))
    Console().print(table)


def _subject_spec(name: str, precision: Precision, adapter: Adapter, gradient_checkpointing: bool) -> dict[str, Any]:
    """The parser builds a SubjectSpec from this."""
    return asdict(SubjectSpec(name, precision, adapter, gradient_checkpointing))


def _set_log_level(level: int) -> None:
    for name in NOISY:
        logging.getLogger(name).setLevel(level)
