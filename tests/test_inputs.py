"""Files beside configs: tokens in a `.env`, keys given twice, and encodings."""

import os
import re
from pathlib import Path
from unittest import mock

import pytest
import yaml
from helpers import ROOT
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from lit_degrade.cli import main
from lit_degrade.errors import UserError
from lit_degrade.inputs import check_configs, read_env, read_yaml

CONFIG = str(ROOT / "configs/evaluate.yaml")
OURS = ("HF_", "WANDB_")
ENV = {
    "plain": (b"HF_TOKEN=hf_x\nWANDB_ENTITY=team", {"HF_TOKEN": "hf_x", "WANDB_ENTITY": "team"}),
    "mark": (b"\xef\xbb\xbfHF_TOKEN=hf_x\n", {"HF_TOKEN": "hf_x"}),
    "UTF-16": ("# clé\r\nHF_TOKEN=hf_x\r\n".encode("utf-16"), {"HF_TOKEN": "hf_x"}),
    "big-endian UTF-16": (b"\xfe\xff" + "WANDB_ENTITY=é".encode("utf-16-be"), {"WANDB_ENTITY": "é"}),
    "Latin-1": (b"# cl\xe9\nOTHER=caf\xe9\nHF_TOKEN=hf_x # cl\xe9\n", {"HF_TOKEN": "hf_x"}),
    "CRLF": (b"HF_TOKEN=hf_x\r\n\r\nWANDB_ENTITY=team\r\n", {"HF_TOKEN": "hf_x", "WANDB_ENTITY": "team"}),
    "old Mac": (b"# a\rHF_TOKEN=hf_x\r", {"HF_TOKEN": "hf_x"}),
    "comments": (b"HF_A=a # mine\nHF_B=b#b\nHF_C= # none\n  # d\nHF_D=a\t#b", {"HF_A": "a", "HF_B": "b#b", "HF_D": "a"}),
    "no comment": (b"HF_A=#c", {"HF_A": "#c"}),
    "quotes": (b"HF_A=\"a # b\" # c\nHF_B='i't's'\nHF_C=''\nHF_D=\" e \"#f", {"HF_A": "a # b", "HF_B": "i't's", "HF_D": " e "}),
    "an apostrophe": (b"HF_A=it's", {"HF_A": "it's"}),
    "spaces": (b"  export\tHF_TOKEN = hf_x  \nHF_A = a b \n", {"HF_TOKEN": "hf_x", "HF_A": "a b"}),
    "equals": (b"WANDB_NOTES=a=b==\n", {"WANDB_NOTES": "a=b=="}),
    "others": (b"PATH=/nowhere\nexport export=x\nKEY=\"of several\nhf_token=x\n", {}),
    "nothing": (b"", {}),
}  # fmt: skip


def _set(path: Path) -> dict[str, str]:
    """What a `.env` file sets."""
    with mock.patch.dict(os.environ):
        for name in [name for name in os.environ if name.startswith(OURS)]:
            del os.environ[name]
        before = dict(os.environ)
        read_env(path)
        return {name: value for name, value in os.environ.items() if before.get(name) != value}


@pytest.mark.parametrize("case", ENV)
def test_a_env_file_is_read_in_any_encoding_and_dress(tmp_path: Path, case: str) -> None:
    content, expected = ENV[case]
    (tmp_path / ".env").write_bytes(content)
    assert _set(tmp_path / ".env") == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"# a\n\nsecret\n", "line 3, is not of the form NAME=VALUE."),
        (b"[secret]\n", "line 1, is not of the form NAME=VALUE."),
        (b"=secret\n", "line 1, is not of the form NAME=VALUE."),
        (b"HF_TOKEN: secret\n", "line 1, is not of the form NAME=VALUE."),
        (b"set HF_TOKEN=secret\n", "line 1, is not of the form NAME=VALUE."),
        (b"HF-TOKEN=secret\n", "line 1, is not of the form NAME=VALUE."),
        (b"A=b\nHF_TOKEN='secret\n", "line 2: the quotes around HF_TOKEN are no pair."),
        (b"HF_TOKEN=secret\"\n", "line 1: the quotes around HF_TOKEN are no pair."),
        (b"HF_TOKEN='secret' b\n", "line 1: the quotes around HF_TOKEN are no pair."),
        (b"A=\xe9\r\nHF_TOKEN=secr\xe9t\r\n", "line 2: HF_TOKEN is not text in UTF-8."),
        (b"HF_TOKEN=secret\0\n", "line 1: HF_TOKEN is not text in UTF-8."),
        ("A=b\nHF_TOKEN=secret".encode("utf-16-le"), "line 1, is not of the form NAME=VALUE."),
    ],
)  # fmt: skip
def test_a_broken_env_line_is_named_without_its_text(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / ".env").write_bytes(content)
    with pytest.raises(UserError) as error:
        _set(tmp_path / ".env")
    assert str(error.value).endswith(message)
    assert "secret" not in str(error.value)


def test_a_env_that_is_no_file_sets_nothing(tmp_path: Path) -> None:
    assert _set(tmp_path / ".env") == {}
    (tmp_path / ".env").mkdir()
    assert _set(tmp_path / ".env") == {}


def test_a_env_that_may_not_be_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("HF_TOKEN=hf_x")

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UserError, match=r"\.env' cannot be read: Permission denied\.$"):
        _set(tmp_path / ".env")


VALUE = st.text(
    st.characters(exclude_characters="\0\r\n\v\f\x1c\x1d\x1e\x85\u2028\u2029'\"", exclude_categories=["Cs"]), min_size=1
)


@given(VALUE, st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]), st.sampled_from(["", "'", '"']))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_value_is_what_was_written(tmp_path: Path, value: str, encoding: str, quote: str) -> None:
    assume(quote or (value == value.strip() and not re.search(r"\s#", value)))
    (tmp_path / ".env").write_bytes(f"\r\nexport HF_TOKEN = {quote}{value}{quote}  # comment\r\n".encode(encoding))
    assert _set(tmp_path / ".env") == {"HF_TOKEN": value}


@given(st.binary(max_size=40), st.sampled_from([b"", b"HF_TOKEN=", b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf"]))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_an_env_or_one_line(tmp_path: Path, content: bytes, start: bytes) -> None:
    (tmp_path / ".env").write_bytes(start + content)
    try:
        _set(tmp_path / ".env")
    except UserError as error:
        said = str(error).removeprefix(f"'{tmp_path}/.env', line ")
        expected = r"\d+(, is not of the form NAME=VALUE\.|: the quotes around \w+ are no pair\.|: \w+ is not text in UTF-8\.)"
        assert re.fullmatch(expected, said), said


TWICE = {
    "top": ("a: 1\nb: 2\n\na: 3\n", "a", 1, 4),
    "block": ("trainer:\n  max_steps: 1\nb: 2\ntrainer:\n  max_epochs: 1\n", "trainer", 1, 4),
    "nested": ("model:\n  init_args:\n    lr: 1\n    block: 2\n    lr: 1\n", "lr", 3, 5),
    "list": ("- a: 1\n- b: 1\n  b: 2\n", "b", 2, 3),
    "flow": ("a: {b: 1, c: {b: 1,\n b: 2}}\n", "b", 1, 2),
    "quoted": ("a: 1\n'a': 2\n", "a", 1, 2),
    "JSON": ('{"a": 1,\n\n"a": 1}', "a", 1, 3),
    "number": ("1: a\n1: b\n", "1", 1, 2),
    "beside a merge": ("x: &x {a: 1}\ny:\n  <<: *x\n  a: 2\n  a: 3\n", "a", 4, 5),
    "in a key": ("? {a: 1, a: 2}\n: b\n", "a", 1, 1),
}


@pytest.mark.parametrize("case", TWICE)
def test_a_key_given_twice_is_refused(tmp_path: Path, case: str) -> None:
    content, key, *lines = TWICE[case]
    path = tmp_path / "a.yaml"
    path.write_text(content)
    message = f"file '{path}' gives the key '{key}' twice: in lines {lines[0]} and {lines[1]}."
    with pytest.raises(UserError, match=re.escape(message)):
        read_yaml(path, "A file")


def test_merged_keys_and_equal_keys_of_two_mappings_are_not_twice(tmp_path: Path) -> None:
    content = (
        "x:\n  y:\n    deep: &deep {<<: &base {a: 1, b: 2}, c: 3}\nz:\n  <<: *deep\n  b: 4\n"
        "u: {<<: *base, <<: {c: 5}}\na: {a: {a: 1}}\n"
    )
    (tmp_path / "a.yaml").write_text(content)
    found = read_yaml(tmp_path / "a.yaml", "A file")
    assert found == yaml.safe_load(content)
    assert found["z"] == {"a": 1, "b": 4, "c": 3}


SHIPPED = sorted(path for folder in ("configs", "sweeps", "lit_degrade") for path in (ROOT / folder).rglob("*.yaml"))


def test_shipped_files_are_read_as_yaml_is() -> None:
    assert len(SHIPPED) > 50
    for path in SHIPPED:
        assert read_yaml(path, "A file") == yaml.safe_load(path.read_text(encoding="utf-8")), path


NAMES = st.text("abé1 ", min_size=1, max_size=3)
TREES = st.recursive(  # PyYAML writes U+0085 as it is, and reads it as a line break
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_characters="\x85", codec="utf-8"), max_size=4),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(NAMES, children, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(NAMES, TREES, min_size=1, max_size=3), st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]), st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_tree_is_read_back_and_any_key_twice_is_found(
    tmp_path: Path, tree: dict[str, object], encoding: str, flow: bool
) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(yaml.safe_dump(tree, default_flow_style=flow, allow_unicode=True).encode(encoding))
    assert read_yaml(path, "A file") == tree
    key = next(iter(tree))
    twice = yaml.safe_dump({"first": 1, key: 1}, allow_unicode=True) + yaml.safe_dump({key: 2}, allow_unicode=True)
    path.write_bytes(f"outer:\n- {twice.replace(chr(10), chr(10) + '  ')}".encode(encoding))
    with pytest.raises(UserError, match=re.escape(f"the key '{key}' twice")):
        read_yaml(path, "A file")


@given(st.binary(max_size=60) | st.text("ab:-{}[]\t\n%&*!'\"#1", max_size=40).map(str.encode))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_yaml_or_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    try:
        found = read_yaml(path, "A file")
    except UserError as error:
        said = str(error)
        assert str(path) in said
        assert "\n" not in said
    else:
        assert repr(found) == repr(yaml.load(content, yaml.CSafeLoader))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: 1\n# \xe9\n", "is not YAML: line 2: expected UTF-8, found bytes that are none"),
        ("a: 1\n".encode("utf-16-le"), "is not YAML: line 1: expected UTF-8, or UTF-16 with a byte-order mark, found a NUL"),
        (b"a:\n\tb: 1\n", "line 2, column 1"),
        (b"%a: 1\n", "is not YAML: while scanning a directive, line 1, column 1"),
        (b"a: 2020-13-45\n", "is not YAML: month must be in 1..12"),
        (b"a: 1\n---\nb: 2\n", "expected a single document"),
        (b"? {? " + b"[" * 400 + b"]" * 400 + b": 1}\n: 2\n", "is not YAML: "),
    ],
)  # fmt: skip
def test_what_is_not_yaml_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        read_yaml(tmp_path / "a.yaml", "A file")
    assert "\n" not in str(error.value)


CONFIGS = {
    "by name": ["--config", "twice.yaml"],
    "in one word": ["--config=twice.yaml"],
    "after another": ["--config", CONFIG, "--config", "twice.yaml"],
    "short": ["-c", "twice.yaml"],
    "without a suffix": ["--config", "twice"],
    "JSON": ["--config", "twice.json"],
    "a part": ["--config", CONFIG, "--trainer", "twice.yaml"],
    "a part in one word": ["--trainer=twice.yaml"],
    "a part of a config": ["--config", "parts/outer.yaml"],
    "a part of a part": ["--config", "outermost.yaml"],
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_with_a_key_twice_is_found_wherever_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("parts").mkdir()
    for name in ("twice.yaml", "twice", "parts/inner.yml"):
        Path(name).write_text("max_steps: 1\nmax_epochs: 2\nmax_steps: 3\n")
    Path("twice.json").write_text('{"max_steps": 1,\n\n"max_steps": 3}')
    Path("parts/outer.yaml").write_text("trainer: inner.yml\nmodel: ../outermost.yaml\n")
    Path("outermost.yaml").write_text("model: parts/outer.yaml\n")
    with pytest.raises(UserError, match=r"^Config '[\w./]+' gives the key 'max_steps' twice: in lines 1 and 3\.$"):
        check_configs(["fit", *CONFIGS[case]])


def test_what_is_no_config_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "lines.json").write_text('{"text": "a"}\n{"text": "b", "text": "c"}\n')
    check_configs(["test", "--text.source", str(tmp_path / "lines.json"), "--config", "no.yaml", "--prompt", "{a: 1, a: 2}"])
    check_configs(["test", "--text.source", str(tmp_path), "--config", str(tmp_path), "--config"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: 1\n".encode("utf-16"), "is UTF-16: expected UTF-8."),
        (b"\xe9: 1\n", "is not YAML: line 1: expected UTF-8"),
        (b"", "holds no keys: expected KEY: VALUE"),
        (b"- a\n", "holds no keys: expected KEY: VALUE"),
    ],
)
def test_a_config_that_the_parser_cannot_read_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(UserError, match=re.escape(f"Config '{tmp_path}/a.yaml' {message}")):
        check_configs(["--config", str(tmp_path / "a.yaml")])


@pytest.mark.parametrize("way", ["config", "attacked_by"])
def test_a_key_twice_ends_a_run_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], way: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("twice.yaml").write_text("seed_everything: 1\nseed_everything: 2\n")
    args = ["--config", CONFIG, "--subject", "tiny-60k"]
    args += (
        ["--config", "twice.yaml"]
        if way == "config"
        else ["--attacked_by", f"{ROOT}/configs/priority3.yaml --config twice.yaml"]
    )
    assert main(["test", *args]) == 2
    said = "lit_degrade: Config 'twice.yaml' gives the key 'seed_everything' twice: in lines 1 and 2.\n"
    assert capsys.readouterr().err == said
    assert [path.name for path in tmp_path.iterdir()] == ["twice.yaml"]


def test_a_config_with_a_byte_order_mark_is_a_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbf" + Path(CONFIG).read_bytes().replace(b"\n", b"\r\n"))
    with pytest.raises(SystemExit) as end:
        main(["test", "--config", str(tmp_path / "a.yaml"), "--print_config"])
    assert end.value.code in (0, None)
    assert "EvaluateModule" in capsys.readouterr().out


def test_list_reads_configs_in_any_encoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("configs").mkdir()
    Path("configs/a.yaml").write_bytes(b"# Question: caf\xe9?\n")
    Path("configs/b.yaml").write_bytes("# Question: b?\n".encode("utf-16"))
    Path("configs/c.yaml").write_bytes(b"")
    assert main(["list", "configs"]) == 0
    assert main(["list", "analyses"]) == 0
    assert "caf\ufffd?" in capsys.readouterr().out
