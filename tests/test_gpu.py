"""What needs a CUDA device: the main job at every precision."""

import json
from pathlib import Path

import pytest
import torch
from test_cli import QUICK, ROOT

from lit_degrade.cli import main
from lit_degrade.records import paths

pytestmark = pytest.mark.gpu


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    ("precision", "adapter"), [("fp32", "full"), ("bf16", "full"), ("fp16", "full"), ("int8", "lora"), ("nf4", "lora")]
)
def test_the_attack_runs_on_a_gpu(precision: str, adapter: str, tmp_path: Path) -> None:
    base = ["fit", "--config", str(ROOT / "configs/priority3.yaml"), *QUICK, "--results", str(tmp_path)]
    assert main([*base, "--precision", precision, "--adapter", adapter, "--trainer.accelerator", "cuda"]) == 0
    (summary,) = tmp_path.glob(f"*/*/{paths.SUMMARY}")
    assert json.loads(summary.read_text())["exit_state"] == "done"
