"""Shared subjects: tiny random models of every architecture, and the embedded ladder."""

import copy
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["WANDB_MODE"] = "disabled"  # tests about W&B ask for another
os.environ["WANDB_SILENT"] = "true"
os.environ["HF_HUB_OFFLINE"] = "1"
# Tests run side by side, and threads that wait for each other cost more than they bring.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TORCH_COMPILE_DISABLE"] = "1"  # bitsandbytes compiles what it computes for odd shapes, for 20 seconds

import pytest
import torch
from hypothesis import settings
from loopback import Client, LoopbackServer
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    BloomConfig,
    FalconConfig,
    Gemma3Config,
    Gemma3Processor,
    Gemma3TextConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    SiglipVisionConfig,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

from lit_degrade.subjects.anatomy import Anatomy
from lit_degrade.subjects.catalog import EMBEDDED_FOLDER, SubjectSpec
from lit_degrade.subjects.loading import Subject, load_subject
from lit_degrade.text import TextSource

# A shell that starts the tests in the background ignores Ctrl-C for them, and `nohup` the end of the terminal.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
settings.register_profile("any machine", deadline=None)  # how long an example takes is no property of the code
settings.load_profile("any machine")

V, D, L, H = 96, 32, 3, 4
COMMON = {"vocab_size": V, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
GEMMA_TEXT = {
    **COMMON, "hidden_size": D, "num_hidden_layers": L, "num_attention_heads": H, "num_key_value_heads": 2, "head_dim": 8,
    "intermediate_size": 64, "max_position_embeddings": 64, "sliding_window": 16,
}  # fmt: skip
ROTARY = {"hidden_size": D, "num_hidden_layers": L, "num_attention_heads": H, "max_position_embeddings": 64}
FAMILY_CONFIGS = {
    "gpt_neox": GPTNeoXConfig(**COMMON, **ROTARY, intermediate_size=64),
    "gpt2": GPT2Config(**COMMON, n_embd=D, n_layer=L, n_head=H, n_positions=64),
    "gpt_neo": GPTNeoConfig(
        **COMMON, hidden_size=D, num_layers=L, num_heads=H, attention_types=[[["global", "local"], 1], [["global"], 1]],
        max_position_embeddings=64, intermediate_size=64,
    ),
    "gptj": GPTJConfig(**COMMON, n_embd=D, n_layer=L, n_head=H, n_positions=64, rotary_dim=4),
    "opt": OPTConfig(
        **COMMON, hidden_size=D, num_hidden_layers=L, num_attention_heads=H, ffn_dim=64, max_position_embeddings=64,
        word_embed_proj_dim=16,
    ),
    "bloom": BloomConfig(**COMMON, hidden_size=D, n_layer=L, n_head=H),
    "falcon": FalconConfig(
        **COMMON, hidden_size=D, num_hidden_layers=L, num_attention_heads=H, alibi=True, multi_query=False,
        new_decoder_architecture=False, bias=True,
    ),
    "falcon_multi_query": FalconConfig(
        **COMMON, hidden_size=D, num_hidden_layers=L, num_attention_heads=H, alibi=False, multi_query=True,
        new_decoder_architecture=False,
    ),
    "falcon_new": FalconConfig(
        **COMMON, hidden_size=D, num_hidden_layers=L, num_attention_heads=H, alibi=False, new_decoder_architecture=True,
        num_kv_heads=2,
    ),
    "llama": LlamaConfig(**COMMON, **ROTARY, intermediate_size=64, num_key_value_heads=2),
    "mistral": MistralConfig(**COMMON, **ROTARY, intermediate_size=64, num_key_value_heads=2, sliding_window=16),
    "gemma3_text": Gemma3TextConfig(**GEMMA_TEXT),
    "gemma3": Gemma3Config(
        text_config=GEMMA_TEXT,
        vision_config=SiglipVisionConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
        ).to_dict(),
        mm_tokens_per_image=4, image_token_index=5, boi_token_index=6, eoi_token_index=7,
    ),
}  # fmt: skip


def random_model(family: str, seed: int = 0, vocabulary: int = V, **changes: int) -> torch.nn.Module:
    """Tiny random model of a family, in float32, with biases that are not zero; `changes` are fields of its config."""
    config = copy.deepcopy(FAMILY_CONFIGS[family])
    text_config = getattr(config, "text_config", config)
    text_config.vocab_size = vocabulary
    for name, value in changes.items():
        owner = config if hasattr(config, name) else text_config
        if hasattr(owner, name):
            setattr(owner, name, value)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        loader = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
        model = loader.from_config(config, dtype=torch.float32).eval()
        for name, p in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(p.data, std=0.1)
    assert sum(p.numel() for p in model.parameters()) < 300_000, "tiny models must be tiny"
    return model


IMAGE_TOKENS = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
FOLDER_CONTEXT = 192
"""Positions of a `random_folder`: prompts of about 150 tokens with their continuations fit."""


def random_folder(family: str, path: Path, seed: int = 0) -> str:
    """Folder with a tiny random subject that reads text (and Gemma 3 pictures); returns what --subject takes."""
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_FOLDER / "tiny-60k")
    special = {}
    if family == "gemma3":
        tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_FOLDER / "tiny-60k", extra_special_tokens=IMAGE_TOKENS)
        special = {
            "boi_token_index": tokenizer.boi_token_id, "eoi_token_index": tokenizer.eoi_token_id,
            "image_token_index": tokenizer.image_token_id,
        }  # fmt: skip
        vision = FAMILY_CONFIGS[family].vision_config
        images = Gemma3ImageProcessorPil(size={"height": vision.image_size, "width": vision.image_size})
        patches = FAMILY_CONFIGS[family].mm_tokens_per_image
        Gemma3Processor(images, tokenizer, image_seq_length=patches).save_pretrained(path)
    tokenizer.model_max_length = FOLDER_CONTEXT
    tokenizer.save_pretrained(path)
    model = random_model(family, seed, len(tokenizer), max_position_embeddings=FOLDER_CONTEXT, **special)
    if family == "gemma3":  # born as zeros, through which no picture is seen
        projection = model.model.multi_modal_projector.mm_input_projection_weight
        torch.nn.init.normal_(projection.data, generator=torch.Generator().manual_seed(seed))
    model.save_pretrained(path)
    return str(path)


@pytest.fixture(autouse=True)
def _seed() -> None:
    """What a test draws from global state does not depend on the tests before it."""
    torch.manual_seed(0)


@pytest.fixture(params=FAMILY_CONFIGS)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def text() -> TextSource:
    return TextSource(probe_tokens=4096)


def load(name: str, **options: object) -> Subject:
    return load_subject(SubjectSpec(name, **options), 0, torch.device("cpu"), train=True)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def tiny() -> Subject:
    """The smallest embedded subject; tests that change it load their own."""
    return load("tiny-60k")


@pytest.fixture(scope="session")
def tiny_1m() -> Subject:
    return load("tiny-1m")


def wrap(model: torch.nn.Module, tokenizer: object = None) -> Subject:
    """A subject around any model."""
    return Subject(SubjectSpec("random"), model, tokenizer, Anatomy(model), "", None)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LoopbackServer]:
    with LoopbackServer(tmp_path / "server") as server:
        yield server
    assert server.unknown == []
    assert server.failed == []


@pytest.fixture
def client(server: LoopbackServer, tmp_path: Path) -> Client:
    folder = tmp_path / "client"
    folder.mkdir()
    return Client(server, folder)


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder in which commands of the documentation run."""
    from workplace import Workplace

    return Workplace(tmp_path_factory.mktemp("workplace"))


@pytest.fixture
def workplace(furnished: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The same, as the current folder."""
    monkeypatch.chdir(furnished.folder)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    return furnished
