"""Measurement of a subject, intact or under doses of a perturbation: `test --config configs/evaluate.yaml`."""

from lit_degrade.modules.doses import DoseModule
from lit_degrade.records import paths


class EvaluateModule(DoseModule):
    """Perplexity, bits per byte, token accuracy and the spectra of every layer of a subject; then what each dose does."""

    verbs = ("validate", "test")
    headline = (
        "probe_tokens", "nats_per_token_pre", "perplexity_pre", "bits_per_byte_pre", "token_accuracy_pre", "doses",
    )  # fmt: skip

    test_dataloader = val_dataloader = DoseModule.steps

    def test_step(self, batch: int, batch_idx: int) -> None:
        """Measure everything."""
        cell = self.cells[batch]
        with self.record.timed("probes"):
            if batch:
                self.dose_rows.append(self.measure_dose(cell))
                self.edit_rows += self.edit_table(cell)
                return
            self.measure_intact()
            spectra = self.hidden_spectra()
        facts = {f"{name}_layer{s.depth}": value for s in spectra for name, value in s.measures().items()}
        self.record.add(rank_tokens=spectra[0].n_tokens, **facts)
        self.record.save_tensors(paths.SPECTRA, {f"layer{s.depth:02d}": s.sigma for s in spectra})

    validation_step = test_step

    def on_test_epoch_end(self) -> None:
        """Write the tables."""
        self.finish()

    on_validation_epoch_end = on_test_epoch_end
