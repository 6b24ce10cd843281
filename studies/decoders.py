"""How it is decoded: by the engine under a rule, or by the dense decoder under a policy of any kind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import accumulate, groupby, takewhile
from typing import Any, Final

import torch
from torch import Tensor

from studies.bench import Bench, Case
from studies.policies import Policy
from surelock.errors import NonFiniteLogitsError
from surelock.flops import exact_flops, full_flops
from surelock.llm import LLM
from surelock.measure.instrumented import InstrumentedDecoder, KVDrift, MeasuredState, MeasuredStep, group_canvases
from surelock.measure.row_share import decode_with
from surelock.output import RequestOutput
from surelock.params import LockParams, SamplingParams

PERMANENT, PAPER, NONE = "permanent rule", "paper rule", "no lock"
# Seeds of two runs of one prompt are so far apart.
SEED_DISTANCE: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """One way to decode a workload.

    Attributes:
        label: columns that tell decoders apart.
        lock: the engine's rule, of permanent locks, which only policies refresh; None for no locks.
        share: of the active rows that a step computes; None for all.
        other_seed: with other noise.
        policy: makes the policy of a run of the dense decoder, which then decodes in the engine's place.
        beside: a decoder that the others need to be compared with, and that makes no row of its own.
    """

    label: Mapping[str, Any] = field(default_factory=dict)
    lock: LockParams | None = None
    share: float | None = None
    other_seed: bool = False
    policy: Callable[[], Policy] | None = None
    beside: bool = False

    def __post_init__(self) -> None:
        assert self.lock is None or self.lock.refresh is None, "pin refresh=None: the default has one"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """One case decoded by one decoder; counts are sums over the steps unless said otherwise.

    Attributes:
        text: without what follows the end. `kept`: its tokens.
        generated: all generated tokens.
        num_positions, num_steps: of the canvas.
        rows: computed in each step; of the dense decoder one sum.
        exact, full: FLOPs (with locks, without).
        refreshed, locks, unlocks: of the dense decoder: locked rows computed, positions locked and unlocked.
    """

    text: str
    kept: list[int]
    generated: list[int]
    num_positions: int
    num_steps: int
    rows: list[int]
    exact: tuple[float, float]
    full: tuple[float, float]
    refreshed: int = 0
    locks: int = 0
    unlocks: int = 0

    @property
    def active(self) -> int:
        """Rows computed."""
        return sum(self.rows)

    @property
    def possible(self) -> int:
        """Rows without locks."""
        return self.num_steps * self.num_positions


def rule(name: str, lock: LockParams | None, **more: Any) -> Decoder:
    """The engine under a rule, by its name, epsilon and gate."""
    threshold = None if lock is None else lock.kl_threshold
    return Decoder(label={"rule": name, "threshold": threshold, **more}, lock=lock)


def both(threshold: float) -> tuple[Decoder, Decoder]:
    """The permanent rule and the paper's literal one at an epsilon."""
    return rule(PERMANENT, LockParams.permanent(threshold)), rule(PAPER, LockParams.paper(threshold))


NO_LOCK: Final = rule(NONE, None)


def decode_all(bench: Bench, cases: Sequence[Case], decoders: Sequence[Decoder]) -> list[list[Decoded]]:
    """Each case by each decoder, in their order.

    Raises:
        NonFiniteLogitsError: the model's output was not finite.
    """
    by_policy = [decoder for decoder in decoders if decoder.policy is not None]
    by_engine = [decoder for decoder in decoders if decoder.policy is None]
    dense, other = iter(_by_policies(bench, cases, by_policy)), iter(_by_engine(bench, cases, by_engine))
    return [next(other if decoder.policy is None else dense) for decoder in decoders]


def _by_engine(bench: Bench, cases: Sequence[Case], decoders: Sequence[Decoder]) -> list[list[Decoded]]:
    keys = [[(case.prompt, _params(case.params, decoder), decoder.share) for case in cases] for decoder in decoders]
    by_share = defaultdict(list)
    for key in dict.fromkeys(key for of_decoder in keys for key in of_decoder):
        if key not in bench.decoded:
            by_share[key[2]].append(key)
    for share, new in by_share.items():
        # The longest first, so that the batch is full until its end.
        new.sort(key=lambda key: -(key[1].steps or key[1].max_tokens))
        prompts, params, num = [list(key[0]) for key in new], [key[1] for key in new], len(new)
        show = partial(lambda num, done: bench.show(done / num, f"{done} of {num} prompts"), num)
        outputs = decode_with(bench.llm, prompts, params, share=share, progress=show)
        if any(output.finish_reason == "error" for output in outputs):
            told = "the model's logits were NaN or infinite: check the weights or use --dtype float32"
            raise NonFiniteLogitsError(told, outputs)
        bench.decoded |= zip(new, map(_of_output, outputs, params), strict=True)
    return [[bench.decoded[key] for key in of_decoder] for of_decoder in keys]


def _params(params: SamplingParams, decoder: Decoder) -> SamplingParams:
    seed = params.seed
    if decoder.other_seed and seed is not None:
        seed += SEED_DISTANCE
    return replace(params, lock=decoder.lock, seed=seed)


def _of_output(output: RequestOutput, params: SamplingParams) -> Decoded:
    stats, canvas = output.stats, output.canvas_token_ids
    exact, full = ((stats.flops[mode]["locked"], stats.flops[mode]["base"]) for mode in ("exact", "full"))
    return Decoded(
        text=output.text, kept=output.token_ids, generated=canvas[len(canvas) - params.max_tokens :],
        num_positions=len(canvas), num_steps=stats.steps, rows=stats.active_rows, exact=exact, full=full,
    )  # fmt: skip


def _by_policies(bench: Bench, cases: Sequence[Case], decoders: Sequence[Decoder]) -> list[list[Decoded]]:
    """Every pair of a policy and a case is one canvas of a batch."""
    starts = [decoder.policy for decoder in decoders if decoder.policy is not None]
    dense = InstrumentedDecoder(bench.llm.transformer, measure_drift=any(start().needs_drift for start in starts))
    alike = defaultdict(list)
    for index, case in enumerate(cases):
        alike[len(case.prompt), case.params].append(index)
    found: list[dict[int, Decoded]] = [{} for _ in decoders]
    num_done, num = 0, len(cases) * len(decoders)
    for (num_prompt, params), indices in sorted(alike.items(), key=lambda item: (item[0][0], item[0][1].max_tokens)):
        pairs = [(number, index) for number in range(len(decoders)) for index in indices]
        size = dense.batch_size(num_prompt + params.max_tokens)
        for start in range(0, len(pairs), size):
            batch = pairs[start : start + size]
            dispatch = Dispatch([(starts[number](), len(list(same))) for number, same in groupby(n for n, _ in batch)])
            runs = _decode(bench.llm, dense, [cases[index].prompt for _, index in batch], params, dispatch)
            for (number, index), run in zip(batch, runs, strict=True):
                found[number][index] = run
            num_done += len(batch)
            bench.show(num_done / num, f"{num_done} of {num} runs")
    return [[of_decoder[index] for index in range(len(cases))] for of_decoder in found]


def batches_of(
    dense: InstrumentedDecoder, canvases: Sequence[Sequence[int]], max_tokens: int, copies: int = 1
) -> Iterator[list[int]]:
    """Indices of canvases that are decoded together, so many runs of each at a time."""
    for alike in group_canvases(canvases):
        size = max(1, dense.batch_size(len(canvases[alike[0]]) + max_tokens) // copies)
        yield from (alike[start : start + size] for start in range(0, len(alike), size))


class Dispatch:
    """Asks each policy about its own canvases of a batch: the hooks of `InstrumentedDecoder.steps`.

    policies: of consecutive canvases, and of how many each.
    """

    def __init__(self, policies: Sequence[tuple[Policy, int]]) -> None:
        ends = accumulate(num for _, num in policies)
        self._parts = [(policy, slice(end - num, end)) for (policy, num), end in zip(policies, ends, strict=True)]
        self.tested: Tensor | int = 0

    def steps(
        self, dense: InstrumentedDecoder, canvases: Sequence[Sequence[int]], params: SamplingParams, **more: Any
    ) -> Iterator[MeasuredStep]:
        """Decode the canvases."""
        names = ("refresh", "unlock") if any(policy.revisits for policy, _ in self._parts) else ()
        hooks: dict[str, Any] = {name: partial(self._ask, name) for name in names}
        return dense.steps(canvases, params, rule=self._lock, **hooks, **more)

    def _lock(self, state: MeasuredState) -> Tensor:
        self.tested = self.tested + self._ask("tested", state).sum(1)
        return self._ask("lock", state)

    def _ask(self, name: str, state: MeasuredState) -> Tensor:
        """What each policy's method of that name says of its part."""
        return torch.cat([getattr(policy, name)(_part(state, where)) for policy, where in self._parts])


def _decode(
    llm: LLM, dense: InstrumentedDecoder, canvases: Sequence[Sequence[int]], params: SamplingParams, dispatch: Dispatch
) -> Iterator[Decoded]:
    """Each canvas of a batch, all of one length."""
    counts: list[Tensor] = []
    for step in dispatch.steps(dense, canvases, params):
        masks = (step.masked, step.refreshed, step.newly_locked, step.unlocked)
        counts.append(torch.stack((step.num_active, *(mask.sum(1) for mask in masks))))
        tokens, num_steps, num = step.tokens, step.num_steps, step.tokens.shape[1]
    tested = (dispatch.tested + torch.zeros_like(counts[0][0])).tolist()
    end_ids = llm.tokenizer.end_ids if llm.tokenizer else frozenset(llm.config.eos_token_ids)
    for row, own, num_tested in zip(tokens.tolist(), torch.stack(counts).sum(0).T.tolist(), tested, strict=True):
        active, masked, refreshed, locks, unlocks = own
        generated = row[num - params.max_tokens :]
        kept = list(takewhile(lambda token: params.ignore_eos or token not in end_ids, generated))
        full = full_flops(
            llm.config, num_rows=active, num_steps=num_steps, num_positions=num, num_masked=masked,
            num_tested=num_tested,
        )  # fmt: skip
        yield Decoded(
            text="" if llm.tokenizer is None else llm.tokenizer.decode(kept), kept=kept, generated=generated,
            num_positions=num, num_steps=num_steps, rows=[active], full=full,
            exact=(exact_flops(llm.config, active, num), exact_flops(llm.config, num_steps * num, num)),
            refreshed=refreshed, locks=locks, unlocks=unlocks,
        )  # fmt: skip


def _part(state: MeasuredState, where: slice) -> MeasuredState:
    """Of some of the canvases."""
    own: dict[str, Any] = {}
    for each in fields(state):
        value = getattr(state, each.name)
        if isinstance(value, Tensor):
            own[each.name] = value[where]
        elif isinstance(value, KVDrift):
            own[each.name] = KVDrift(*(getattr(value, of.name)[:, where] for of in fields(value)))
    return replace(state, **own)
