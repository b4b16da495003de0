"""Does the eigen-prion search beat its controls? `test --config configs/catalysts.yaml`."""

import statistics
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lit_degrade.checks import at_least
from lit_degrade.curvature.certificates import FlatSettings
from lit_degrade.curvature.null_space import NullSpaceSettings
from lit_degrade.modules.stimulus import StimulusModule, StimulusSettings
from lit_degrade.records import tables
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.text import TextSource


class CatalystModule(StimulusModule):
    """Certify a null space and compare every stimulus's share of gradient energy inside it, over several seeds."""

    verbs = ("test",)
    headline = (
        "null_lambda_max",
        "null_ratio_best",
        "null_best_below_random",
        "null_median_below_random",
        "n_seeds",
        "eigen_prion_wins",
        "null_energy_mean_eigen_prion",
        "null_energy_mean_random_swap",
        "null_energy_mean_random_tokens",
    )

    def __init__(
        self,
        subject: SubjectSpec,
        text: TextSource,
        seed: int,
        n_seeds: int = 5,
        stimuli: StimulusSettings = StimulusSettings(),  # noqa: B008 (frozen)
        null_space: NullSpaceSettings = NullSpaceSettings(),  # noqa: B008 (frozen)
        flat: FlatSettings = FlatSettings(),  # noqa: B008 (frozen)
    ) -> None:
        """Describe the comparison.

        Args:
            subject: the patient; it is not changed.
            text: calibration, attack and probe text.
            seed: of the null space; the stimuli use seed + 1, ..., seed + n_seeds.
            n_seeds: repetitions of every stimulus.
            stimuli: shape and cost of every stimulus.
            null_space: method, sizes and budgets of the null space.
            flat: the flat subspace, where the null space is that.
        """
        super().__init__(subject, text, seed, stimuli, null_space, flat)
        at_least("model.n_seeds", n_seeds, 1)
        self.n_seeds = n_seeds
        self.rows: list[dict[str, Any]] = []

    def on_test_start(self) -> None:
        """Find and certify the null space."""
        with torch.inference_mode(False), torch.enable_grad():
            self.measure_geometry()

    def test_dataloader(self) -> DataLoader[Tensor]:
        """One step per seed."""
        return DataLoader(range(self.seed + 1, self.seed + 1 + self.n_seeds), batch_size=None)  # type: ignore[arg-type]

    def test_step(self, batch: int, batch_idx: int) -> None:
        """Synthesise every stimulus with one seed."""
        with torch.inference_mode(False), torch.enable_grad():
            self.rows += self.synthesise(int(batch))[1]

    def on_test_end(self) -> None:
        """Write the table and say how often the eigen-prion won."""
        self.record.save_table(tables.STIMULI, self.rows)
        energy: dict[str, list[float]] = {}
        for row in self.rows:
            energy.setdefault(row["stimulus"], []).append(row["null_energy"])
        others = zip(*(values for name, values in energy.items() if name != "eigen_prion"), strict=True)
        self.record.add(
            n_seeds=self.n_seeds,
            eigen_prion_wins=sum(ours > max(theirs) for ours, theirs in zip(energy["eigen_prion"], others, strict=True)),
            eigen_prion_tokens_changed_min=min(r["tokens_changed"] for r in self.rows if r["stimulus"] == "eigen_prion"),
            **{f"null_energy_mean_{name}": statistics.fmean(values) for name, values in energy.items()},
        )
