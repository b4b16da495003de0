"""From a command line to a finished run: LightningCLI with our top-level keys, our loggers and the run record."""

import logging
import re
import signal
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import jsonargparse
import yaml
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from lit_degrade.callbacks import WriteRecord
from lit_degrade.errors import Diverged, UserError
from lit_degrade.modules import SubjectModule
from lit_degrade.records.run_record import RunRecord
from lit_degrade.records.tracking import RecordLogger, wandb_logger, wandb_mode
from lit_degrade.stimuli.text import TextSource
from lit_degrade.subjects.catalog import Adapter, Precision, SubjectSpec

Verbosity = Literal["quiet", "normal", "verbose"]
DEFAULTS = Path(__file__).parent / "defaults.yaml"


class DegradeCLI(LightningCLI):
    """LightningCLI whose runs have a subject, a text, and a record."""

    record: RunRecord
    model: SubjectModule

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Keys that mean the same on every verb."""
        parser.add_argument("--subject", type=str, default="tiny-1m", help="name (`list subjects`), hub id or folder")
        parser.add_argument("--precision", type=Precision, default="fp32", help="compute and storage format")
        parser.add_argument("--adapter", type=Adapter, default="full", help="which weights training may change")
        parser.add_argument("--gradient_checkpointing", type=bool, default=False, help="less memory, more time")
        parser.add_argument("--experiment", type=str, default="runs", help="folder of the record below --results")
        parser.add_argument("--results", type=str, default="results", help="root folder of all records")
        parser.add_argument("--repeat", type=bool, default=False, help="run again although a finished record exists")
        parser.add_argument("--verbosity", type=Verbosity, default="normal", help="how much is printed")
        parser.add_class_arguments(TextSource, "text")
        parser.link_arguments(
            ("subject", "precision", "adapter", "gradient_checkpointing"), "model.init_args.subject", compute_fn=_subject_spec
        )
        parser.link_arguments("seed_everything", "model.init_args.seed")
        parser.link_arguments("text", "model.init_args.text", apply_on="instantiate")

    def after_instantiate_classes(self) -> None:
        """Recognise a finished run, load everything that can fail, then open the record and start the loggers."""
        options = self.config[self.subcommand]
        _set_verbosity(options.verbosity)
        config = yaml.safe_load(self._parser(self.subcommand).dump(options, skip_link_targets=True, skip_none=False))
        config = {"verb": self.subcommand, **{key: value for key, value in config.items() if key != "config"}}
        self.record = RunRecord(options.results, options.experiment, config)
        if self.record.finished() in ("done", "diverged") and not options.repeat:
            raise AlreadyRecorded(self.record)
        shown = options.verbosity != "quiet" and sys.stderr.isatty()
        self.record.open()
        try:
            self.model.record = self.record
            self.model.show_progress = shown
            with self.record.timed("prepare"):
                self.model.prepare(self.trainer.strategy.root_device)
        except BaseException:
            self.record.discard()
            raise
        mode = wandb_mode()
        self.trainer.loggers = [RecordLogger(self.record)]
        if mode != "disabled":
            self.trainer.loggers.append(wandb_logger(self.record, mode))
        self.trainer.callbacks.append(WriteRecord(self.record))
        if shown:
            self.trainer.callbacks.insert(0, RichProgressBar(leave=True))


def _subject_spec(name: str, precision: Precision, adapter: Adapter, gradient_checkpointing: bool) -> dict[str, Any]:
    """The parser builds a SubjectSpec from this."""
    return asdict(SubjectSpec(name, precision, adapter, gradient_checkpointing))


class AlreadyRecorded(Exception):
    """The same config has run before: its record is the answer."""

    def __init__(self, record: RunRecord) -> None:
        """Keep the record."""
        super().__init__(record.run_id)
        self.record = record


def run(args: Sequence[str]) -> None:
    """Run one of Lightning's verbs.

    Raises: UserError for bad input (nothing is left behind), Diverged when the run has ended in non-finite numbers.
    """
    refuse_linked_keys(args)
    signal.signal(signal.SIGTERM, _terminate)
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
    subcommand = {"exit_on_error": False, "allow_abbrev": False, "default_config_files": [str(DEFAULTS)]}
    parser_kwargs: dict[str, Any] = {verb: subcommand for verb in ("fit", "validate", "test", "predict")}
    try:
        cli = DegradeCLI(
            SubjectModule,
            subclass_mode_model=True,
            save_config_callback=None,
            seed_everything_default=42,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            trainer_defaults={"logger": False, "callbacks": []},
            parser_kwargs={"exit_on_error": False, **parser_kwargs},
            args=list(args),
        )
        record = cli.record
    except jsonargparse.ArgumentError as error:
        raise UserError(one_line(str(error))) from error
    except AlreadyRecorded as found:
        record = found.record
        print(f"This run is already recorded (--repeat true runs it again): {record.folder}")
    if record.finished() == "diverged":
        raise Diverged(-1, "")
    print(record.folder)


def refuse_linked_keys(args: Sequence[str]) -> None:
    """Refuse keys that are computed from others, which the parser would ignore without a word."""
    for arg in args:
        match = re.match(r"--model\.(?:init_args\.)?(subject|seed|text)\b", arg)
        if match:
            key = {"seed": "seed_everything"}.get(match[1], match[1])
            raise UserError(f"'{arg}' cannot be set there: use --{key}.")


def one_line(message: str) -> str:
    """The parser's message as one line."""
    return " ".join(message.split())


def _set_verbosity(verbosity: Verbosity) -> None:
    if verbosity != "verbose":
        warnings.simplefilter("ignore")
        for name in ("lightning.pytorch", "lightning.fabric", "torch", "transformers", "bitsandbytes"):
            logging.getLogger(name).setLevel(logging.ERROR)


def _terminate(signum: int, frame: FrameType | None) -> None:
    """SIGTERM becomes an orderly exit, so that the record says the run was interrupted."""
    raise SystemExit(128 + signum)
