"""Text sources, split into disjoint parts by content and hashed."""

import ast
import hashlib
import math
import os
import re
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import IterableDataset

from lit_degrade.checks import at_least
from lit_degrade.errors import UserError
from lit_degrade.subjects.catalog import EMBEDDED_FOLDER, LADDER
from lit_degrade.subjects.hub import go_offline_if_unreachable
from lit_degrade.text_files import KINDS, file_paragraphs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Split = Literal["train", "calibration", "attack", "probe"]
Begin = Literal["auto", "bos", "none"]
SPLIT_PERCENT: dict[Split, int] = {"train": 82, "calibration": 4, "attack": 4, "probe": 10}
DOCUMENT_CHARS = 4000
"""Paragraphs are packed into documents of about this many characters."""

HUB_SOURCES = {
    "wikitext-2": ("Salesforce/wikitext", "wikitext-2-raw-v1", "test", "text"),
    "pile-uncopyrighted": ("monology/pile-uncopyrighted", None, "validation", "text"),
    "c4": ("allenai/c4", "en", "validation", "text"),
}
"""name -> (hub data set, configuration, split, text column)."""
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
"""Names that a hub data set can have."""

_NOT_DOCUMENTED = frozenset(
    (
        "site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo", "tkinter", "distutils",
        "encodings", "pydoc_data", "ensurepip", "__pycache__", "lib-dynload",
    )
)  # fmt: skip
"""Parts of the standard library that are not public documentation or that distributions leave out."""


@dataclass(frozen=True)
class TokenStream:
    """Tokens of one split in order, each with the number of UTF-8 bytes of the text that it stands for."""

    ids: Tensor
    """int64 (n,)"""
    byte_counts: Tensor
    """int64 (n,); 0 for separators"""
    split: Split | None = None
    """where they are from"""
    begin: int | None = None
    """token that every window begins with, where the subject's tokenizer begins a text with one"""

    def count(self, length: int) -> int:
        """How many disjoint windows of `length` tokens there are."""
        return len(self.ids) // self.own(length)

    def blocks(self, length: int, count: int) -> "TokenStream":
        """First `count` disjoint windows of `length` tokens, `begin` included, as (count, length) tensors.

        Raises: UserError when the text is too short.
        """
        own = self.own(length)
        n = own * count
        if len(self.ids) < n:
            raise UserError(
                f"The text has {len(self.ids)} tokens in this split ({self.split}); {count} blocks of {own} need {n}. "
                "Use a longer text (--text.source) or ask for less (--text.probe_tokens, --text.block)."
            )
        windows = TokenStream(self.ids[:n].view(count, own), self.byte_counts[:n].view(count, own), self.split, self.begin)
        if self.begin is None:
            return windows
        return replace(windows, ids=begun(windows.ids, self.begin), byte_counts=begun(windows.byte_counts, 0))

    def own(self, length: int) -> int:
        """Tokens of the text in a window of `length`."""
        return length - (self.begin is not None)


def _docstrings(node: ast.AST) -> Iterator[str]:
    doc = ast.get_docstring(node)  # type: ignore[arg-type]
    if doc:
        yield doc
    for child in node.body:  # type: ignore[attr-defined]
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings(child)


@cache
def stdlib_paragraphs() -> list[list[str]]:
    """The language reference topics and the docstrings of the public standard library, parsed, never imported."""
    from pydoc_data.topics import topics

    groups = [topics[name].split("\n\n") for name in sorted(topics)]
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if _NOT_DOCUMENTED.isdisjoint(parts) and not parts[0].startswith("config-"):
            groups.append(list(_docstrings(ast.parse(path.read_bytes()))))
    return groups


SOURCES: dict[str, Callable[[], Iterable[list[str]]]] = {"stdlib": stdlib_paragraphs}
"""Name of a text -> what gives its groups of neighbouring paragraphs, always the same."""


def _hub_paragraphs(source: str, max_documents: int) -> Iterator[list[str]]:
    name, config, split, column = HUB_SOURCES.get(source, (source, None, "train", "text"))
    offline = go_offline_if_unreachable()
    import datasets

    datasets.config.HF_HUB_OFFLINE = offline
    try:
        rows = datasets.load_dataset(name, config, split=split, streaming=not offline)
    except Exception as error:  # the library raises a different class for each way of not finding a data set
        reason = "the hub cannot be reached" if offline else " ".join(str(error).split())
        raise UserError(
            f"Text source '{source}' ({name}) is not a file, not 'stdlib', and not available as a data set: {reason}. "
            f"Pass a local file: --text.source FILE ({', '.join(KINDS)})."
        ) from error
    for row, _ in zip(rows, range(max_documents), strict=False):
        yield [row[column]]


def _pack(paragraphs: Sequence[str]) -> Iterator[str]:
    """Join neighbouring paragraphs into documents of about DOCUMENT_CHARS characters."""
    packed: list[str] = []
    size = 0
    for paragraph in paragraphs:
        if packed and size + len(paragraph) > DOCUMENT_CHARS:
            yield "\n\n".join(packed)
            packed, size = [], 0
        packed.append(paragraph)
        size += len(paragraph)
    if packed:
        yield "\n\n".join(packed)


_PIECE = re.compile(rf"\S(?:.{{0,{DOCUMENT_CHARS - 1}}}(?!\S)|.{{0,{DOCUMENT_CHARS - 1}}})", re.DOTALL)
"""As many words as DOCUMENT_CHARS hold; a part of the first where it alone is longer."""


def _cut(paragraph: str) -> list[str]:
    """Pieces of at most DOCUMENT_CHARS characters of a longer paragraph, cut at white space where there is any."""
    return [paragraph] if len(paragraph) <= DOCUMENT_CHARS else [piece.rstrip() for piece in _PIECE.findall(paragraph)]


def _documents(groups: Iterable[Sequence[str]]) -> list[str]:
    """Groups of paragraphs as documents, in order, without blank paragraphs and without those that came before."""
    seen: set[str] = set()
    documents: list[str] = []
    for group in groups:
        fresh = [text for text in group if text.strip() and not (text in seen or seen.add(text))]  # type: ignore[func-returns-value]
        documents.extend(_pack(fresh))
    return documents


def _split_of(document: str) -> Split:
    """The split that a document's own content puts it in."""
    percent = int(hashlib.sha256(document.encode()).hexdigest()[:8], 16) % 100
    for split, share in SPLIT_PERCENT.items():
        percent -= share
        if percent < 0:
            return split
    raise AssertionError("the shares add up to 100")


def _filled(documents: Iterable[str]) -> set[Split]:
    """The splits that have a document."""
    splits: set[Split] = set()
    for document in documents:
        splits.add(_split_of(document))
        if len(splits) == len(SPLIT_PERCENT):
            break
    return splits


class TextSource:
    """A named text, cut into documents and four disjoint splits.

    A document's split is a hash of its own content, so that no document (and no duplicate of one) is in two splits,
    whatever else the source holds.
    """

    def __init__(
        self,
        source: str = "stdlib",
        block: int = 128,
        probe_tokens: int = 49152,
        max_documents: int = 20000,
        begin: Begin = "auto",
    ) -> None:
        """Describe the text; it is read on first use.

        Args:
            source: `stdlib` (always there), a file (.txt, .jsonl, .ndjson, .json, .csv, .parquet), `wikitext-2`,
                `pile-uncopyrighted`, `c4`, or any hub data set with a `text` column.
            block: tokens in one window of text.
            probe_tokens: held-out text that every probe measures, as what so many tokens of the embedded subjects' tokenizer
                cover: all subjects read the same text, whatever their own tokenizer makes of it.
            max_documents: rows read from a hub data set.
            begin: what every window of text begins with: what the tokenizer begins a text with (auto), its beginning-of-text
                token (bos), or no token of its own (none).
        """
        at_least("text.block", block, 2)
        at_least("text.max_documents", max_documents, 1)
        if probe_tokens < block:
            raise UserError(f"text.block={block} and text.probe_tokens={probe_tokens}: expected 2 <= block <= probe_tokens.")
        self.source = source
        self.block = block
        self.probe_tokens = probe_tokens
        self.max_documents = max_documents
        self.begin = begin

    @cached_property
    def documents(self) -> list[str]:
        """All documents in order, exact duplicate paragraphs removed.

        A paragraph stays whole, however long, unless that leaves a split without any document, as a text of one long line does:
        then paragraphs of more than DOCUMENT_CHARS are cut at white space, provided that this fills a split and empties none.

        Raises: UserError when the source is unknown, unreadable or empty.
        """
        groups = list(self._groups())
        documents = _documents(groups)
        if len(_filled(documents)) < len(SPLIT_PERCENT):
            cut = _documents([[piece for paragraph in group for piece in _cut(paragraph)] for group in groups])
            documents = cut if _filled(cut) > _filled(documents) else documents
        if not documents:
            raise UserError(f"Text source '{self.source}' is empty: expected at least one paragraph of text.")
        return documents

    def _groups(self) -> Iterable[list[str]]:
        path = Path(os.path.expanduser(self.source))
        if self.source in SOURCES:
            return SOURCES[self.source]()
        if os.path.isfile(path):
            return file_paragraphs(path)
        if os.path.isdir(path):
            raise UserError(f"Text file '{self.source}' is a folder: expected a file ({', '.join(KINDS)}).")
        like_a_file = path.suffix[1:2].isalpha() and os.path.isdir(path.parent)  # data sets have versions behind their dots
        if path.suffix.lower() in KINDS or like_a_file or not _HUB_NAME.fullmatch(self.source):
            raise UserError(f"Text file '{self.source}' does not exist or is not a file.")
        return _hub_paragraphs(self.source, self.max_documents)

    @cached_property
    def sha256(self) -> str:
        """Hash of all documents in order."""
        digest = hashlib.sha256()
        for document in self.documents:
            digest.update(document.encode() + b"\0")
        return digest.hexdigest()

    def split(self, split: Split) -> list[str]:
        """Documents of one split."""
        return [document for document in self.documents if _split_of(document) == split]

    def tokens(self, split: Split, tokenizer: "PreTrainedTokenizerBase") -> TokenStream:
        """Token stream of one split, documents separated by the end-of-text token."""
        return replace(encode(self.split(split), tokenizer), split=split, begin=self.beginning(tokenizer))

    def blocks(self, split: Split, tokenizer: "PreTrainedTokenizerBase", count: int, length: int | None = None) -> TokenStream:
        """First `count` windows of `length` (default `block`) tokens of one split; no more of it is tokenised."""
        length = length or self.block
        stream = encode(self.split(split), tokenizer, count * length)
        return replace(stream, split=split, begin=self.beginning(tokenizer)).blocks(length, count)

    def probe(self, tokenizer: "PreTrainedTokenizerBase") -> TokenStream:
        """The windows that every probe measures: whole ones of the stretch of text that `probe_tokens` names.

        Raises: UserError when the text is shorter, or too short for one window.
        """
        blocks = self.probe_tokens // self.block
        measure = encode(documents := self.split("probe"), embedded_tokenizer(), tokens := blocks * self.block)
        if len(measure.ids) < tokens:
            most = len(measure.ids) // self.block * self.block
            raise UserError(
                f"text.probe_tokens={self.probe_tokens}: the held-out part of this text has {len(measure.ids)} tokens, counted "
                "by the tokenizer of the embedded subjects. Use a longer text (--text.source)"
                + (f", or at most --text.probe_tokens {most}." if most else ".")
            )
        stretch = int(measure.byte_counts[:tokens].sum())
        stream = encode(documents, tokenizer, enough_bytes=stretch)
        inside = int((stream.byte_counts.cumsum(0) <= stretch).sum())
        stream = TokenStream(stream.ids[:inside], stream.byte_counts[:inside], "probe", self.beginning(tokenizer))
        return stream.blocks(self.block, max(1, stream.count(self.block)))

    def beginning(self, tokenizer: "PreTrainedTokenizerBase") -> int | None:
        """The token that every text begins with, if there is one.

        Raises: UserError for `bos` where the tokenizer has no such token, for `auto` where it puts several.
        """
        if self.begin == "none":
            return None
        if self.begin == "bos":
            if tokenizer.bos_token_id is None:
                raise UserError("text.begin=bos: the subject's tokenizer has no beginning-of-text token. Use auto or none.")
            return int(tokenizer.bos_token_id)
        bare, whole = (tokenizer("a", add_special_tokens=added)["input_ids"] for added in (False, True))
        before = next((whole[:i] for i in range(len(whole)) if whole[i : i + len(bare)] == bare), whole)
        if len(before) > 1:
            raise UserError(
                f"The subject's tokenizer begins a text with {len(before)} tokens: expected one at most. "
                "Use --text.begin bos or none."
            )
        return before[0] if before else None


@cache
def embedded_tokenizer() -> "PreTrainedTokenizerBase":
    """The tokenizer of all embedded subjects."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(EMBEDDED_FOLDER / next(iter(LADDER)))


def begun(tokens: Tensor, begin: int | None) -> Tensor:
    """Sequences (n, length) behind the token that texts begin with, if there is one."""
    return tokens if begin is None else F.pad(tokens, (1, 0), value=begin)


def encode(
    documents: Sequence[str],
    tokenizer: "PreTrainedTokenizerBase",
    enough: float = math.inf,
    enough_bytes: float = math.inf,
) -> TokenStream:
    """Tokenise documents, until there are enough tokens or bytes; each has the UTF-8 bytes that it is the first to cover."""
    ids: list[int] = []
    byte_counts: list[int] = []
    seen = 0
    for document in documents:
        if len(ids) >= enough or seen >= enough_bytes:
            break
        seen += len(document.encode())
        encoded = tokenizer(document, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        covered = 0
        for token, (_, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
            ids.append(token)
            byte_counts.append(len(document[covered:end].encode()))
            covered = max(covered, end)
        if tokenizer.eos_token_id is not None:
            ids.append(tokenizer.eos_token_id)
            byte_counts.append(0)
    return TokenStream(torch.tensor(ids), torch.tensor(byte_counts))


class RandomWindows(IterableDataset[Tensor]):
    """Endless batches (batch, length) of random windows of a token stream."""

    def __init__(self, stream: TokenStream, length: int, batch: int, windows: torch.Generator) -> None:
        """Draw window starts from `windows`.

        Raises: UserError when the text is shorter than one window.
        """
        self.stream, self.batch, self.windows = stream, batch, windows
        self.own = stream.own(length)
        if len(stream.ids) < self.own:
            raise UserError(f"The {stream.split} split has {len(stream.ids)} tokens; a window needs {self.own}.")

    def __iter__(self) -> Iterator[Tensor]:
        """Yield batches for ever."""
        while True:
            starts = torch.randint(len(self.stream.ids) - self.own + 1, (self.batch,), generator=self.windows)
            yield begun(self.stream.ids[starts[:, None] + torch.arange(self.own)], self.stream.begin)
