"""What a run needs to have imported: done once, in the server that runs are forked from."""

import importlib
import logging

MODULES = (
    "torch", "lightning.pytorch.cli", "transformers", "transformers.models.gpt_neox.modeling_gpt_neox", "peft",
    "bitsandbytes", "datasets", "scipy.linalg", "wandb", "lit_degrade.run",
)  # fmt: skip

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # before its import, which says what this machine lacks
for name in MODULES:
    importlib.import_module(name)
