"""Where a subject's files lie, and hashes of what they hold; imports nothing heavy, so a run is recognised at once."""

import hashlib
import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from lit_degrade.errors import UserError, unknown
from lit_degrade.inputs import file_sha256
from lit_degrade.subjects.catalog import EMBEDDED_FOLDER, HUB, LADDER
from lit_degrade.subjects.lineage import FILE as LINEAGE
from lit_degrade.subjects.lineage import read_lineage

BASE = "base_subject.json"
"""Beside adapters that a run saved: the subject they belong to, and the hash of its content if it is a place."""
ADAPTERS = "adapter_config.json"
"""Beside all adapters, as PEFT writes it: their shape, and the name of their base."""
WEIGHTS = "model.safetensors"
TO_SAFETENSORS = "safetensors.torch.save_file({{{name}: v.clone() for k, v in {read}.items()}}, '{file}', {{'format': 'pt'}})"
"""How weights that have been read are written as safetensors; `name` is an expression of their name `k`."""
_WHOLE = re.compile(r"(model|pytorch_model).*\.(safetensors|bin)(\.index\.json)?$")
_SUFFIXES = (".safetensors", ".json", ".jinja", ".model")
_NAMES = ("merges.txt", "vocab.txt")
"""What weights, config, tokenizer and processor are read from; the last suffix is SentencePiece's."""


def locate(name: str) -> str:
    """Folder or hub id of a subject.

    Raises: UserError for a name that is neither in the catalogue, nor a folder, nor of the form OWNER/NAME.
    """
    if name in LADDER:
        return str(EMBEDDED_FOLDER / name)
    if name in HUB:
        return HUB[name]
    folder = Path(name).expanduser()
    if (folder / "summary.json").is_file():
        folder /= "subject"
        if not folder.is_dir():
            raise UserError(f"Run record '{name}' kept no subject: its run had no RegisterArtifacts callback.")
    if folder.is_dir():
        if not (folder / "config.json").is_file() and not (folder / ADAPTERS).is_file():
            raise UserError(
                f"Folder '{name}' holds no subject: expected config.json (or adapter_config.json) in it. {instead(folder)}"
            )
        return str(folder)
    if name.startswith((".", "~", "/")) or name.count("/") != 1:
        raise unknown("subject", name, [*LADDER, *HUB, "a folder", "a hub id OWNER/NAME"])
    return name


def base_of(folder: Path) -> str | None:
    """Name of the subject that a folder's adapters belong to, as `locate` takes it; None for a folder of whole weights.

    A folder is looked for from where we are, then from the adapters.

    Raises: UserError when the adapters do not say it, when no such subject is known, or when whole weights lie beside them.
    """
    file, key = folder / BASE, "base_subject"
    if not file.is_file():
        file, key = folder / ADAPTERS, "base_model_name_or_path"
        if not file.is_file():
            return None
    if whole := sorted(path.name for path in folder.iterdir() if _WHOLE.match(path.name)):
        raise UserError(
            f"Subject folder '{folder}' holds both whole weights ({whole[0]}) and adapters ({file.name}): keep one of them."
        )
    name = read_json(file).get(key)
    if not name or not isinstance(name, str):
        raise UserError(f"Adapters in '{folder}' do not say which subject they belong to: set {key} in {file.name}.")
    beside = folder / name
    if name not in (*LADDER, *HUB) and beside.is_dir() and not Path(name).expanduser().is_dir():
        name = str(beside)
    needs = f"Adapters in '{folder}' belong to '{name}' ({key} in {file.name}), which is"
    try:
        place = Path(locate(name))
    except UserError as error:
        raise UserError(f"{needs} not there. {error}") from error
    if place.is_dir() and ((place / BASE).is_file() or (place / ADAPTERS).is_file()):
        raise UserError(f"{needs} adapters too: merge those into their base first (merge_and_unload, then save_pretrained).")
    return name


def instead(folder: Path, expected: str = WEIGHTS) -> str:
    """What to do with weights in another format than that of the expected file."""
    names = sorted(path.name for path in folder.iterdir())
    if pickles := [name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt")) and name != "training_args.bin"]:
        read = f"torch.load('{pickles[0]}', weights_only=True)"
        return f"Pickles ({some(pickles)}) are not read; convert: {TO_SAFETENSORS.format(name='k', read=read, file=expected)}."
    if gguf := [name for name in names if name.endswith(".gguf")]:
        read = f"from_pretrained('{folder}', gguf_file='{gguf[0]}'"
        return (
            f"GGUF ({some(gguf)}) is not read; convert: AutoModelForCausalLM.{read}, quantization_config=GgufConfig("
            f"dequantize=True)).save_pretrained('{folder}') and AutoTokenizer.{read}).save_pretrained('{folder}')."
        )
    return f"It holds {some(names)}." if names else "It is empty."


def some(names: Collection[str]) -> str:
    """The first three names."""
    first = ", ".join(list(names)[:3])
    return first if len(names) <= 3 else f"{first} and {len(names) - 3} more"


def read_json(path: Path) -> dict[str, Any]:
    """Object that a JSON file holds.

    Raises: UserError when it holds anything else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"'{path}' is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise UserError(f"'{path}' is expected to hold a JSON object.")
    return content


def files_sha256(folder: Path, without: str = "") -> str:
    """Hash of the files that a local subject is loaded from, by name; one of them may be left out."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".json") and p.name != without):
        digest.update(path.name.encode())
        digest.update(_digest(path))
    return digest.hexdigest()


def _digest(path: Path) -> bytes:
    try:
        return bytes.fromhex(file_sha256(path))
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {error.strerror}.") from error


def content_sha256(name: str) -> str:
    """Hash of everything that a subject named by its place is loaded from; "" for one that its name identifies.

    Adapters are loaded from their base too: it enters by its content, or by its name if that identifies it. Where files lie
    does not enter, neither here nor as other files name it.

    Raises: UserError for what `locate` refuses, and for adapters whose base is not there.
    """
    place = _folder(name)
    if place is None:
        return ""
    digest = hashlib.sha256()
    for path in _read_from(place):
        digest.update(path.name.encode())
        digest.update(_without_places(path))
    base = base_of(place)
    if base is not None:
        digest.update((content_sha256(base) or (base if base in LADDER else locate(base))).encode())
    return digest.hexdigest()


def content_files(name: str) -> list[Path]:
    """Files that `content_sha256` looks into."""
    place = _folder(name)
    if place is None:
        return []
    base = base_of(place)
    return [*_read_from(place), *(content_files(base) if base is not None else ())]


def _folder(name: str) -> Path | None:
    """Where a subject named by its place lies; None for one that its name identifies."""
    place = Path(locate(name))
    return None if name in (*LADDER, *HUB) or not place.is_dir() else place


def _read_from(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix in _SUFFIXES or p.name in _NAMES)


def _without_places(path: Path) -> bytes:
    """Hash of a file; of one that names places or depends on them, of what else it says."""
    if path.name == LINEAGE:
        stages = read_lineage(path.parent, "", "")
        known = (*LADDER, *HUB, *HUB.values())
        said: Any = [
            {k: v for k, v in stage.items() if k != "files_sha256" and (k != "name" or v in known)} for stage in stages
        ]
    elif path.name in (BASE, ADAPTERS):
        said = {k: v for k, v in read_json(path).items() if k not in ("base_subject", "base_model_name_or_path")}
    else:
        return _digest(path)
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).digest()


def refuse_changed_files(folder: Path) -> None:
    """Raise: UserError for a folder that holds other files than the run that wrote its lineage has saved there."""
    saved = read_lineage(folder, "", "")[-1].get("files_sha256")
    if saved and saved != (current := files_sha256(folder, without=LINEAGE)):
        raise UserError(
            f"Subject folder '{folder}' has been changed since it was saved: its files have the hash {current[:12]}, and its "
            f"{LINEAGE} says {saved[:12]}."
        )


def refuse_changed_base(folder: Path, base: str) -> None:
    """Raise: UserError for saved adapters whose base has other content than when they were made."""
    saved = read_json(folder / BASE).get("base_sha256") if (folder / BASE).is_file() else None
    if saved and saved != (current := content_sha256(base)):
        raise changed_base(folder, base, "content", current or "none, as a name that is known", saved)


def changed_base(folder: Path, base: str, what: str, found: str, saved: str) -> UserError:
    """Error for adapters whose base is not what it was, with both hashes."""
    return UserError(
        f"Adapters in '{folder}' belong to '{base}', which has been changed since: the hash of its {what} is {found[:12]}, and "
        f"was {saved[:12]} when they were made. Restore it, or make the adapters again."
    )
