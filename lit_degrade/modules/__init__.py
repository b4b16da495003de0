"""RUN: LightningModules, one per kind of run.

In: a subject, a text, a stimulus. Out: trained weights and numbers in the run record. Never: statistics across runs.
"""

from lit_degrade.modules.adversarial import AdversarialModule
from lit_degrade.modules.attack import AttackModule
from lit_degrade.modules.base import SubjectModule
from lit_degrade.modules.benchmarks import BenchmarkModule
from lit_degrade.modules.bit_search import BitSearchModule
from lit_degrade.modules.bit_sensitivity import BitSensitivityModule
from lit_degrade.modules.catalysts import CatalystModule
from lit_degrade.modules.comparison import ComparisonModule
from lit_degrade.modules.criticality import CriticalityModule
from lit_degrade.modules.evaluate import EvaluateModule
from lit_degrade.modules.exchange import ExchangeRateModule
from lit_degrade.modules.finetune import FinetuneModule
from lit_degrade.modules.flatness import FlatnessModule
from lit_degrade.modules.generate import GenerateModule
from lit_degrade.modules.layer_ablation import LayerAblationModule
from lit_degrade.modules.pretrain import PretrainModule
from lit_degrade.modules.prompt import PromptModule
from lit_degrade.modules.prune import PruneModule
from lit_degrade.modules.super_weights import SuperWeightModule

__all__ = [
    "AdversarialModule", "AttackModule", "BenchmarkModule", "BitSearchModule", "BitSensitivityModule", "CatalystModule",
    "ComparisonModule", "CriticalityModule", "EvaluateModule", "ExchangeRateModule", "FinetuneModule", "FlatnessModule",
    "GenerateModule", "LayerAblationModule", "PretrainModule", "PromptModule", "PruneModule", "SubjectModule",
    "SuperWeightModule",
]  # fmt: skip
