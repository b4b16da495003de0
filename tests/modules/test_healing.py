"""Fine-tuning and healing: lineage by content, subjects from records, what came back."""

import json
from pathlib import Path

import pytest
from helpers import ATTACK, HEAL, ROOT, SMALL, manifest_of, run, summary_of

from lit_degrade.cli import main
from lit_degrade.run import resolve
from lit_degrade.subjects.lineage import recovery


def healed_and_attacked(results: Path, *args: str) -> tuple[Path, Path]:
    assert main([*HEAL, "--results", str(results), *args]) == 0
    return tuple(next(results.glob(f"{name}/*/summary.json")).parent for name in ("healing", "priority2"))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def healed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return healed_and_attacked(tmp_path_factory.mktemp("healed"), "--attacked_by", ATTACK)


def test_healing_attacks_first_and_keeps_the_lineage(healed: tuple[Path, Path]) -> None:
    heal, attack = summary_of(healed[0]), summary_of(healed[1])
    assert heal["attacked_by_run"] == attack["run_id"]
    assert heal["subject"] == "tiny-60k"
    assert heal["perplexity_intact"] == pytest.approx(attack["perplexity_pre"])
    assert heal["perplexity_pre"] == pytest.approx(attack["perplexity_post"], rel=1e-5)
    nats = [heal[f"nats_per_token_{when}"] for when in ("intact", "pre", "post")]
    assert heal["recovery"] == pytest.approx((nats[1] - nats[2]) / (nats[1] - nats[0]))
    assert heal["recovery_rank"] is not None
    assert heal["gradient_clip"] == 1.0
    assert heal["kl_from_attacked"] > 0
    intact, attacked, after = manifest_of(healed[0])["lineage"]
    assert intact["sha256"] == manifest_of(healed[1])["sha256"]["subject"]
    assert attacked["run_id"] == attack["run_id"]
    assert (
        attacked["sha256"] == manifest_of(healed[1])["sha256"]["subject_after"] == manifest_of(healed[0])["sha256"]["subject"]
    )
    assert after["sha256"] == manifest_of(healed[0])["sha256"]["subject_after"]
    assert json.loads((healed[0] / "subject/lineage.json").read_text()) == [intact, attacked, after]


def test_a_fault_in_the_attack_passes_through_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the cause of itself it was looked through for ever."""

    def fault(self: object) -> None:
        raise ValueError("a fault of the code")

    monkeypatch.setattr("lit_degrade.modules.attack.AttackModule.on_fit_start", fault)
    with pytest.raises(ValueError, match="a fault of the code") as found:
        main([*HEAL, "--results", str(tmp_path), "--attacked_by", ATTACK])
    assert found.value.__cause__ is not found.value


def test_the_attack_is_run_once(healed: tuple[Path, Path]) -> None:
    before = (healed[1] / "manifest.json").stat().st_mtime_ns
    results = healed[0].parent.parent
    assert main([*HEAL, "--results", str(results), "--attacked_by", ATTACK, "--trainer.max_steps", "2"]) == 0
    assert (healed[1] / "manifest.json").stat().st_mtime_ns == before
    assert len(list(results.glob("healing/*/summary.json"))) == 2


def test_a_record_is_a_subject(healed: tuple[Path, Path], tmp_path: Path) -> None:
    folder = run(tmp_path, "--subject", str(healed[1]), "--attacked_by", "", verb=HEAL)
    one, two = summary_of(folder), summary_of(healed[0])
    assert one["attacked_by_run"] == two["attacked_by_run"]
    assert one["perplexity_post"] == two["perplexity_post"]
    assert one["run_id"] != two["run_id"]


def test_the_run_id_follows_the_content_of_a_local_subject(healed: tuple[Path, Path], tmp_path: Path) -> None:
    import shutil

    args = [*HEAL, "--attacked_by", "", "--results", str(tmp_path)]
    one, two = tmp_path / "one", tmp_path / "one-moved"
    shutil.copytree(healed[1] / "subject", one)
    first = resolve([*args, "--subject", str(one)]).run_id
    assert resolve([*args, "--subject", str(one)]).run_id == first
    weights = one / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert resolve([*args, "--subject", str(one)]).run_id != first
    assert not two.exists()


def test_lora_can_be_healed(tmp_path: Path) -> None:
    heal, attack = healed_and_attacked(tmp_path, "--attacked_by", ATTACK, "--precision", "nf4", "--adapter", "lora")
    assert summary_of(heal)["perplexity_pre"] == pytest.approx(summary_of(attack)["perplexity_post"], rel=1e-4)
    assert json.loads((heal / "subject/base_subject.json").read_text())["base_subject"] == "tiny-60k"


def test_fine_tuning_an_intact_subject(tmp_path: Path) -> None:
    verb = ["fit", "--config", str(ROOT / "configs/finetune.yaml"), *SMALL]
    summary = summary_of(run(tmp_path, verb=verb))
    assert summary["kl_from_intact"] > 0
    assert "recovery" not in summary
    assert summary["attacked_by_run"] is None
    assert summary["gradient_clip"] is None


BAD = {
    "sgd_matched": (["--model.optimizer", "sgd_matched"], "'sgd_matched' rehearses on one stimulus"),
    "batch": (["--model.batch", "0"], "model.batch: expected a whole number from 1, not 0"),
    "record without a subject": (["--subject", "RECORD"], "kept no subject: its run had no RegisterArtifacts callback"),
    "learning rate": (["--model.lr", "0"], "model.lr: expected a finite number above 0"),
    "attack": (["--attacked_by", "none.yaml"], "File does not exist"),
    "attack key": (["--attacked_by", f"{ROOT}/configs/priority2.yaml --model.stimulus=x"], "Unknown stimulus 'x'"),
    "artifact": (["--subject", "wandb-artifact:nobody/nowhere/x:v0"], "W&B artifact 'nobody/nowhere/x:v0' cannot be had"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    for name, value in {"MAX": "1", "WAIT_MIN_SECONDS": "0.01", "WAIT_MAX_SECONDS": "0.02"}.items():
        monkeypatch.setenv(f"WANDB__GRAPHQL_RETRY_{name}", value)  # nobody listens there, however often it is asked
    args, message = BAD[case]
    (record := tmp_path / "record").mkdir()
    (record / "summary.json").write_text("{}")
    args = [str(record) if arg == "RECORD" else arg for arg in args]
    verb = ["fit", "--config", str(ROOT / "configs/finetune.yaml"), *SMALL]
    assert main([*verb, "--results", str(tmp_path / "results"), *args]) == 2
    err = capsys.readouterr().err.strip()
    assert message in err
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [record]


def test_a_diverged_attack_cannot_be_healed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    attack = f"{ATTACK} --model.lr=1e30 --model.optimizer=sgd"
    assert main([*HEAL, "--results", str(tmp_path), "--attacked_by", attack]) in (2, 3)
    assert main([*HEAL, "--results", str(tmp_path), "--attacked_by", attack]) == 2
    assert "that attack diverged" in capsys.readouterr().err


def test_recovery() -> None:
    assert recovery(3.0, 4.0, 3.5) == 0.5
    assert recovery(3.0, 4.0, 3.0) == 1
    assert recovery(3.0, 4.0, 5.0) == -1
    assert recovery(3.0, 3.0, 3.0) is None
