"""Decoding problems and texts with many lock rules: the engine's, and those only the measuring decoder has."""

from __future__ import annotations

import itertools
import json
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import torch
from torch import Tensor

from surelock import LLM, EngineConfig, LockParams, SamplingParams
from surelock.decoding.protocols import LockNumbers
from surelock.flops import RowCost
from surelock.measure.instrumented import InstrumentedDecoder, MeasuredState, group_canvases
from surelock.measure.instrumented.decoder import lock_by_kl, lock_numbers
from surelock.measure.judge import Judge
from surelock.measure.metrics import distinct_n
from surelock.measure.tasks import Problem, check
from surelock.measure.text import load_text

FITTED_TO: Final = 32
NUM_PROMPT: Final = 64
Run = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rule:
    """A lock rule; `refresh` and `finished_blocks` only in the measuring decoder.

    Attributes:
        lock: None locks nothing. Without a refresh of its own.
        refresh: every so many steps all locked positions are computed anew; 0: never.
        finished_blocks: a position locks only once its block holds no mask.
    """

    name: str
    lock: LockParams | None
    refresh: int = 0
    finished_blocks: bool = False


@dataclass(frozen=True, slots=True)
class Workload:
    """What is decoded: problems on one kind of canvas, or texts of one length."""

    name: str
    max_tokens: int | None = None
    block_length: int | None = None
    is_text: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """What one worker does at a time: several rules at once in the measuring decoder, one in the engine."""

    decoder: str
    workload: Workload
    rules: tuple[Rule, ...]


class Worker:
    """A model in a process of its own."""

    def __init__(self, dtype: str, batch_size: int, problems: list[Problem], num_texts: int) -> None:
        config = EngineConfig(max_batch_size=batch_size, max_rows=1 << 18, memory_fraction=0.15, cuda_graphs=False)
        self.llm = LLM(dtype=dtype, engine_config=config)
        assert self.llm.tokenizer is not None, "the embedded model has one"
        self.tokenizer = self.llm.tokenizer
        self.judge = Judge.load()
        self.problems = problems
        self.prompts = [self.llm.encode_chat([{"role": "user", "content": each.question}]) for each in problems]
        self.texts = load_text(tokenizer=self.tokenizer, num_prompts=num_texts, num_prompt_tokens=NUM_PROMPT)

    def __call__(self, job: Job) -> list[Run]:
        """A run for each rule."""
        load = job.workload
        if load.is_text:
            canvases = [list(text.token_ids) for text in self.texts]
            lengths = [load.max_tokens or 0] * len(canvases)
        else:
            canvases, lengths = self.prompts, [load.max_tokens or self._fitted(each) for each in self.problems]
        params = [
            SamplingParams(max_tokens=num, block_length=load.block_length, ignore_eos=True, lock=job.rules[0].lock)
            for num in lengths
        ]
        start = time.perf_counter()
        if job.decoder == "engine":
            decoded = [self._engine(canvases, params)]
        else:
            decoded = self._dense(canvases, params, job.rules)
        seconds = time.perf_counter() - start
        return [
            {"decoder": job.decoder, "workload": load.name, "rule": rule.name, "seconds_of_job": round(seconds, 1)}
            | (self._texts(tokens) if load.is_text else self._answers(tokens))
            | costs
            for rule, (tokens, costs) in zip(job.rules, decoded, strict=True)
        ]

    def _fitted(self, problem: Problem) -> int:
        num = len(self.tokenizer.encode(problem.answer, bos=False)) + 1
        return -(-num // FITTED_TO) * FITTED_TO

    def _engine(self, canvases: list[list[int]], params: list[SamplingParams]) -> tuple[list[list[int]], Run]:
        outputs = self.llm.generate([{"prompt_token_ids": ids} for ids in canvases], params)
        flops = [output.stats.flops for output in outputs]
        return [output.token_ids for output in outputs], {
            "active_ratio": [round(output.stats.active_ratio, 4) for output in outputs],
            **{
                f"{mode}_{side}": sum(each[mode][side] for each in flops)
                for mode in ("exact", "full")
                for side in ("locked", "base")
            },
        }

    def _dense(
        self, canvases: list[list[int]], params: list[SamplingParams], rules: Sequence[Rule]
    ) -> list[tuple[list[list[int]], Run]]:
        """Every rule at once over canvases of one length."""
        decoder, cost = InstrumentedDecoder(self.llm.transformer), RowCost.from_config(self.llm.config)
        tokens: list[list[list[int]]] = [[[] for _ in canvases] for _ in rules]
        active: list[list[float]] = [[0.0 for _ in canvases] for _ in rules]
        totals = [dict.fromkeys(("exact_locked", "exact_base", "full_locked", "full_base"), 0.0) for _ in rules]
        for alike in _alike(canvases, params):
            num_positions = len(canvases[alike[0]]) + params[alike[0]].max_tokens
            size = max(1, decoder.batch_size(num_positions) // len(rules))
            for begin in range(0, len(alike), size):
                part = alike[begin : begin + size]
                given = DenseRules(rules, len(part), params[part[0]], self.llm.device)
                rows, counts = given.decode(decoder, [canvases[index] for index in part])
                row = cost.transformer(num_positions)
                for place, (ids, count) in enumerate(zip(rows, counts, strict=True)):
                    which, index = place // len(part), part[place % len(part)]
                    total = num_positions * params[index].max_tokens
                    tokens[which][index], active[which][index] = ids, round(count["active"] / total, 4)
                    head = count["masked"] * cost.head
                    totals[which]["exact_locked"] += count["active"] * row
                    totals[which]["exact_base"] += total * row
                    totals[which]["full_locked"] += count["active"] * row + head + 2 * count["tested"] * cost.head
                    totals[which]["full_base"] += total * row + head
        return [
            (of_rule, {"active_ratio": ratios, **of_costs})
            for of_rule, ratios, of_costs in zip(tokens, active, totals, strict=True)
        ]

    def _answers(self, tokens: list[list[int]]) -> Run:
        end_ids = self.tokenizer.end_ids
        texts = [
            self.tokenizer.decode(list(itertools.takewhile(lambda token: token not in end_ids, ids))) for ids in tokens
        ]
        verdicts = [check(problem, text) for problem, text in zip(self.problems, texts, strict=True)]
        return {
            "final": "".join(str(int(verdict.final)) for verdict in verdicts),
            "steps_right": "".join(str(int(verdict.steps)) for verdict in verdicts),
            "mark": [_mark(text) for text in texts],
        }

    def _texts(self, tokens: list[list[int]]) -> Run:
        scores = self.judge.negative_log_likelihood(
            [text.prompt for text in self.texts], [self.tokenizer.decode(ids) for ids in tokens]
        )
        return {
            "nats": [round(nats, 4) for nats, _ in scores],
            "judge_tokens": [count for _, count in scores],
            "distinct_3": [round(distinct_n(ids, 3), 5) for ids in tokens],
            "mark": [_mark(json.dumps(ids)) for ids in tokens],
        }


class DenseRules:
    """Rules of the measuring decoder, each over its own `num` canvases of a batch, and what they cost."""

    def __init__(self, rules: Sequence[Rule], num: int, params: SamplingParams, device: torch.device) -> None:
        self._params, self._num_rules = params, len(rules)
        never = LockParams(kl_threshold=-1.0)
        each = [lock_numbers(rule.lock or never, num, device) for rule in rules]
        names = [name.name for name in fields(LockNumbers) if name.name != "has_gate"]
        joined = {name: torch.cat([getattr(one, name) for one in each]) for name in names}
        self._numbers = LockNumbers(**joined, has_gate=any(one.has_gate for one in each))
        # [B, 1]
        self._period = _column([rule.refresh for rule in rules], num, device)
        self._finished_only = _column([rule.finished_blocks for rule in rules], num, device) != 0
        self._locks = _column([rule.lock is not None for rule in rules], num, device) != 0
        self._tested: Tensor | int = 0

    def decode(
        self, decoder: InstrumentedDecoder, canvases: list[list[int]]
    ) -> tuple[list[list[int]], list[dict[str, int]]]:
        """Generated tokens and counts of rows, canvas by canvas for each rule in turn."""
        active: Tensor | int = 0
        masked: Tensor | int = 0
        refresh = self._refresh if bool((self._period > 0).any()) else None
        for step in decoder.steps(canvases * self._num_rules, self._params, rule=self._lock, refresh=refresh):
            active, masked, tokens = active + step.num_active, masked + step.masked.sum(1), step.tokens
        counts = torch.stack([torch.as_tensor(each) for each in (active, masked, self._tested)], 1).tolist()
        rows = tokens[:, -self._params.max_tokens :].tolist()
        return rows, [dict(zip(("active", "masked", "tested"), count, strict=True)) for count in counts]

    def _refresh(self, state: MeasuredState) -> Tensor:
        return state.locked & (self._period > 0) & (state.step % self._period.clamp_min(1) == 0)

    def _lock(self, state: MeasuredState) -> Tensor:
        may = self._locks & (~self._finished_only | self._finished(state))
        visible = state.candidates & (state.age >= self._numbers.min_visible_steps.unsqueeze(1))
        self._tested = self._tested + (visible & may & state.kl.isfinite()).sum(1)
        return lock_by_kl(state, self._numbers) & may

    def _finished(self, state: MeasuredState) -> Tensor:
        """Where no mask is left in the block; the prompt is one that never had any."""
        num, length = self._params.max_tokens, self._params.block_length or self._params.max_tokens
        masked = state.masked[:, -num:]
        blocks = [part.any(1, keepdim=True).expand_as(part) for part in masked.split(length, 1)]
        return torch.cat([torch.ones_like(state.masked[:, :-num]), ~torch.cat(blocks, 1)], 1)


def _mark(text: str) -> int:
    """16 bits that tell answers apart: of 65,536 pairs of different ones about one looks the same."""
    return zlib.crc32(text.encode()) & 0xFFFF


def _column(values: Sequence[int], num: int, device: torch.device) -> Tensor:
    return torch.tensor(values, device=device).repeat_interleave(num).unsqueeze(1)


def _alike(canvases: list[list[int]], params: list[SamplingParams]) -> Iterator[list[int]]:
    """Indices of canvases with one prompt length and one number of generated tokens."""
    for num in sorted({each.max_tokens for each in params}, reverse=True):
        own = [index for index, each in enumerate(params) if each.max_tokens == num]
        yield from ([own[place] for place in group] for group in group_canvases([canvases[index] for index in own]))
