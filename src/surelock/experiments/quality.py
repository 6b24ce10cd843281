"""How good generated text is, and how far it is from the text without locks."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Final, Protocol

from surelock.eval.judge import perplexity
from surelock.eval.metrics import agreement, distinct_n, entropy
from surelock.eval.text.intervals import perplexity_ratio
from surelock.experiments.result import Column, Row

if TYPE_CHECKING:
    from surelock.eval.judge import Judge
    from surelock.experiments.prompts import Text
    from surelock.experiments.workbench import Workbench

QUALITY_COLUMNS: Final = (
    Column("gen_ppl", "Gen-PPL", "{:.3f}"),
    Column("ppl_ratio", "ratio", "{:.3f}"),
    Column("ppl_ratio_low", "95 % from", "{:.3f}"),
    Column("ppl_ratio_high", "to", "{:.3f}"),
    Column("distinct_3", "distinct-3", "{:.3f}"),
    Column("entropy", "entropy", "{:.2f}"),
    Column("agreement", "agreement", "{:.3f}"),
)
QUALITY_NOTE: Final = (
    "Gen-PPL: perplexity of the continuation given its prompt under the judge, micro-averaged, natural logarithms; "
    "ratio: to no lock, with a 95 % bootstrap interval over prompts. It rewards repetition, so beside it: distinct-3, "
    "the share of different trigrams; entropy of the token frequencies, in nats; agreement, the share of tokens equal "
    "to those without locks."
)


class Written(Protocol):
    """The part of an output that is scored."""

    @property
    def text(self) -> str: ...
    @property
    def token_ids(self) -> list[int]: ...


class TextJudge:
    """Scores continuations; each text is scored once after its prompt.

    Args:
        judge: the causal language model.
        texts: the prompts, in the order of all runs.
        seed: of the bootstrap.
    """

    def __init__(self, judge: Judge, texts: Sequence[Text], *, seed: int) -> None:
        self._judge = judge
        self._prefixes = [text.text for text in texts]
        self._seed = seed
        self._scores: dict[tuple[str, str], tuple[float, int]] = {}

    def row(self, outputs: Sequence[Written], baseline: Sequence[Written]) -> Row:
        """Values of `QUALITY_COLUMNS`; `baseline` are the outputs of the same prompts without locks."""
        scores = self._score(outputs)
        ratio = perplexity_ratio(scores, self._score(baseline), seed=self._seed)
        return {
            "gen_ppl": perplexity(scores),
            "ppl_ratio": ratio.value,
            "ppl_ratio_low": ratio.low,
            "ppl_ratio_high": ratio.high,
            "distinct_3": fmean(distinct_n(output.token_ids, 3) for output in outputs),
            "entropy": fmean(entropy(output.token_ids) for output in outputs),
            "agreement": fmean(
                agreement(one.token_ids, other.token_ids) for one, other in zip(outputs, baseline, strict=True)
            ),
        }

    def score_all(self, runs: Sequence[Sequence[Written]]) -> None:
        """Score many runs as one batch, before their rows are asked for."""
        self._add([each for outputs in runs for each in self._keys(outputs)])

    def _score(self, outputs: Sequence[Written]) -> list[tuple[float, int]]:
        keys = self._keys(outputs)
        self._add(keys)
        return [self._scores[key] for key in keys]

    def _keys(self, outputs: Sequence[Written]) -> list[tuple[str, str]]:
        return list(zip(self._prefixes, (output.text for output in outputs), strict=True))

    def _add(self, keys: Sequence[tuple[str, str]]) -> None:
        # Many rules write the same.
        new = [key for key in dict.fromkeys(keys) if key not in self._scores]
        if new:
            prefixes, texts = zip(*new, strict=True)
            self._scores.update(zip(new, self._judge.negative_log_likelihood(prefixes, texts), strict=True))


def load_judge(bench: Workbench) -> Judge:
    """The judge the user chose, on the model's device, in float32 where it is the shipped one."""
    import torch

    from surelock.eval.judge import Judge

    chosen = bench.options.judge
    return Judge.load(
        chosen,
        device=bench.llm.device,
        dtype=torch.float32 if chosen is None else None,
        offline=True if bench.options.offline else None,
    )
