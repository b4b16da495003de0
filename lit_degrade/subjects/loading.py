"""From a subject's name to a model, tokenizer and anatomy, at the precision and with the adapter asked for."""

import copy
import hashlib
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lit_degrade.errors import UserError, unknown
from lit_degrade.subjects.adapters import add_lora, read_adapters
from lit_degrade.subjects.agreement import (
    has_tokenizer,
    refuse_disagreement,
    refuse_flawed_files,
    refuse_tokenizer,
    stored_precision,
)
from lit_degrade.subjects.anatomy import FAMILIES, Anatomy
from lit_degrade.subjects.catalog import GROUPS, SubjectSpec
from lit_degrade.subjects.files import (
    ADAPTERS,
    BASE,
    base_of,
    changed_base,
    content_sha256,
    files_sha256,
    locate,
    read_json,
    refuse_changed_base,
    refuse_changed_files,
)
from lit_degrade.subjects.hub import go_offline_if_unreachable, hub_endpoint
from lit_degrade.subjects.lineage import Lineage, read_lineage, write_lineage
from lit_degrade.subjects.quiet import quiet_libraries

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.float32, "nf4": torch.float32}
"""dtype that the unquantised weights are loaded in, by precision."""
QUANTISED = ("int8", "nf4")
_HUB_ADAPTERS = "Subject '{name}' holds adapters: download it (hf download {place} --local-dir FOLDER), then --subject FOLDER."


@dataclass(frozen=True)
class Subject:
    """A loaded model under study."""

    spec: SubjectSpec
    model: Any
    """a `transformers` causal (or image-text) language model, perhaps wrapped by PEFT"""
    tokenizer: Any
    anatomy: Anatomy
    sha256: str
    """hash of the weights as loaded, before anything was done to them"""
    autocast_dtype: torch.dtype | None
    """half-precision compute dtype when float32 master weights are kept, else None"""
    lineage: Lineage = ()
    """stages it has been through, intact first"""
    processor: Any = None
    """of an image-text subject: turns pictures into what the model takes; None for text-only subjects"""
    content_sha256: str = ""
    """hash of the files that the subject of that name is loaded from; "" where its name identifies it"""
    begin: int | None = None
    """token that every text for it begins with, if there is one: `TextSource.beginning` says which"""

    def autocast(self) -> AbstractContextManager[Any]:
        """Compute at the subject's precision while its float32 master weights stay exact."""
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast_dtype)

    @property
    def device(self) -> torch.device:
        """Device of the first parameter."""
        return next(self.model.parameters()).device

    @property
    def embedding(self) -> Tensor:
        """Input embedding matrix (vocabulary, hidden), any float dtype."""
        return self.model.get_input_embeddings().weight

    @property
    def vocabulary(self) -> int:
        """Number of tokens that the tokenizer can produce (padding rows of the embedding are left out)."""
        return min(len(self.tokenizer), self.embedding.shape[0])

    def trainable(self) -> dict[str, nn.Parameter]:
        """Parameters that a gradient step changes, by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    @property
    def embedding_scale(self) -> float | Tensor:
        """What the embedding matrix is multiplied with on its way into the first block (1 but for Gemma)."""
        return getattr(self.model.get_input_embeddings(), "embed_scale", 1.0)

    def parameters(self, target: str) -> dict[str, nn.Parameter]:
        """Trainable block matrices of a target; with LoRA the adapters themselves, since the rest is frozen.

        Raises: UserError for a target that is not made of whole matrices of the transformer blocks.
        """
        named = dict(self.model.named_parameters())
        chosen = self.anatomy.select(target)
        if not {site.component for site in chosen} <= set(GROUPS["blocks"]):
            raise UserError(
                f"Target '{target}' is not made of block matrices. Available: {', '.join(GROUPS)}, and their parts."
            )
        names = {site.parameter for site in chosen}
        if any(s.parameter in names and s.kind == "weight" and s not in chosen for s in self.anatomy.sites):
            raise UserError(f"Target '{target}' is a part of a fused {self.anatomy.family} matrix. Use 'attn' for all of it.")
        if self.spec.adapter == "lora":
            return {site.parameter: named[site.parameter] for site in self.anatomy.sites if site.kind == "adapter"}
        return {name: named[name] for name in self.anatomy.parameter_names(target)}

    def save(self, folder: Path) -> None:
        """Write weights (safetensors), config and tokenizer so that `--subject FOLDER` loads them again.

        Master weights are stored at the subject's own precision; of a LoRA subject only the adapters are written, with the
        name of the subject they belong to.
        """
        with quiet_libraries():
            self._save(folder)

    def _save(self, folder: Path) -> None:
        if self.spec.adapter == "lora":
            self.model.save_pretrained(folder, safe_serialization=True)
            base = {"base_subject": self.spec.name, "precision": self.spec.precision}
            base |= {"base_sha256": self.content_sha256} if self.content_sha256 else {}
            (folder / BASE).write_text(json.dumps(base, indent=2) + "\n")
        else:
            state = {k: v.to(self.autocast_dtype) if self.autocast_dtype else v for k, v in self.model.state_dict().items()}
            config = self.model.config
            dtype, config.dtype = config.dtype, self.autocast_dtype or config.dtype
            self.model.save_pretrained(folder, state_dict=state, safe_serialization=True)
            config.dtype = dtype
        self.tokenizer.save_pretrained(folder)
        if self.processor is not None:
            self.processor.save_pretrained(folder)


def save_stage(subject: Subject, folder: Path, lineage: list[dict[str, Any]]) -> None:
    """Save a subject with its lineage, whose last stage gets the hash of the saved files: a folder with others is refused."""
    subject.save(folder)
    lineage[-1]["files_sha256"] = files_sha256(folder)
    write_lineage(folder, lineage)


def misread_rows(model: nn.Module) -> list[int]:
    """Row lengths of NF4 matrices that bitsandbytes decodes wrongly here, by decoding the same codes as one row and as many.

    Seen with 0.50.2 on CPUs with AVX-512, for rows that are not made of whole blocks of 64; layers compute with what is
    decoded.
    """
    states = [state for p in model.parameters() if (state := getattr(p, "quant_state", None)) is not None]
    if not states:
        return []
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    lengths = []
    for length in sorted({state.shape[-1] for state in states}):
        values = torch.linspace(-1, 1, 64 * length, device=states[0].absmax.device)
        codes, state = quantize_4bit(values.view(1, -1), blocksize=states[0].blocksize, quant_type=states[0].quant_type)
        one_row = dequantize_4bit(codes, state)
        state.shape = torch.Size((64, length))
        if not torch.equal(dequantize_4bit(codes, state).view(1, -1), one_row):
            lengths.append(length)
    return lengths


def weights_sha256(model: nn.Module) -> str:
    """Hash of every parameter and buffer, by name, bit for bit."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if isinstance(tensor, Tensor):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def load_subject(spec: SubjectSpec, seed: int, device: torch.device, train: bool) -> Subject:
    """Load a subject.

    Args:
        spec: what to load, and how.
        seed: seed of the adapters' initial values; nothing else here is random.
        device: where the weights go.
        train: keep float32 master weights of a half-precision subject; if False it is held in half precision.

    Raises: UserError, in one line, for a subject that is unknown, unreachable, corrupt, or does not fit its precision.
    """
    place = locate(spec.name)
    folder = Path(place)
    if folder.is_dir():
        refuse_changed_files(folder)
        if (base := base_of(folder)) is not None:
            return _load_adapted(spec, folder, base, seed, device, train)
        refuse_flawed_files(folder)
    offline = False if folder.is_dir() else go_offline_if_unreachable()
    with _loading(spec.name, place, offline):
        model = _load_model(place, spec, device, offline)
        tokenizer = _load_tokenizer(place, offline)
        processor = _load_processor(place, offline) if hasattr(model.config, "vision_config") else None
    refuse_tokenizer(spec.name, tokenizer, model.get_input_embeddings().weight.shape[0])
    subject = _prepare(spec, model, tokenizer, seed, train)
    return replace(
        subject,
        lineage=read_lineage(folder, spec.name, subject.sha256),
        processor=processor,
        content_sha256=content_sha256(spec.name),
    )


@contextmanager
def _loading(name: str, place: str, offline: bool) -> Iterator[None]:
    """What the libraries below us say of files that they cannot load, as one line."""
    try:
        with quiet_libraries():
            yield
    except UserError:
        raise
    except Exception as error:  # hub, config, safetensors and tokenizer libraries each raise classes of their own
        raise UserError(_loading_failure(name, place, offline, error)) from error


def _load_tokenizer(place: str, offline: bool) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(place, local_files_only=offline, trust_remote_code=False)


def _load_processor(place: str, offline: bool) -> Any:
    """Processor of an image-text subject; None where none of its files are there.

    Pictures are always prepared by Pillow, whether or not torchvision is installed: both round differently.
    """
    from transformers import AutoImageProcessor, AutoProcessor
    from transformers.models.auto.image_processing_auto import get_image_processor_config

    if not get_image_processor_config(place, local_files_only=offline):
        return None
    processor = AutoProcessor.from_pretrained(place, local_files_only=offline, trust_remote_code=False)
    processor.image_processor = AutoImageProcessor.from_pretrained(
        place, local_files_only=offline, trust_remote_code=False, backend="pil"
    )
    return processor


def _load_model(place: str, spec: SubjectSpec, device: torch.device, offline: bool) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, BitsAndBytesConfig

    common = {"local_files_only": offline, "trust_remote_code": False}
    config = AutoConfig.from_pretrained(place, **common)
    if config.model_type not in FAMILIES:
        raise unknown("architecture", config.model_type, FAMILIES)
    vars(config).pop("transformers_weights", None)  # names another file, which may be a pickle
    _without_dropout(config)
    loader: Any = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    options: dict[str, Any] = {}
    stored = stored_precision(spec.name, config, spec.precision)
    if stored == "nf4":
        config.quantization_config["bnb_4bit_compute_dtype"] = "float32"
    elif spec.precision == "int8" and not stored:
        options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
    elif spec.precision == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
        )

    def load(config: Any, where: str, **options: Any) -> Any:
        model, info = loader.from_pretrained(
            place,
            dtype=DTYPES[spec.precision],
            config=config,
            use_safetensors=True,
            device_map={"": where},
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in `info`, by name
            **common,
            **options,
        )
        refuse_disagreement(spec.name, model, info, quantised=stored is not None and where == "meta")
        return model

    if stored or options:  # bitsandbytes takes a matrix of any shape, so the shapes are compared without it
        plain = copy.deepcopy(config)
        vars(plain).pop("quantization_config", None)
        load(plain, "meta")
    model = load(config, str(device), **options)
    if getattr(model, "_hf_peft_config_loaded", False):
        raise UserError(_HUB_ADAPTERS.format(name=spec.name, place=place))
    if spec.precision in QUANTISED and not any(p.dtype in (torch.int8, torch.uint8) for p in model.parameters()):
        raise UserError(
            f"Subject '{spec.name}' cannot be had at precision '{spec.precision}': bitsandbytes finds no matrix to quantise in "
            f"{type(model).__name__}. Use fp32, bf16 or fp16."
        )
    for module in model.modules():
        # The packed bfloat16 kernel that 4-bit layers switch to in evaluation has no gradient, and says nothing of it.
        if hasattr(module, flag := "support_avx512bf16_for_cpu"):
            setattr(module, flag, False)
        # BLOOM wraps the tanh GELU in a function without forward-mode derivative; torch's own has one.
        for name, child in module.named_children():
            if type(child).__name__ == "BloomGelu":
                setattr(module, name, nn.GELU(approximate="tanh"))
    return model


def _without_dropout(config: Any) -> None:
    """No dropout anywhere: an attack and its placebo differ in their data, not in which units were silent."""
    for part in (config, getattr(config, "text_config", None)):
        for key, value in list(vars(part).items()) if part is not None else ():
            if "drop" in key and isinstance(value, float):
                setattr(part, key, 0.0)


def _prepare(spec: SubjectSpec, model: Any, tokenizer: Any, seed: int, train: bool) -> Subject:
    """Hash, adapt and set up a freshly loaded model."""
    sha256 = weights_sha256(model)
    half = DTYPES[spec.precision] if spec.precision in ("fp16", "bf16") and train else None
    if half is not None:
        model = model.float()
    anatomy = Anatomy(model)
    if spec.adapter == "lora":
        model = add_lora(model, anatomy, seed)
        anatomy = Anatomy(model)
    _set_mode(model, spec)
    return Subject(spec, model, tokenizer, anatomy, sha256, half)


def _set_mode(model: Any, spec: SubjectSpec) -> None:
    if spec.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()  # which checkpointing requires; there is no dropout to switch on
    else:
        model.eval()


def _load_adapted(spec: SubjectSpec, folder: Path, base: str, seed: int, device: torch.device, train: bool) -> Subject:
    """A subject saved as adapters: load the subject they belong to, then their values."""
    refuse_changed_base(folder, base)
    whole = replace(spec, name=base, adapter="full", gradient_checkpointing=False)
    try:
        below = load_subject(whole, seed, device, train)
    except UserError as error:
        raise UserError(f"Adapters in '{folder}' need the subject they belong to. {error}") from error
    _refuse_changed_weights(folder, below)
    model = read_adapters(below.model, folder)
    given, spec = spec.name, replace(spec, name=base, adapter="lora")
    _set_mode(model, spec)
    tokenizer = below.tokenizer
    if has_tokenizer(folder):
        with _loading(str(folder), str(folder), offline=False):
            tokenizer = _load_tokenizer(str(folder), offline=False)
    refuse_tokenizer(str(folder), tokenizer, below.embedding.shape[0])
    sha256 = weights_sha256(model)
    lineage = read_lineage(folder, given, sha256)
    return replace(below, spec=spec, model=model, tokenizer=tokenizer, anatomy=Anatomy(model), sha256=sha256, lineage=lineage)


def _refuse_changed_weights(folder: Path, below: Subject) -> None:
    """Raise: UserError for saved adapters whose base has other weights than their lineage says.

    Weights hash alike only at the precision that they were hashed at; codes also differ by device and version of bitsandbytes.
    Adapters that name the content of their base are compared by that, before it is loaded.
    """
    saved_at = read_json(folder / BASE).get("precision") if (folder / BASE).is_file() else None
    if saved_at != below.spec.precision or saved_at in QUANTISED:
        return
    stages = read_lineage(folder, "", "")[: len(below.lineage)]
    current, saved = below.lineage[-1]["sha256"], stages[-1]["sha256"]
    if saved and (len(stages) < len(below.lineage) or current != saved):
        raise changed_base(folder, below.spec.name, f"weights at {saved_at}", current, saved)


def _loading_failure(name: str, place: str, offline: bool, error: Exception) -> str:
    from huggingface_hub import try_to_load_from_cache

    said = " ".join(str(error).split())[:400] or type(error).__name__
    if Path(place).is_dir():
        return f"Subject '{name}' cannot be loaded from '{place}': {said}"
    if isinstance(try_to_load_from_cache(place, ADAPTERS), str):
        return _HUB_ADAPTERS.format(name=name, place=place)
    kept = try_to_load_from_cache(place, "config.json")
    if offline and isinstance(kept, str):
        refuse_flawed_files(Path(kept).parent)
        return f"Subject '{name}' cannot be loaded from the local Hugging Face cache ('{Path(kept).parent}'): {said}"
    where = f"the hub at {hub_endpoint()} cannot be reached" if offline else said
    return (
        f"Subject '{name}' ({place}) is not in the local Hugging Face cache and {where}. "
        "Provide it as a folder (--subject FOLDER with config.json, tokenizer and *.safetensors), or set HF_HOME to a cache "
        "that has it."
    )
