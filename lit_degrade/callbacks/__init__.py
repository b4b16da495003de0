"""WHEN: Lightning callbacks that decide when to measure and what to keep.

In: a trainer and its module. Out: entries of the run record. Never: the arithmetic itself.
"""

from lit_degrade.callbacks.log_damage import LogDamage
from lit_degrade.callbacks.log_mechanism import LogMechanism
from lit_degrade.callbacks.log_reported import LogReported
from lit_degrade.callbacks.log_spectrum import LogSpectrum
from lit_degrade.callbacks.perturb import Perturb
from lit_degrade.callbacks.register_artifacts import RegisterArtifacts
from lit_degrade.callbacks.show_progress import ShowProgress
from lit_degrade.callbacks.write_record import WriteRecord

__all__ = [
    "LogDamage", "LogMechanism", "LogReported", "LogSpectrum", "Perturb", "RegisterArtifacts", "ShowProgress",
    "WriteRecord",
]  # fmt: skip
