"""Every shipped config parses, says what it is for, and needs no key that does not exist."""

from pathlib import Path

import pytest
import yaml
from helpers import CONFIGS, ROOT, verb_of

from lit_degrade.cli import main
from lit_degrade.perturbations.catalog import VARIANTS as CATALOGUE

ATTACKS = [path for path in CONFIGS if "AttackModule" in path.read_text()]
VARIANTS = sorted((ROOT / "configs/variants").glob("*.yaml"))
OVERLAYS = sorted([*(ROOT / "configs/subjects").glob("*.yaml"), *(ROOT / "configs/shields").glob("*.yaml")])


@pytest.mark.parametrize("config", CONFIGS, ids=lambda p: p.name)
def test_configs_resolve(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([verb_of(config), "--config", str(config), "--print_config"])
    assert end.value.code in (0, None)
    header = config.read_text().split("experiment:")[0]
    for word in ("# Question:", "# Launch:", "# Answer:", "# Cost:"):
        assert word in header


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda p: p.name)
@pytest.mark.parametrize("name", ["priority3", "evaluate", "degradation"])
def test_overlays_fit_every_config(name: str, overlay: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Their keys are none of a module's, and so fit all configs of a verb when they fit one."""
    assert yaml.safe_load(overlay.read_text()).keys() <= {"subject", "precision", "adapter", "gradient_checkpointing"}
    config = ROOT / f"configs/{name}.yaml"
    with pytest.raises(SystemExit) as end:
        main([verb_of(config), "--config", str(config), "--config", str(overlay), "--print_config"])
    assert end.value.code in (0, None)


@pytest.mark.parametrize("overlay", VARIANTS, ids=lambda p: p.name)
def test_variants_are_those_of_the_catalogue(overlay: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(ROOT / "configs/degradation.yaml")
    with pytest.raises(SystemExit):
        main(["predict", "--config", config, "--config", str(overlay), "--print_config"])
    assert f"variants: {overlay.stem}\n" in capsys.readouterr().out
    assert overlay.read_text().startswith(f"# {CATALOGUE[overlay.stem].says}.\n")
    assert len(VARIANTS) == len(CATALOGUE)


@pytest.mark.parametrize("config", ATTACKS, ids=lambda p: p.name)
def test_the_light_null_space_fits_every_attack(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    light = str(ROOT / "configs/null_spaces/light.yaml")
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", str(config), "--config", light, "--print_config"])
    assert end.value.code in (0, None)
