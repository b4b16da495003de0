"""RUN: LightningModules, one per kind of run.

In: a subject, a text, a stimulus. Out: trained weights and numbers in the run record. Never: statistics across runs.
"""

from lit_degrade.modules.attack import AttackModule
from lit_degrade.modules.base import SubjectModule
from lit_degrade.modules.catalysts import CatalystModule
from lit_degrade.modules.evaluate import EvaluateModule
from lit_degrade.modules.finetune import FinetuneModule
from lit_degrade.modules.pretrain import PretrainModule

__all__ = ["AttackModule", "CatalystModule", "EvaluateModule", "FinetuneModule", "PretrainModule", "SubjectModule"]
