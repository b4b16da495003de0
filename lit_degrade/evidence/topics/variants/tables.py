"""Tables of variants side by side, and of what they write after the same prompt."""

import re
import unicodedata
from pathlib import Path
from typing import Any

import pandas as pd

from lit_degrade.evidence.claims.sections import Section
from lit_degrade.evidence.drawing.tables import Rows, Table, save_rows, with_lines
from lit_degrade.evidence.reading.estimates import Estimate, estimate, observations
from lit_degrade.evidence.reading.groups import columns_of, full_label
from lit_degrade.evidence.reading.words import words
from lit_degrade.evidence.topics.variants.rows import ordered_variants
from lit_degrade.records.tables import DAMAGE, VARIANTS

ANSWER = 200
"""Characters of an answer that the pages show."""
MEASURES = ("perplexity", DAMAGE, "bits_per_byte", "token_accuracy", "sparsity", "relative_norm")
"""What the table of variants says of them."""
_NEWLINE = re.compile("\r\n|[\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029]")
_RETURN = "\N{RETURN SYMBOL}"
_LINE = "\r\n"
"""Ends a line of a file; letters of it are quoted in answers, which a lone "\\n" would not do for "\\r"."""


def write_variant_tables(section: Section, folder: Path) -> list[Table]:
    """Write NAME_variants.csv and NAME_answers.csv where they have a line; returns tables for the pages."""
    variants = save_rows(section, folder, "variants", variant_rows(section))
    answers = save_rows(section, folder, "answers", answer_rows(section), _LINE)
    return [*_variant_tables(section, variants), *_answer_tables(section, answers)]


def variant_rows(section: Section) -> Rows:
    """For every group and variant: what it is and what it does, means over runs."""
    return [{**columns_of(group), **row} for _, group, own in with_lines(section, VARIANTS) for row in _variants(own)]


def _variants(lines: pd.DataFrame) -> Rows:
    rows = []
    for name, kind in ordered_variants(lines).items():
        own = lines[lines["variant"] == name].assign(random=False)
        row: dict[str, Any] = {"variant": name, "kind": kind, "runs": len(own)}
        for measure in MEASURES:
            row |= estimate(observations(own, measure)).columns(measure)
        rows.append(row)
    return rows


def _variant_tables(section: Section, file: str) -> list[Table]:
    """For each group: what its variants are and do."""
    note = (
        "Variants of one subject on the same held-out text: mean over seeds with 95 % Student t interval, identical runs "
        "counted once (n). Lost: nats per token. Empty: does not apply."
    )
    head = ["variant", "kind", "n", "perplexity", "lost [nats/token]", "bits per byte", "token accuracy [share]"]
    head += ["sparsity [share]", "norm of the change [relative]"]
    return [
        Table(
            f"Variants side by side, {words(full_label(group))}",
            note,
            head,
            [
                [it["variant"], words(it["kind"]), str(it[f"{DAMAGE}_n"]), *(Estimate.of(it, m).words() for m in MEASURES)]
                for it in _variants(own)
            ],
            i,
            file,
        )
        for i, group, own in with_lines(section, VARIANTS)
    ]


def answer_rows(section: Section) -> Rows:
    """Every answer of every run, to the letter."""
    return [
        {
            **columns_of(group),
            "run_id": line["run_id"],
            "variant": line["variant"],
            "kind": line["kind"],
            "answer": line["answer"],
        }
        for _, group, own in with_lines(section, VARIANTS)
        for line in own.to_dict("records")
        if line["answer"] != ""
    ]


def _answer_tables(section: Section, file: str) -> list[Table]:
    """For each group: what the variants of its first run write."""
    tables = []
    for i, group, own in with_lines(section, VARIANTS):
        first = own[own["run_id"] == own["run_id"].iloc[0]]
        answers = dict(zip(first["variant"], first["answer"], strict=True))
        if not any(answers.values()):
            continue
        which = f" in the first of {own['run_id'].nunique()} runs" if own["run_id"].nunique() > 1 else ""
        note = (
            f"What the variants of one subject write after the same prompt{which}. {_RETURN}: a new line; cut at {ANSWER} "
            "characters, the file has all."
        )
        asked = list(group.rows["prompt"].dropna()) if "prompt" in group.rows else []
        rows = [["(the prompt)", shown(str(prompt))] for prompt in asked[:1]]
        rows += [[name, shown(answers[name])] for name in ordered_variants(first)]
        tables.append(Table(f"Answers to one prompt, {words(full_label(group))}", note, ["variant", "answer"], rows, i, file))
    return tables


def shown(answer: str) -> str:
    """An answer in a line of a page: new lines as a sign, other control characters replaced, cut where it is long."""
    line = _NEWLINE.sub(f" {_RETURN} ", answer).replace("\t", " ")
    line = "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(letter) == "Cc" else letter for letter in line).strip()
    return line if len(line) <= ANSWER else line[: ANSWER - 1].rstrip() + "…"
