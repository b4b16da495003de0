"""The command line: comfort, refusals, and nothing left behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers import QUICK, ROOT

from lit_degrade.cli import main
from lit_degrade.errors import UserError
from lit_degrade.records.mode import wandb_mode


def test_light_commands_do_not_import_torch() -> None:
    code = """
import sys
from lit_degrade.cli import main
for args in (["--help"], ["list"], ["--version"], ["list", "targets"], ["nonsense"]):
    main(args)
    print("imported by", args, {"torch", "lightning"} & set(sys.modules))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    imported = [line for line in out.splitlines() if line.startswith("imported by")]
    assert len(imported) == 5
    assert all(line.endswith("set()") for line in imported), imported


def test_list_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for name in ("tiny-60k", "pythia-410m", "gemma-3-4b-it", "eigen_prion", "attn_v", "adafactor", "nf4", "lora"):
        assert name in out
    assert main(["list", "optimizers"]) == 0
    assert capsys.readouterr().out.startswith("optimizers:\n  adamw")


EMPTY, CORRUPT, FILE = "<empty text>", "<corrupt subject>", "<a file>/results"
BAD = {
    "subject": (["--subject", "tiny-2m"], "Unknown subject 'tiny-2m'. Did you mean 'tiny-3m'? Available: tiny-60k"),
    "stimulus": (["--model.stimulus", "eigen_prio"], "Unknown stimulus 'eigen_prio'. Did you mean 'eigen_prion'?"),
    "precision": (["--precision", "fp8"], "Unknown precision 'fp8'. Available: fp32, bf16, fp16, int8, nf4"),
    "target": (["--model.null_space.target", "mlp_gate"], "Unknown target for gpt_neox 'mlp_gate'"),
    "target outside the blocks": (["--model.null_space.target", "embed"], "Target 'embed' is not made of block matrices"),
    "part of a matrix": (["--model.null_space.target", "attn_v"], "is a part of a fused gpt_neox matrix. Use 'attn'"),
    "optimizer": (["--model.optimizer", "adam"], "Unknown optimizer 'adam'. Did you mean 'adamw'? Available: adamw, sgd"),
    "key": (["--modle.lr", "1"], "Unknown key 'modle.lr'"),
    "module key": (
        ["--model.learning_rate", "1"],
        "Unknown key of AttackModule 'learning_rate'. Available: stimulus, optimizer, lr",
    ),
    "abbreviated key": (["--trainer.max_step", "3"], "Unknown key of trainer 'max_step'. Did you mean 'max_steps'?"),
    "nested key": (["--model.null_space.direction", "3"], "'direction'. Did you mean 'directions'?"),
    "linked key": (["--model.subject", "tiny-60k"], "cannot be set there: use --subject"),
    "type": (["--model.lr", "fast"], "lr: Expected a float. Got value: fast"),
    "int8 with full": (["--precision", "int8"], "precision 'int8' with adapter 'full' cannot be trained"),
    "nf4 with full": (["--precision", "nf4"], "precision 'nf4' with adapter 'full' cannot be trained"),
    "null space": (["--model.null_space.directions", "99999"], "null_space.products=20: expected 199998 or more"),
    "empty text": (["--text.source", EMPTY], "is empty: expected at least one paragraph"),
    "corrupt file": (["--subject", CORRUPT], "cannot be loaded from"),
    "results": (["--results", FILE], "cannot be written: Not a directory"),
    "experiment": (["--experiment", "../elsewhere"], "is not a folder name"),
    "accelerator": (["--trainer.accelerator", "gpux"], "trainer: You selected an invalid accelerator name"),
    "config": (["--config", "no.yaml"], "File does not exist"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args, message = BAD[case]
    given = tmp_path / "given"
    given.mkdir()
    (given / "empty.txt").write_text(" \n\n")
    (given / "subject").mkdir()
    for source in (ROOT / "lit_degrade/subjects/embedded/tiny-60k").iterdir():
        (given / "subject" / source.name).write_bytes(source.read_bytes())
    (given / "subject" / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{broken}")
    places = {EMPTY: str(given / "empty.txt"), CORRUPT: str(given / "subject"), FILE: str(given / "empty.txt" / "results")}
    args = [places.get(arg, arg) for arg in args]
    rc = main(["fit", "--config", str(ROOT / "configs/priority3.yaml"), *QUICK, "--results", str(tmp_path / "results"), *args])
    err = capsys.readouterr().err
    assert rc == 2
    assert len(err.strip().splitlines()) == 1, err
    assert message in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["given"]


def test_a_verb_that_a_module_does_not_answer_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", str(ROOT / "configs/evaluate.yaml"), "--results", str(tmp_path / "results")]) == 2
    assert "EvaluateModule does not answer 'fit'. Available: validate, test." in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_published_setting_resolves(capsys: pytest.CaptureFixture[str]) -> None:
    configs = ["--config", str(ROOT / "configs/priority3.yaml"), "--config", str(ROOT / "configs/subjects/pythia-410m.yaml")]
    with pytest.raises(SystemExit) as end:
        main(["fit", *configs, "--print_config"])
    assert end.value.code in (0, None)
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["subject"] == "pythia-410m"
    assert config["precision"] == "fp16"
    assert config["adapter"] == "full"
    assert config["gradient_checkpointing"] is True
    assert config["seed_everything"] == 43
    assert config["trainer"]["max_steps"] == 100
    assert config["model"]["init_args"]["lr"] == 1e-4
    assert config["model"]["init_args"]["stimuli"]["tokens"] == 64


def test_a_hub_subject_without_a_hub_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configs = ["--config", str(ROOT / "configs/priority3.yaml"), "--config", str(ROOT / "configs/subjects/pythia-410m.yaml")]
    rc = main(["fit", *configs, "--results", str(tmp_path / "results")])
    err = capsys.readouterr().err
    assert rc == 2
    assert len(err.strip().splitlines()) == 1
    assert "EleutherAI/pythia-410m" in err
    assert "--subject FOLDER" in err
    assert list(tmp_path.iterdir()) == []


def test_wandb_is_offline_without_account_or_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert wandb_mode() == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nothing listens there
    assert wandb_mode() == "offline"
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert wandb_mode() == "online"
        monkeypatch.delenv("WANDB_API_KEY")
        (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login user password {'0' * 40}\n")
        assert wandb_mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_mode() == "disabled"
    monkeypatch.setenv("WANDB_MODE", "ofline")
    with pytest.raises(UserError, match=r"Unknown WANDB_MODE 'ofline'. Did you mean 'offline'\?"):
        wandb_mode()


def test_tokens_may_stand_in_a_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["# tokens", "", "HF_TOKEN='hf_secret'", "export WANDB_ENTITY=team", "WANDB_PROJECT=other", "PATH=/nowhere"]
    (tmp_path / ".env").write_text("\n".join(lines))
    path = os.environ["PATH"]
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    for name in ("HF_TOKEN", "WANDB_ENTITY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    assert main(["--version"]) == 0
    assert [os.environ[name] for name in ("HF_TOKEN", "WANDB_ENTITY", "WANDB_PROJECT")] == ["hf_secret", "team", "mine"]
    assert os.environ["PATH"] == path


def test_a_broken_env_file_is_named_without_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".env").write_text("hf_secret\n")
    monkeypatch.chdir(tmp_path)
    assert main(["--version"]) == 2
    assert capsys.readouterr().err == "lit_degrade: '.env', line 1, is not of the form NAME=VALUE.\n"


def test_no_token_is_in_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, "secret" * 8)
    monkeypatch.setenv("WANDB_MODE", "offline")
    args = ["--config", str(ROOT / "configs/evaluate.yaml"), "--subject", "tiny-60k", "--text.probe_tokens", "2048"]
    assert main(["test", *args, "--results", str(tmp_path)]) == 0
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"secretsecret" not in path.read_bytes(), path
