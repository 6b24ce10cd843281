"""What is measured of decoded cases: FLOPs, text against no lock, right answers. Each gives columns of a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

from studies.bench import parse_length
from studies.study import Cell, Row, Rows
from studies.workload import continuations
from surelock.flops import exact_flops, paper_batch
from surelock.measure.metrics import agreement, distinct_n, entropy, perplexity
from surelock.measure.statistics import mcnemar, paired_difference, perplexity_ratio
from surelock.measure.tasks import check

if TYPE_CHECKING:
    from studies.bench import Bench
    from studies.decoders import Decoded, Decoder
    from studies.workload import Case

# The paper's batch size.
BATCH_SIZE: Final = 4

ROWS_NOTE: Final = (
    "Active ratio: rows computed / (steps x N), refreshed rows among them. FLOPs ratios, with locks / without: exact "
    "counts what is computed, full adds the LM head of masked rows and two head rows for each row whose posterior is "
    "compared."
)
COST_NOTE: Final = (
    "FLOPs ratios, with locks / without: exact counts what is computed, full adds the LM head and both head rows of "
    "each KL test. Masked floor: the least exact ratio any locking can reach, since masked rows must be computed."
)
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


Measure = Callable[[Outcome], Row]


def rows_computed(found: Outcome) -> Row:
    """Of the sums over cases; refreshed rows and undone locks where there are any."""
    active, locks = (sum(getattr(run, name) for run in found.runs) for name in ("active", "locks"))
    refreshed, unlocks = (sum(getattr(run, name) for run in found.runs) for name in ("refreshed", "unlocks"))
    return {
        "active_ratio": active / sum(run.possible for run in found.runs),
        "exact_ratio": sum(run.exact[0] for run in found.runs) / sum(run.exact[1] for run in found.runs),
        "full_ratio": sum(run.full[0] for run in found.runs) / sum(run.full[1] for run in found.runs),
        "refreshed_share": refreshed / active if refreshed else None,
        "unlocks_per_lock": unlocks / locks if unlocks else None,
    }


def paper_cost(found: Outcome) -> Row:
    """FLOPs in all modes, the prompts in batches of four as they come.

    `exact` and `full` ratios are of sums over requests; those of paper mode are weighted by each batch's rows, as the
    paper's tables are.
    """
    config = found.bench.llm.config
    floor = 0.0
    for case, run in zip(found.cases, found.runs, strict=True):
        num = case.params.max_tokens
        masked = num * (run.num_steps + 1) / (2 * run.num_steps * run.num_positions)
        floor += masked * exact_flops(config, run.possible, run.num_positions)
    locked, base = (sum(run.exact[side] for run in found.runs) for side in (0, 1))
    paper = {"active_ratio": 0.0, "base": 0.0, "locked": 0.0}
    total = 0
    for batch in batches(len(found.runs)):
        cases, runs = found.cases[batch], found.runs[batch]
        prompts, num = [len(case.prompt) for case in cases], cases[0].params.max_tokens
        of_batch = paper_batch(
            config, prompt_lengths=prompts, num_generated=num, steps=runs[0].num_steps,
            active_rows=[run.rows for run in runs],
        )  # fmt: skip
        weight = len(prompts) * (max(prompts) + num)
        total += weight
        paper = {name: value + weight * of_batch[name] for name, value in paper.items()}
    return {
        "active_ratio": sum(run.active for run in found.runs) / sum(run.possible for run in found.runs),
        "masked_floor": floor / base, "exact_base": base, "exact_locked": locked, "exact_ratio": locked / base,
        "full_ratio": sum(run.full[0] for run in found.runs) / sum(run.full[1] for run in found.runs),
        "paper_active_ratio": paper["active_ratio"] / total, "paper_base": paper["base"] / total,
        "paper_locked": paper["locked"] / total, "paper_ratio": paper["locked"] / paper["base"],
    }  # fmt: skip


def batches(num: int) -> list[slice]:
    """Indices of num prompts in batches of four, the last one perhaps smaller."""
    return [slice(start, min(start + BATCH_SIZE, num)) for start in range(0, num, BATCH_SIZE)]


def quality(found: Outcome) -> Row:
    """Gen-PPL and its ratio, diversity, agreement."""
    scores, before = (_scores(found, runs) for runs in (found.runs, found.baseline))
    ratio = perplexity_ratio(scores, before, seed=found.bench.seed)
    return {
        "gen_ppl": perplexity(scores), "ppl_ratio": ratio.value, "ppl_ratio_low": ratio.low,
        "ppl_ratio_high": ratio.high, "distinct_3": fmean(distinct_n(run.generated, 3) for run in found.runs),
        "entropy": fmean(entropy(run.generated) for run in found.runs), "agreement": same_tokens(found),
    }  # fmt: skip


def right(found: Outcome) -> Row:
    """Right answers; the baseline is compared with nothing."""
    own, before = answers(found.cases, found.runs), answers(found.cases, found.baseline)
    row: Row = {"num_problems": len(own), "accuracy": fmean(own)}
    if found.is_baseline:
        row |= dict.fromkeys(("difference", "difference_low", "difference_high", "num_lost", "num_won", "mcnemar_p"))
    else:
        difference, test = paired_difference(own, before, seed=found.bench.seed), mcnemar(own, before)
        row |= {
            "difference": difference.value, "difference_low": difference.low, "difference_high": difference.high,
            "num_lost": test.only_b, "num_won": test.only_a, "mcnemar_p": test.p_value,
        }  # fmt: skip
    same = fmean(one.kept == other.kept for one, other in zip(found.runs, found.baseline, strict=True))
    return row | {"identical": same, "agreement": same_tokens(found)}


def same_tokens(found: Outcome) -> float:
    """Mean share of generated tokens equal to the baseline's."""
    return fmean(agreement(a.generated, b.generated) for a, b in zip(found.runs, found.baseline, strict=True))


def answers(cases: Sequence[Case], runs: Sequence[Decoded]) -> list[bool]:
    """Whether each problem is answered right."""
    return [
        case.problem is not None and check(case.problem, run.text).final for case, run in zip(cases, runs, strict=True)
    ]


def judged(bench: Bench, cases: Sequence[Case], runs: Sequence[Decoded]) -> list[tuple[float, int]]:
    """(nats, tokens) of each continuation by the judge; many decoders write the same, which is scored once."""
    keys = [("judged", case.text, run.text) for case, run in zip(cases, runs, strict=True)]
    new = [key for key in dict.fromkeys(keys) if key not in bench.decoded]
    if new:
        scores = bench.judge.negative_log_likelihood([key[1] for key in new], [key[2] for key in new])
        bench.decoded |= zip(new, scores, strict=True)
    return [bench.decoded[key] for key in keys]


def _scores(found: Outcome, runs: Sequence[Decoded]) -> list[tuple[float, int]]:
    return judged(found.bench, found.cases, runs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Decoders over one workload at each point of a grid, each compared with the first.

    Attributes:
        table: that the rows go to.
        points: values of the key columns, one dictionary for each cell.
        workload: the cases of a point; none leaves it out.
        decoders: of a point, the baseline first.
        measures: columns of a row, in this order.
        more: further tables from all outcomes of a cell.
    """

    table: str
    points: Sequence[Row]
    workload: Callable[[Row], Sequence[Case]]
    decoders: Callable[[Row], Sequence[Decoder]]
    measures: Sequence[Measure]
    more: Callable[[Sequence[Outcome]], Rows] | None = None

    def cells(self, bench: Bench) -> list[Cell]:
        """One for each point with a workload."""
        found = []
        for point in self.points:
            cases, decoders = list(self.workload(point)), self.decoders(point)
            if cases:
                name = ", ".join([self.table, *(f"{key} {value}" for key, value in point.items())])
                weight = len(decoders) * sum((case.params.steps or 1) * len(case.prompt) for case in cases)
                found.append(
                    Cell(name=name, measure=partial(self._measure, bench, point, cases, decoders), weight=weight)
                )
        return found

    def _measure(self, bench: Bench, point: Row, cases: Sequence[Case], decoders: Sequence[Decoder]) -> Rows:
        from studies.decoders import decode_all

        runs = decode_all(bench, cases, decoders)
        if quality in self.measures:
            bench.show(1.0, "judging")
            judged(bench, list(cases) * len(runs), [run for each in runs for run in each])
        outcomes = [
            Outcome(bench, point, cases, decoder, own, runs[0], index == 0)
            for index, (decoder, own) in enumerate(zip(decoders, runs, strict=True))
        ]
        rows: list[Row] = []
        for outcome in outcomes:
            if not outcome.decoder.beside:
                rows.append({**point, **outcome.decoder.label})
                for measure in self.measures:
                    rows[-1] |= measure(outcome)
        return {self.table: rows} | (self.more(outcomes) if self.more else {})


def of_texts(
    bench: Bench, settings: Any, table: str, decoders: Sequence[Decoder], measures: Sequence[Measure],
    more: Callable[[Sequence[Outcome]], Rows] | None = None, **point: object,
) -> list[Cell]:  # fmt: skip
    """A cell for each of the settings' lengths: the settings' number of texts continued by every decoder."""
    texts = bench.texts(settings.num_prompts)
    fits = bench.fitting(settings.lengths, [text.canvas for text in texts])
    return Comparison(
        table=table,
        points=[{"length": str(length), **point} for length in fits],
        workload=lambda at: continuations(texts, parse_length(at["length"])),
        decoders=lambda at: decoders,
        measures=measures,
        more=more,
    ).cells(bench)


def of_problems(
    bench: Bench, table: str, cases: Sequence[Case], decoders: Sequence[Decoder],
    more: Callable[[Sequence[Outcome]], Rows] | None = None, **point: object,
) -> list[Cell]:  # fmt: skip
    """One cell: problems answered by every decoder."""
    return Comparison(
        table=table, points=[dict(point)], workload=lambda at: cases, decoders=lambda at: decoders,
        measures=(right, rows_computed), more=more,
    ).cells(bench)  # fmt: skip
