"""How little must the input change for a subject to fail? `test --config configs/adversarial.yaml`."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_degrade.adversarial.catalog import ATTACKS, NORMS, TOKEN_ATTACKS, UNIT_OF, Norm
from lit_degrade.adversarial.embeddings import (
    beginning,
    embedded,
    embedding_changed,
    gradient_of,
    largest,
    replaced,
    shifted,
    units,
)
from lit_degrade.adversarial.reading import attack_prompt, attack_text, continued
from lit_degrade.adversarial.tokens import at_random, by_characters, by_gradient, replacements
from lit_degrade.checks import at_least, finite, some
from lit_degrade.errors import UserError, unknown
from lit_degrade.generation.generator import Continuation, Decoding, TextGenerator, out_of_memory
from lit_degrade.generation.queries import Query
from lit_degrade.measures.perplexity import Likelihood, batches, likelihood
from lit_degrade.measures.text_quality import measure_text
from lit_degrade.modules.measuring import MeasuringModule
from lit_degrade.records import tables
from lit_degrade.seeds import derive, generator
from lit_degrade.subjects.catalog import SubjectSpec
from lit_degrade.text import TextSource, TokenStream


@dataclass(frozen=True)
class InputAttack:
    """One attack of all windows."""

    attack: str
    draw: int
    norm: Norm | None = None
    """None: of tokens"""
    epsilon: float = 0.0


class AdversarialModule(MeasuringModule):
    """Change held-out text a little, where it hurts most and at random, as embeddings and as tokens; then one prompt."""

    doing = "attacking"
    headline = ("windows", "probe_tokens", "nats_per_token_pre", "epsilon", "fgsm_over_random_linf", "fgsm_over_random_l2")

    def __init__(
        self,
        subject: SubjectSpec,
        text: TextSource,
        seed: int,
        attacks: Sequence[str] = ("random", "fgsm", "pgd"),
        norms: Sequence[str] = ("linf", "l2"),
        epsilons: Sequence[float] = (0.0, 0.01, 0.05, 0.1, 0.3, 1.0),
        steps: int = 10,
        draws: int = 3,
        windows: int = 16,
        token_changes: Sequence[int] = (1, 2, 4, 8),
        prompt: str = "The with statement is used to",
        answer_epsilon: float = 0.3,
        decoding: Decoding = Decoding(),  # noqa: B008 (frozen)
    ) -> None:
        """Describe the attacks.

        Args:
            subject: the patient; its weights are only read.
            text: probe text, of which the first windows are attacked.
            seed: of every random draw.
            attacks: on embeddings: random (the control), fgsm, pgd.
            norms: linf (any entry; epsilon in root mean squares of the embedded text), l2 (any token's row; in median lengths).
            epsilons: sizes of the change, in the unit of the norm; 0 changes nothing.
            steps: of pgd.
            draws: repetitions of what is random.
            windows: of text.block tokens, each attacked by itself.
            token_changes: numbers of tokens replaced in each window; none or 0: no attack on tokens.
            prompt: what is continued, as it is and attacked, so that the subject no longer expects its own continuation.
            answer_epsilon: size of the change of the prompt's embeddings.
            decoding: how text is made.
        """
        super().__init__(subject, text, seed)
        self.attacks, self.norms = _known("attack", attacks, ATTACKS), _known("norm", norms, NORMS)
        self.epsilons, self.counts = sorted(set(epsilons)), sorted(set(token_changes) - {0})
        self.steps, self.draws, self.windows, self.answer_epsilon = steps, draws, windows, answer_epsilon
        some("model.epsilons", epsilons)
        for epsilon in epsilons:
            finite("model.epsilons", epsilon, 0)
        finite("model.answer_epsilon", answer_epsilon, 0)
        at_least("model.steps", steps, 1)
        at_least("model.draws", draws, 1)
        at_least("model.windows", windows, 1)
        for count in token_changes:
            at_least("model.token_changes", count, 0)
        if self.counts and self.counts[-1] >= text.block:
            raise UserError(
                f"model.token_changes={self.counts}: expected numbers below the {text.block} tokens of a window (text.block)."
            )
        if not prompt.strip():
            raise UserError('the prompt is empty: --model.prompt "TEXT".')
        self.query, self.decoding = Query(prompt, derive(seed, "sample", "prompt")), decoding
        self.rows: list[dict[str, Any]] = []
        self.token_rows: list[dict[str, Any]] = []
        self.short = 0
        """windows in which too few words could be misspelt"""
        self.likeliest: Tensor
        """most likely tokens of the intact subject (windows, length - 1)"""

    def _embedding_cells(self) -> Iterator[InputAttack]:
        for attack in self.attacks:
            for norm in self.norms:
                for epsilon in self.epsilons:
                    for draw in range(self.draws if ATTACKS[attack].random and epsilon else 1):
                        yield InputAttack(attack, draw, norm, epsilon)  # type: ignore[arg-type]

    def _token_cells(self) -> Iterator[InputAttack]:
        for attack in TOKEN_ATTACKS if self.counts else ():
            for draw in range(self.draws if TOKEN_ATTACKS[attack].random else 1):
                yield InputAttack(attack, draw)

    def plan(self, device: torch.device) -> list[InputAttack]:
        """See that the subject gives the gradients that are needed, and have it continue the prompt."""
        if self.windows > len(self.probe.ids):
            raise UserError(
                f"windows={self.windows}: the probe has {len(self.probe.ids)} of {self.text.block} tokens. "
                "Use fewer, or more text (--text.probe_tokens)."
            )
        self.attacked = TokenStream(self.probe.ids[: self.windows], self.probe.byte_counts[: self.windows])
        if self.counts or any(ATTACKS[attack].differentiates for attack in self.attacks):
            self._refuse_without_gradient()
        self.units = units(embedded(self.subject, self.attacked.ids))
        self.allowed = replacements(self.subject)
        self.writer = TextGenerator(self.subject, self.decoding)
        (self.said,) = self.writer([self.query])
        if not self.said.ids:
            raise UserError(f"'{self.spec.name}' writes nothing after the prompt. Use another one (--model.prompt).")
        window, prompt = self.attacked.ids[0, :-1], torch.tensor(self.said.prompt_ids)
        for name, option, tokens, count in (
            ("window", "--text.block", window, self.counts[-1:]),
            ("prompt", "--model.prompt", prompt, self.counts[:1]),
        ):
            if count and count[0] > (free := len(tokens) - beginning(self.subject, tokens)):
                raise UserError(
                    f"token_changes={self.counts}: a {name} has {free} tokens that can be changed, too few to change as many. "
                    f"Use a longer one ({option})."
                )
        return [*self._embedding_cells(), *self._token_cells()]

    def _refuse_without_gradient(self) -> None:
        """Raise: UserError where no gradient comes through to the inputs."""
        ids = self.attacked.ids[:1]
        try:
            reason = "" if gradient_of(self.subject, ids, ids).any() else "it is zero"
        except RuntimeError as error:  # NotImplementedError is one, too
            if out_of_memory(error):
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
        if reason:
            raise UserError(
                f"Attacks by gradient need that of the loss by the inputs, which '{self.spec.name}' at precision "
                f"'{self.spec.precision}' does not give: {reason}. Use --model.attacks '[random]' --model.token_changes '[]'."
            )

    def measure_intact(self) -> Likelihood:
        """On the text as it is."""
        measured, self.likeliest = self._measure(self.attacked.ids, lambda ids, same: self.logits(same))
        return measured

    def facts(self) -> dict[str, Any]:
        """How much is attacked, and what epsilons are counted in."""
        return {"windows": self.windows, **{UNIT_OF[norm]: size for norm, size in self.units.items()}}

    def measure(self, piece: InputAttack) -> None:
        """One attack of all windows."""
        with torch.inference_mode(False), torch.enable_grad():
            if piece.norm is None:
                self.token_rows += self._attack_tokens(piece)
            else:
                self.rows.append(self._attack_embeddings(piece, piece.norm))

    def _attack_embeddings(self, cell: InputAttack, norm: Norm) -> dict[str, Any]:
        """A row of adversarial.csv."""
        radius = cell.epsilon * self.units[norm]
        how = (cell.attack, norm, radius, self.steps)
        delta = attack_text(self.subject, self.attacked.ids, *how, lambda window: self._draws(cell, window))

        def forward(ids: Tensor, change: Tensor) -> Tensor:
            with embedding_changed(self.subject, shifted(change)):
                return self.logits(ids)

        return {
            "attack": cell.attack,
            "norm": norm,
            "unit": UNIT_OF[norm],
            "epsilon": cell.epsilon,
            "epsilon_absolute": radius,
            "draw": cell.draw,
            "largest": largest(delta, norm) / radius if radius else None,
            **self._damage(delta, forward),
        }

    def _attack_tokens(self, cell: InputAttack) -> Iterator[dict[str, Any]]:
        """Rows of adversarial_tokens.csv: one for each number of changed tokens."""
        changed = [self._changed_tokens(cell, ids, window) for window, ids in enumerate(self.attacked.ids)]
        for count in self.counts:
            inputs = torch.stack([of_window[count] for of_window in changed])
            self.short += int(((inputs != self.attacked.ids).sum(1) < count).sum())
            damage = self._damage(inputs, lambda ids, given: self.logits(given))
            yield {"attack": cell.attack, "changed": count, "draw": cell.draw, **damage}

    def _changed_tokens(self, cell: InputAttack, ids: Tensor, window: int) -> dict[int, Tensor]:
        last, tokenizer = len(ids) - 1, self.subject.tokenizer
        if cell.attack == "gradient":
            return by_gradient(self.subject, ids, self.counts, self.allowed, last)
        draws = self._draws(cell, window)
        if cell.attack == "characters":
            return by_characters(tokenizer, ids, self.counts, self.allowed, last, draws)
        return at_random(ids, self.counts, self.allowed, last, draws, beginning(self.subject, ids))

    def _draws(self, cell: InputAttack, window: int) -> torch.Generator:
        """Random numbers of one window, the same at every epsilon."""
        return generator(self.seed, "adversarial", cell.attack, cell.norm or "tokens", str(cell.draw), str(window))

    def _damage(self, changed: Tensor, forward: Callable[[Tensor, Tensor], Tensor]) -> dict[str, float]:
        """Columns of both tables: what the text as it is costs, when the subject is given something else."""
        measured, likeliest = self._measure(changed, forward)
        moved = float((likeliest != self.likeliest).double().mean())
        return {**measured.damage(self.before), "argmax_changed": moved}

    def _measure(self, changed: Tensor, forward: Callable[[Tensor, Tensor], Tensor]) -> tuple[Likelihood, Tensor]:
        """Likelihood of the attacked windows, and the most likely tokens (windows, length - 1) on the CPU.

        Args:
            changed: what makes the inputs others, a row for every window.
            forward: logits of a batch from its tokens, and its rows of `changed`.
        """
        parts, likeliest = iter(changed.split(len(next(batches(self.attacked.ids))))), []

        def logits_of(ids: Tensor) -> Tensor:
            logits = forward(ids, next(parts))
            likeliest.append(logits[:, :-1].argmax(-1).cpu())
            return logits

        return likelihood(logits_of, self.attacked), torch.cat(likeliest)

    def write(self) -> None:
        """The tables, and the answers under attack."""
        with torch.inference_mode(False), torch.enable_grad():
            answers = list(self._answers())
        self.record.save_table(tables.ADVERSARIAL, self.rows)
        if self.token_rows:
            self.record.save_table(tables.ADVERSARIAL_TOKENS, self.token_rows)
        self.record.save_table(tables.ANSWERS, answers)
        if self.short:
            self.record.notes["fewer_characters_swapped"] = f"in {self.short} windows, over all counts and draws"
        self.record.add(prompt=self.query.text, epsilon=self.epsilons[-1], **self._costs())

    def _answers(self) -> Iterator[dict[str, Any]]:
        """Rows of answers.csv: what is written after the prompt as it is, and after every change of it."""
        prompt = torch.tensor(self.said.prompt_ids)
        yield _answer("intact", self.said, self._shown(prompt))
        tokens, first = torch.tensor([self.said.prompt_ids + self.said.ids]), len(prompt)
        for attack in self.attacks:
            for norm, unit in self.units.items():
                if norm in self.norms:
                    draws = generator(self.seed, "adversarial", attack, norm, "prompt")
                    radius = self.answer_epsilon * unit
                    delta = attack_prompt(self.subject, self.said, attack, norm, radius, self.steps, draws)
                    label = f"{attack} {norm} {self.answer_epsilon:g}"
                    yield _answer(label, continued(self.writer, self.query, shifted(delta)), self._shown(prompt))
        if self.counts:
            count, chance = self.counts[0], generator(self.seed, "adversarial", "random", "tokens", "prompt")
            best = by_gradient(self.subject, tokens[0], [count], self.allowed, first, first)[count][:first]
            other = at_random(prompt, [count], self.allowed, first, chance, beginning(self.subject, prompt))[count]
            for attack, changed in (("gradient", best), ("random", other)):
                made = continued(self.writer, self.query, replaced(embedded(self.subject, changed[None])))
                yield _answer(f"{attack} tokens {count}", made, self._shown(changed))

    def _shown(self, tokens: Tensor) -> str:
        return self.subject.tokenizer.decode(tokens.tolist())

    def _costs(self) -> dict[str, float]:
        """Columns of the summary: nats lost at the largest change of every kind, and how much more than at random."""
        cost: dict[tuple[str, str], list[float]] = {}
        for row in self.rows:
            if row["epsilon"] == self.epsilons[-1]:
                cost.setdefault((row["attack"], row["norm"]), []).append(row["log_perplexity_ratio"])
        for row in self.token_rows:
            if row["changed"] == self.counts[-1]:
                cost.setdefault((row["attack"], "tokens"), []).append(row["log_perplexity_ratio"])
        mean = {key: math.fsum(values) / len(values) for key, values in cost.items()}
        costs = {f"nats_lost_{attack}_{norm}": value for (attack, norm), value in mean.items()}
        for (attack, norm), value in mean.items():
            for other in ("random", "fgsm"):
                if attack not in (other, "random") and (other, norm) in mean:
                    costs[f"{attack}_over_{other}_{norm}"] = value - mean[other, norm]
        return costs


def _known(kind: str, names: Sequence[str], available: dict[str, Any]) -> list[str]:
    """Names without doubles.

    Raises: UserError for one that does not exist, or none.
    """
    for name in names or [""]:
        if name not in available:
            raise unknown(kind, name, available)
    return list(dict.fromkeys(names))


def _answer(label: str, made: Continuation, prompt: str) -> dict[str, Any]:
    """A row of answers.csv."""
    return {"subject": label, "text": made.text, "tokens": len(made.ids), **measure_text(made.text), "prompt": prompt}
