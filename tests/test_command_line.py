"""What is said on the command line: text as it is, settings obeyed or refused, one line for whatever cannot be understood."""

from pathlib import Path
from typing import Any

import jsonargparse
import pytest
import yaml
from helpers import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_degrade.cli import main
from lit_degrade.command_line import in_full, text_keys
from lit_degrade.errors import UserError
from lit_degrade.records import paths
from lit_degrade.records.run_record import RunRecord, to_yaml
from lit_degrade.run import resolve

PROMPT = ["predict", "--config", str(ROOT / "configs/prompt.yaml")]
FIT = ["fit", "--config", str(ROOT / "configs/finetune.yaml")]
TEST = ["test", "--config", str(ROOT / "configs/evaluate.yaml")]
TEXTS = [
    "Q: what is this?", "1e3", "null", "# x", "- a", "--verbosity", '"a"', "{a: b}", "[a", "line 1\nline 2: b", "true", "é 日",
    "a=b", "~", "&x *y", "!tag", "%", "@", "' \"", "\t", "0x10", "1_000", "12:30", "=", "<<", "${x}", " a ", "a\x85b", "😀",
]  # fmt: skip


def prompt_of(record: RunRecord) -> str:
    return record.config["model"]["init_args"]["prompt"]


@pytest.mark.parametrize("said", ["--prompt={}", "--model.prompt={}", "--model.init_args.prompt={}", "--prompt {}"])
def test_text_is_taken_as_it_is(said: str) -> None:
    option, separate, _ = said.partition(" ")
    for text in TEXTS[:5]:
        words = [option, text] if separate else [option.format(text)]
        assert prompt_of(resolve([*PROMPT, *words])) == text


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
@settings(deadline=None)
def test_any_text_reaches_the_parser_as_it_is(text: str) -> None:
    for words in (["--prompt", text], [f"--model.prompt={text}"]):
        option, inline = in_full(words)
        assert (option, yaml.safe_load(inline)) == ("--config", {"model": {"init_args": {"prompt": text}}})


VALUES_OF_PYTHON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
)


@given(VALUES_OF_PYTHON.filter(lambda value: not isinstance(value, str)), st.booleans())
@settings(deadline=None)
def test_any_value_reaches_the_parser_as_the_agent_writes_it(value: Any, equals: bool) -> None:
    words = in_full([f"--trainer.x={value}"] if equals else ["--trainer.x", f"{value}"])
    assert jsonargparse.get_loader("yaml")("=".join(words).partition("=")[2]) == value


def test_none_is_null_but_where_text_is_expected() -> None:
    clip = "--trainer.gradient_clip_val"
    for words in ([f"{clip}=None"], [clip, "None"], [f"--trainer={ {'gradient_clip_val': None} }"]):
        assert resolve([*FIT, *words]).config["trainer"]["gradient_clip_val"] is None
    for key in ("--subject", "--attacked_by", "--experiment", "--results", "--text.source"):
        for words in ([f"{key}=None"], [key, "None"]):
            assert in_full(words) == words
    for text in ("None", "Q: 'None'\nA: 😀"):
        for word in (f"--prompt={text}", f"--model={ {'prompt': text} }"):
            assert prompt_of(resolve([*PROMPT, word])) == text


def test_keys_of_text_are_those_of_the_modules() -> None:
    assert {"prompt", "tasks", "variants", "image", "perturbation.method", "prune.pattern"} <= text_keys()
    assert not {"lr", "optimizer", "beside", "perturbation.tied", "levels"} & text_keys()


def test_text_runs_again_from_the_record(tmp_path: Path) -> None:
    for text in TEXTS:
        assert yaml.safe_load(to_yaml({"prompt": text})) == {"prompt": text}
    for text in ("Q: what is this?", "1e3", "null", " a\nb: c "):
        record = resolve([*PROMPT, "--prompt", text, "--results", str(tmp_path)])
        record.open()
        again = resolve(["predict", "--config", str(record.close("done") / paths.CONFIG)])
        assert (prompt_of(again), again.run_id) == (text, record.run_id)


def test_a_text_that_is_missing_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PROMPT, "--prompt"]) == 2
    assert capsys.readouterr().err == "lit_degrade: --model.prompt: expected a text after it.\n"


REFUSED = {
    "negative seed": (FIT, ["--seed_everything", "-1"], "expected a whole number from 0 to 4294967295, not -1."),
    "large seed": (FIT, ["--seed_everything", "99999999999"], "expected a whole number from 0 to 4294967295, not 99999999999"),
    "seed of a flag": (FIT, ["--seed_everything", "true"], "seed_everything: Expected a int. Got value: True"),
    "half a seed": (FIT, ["--seed_everything", "1.5"], "seed_everything: expected bool or int, not 1.5"),
    "no steps": (FIT, ["--trainer.max_steps", "0"], "trainer.max_steps: expected 1 or more, not 0"),
    "steps of a test": (TEST, ["--trainer.max_steps", "5"], "trainer.max_steps: 'test' does not train"),
    "clipping of a test": (TEST, ["--trainer.gradient_clip_val", "1"], "trainer.gradient_clip_val: 'test' does not train"),
    "negative clipping": (FIT, ["--trainer.gradient_clip_val", "-1"], "expected 0 (no clipping) or more, not -1"),
    "two devices": (FIT, ["--trainer.devices", "2"], "trainer.devices: a run has one device: expected 1"),
    "all devices": (FIT, ["--trainer.devices", "auto"], "trainer.devices: a run has one device"),
    "no device": (FIT, ["--trainer.devices", "[]"], "trainer.devices: a run has one device"),
    "precision": (FIT, ["--trainer.precision", "bf16-mixed"], "trainer.precision: not taken here; use --precision"),
    "strategy": (FIT, ["--trainer.strategy", "ddp"], "trainer.strategy: not taken here; a run has one device"),
    "time": (FIT, ["--trainer.max_time", "00:00:00:01"], "use --trainer.max_steps"),
    "epochs": (FIT, ["--trainer.max_epochs", "3"], "use --trainer.max_steps"),
    "fewer batches": (TEST, ["--trainer.limit_test_batches", "1"], "only its default is obeyed"),
    "accumulation": (FIT, ["--trainer.accumulate_grad_batches", "2"], "use --model.batch"),
    "checkpoint": (FIT, ["--ckpt_path", "x.ckpt"], "ckpt_path: not taken here; a run starts from its subject"),
    "experiment": (FIT, ["--experiment", "a/b"], "experiment 'a/b' is not a folder name"),
    "attack": (TEST, ["--attacked_by", 'configs/priority3.yaml "'], "no closing quotation"),
    "attack without a config": (TEST, ["--attacked_by", "configs/none.yaml"], "File does not exist"),
    "value cut by the parser": (FIT, ["--model.batch", "Q: what is this?"], "Got value: {'Q': 'what is this?'}"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_obeyed_is_refused(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args, words, message = REFUSED[case]
    assert main([*args, *words, "--results", str(tmp_path / "results")]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1, err
    assert list(tmp_path.iterdir()) == []


def keys_of(config: Any, prefix: str = "") -> list[str]:
    if not isinstance(config, dict):
        return [prefix.removesuffix(".").replace("init_args.", "")]
    return [key for name, value in config.items() for key in keys_of(value, f"{prefix}{name}.")]


KEYS = keys_of(resolve(FIT).config)
VALUES = [
    "", " ", "null", "None", "nan", "inf", "-1", "1e400", "9" * 30, "[", "{", "[1, 2]", "{a: b}", "a: b", "../x", "é", "true",
    "%", "[[]]", "- a", "!x", "&a", "1.5", "0",
]  # fmt: skip


@given(st.sampled_from(KEYS), st.sampled_from(VALUES), st.sampled_from(["{}={}", "{} {}"]))
@settings(deadline=None, max_examples=40, derandomize=True)
def test_any_command_line_resolves_or_is_refused_in_one_line(key: str, value: str, form: str) -> None:
    words = [f"--{key}", value] if " " in form else [f"--{key}={value}"]
    try:
        said = resolve([*FIT, *words]).run_id
    except UserError as error:
        said = str(error)
    assert len(said.splitlines()) == 1, said
