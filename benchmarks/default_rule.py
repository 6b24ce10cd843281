"""What each number of the lock rule costs in right answers and text, and what it saves: the ground for `LockParams()`.

The embedded model with real locks, over a grid of rules. Problems of the test split (the fourteen kinds of
results/h100/evaluation, drawn alike but more of them) with both verdicts, and the held-out texts with Gen-PPL and
distinct-3, all paired against no lock. `engine` rows are decoded by the engine that ships. `dense` rows are decoded by
`surelock.measure.instrumented`, no lock and the permanent rule there too: refreshing was not in the engine when this
was measured, and locking in finished blocks only is not.

Every finished run is appended to runs.jsonl.gz at once, and a second start goes on where the first was stopped.
`kl_both_visible` is not in the grid: without a confidence gate it is `min_visible_steps=2`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import multiprocessing
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from rule_decoding import NUM_PROMPT, Job, Rule, Run, Worker, Workload

from surelock import LockParams
from surelock.measure.metrics import perplexity
from surelock.measure.statistics import mcnemar, paired_difference, perplexity_ratio
from surelock.measure.task_eval import evaluation_problems
from surelock.measure.tasks import Problem
from surelock.results.environment import environment
from surelock.results.tables import csv_table

TASKS: Final = (
    "add", "sub", "sort", "seq", "spell", "count", "weekday", "logic", "unit", "json", "table", "story", "shop", "code",
)  # fmt: skip
PADDED_TOKENS: Final = 128
THRESHOLDS: Final = (5e-3, 5e-4, 5e-5, 5e-6, 1e-6, 1e-7)
NO_LOCK: Final = "none"
# The least loss that matters, as a share of all problems.
MARGIN: Final = 0.005

FITTED: Final = Workload("fitted")
BLOCKS: Final = Workload("fitted, blocks of 32", block_length=32)
PADDED: Final = Workload("padded to 128", max_tokens=PADDED_TOKENS)
PROBLEMS: Final = (FITTED, BLOCKS, PADDED)
TEXTS: Final = tuple(Workload(f"text {num}", num, is_text=True) for num in (64, 128, 256))
TEXT_BLOCKS: Final = tuple(replace(each, name=f"{each.name}, blocks of 32", block_length=32) for each in TEXTS)
WORKLOADS: Final = (*PROBLEMS, *TEXTS, *TEXT_BLOCKS)


def by_kl(kl_threshold: float, visible: int, **others: Any) -> Rule:
    """The engine's rule at a threshold, named after its numbers."""
    is_noise = kl_threshold < 1e-6
    lock = LockParams(kl_threshold=kl_threshold, min_visible_steps=visible, refresh=None, allow_noise_eps=is_noise)
    told = "".join(f", {name}" if value is True else f", {name} {value}" for name, value in others.items())
    return Rule(f"kl {kl_threshold:g}, visible {visible}{told}", lock, **others)


def grid() -> list[Job]:
    """Everything that is measured, what decides most first."""
    free, paper = Rule(NO_LOCK, None), Rule("paper", LockParams.paper())
    first = [by_kl(5e-4, 1), by_kl(5e-5, 1), by_kl(5e-6, 1), by_kl(5e-4, 2), by_kl(5e-5, 2), by_kl(1e-6, 1)]
    second = [by_kl(5e-3, 1), by_kl(5e-6, 2), by_kl(5e-4, 3), by_kl(5e-5, 3), by_kl(1e-7, 1), by_kl(5e-4, 4)]
    every = [by_kl(kl, visible) for visible in (2, 3, 4, 1) for kl in THRESHOLDS]
    rest = [rule for rule in every if rule not in (*first, *second)]
    often = [by_kl(5e-3, 1, refresh=period) for period in (2, 4, 8)] + [by_kl(5e-4, 1, refresh=6)]
    refreshed = [by_kl(kl, 1, refresh=period) for kl in (5e-4, 5e-5) for period in (4, 8, 16)]
    finished = [by_kl(kl, 1, finished_blocks=True) for kl in (5e-3, 5e-4)]
    known = [free, by_kl(5e-4, 1)]

    def engine(rules: Sequence[Rule]) -> list[Job]:
        return [Job("engine", load, (rule,)) for rule in rules for load in (*PROBLEMS, *TEXTS)]

    dense = [
        Job("dense", load, (*known, *refreshed, *(finished if load.block_length else ())))
        for load in (BLOCKS, FITTED, *TEXTS, PADDED)
    ]
    dense += [Job("dense", load, (*known, *finished)) for load in TEXT_BLOCKS]
    # Against the runs without locks of the jobs before.
    dense += [Job("dense", load, tuple(often)) for load in (*PROBLEMS, *TEXTS)]
    return engine([free, *first]) + dense[:9] + engine([paper]) + dense[9:] + engine([*second, *rest])


def quick_grid() -> list[Job]:
    """One job of every kind, for a CPU."""
    short = [replace(TEXTS[0], name="text 16", max_tokens=16), replace(FITTED, block_length=32, name=BLOCKS.name)]
    rules = [Rule(NO_LOCK, None), by_kl(5e-4, 1)]
    jobs = [Job("engine", load, (rule,)) for rule in rules for load in short]
    variants = (*rules, by_kl(5e-4, 1, refresh=4), by_kl(5e-4, 1, finished_blocks=True))
    return jobs + [Job("dense", load, variants) for load in short]


_worker: Worker


def _start_worker(*arguments: Any) -> None:
    global _worker
    torch.set_num_threads(1)
    _worker = Worker(*arguments)


def _work(job: Job) -> list[Run]:
    return _worker(job)


class Runs:
    """Finished runs in a gzip file that only grows: one line a run, one gzip member a job."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.found: dict[tuple[str, str, str], Run] = {}
        if path.exists():
            for line in self._lines(path.read_bytes()):
                self._keep(json.loads(line))
            path.write_bytes(gzip.compress("".join(json.dumps(run) + "\n" for run in self.found.values()).encode()))

    def missing(self, job: Job) -> bool:
        """Whether a run of the job is not there yet."""
        return any((job.decoder, job.workload.name, rule.name) not in self.found for rule in job.rules)

    def add(self, runs: list[Run]) -> None:
        """Keep them, on the disk first."""
        with self._path.open("ab") as file:
            file.write(gzip.compress("".join(json.dumps(run) + "\n" for run in runs).encode()))
        for run in runs:
            self._keep(run)

    def _keep(self, run: Run) -> None:
        self.found[run["decoder"], run["workload"], run["rule"]] = run

    @staticmethod
    def _lines(data: bytes) -> list[bytes]:
        """Whole lines; what a stopped run left half-written is dropped."""
        text = b""
        while data:
            member = zlib.decompressobj(wbits=31)
            try:
                text += member.decompress(data)
            except zlib.error:
                break
            data = member.unused_data
        return text.split(b"\n")[:-1]


def row_of(run: Run, free: Run) -> Run:
    """A row of the table: differences are to no lock on the same decoder and items, with 95 % intervals."""
    row: Run = {name: run[name] for name in ("decoder", "workload", "rule")} | {"num": len(run["active_ratio"])}
    row["active_ratio"] = sum(run["active_ratio"]) / row["num"]
    for mode in ("exact", "full"):
        row[f"{mode}_ratio"] = run[f"{mode}_locked"] / run[f"{mode}_base"]
    row["identical"] = sum(a == b for a, b in zip(run["mark"], free["mark"], strict=True)) / row["num"]
    for name in ("final", "steps_right"):
        own, other = ([int(bit) for bit in each.get(name, "")] for each in (run, free))
        found: list[Any] = [None] * 7
        if own:
            difference, test = paired_difference(own, other, seed=0), mcnemar([*map(bool, own)], [*map(bool, other)])
            found = [sum(own) / len(own), difference.value, difference.low, difference.high]
            found += [test.only_b, test.only_a, test.p_value]
        columns = (name, "difference", "low", "high", "lost", "won", "p")
        row |= {name if one == name else f"{name}_{one}": value for one, value in zip(columns, found, strict=True)}
    row |= dict.fromkeys(("gen_ppl", "ppl_ratio", "ppl_ratio_low", "ppl_ratio_high"))
    row |= dict.fromkeys(("distinct_3", "distinct_3_difference", "distinct_3_low", "distinct_3_high"))
    if "nats" in run:
        scores, others = (list(zip(each["nats"], each["judge_tokens"], strict=True)) for each in (run, free))
        ratio, distinct = perplexity_ratio(scores, others, seed=0), run["distinct_3"]
        moved = paired_difference(distinct, free["distinct_3"], seed=0)
        row |= {"gen_ppl": perplexity(scores), "ppl_ratio": ratio.value}
        row |= {"ppl_ratio_low": ratio.low, "ppl_ratio_high": ratio.high}
        row |= {"distinct_3": sum(distinct) / len(distinct), "distinct_3_difference": moved.value}
        row |= {"distinct_3_low": moved.low, "distinct_3_high": moved.high}
    return row


def table(runs: Runs) -> list[Run]:
    """Rows of everything that has its run without locks."""
    pairs = [(run, runs.found.get((decoder, load, NO_LOCK))) for (decoder, load, _), run in runs.found.items()]
    rows = [row_of(run, free) for run, free in pairs if free is not None]
    place = {load.name: number for number, load in enumerate(WORKLOADS)}
    return sorted(rows, key=lambda row: (row["decoder"] != "engine", place.get(row["workload"], -1)))


def shown(row: Run) -> str:
    """A line for a terminal: percentage points and ratios, each with its interval."""
    if row["rule"] == NO_LOCK:
        names = ("final", "steps_right", "gen_ppl", "distinct_3")
        quality = ", ".join(f"{name} {row[name]:.4f}" for name in names if row[name] is not None)
    elif row["final"] is not None:
        quality = ", ".join(
            f"{name} {100 * row[f'{name}_difference']:+.2f} ({100 * row[f'{name}_low']:+.2f} to "
            f"{100 * row[f'{name}_high']:+.2f}; {row[f'{name}_lost']} lost, {row[f'{name}_won']} won)"
            for name in ("final", "steps_right")
        )
    else:
        quality = (
            f"Gen-PPL {row['ppl_ratio']:.3f}x ({row['ppl_ratio_low']:.3f} to {row['ppl_ratio_high']:.3f}), distinct-3 "
            f"{row['distinct_3_difference']:+.4f} "
            f"({row['distinct_3_low']:+.4f} to {row['distinct_3_high']:+.4f})"
        )
    costs = f"rows {row['active_ratio']:.3f} full {row['full_ratio']:.3f} same {row['identical']:.3f}"
    return f"{row['decoder']:6} {row['workload']:22} {row['rule']:36} {costs} | {quality}"


def holds(row: Run) -> bool:
    """Whether no loss is seen and none of the margin is possible: of both verdicts, the interval from its lower end."""
    return all(row[f"{name}_low"] > -MARGIN and row[f"{name}_high"] >= 0 for name in ("final", "steps_right"))


def chosen(rows: Sequence[Run]) -> Iterator[str]:
    """Rules by the rows they compute, with the canvases on which they lose nothing that can be seen."""
    names = {load.name for load in PROBLEMS}
    of_rules: dict[tuple[str, str], list[Run]] = {}
    for row in rows:
        if row["workload"] in names and row["rule"] != NO_LOCK:
            of_rules.setdefault((row["decoder"], row["rule"]), []).append(row)
    yield f"rules by rows computed: canvases on which both intervals hold 0 and end above -{100 * MARGIN:g} points"
    for (decoder, rule), own in sorted(of_rules.items(), key=lambda pair: _mean_rows(pair[1])):
        held = "; ".join(row["workload"] for row in own if holds(row)) or "none"
        yield f"{decoder:6} {rule:36} rows {_mean_rows(own):.3f} of {len(own)} canvases: {held}"


def _mean_rows(rows: Sequence[Run]) -> float:
    return float(sum(row["active_ratio"] for row in rows) / len(rows))


def main() -> None:
    """Decode what is missing, as long as there is time, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--per-type", type=int, default=240, help="problems of each kind, where the split has so many")
    parser.add_argument("--num-texts", type=int, default=192)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batch-size", type=int, default=512, help="requests that a worker decodes at a time")
    parser.add_argument("--workers", type=int, default=4, help="processes on the one device")
    parser.add_argument("--max-minutes", type=float, help="no job begins after so many; those that run are finished")
    parser.add_argument("--quick", action="store_true", help="a job of every kind on few problems, to see that it runs")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.per_type, arguments.num_texts, arguments.workers = 1, 4, 1
    arguments.out.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    problems = evaluation_problems(TASKS, num_per_task=arguments.per_type)
    runs = Runs(arguments.out / "runs.jsonl.gz")
    if any(len(run["active_ratio"]) not in (len(problems), arguments.num_texts) for run in runs.found.values()):
        parser.error(f"--out {arguments.out} holds runs of other problems or texts: choose another folder")
    errors: list[str] = []
    _decode(runs, problems, arguments, errors, lambda: (time.monotonic() - start) / 60)
    rows = table(runs)
    made_by = [{name: run.get(name) for name in ("gpu", "processor", "torch", "commit")} for run in runs.found.values()]
    facts = {
        "command": "python benchmarks/default_rule.py --out OUT",
        "made_by": [each for number, each in enumerate(made_by) if each not in made_by[:number]],
        "dtype": arguments.dtype,
        "seed": 0,
        "problems": [[problem.task, problem.level] for problem in problems],
        "num_texts": arguments.num_texts,
        "prompt_tokens": NUM_PROMPT,
        "errors": errors,
    }
    (arguments.out / "default_rule.json").write_text(json.dumps(facts) + "\n")
    if rows:
        (arguments.out / "default_rule.csv").write_text(csv_table(rows))
    print("\n".join([*map(shown, rows), *chosen(rows), *errors]))


def _decode(
    runs: Runs, problems: list[Problem], arguments: argparse.Namespace, errors: list[str], minutes: Callable[[], float]
) -> None:
    """Add the runs that are missing, in the order of the grid, a few at a time."""
    made_by = {name: value for name, value in environment().items() if name in ("gpu", "processor", "torch", "commit")}
    left = [job for job in (quick_grid() if arguments.quick else grid()) if runs.missing(job)]
    begin = partial(_start_worker, arguments.dtype, arguments.batch_size, problems, arguments.num_texts)
    pool = ProcessPoolExecutor(arguments.workers, multiprocessing.get_context("spawn"), begin)
    running: dict[Future[list[Run]], Job] = {}
    with pool:
        while running or left:
            is_late = arguments.max_minutes is not None and minutes() > arguments.max_minutes
            if is_late:
                left.clear()
            while left and len(running) < arguments.workers:
                job = left.pop(0)
                try:
                    running[pool.submit(_work, job)] = job
                except BrokenExecutor as error:
                    errors.append(f"the rest was not decoded: {error}")
                    left.clear()
            for done in wait(running, return_when=FIRST_COMPLETED).done if running else ():
                job = running.pop(done)
                told = f"{job.decoder}, {job.workload.name}, {', '.join(rule.name for rule in job.rules)}"
                try:
                    runs.add([run | made_by for run in done.result()])
                # The other jobs do not depend on it.
                except Exception as error:
                    errors.append(f"failed: {told}: {type(error).__name__}: {error}")
                print(
                    f"{minutes():.1f} min: {told}{' FAILED' if done.exception() else ''}", file=sys.stderr, flush=True
                )


if __name__ == "__main__":
    main()
