"""What is measured of decoded cases: FLOPs, text against no lock, right answers. Each gives columns of a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Final

from studies.bench import Bench, Case, Length, continuations
from studies.decoders import Decoded, Decoder, decode_all
from studies.study import Cell, Row, Rows, Settings
from surelock.flops import exact_flops, paper_batch
from surelock.measure.metrics import agreement, distinct_n, entropy, perplexity
from surelock.measure.statistics import Interval, mcnemar, paired_difference, perplexity_ratio
from surelock.measure.tasks import check
from surelock.params import SamplingParams

# The paper's batch size.
BATCH_SIZE: Final = 4

FLOPS_NOTE: Final = (
    "FLOPs ratios, with locks / without: exact counts what is computed, full adds the LM head of masked rows and two "
    "head rows for each row whose posterior is compared."
)
ROWS_NOTE: Final = f"Active ratio: rows computed / (steps x N), refreshed rows among them. {FLOPS_NOTE}"
FLOOR_NOTE: Final = "Masked floor: the least exact ratio any locking can reach, since masked rows must be computed."
COST_NOTE: Final = f"{FLOPS_NOTE} {FLOOR_NOTE}"
PAPER_NOTE: Final = (
    f"r-bar: rows computed / (steps x N), no padding. {COST_NOTE} Paper mode counts padding to the longest prompt of "
    "each batch of 4 as rows that never lock, and no head (paper, section 2.4)."
)
QUALITY_NOTE: Final = (
    "Gen-PPL: perplexity of the continuation given its prompt under the judge, micro-averaged, natural logarithms; "
    "ratio: to no lock, with a 95 % bootstrap interval over prompts. It rewards repetition, so beside it: distinct-3, "
    "the share of different trigrams; entropy of the token frequencies, in nats; agreement, the share of tokens equal "
    "to those without locks."
)
RIGHT_NOTE: Final = (
    "Right: a program found the right result in the answer. Fitted canvases: N_gen is the length of a right answer and "
    "its end, rounded up to a multiple of 32; padded: 128 for every problem, 160 for sudoku. Against no lock: paired "
    "difference over the same problems with a 95 % bootstrap interval; lost and won: problems only no lock, or only "
    "this setting, got right; p: McNemar's exact test of these two. Same answer: share of answers with the very tokens "
    "of no lock."
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One decoder's runs over a workload, and those of the decoder it is compared with.

    is_baseline: whether it is that one.
    """

    bench: Bench
    point: Row
    cases: Sequence[Case]
    decoder: Decoder
    runs: Sequence[Decoded]
    baseline: Sequence[Decoded]
    is_baseline: bool

    @property
    def params(self) -> SamplingParams:
        """Of the first case, and in all but the number of tokens of the others."""
        return self.cases[0].params

    def sum(self, name: str) -> int:
        """Over the runs."""
        return sum(getattr(run, name) for run in self.runs)

    def flops_ratio(self, mode: str) -> float:
        """With locks / without, over the runs."""
        each = [getattr(run, mode) for run in self.runs]
        ratio: float = sum(locked for locked, _ in each) / sum(base for _, base in each)
        return ratio

    def floors(self) -> list[float]:
        """The least active ratio any locking of each case can reach."""
        sizes = [(*case.size, run.num_steps) for case, run in zip(self.cases, self.runs, strict=True)]
        return [Length(num, steps).masked_floor(num_prompt) for num_prompt, num, steps in sizes]

    def agreement(self) -> list[float]:
        """Share of each run's generated tokens equal to the baseline's."""
        return [agreement(a.generated, b.generated) for a, b in zip(self.runs, self.baseline, strict=True)]


Measure = Callable[[Outcome], Row]


def rows_computed(found: Outcome) -> Row:
    """Of the sums over cases; refreshed rows and undone locks where there are any."""
    active, refreshed, locks, unlocks = (found.sum(name) for name in ("active", "refreshed", "locks", "unlocks"))
    return {
        "active_ratio": active / found.sum("possible"), "exact_ratio": found.flops_ratio("exact"),
        "full_ratio": found.flops_ratio("full"), "refreshed_share": refreshed / active if refreshed else None,
        "unlocks_per_lock": unlocks / locks if unlocks else None,
    }  # fmt: skip


def paper_cost(found: Outcome) -> Row:
    """FLOPs in all modes, the prompts in batches of four as they come.

    `exact` and `full` ratios are of sums over requests; those of paper mode are weighted by each batch's rows, as the
    paper's tables are.
    """
    config, floor = found.bench.llm.config, 0.0
    for share, run in zip(found.floors(), found.runs, strict=True):
        floor += share * exact_flops(config, run.possible, run.num_positions)
    locked, base = (sum(run.exact[side] for run in found.runs) for side in (0, 1))
    paper, total = dict.fromkeys(("active_ratio", "base", "locked"), 0.0), 0
    for batch in batches(len(found.runs)):
        prompts, runs = [len(case.prompt) for case in found.cases[batch]], found.runs[batch]
        of_batch = paper_batch(
            config, prompt_lengths=prompts, num_generated=found.params.max_tokens, steps=runs[0].num_steps,
            active_rows=[run.rows for run in runs],
        )  # fmt: skip
        weight = len(prompts) * (max(prompts) + found.params.max_tokens)
        total += weight
        paper = {name: value + weight * of_batch[name] for name, value in paper.items()}
    return {
        "active_ratio": found.sum("active") / found.sum("possible"), "masked_floor": floor / base,
        "exact_base": base, "exact_locked": locked, "exact_ratio": locked / base,
        "full_ratio": found.flops_ratio("full"), "paper_active_ratio": paper["active_ratio"] / total,
        "paper_base": paper["base"] / total, "paper_locked": paper["locked"] / total,
        "paper_ratio": paper["locked"] / paper["base"],
    }  # fmt: skip


def batches(num: int) -> list[slice]:
    """Indices of num prompts in batches of four, the last one perhaps smaller."""
    return [slice(start, min(start + BATCH_SIZE, num)) for start in range(0, num, BATCH_SIZE)]


def quality(found: Outcome) -> Row:
    """Gen-PPL and its ratio, diversity, agreement."""
    scores, before = (judged(found.bench, found.cases, runs) for runs in (found.runs, found.baseline))
    ratio = perplexity_ratio(scores, before, seed=found.bench.seed)
    return {
        "gen_ppl": perplexity(scores), **with_interval("ppl_ratio", ratio),
        "distinct_3": fmean(distinct_n(run.generated, 3) for run in found.runs),
        "entropy": fmean(entropy(run.generated) for run in found.runs), "agreement": fmean(found.agreement()),
    }  # fmt: skip


def right(found: Outcome) -> Row:
    """Right answers; the baseline is compared with nothing."""
    own, before = answers(found.cases, found.runs), answers(found.cases, found.baseline)
    names = ("difference", "difference_low", "difference_high", "num_lost", "num_won", "mcnemar_p")
    compared: Row = dict.fromkeys(names)
    if not found.is_baseline:
        difference, test = paired_difference(own, before, seed=found.bench.seed), mcnemar(own, before)
        compared = with_interval("difference", difference)
        compared |= {"num_lost": test.only_b, "num_won": test.only_a, "mcnemar_p": test.p_value}
    same = fmean(one.kept == other.kept for one, other in zip(found.runs, found.baseline, strict=True))
    return {
        "num_problems": len(own), "accuracy": fmean(own), **compared, "identical": same,
        "agreement": fmean(found.agreement()),
    }  # fmt: skip


def with_interval(name: str, found: Interval) -> Row:
    """The columns of a number and its interval."""
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def answers(cases: Sequence[Case], runs: Sequence[Decoded]) -> list[bool]:
    """Whether each problem is answered right."""
    pairs = zip(cases, runs, strict=True)
    return [case.problem is not None and check(case.problem, run.text).final for case, run in pairs]


def judged(bench: Bench, cases: Sequence[Case], runs: Sequence[Decoded]) -> list[tuple[float, int]]:
    """(nats, tokens) of each continuation by the judge; many decoders write the same, which is scored once."""
    keys = [("judged", case.text, run.text) for case, run in zip(cases, runs, strict=True)]
    new = [key for key in dict.fromkeys(keys) if key not in bench.decoded]
    if new:
        scores = bench.judge.negative_log_likelihood([key[1] for key in new], [key[2] for key in new])
        bench.decoded |= zip(new, scores, strict=True)
    return [bench.decoded[key] for key in keys]


# Columns of texts, and of problems, where rules of any kind are compared.
CONTINUED: Final[Sequence[Measure]] = (quality, rows_computed)
ANSWERED: Final[Sequence[Measure]] = (right, rows_computed)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Decoders over workloads, each compared with the first; gives cells.

    Attributes:
        table: that the rows go to.
        measures: columns of a row, in this order, after those of the cell's point and the decoder.
        more: further tables from all outcomes of a cell.
    """

    bench: Bench
    table: str
    decoders: Sequence[Decoder]
    measures: Sequence[Measure]
    more: Callable[[Sequence[Outcome]], Rows] | None = None

    def of(self, cases: Sequence[Case], **point: object) -> list[Cell]:
        """One cell, which the first columns of its rows tell from others of the table; none without cases."""
        if not cases:
            return []
        name = ", ".join([self.table, *(f"{key} {value}" for key, value in point.items())])
        weight = len(self.decoders) * sum((case.params.steps or 1) * len(case.prompt) for case in cases)
        return [Cell(name, partial(self._measure, cases, point), weight)]

    def of_texts(self, settings: Settings, **point: object) -> list[Cell]:
        """A cell for each of the settings' lengths: the settings' number of texts is continued."""
        texts = self.bench.texts(settings.num_prompts)
        fits = self.bench.fitting(settings.lengths, [text.token_ids for text in texts])
        return [cell for each in fits for cell in self.of(continuations(texts, each), length=str(each), **point)]

    def of_questions(self, settings: Settings) -> list[Cell]:
        """A cell for each of the settings' lengths: the settings' number of questions is answered."""
        questions, cells = self.bench.questions(settings.num_prompts), []
        for length in self.bench.fitting(settings.lengths, questions):
            cases = [Case(question, length.params) for question in questions]
            cells += self.of(cases, num_generated=length.num_generated)
        return cells

    def _measure(self, cases: Sequence[Case], point: Row) -> Rows:
        runs = decode_all(self.bench, cases, self.decoders)
        if quality in self.measures:
            self.bench.show(1.0, "judging")
            judged(self.bench, list(cases) * len(runs), [run for each in runs for run in each])
        outcomes = [
            Outcome(self.bench, point, cases, decoder, own, runs[0], own is runs[0])
            for decoder, own in zip(self.decoders, runs, strict=True)
        ]
        rows: list[Row] = []
        for outcome in outcomes:
            if not outcome.decoder.beside:
                rows.append({**point, **outcome.decoder.label})
                for measure in self.measures:
                    rows[-1] |= measure(outcome)
        return {self.table: rows} | (self.more(outcomes) if self.more else {})
