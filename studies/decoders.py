"""How it is decoded: by the engine under a rule, or by the dense decoder under a policy of any kind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from studies.bench import Bench
from studies.policies import Policy
from studies.workload import Case
from surelock.errors import NonFiniteLogitsError
from surelock.flops import RowCost
from surelock.measure.instrumented import InstrumentedDecoder as DenseDecoder
from surelock.measure.instrumented import KVDrift
from surelock.measure.instrumented import MeasuredState as DenseState
from surelock.measure.instrumented import MeasuredStep as DenseStep
from surelock.measure.row_share import decode_with
from surelock.params import LockParams, SamplingParams

if TYPE_CHECKING:
    from surelock.llm import LLM
    from surelock.output import RequestOutput

PERMANENT, PAPER, NONE = "permanent rule", "paper rule", "no lock"
# Seeds of two runs of one prompt are so far apart.
SEED_DISTANCE: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """One way to decode a workload.

    Attributes:
        label: values of the columns that tell decoders apart.
        lock: the engine's rule; None for no locks. Locks are permanent here: what a refresh changes, a policy does to
            them. `share`: of the active rows that a step computes; None for all.
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
        refreshed, locks, unlocks: rows computed although locked, how often positions were locked and unlocked; of the
            dense decoder.
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
    found: dict[int, list[Decoded]] = {}
    for is_dense in (False, True):
        own = [index for index, decoder in enumerate(decoders) if (decoder.policy is not None) == is_dense]
        if own:
            decode = _by_policies if is_dense else _by_engine
            found |= dict(zip(own, decode(bench, cases, [decoders[index] for index in own]), strict=True))
    return [found[index] for index in range(len(decoders))]


def _by_engine(bench: Bench, cases: Sequence[Case], decoders: Sequence[Decoder]) -> list[list[Decoded]]:
    keys = [[(case.prompt, _params(case.params, decoder), decoder.share) for case in cases] for decoder in decoders]
    by_share = defaultdict(list)
    for key in dict.fromkeys(key for of_decoder in keys for key in of_decoder):
        if key not in bench.decoded:
            by_share[key[2]].append(key)
    for share, new in by_share.items():
        # The longest first, so that the batch is full until its end.
        new.sort(key=lambda key: -(key[1].steps or key[1].max_tokens))
        prompts, params = [list(key[0]) for key in new], [key[1] for key in new]
        outputs = decode_with(
            bench.llm, prompts, params, share=share,
            progress=partial(_show, bench, len(new)),
        )  # fmt: skip
        if any(output.finish_reason == "error" for output in outputs):
            raise NonFiniteLogitsError(
                "the model's logits were NaN or infinite: check the weights or use --dtype float32", outputs
            )
        bench.decoded |= zip(new, map(_of_output, outputs, params), strict=True)
    return [[bench.decoded[key] for key in of_decoder] for of_decoder in keys]


def _show(bench: Bench, num: int, done: int) -> None:
    bench.show(done / num, f"{done} of {num} prompts")


def _params(params: SamplingParams, decoder: Decoder) -> SamplingParams:
    seed = params.seed
    if decoder.other_seed and seed is not None:
        seed += SEED_DISTANCE
    return replace(params, lock=decoder.lock, seed=seed)


def _of_output(output: RequestOutput, params: SamplingParams) -> Decoded:
    stats = output.stats
    exact, full = (stats.flops[mode] for mode in ("exact", "full"))
    return Decoded(
        text=output.text, kept=output.token_ids,
        generated=output.canvas_token_ids[len(output.canvas_token_ids) - params.max_tokens :],
        num_positions=len(output.canvas_token_ids), num_steps=stats.steps, rows=stats.active_rows,
        exact=(exact["locked"], exact["base"]), full=(full["locked"], full["base"]),
    )  # fmt: skip


def _by_policies(bench: Bench, cases: Sequence[Case], decoders: Sequence[Decoder]) -> list[list[Decoded]]:
    """Every pair of a policy and a case is one canvas of a batch."""
    drift = any(_start(decoder).needs_drift for decoder in decoders)
    dense = DenseDecoder(bench.llm.transformer, measure_drift=drift)
    alike = defaultdict(list)
    for index, case in enumerate(cases):
        alike[case.shape].append(index)
    found: list[dict[int, Decoded]] = [{} for _ in decoders]
    num_done = 0
    for (num_prompt, params), indices in sorted(alike.items(), key=lambda item: (item[0][0], item[0][1].max_tokens)):
        pairs = [(number, index) for number in range(len(decoders)) for index in indices]
        size = dense.batch_size(num_prompt + params.max_tokens)
        for start in range(0, len(pairs), size):
            batch = pairs[start : start + size]
            shares = [(_start(decoders[number]), len(list(same))) for number, same in groupby(n for n, _ in batch)]
            runs = run_policies(bench.llm, dense, [cases[index].prompt for _, index in batch], params, Dispatch(shares))
            for (number, index), run in zip(batch, runs, strict=True):
                found[number][index] = run
            num_done += len(batch)
            num = len(cases) * len(decoders)
            bench.show(num_done / num, f"{num_done} of {num} runs")
    return [[of_decoder[index] for index in range(len(cases))] for of_decoder in found]


def _start(decoder: Decoder) -> Policy:
    assert decoder.policy is not None
    return decoder.policy()


class Dispatch:
    """Asks each policy about its own canvases of a batch: the hooks of `DenseDecoder.steps`.

    policies: of consecutive canvases, and of how many each.
    """

    def __init__(self, policies: Sequence[tuple[Policy, int]]) -> None:
        self._parts: list[tuple[Policy, slice]] = []
        start = 0
        for policy, num in policies:
            self._parts.append((policy, slice(start, start + num)))
            start += num
        self.tested: Tensor | int = 0

    def lock(self, state: DenseState) -> Tensor:
        """Of all."""
        parts = [(policy, _part(state, where)) for policy, where in self._parts]
        self.tested = self.tested + torch.cat([policy.tested(own) for policy, own in parts]).sum(1)
        return torch.cat([policy.lock(own) for policy, own in parts])

    def steps(
        self, dense: DenseDecoder, canvases: Sequence[Sequence[int]], params: Any, **more: Any
    ) -> Iterator[DenseStep]:
        """Decode the canvases."""
        hooks: dict[str, Any] = {"rule": self.lock}
        if any(policy.revisits for policy, _ in self._parts):
            for name in ("refresh", "unlock"):
                hooks[name] = lambda state, name=name: torch.cat(
                    [getattr(policy, name)(_part(state, where)) for policy, where in self._parts]
                )
        return dense.steps(canvases, params, **hooks, **more)


def run_policies(
    llm: LLM, dense: DenseDecoder, canvases: Sequence[Sequence[int]], params: SamplingParams, dispatch: Dispatch
) -> Iterator[Decoded]:
    """Each canvas of a batch, all of one length."""
    device = llm.transformer.device
    zero = torch.zeros(len(canvases), dtype=torch.int64, device=device)
    counts = dict.fromkeys(("active", "masked", "refreshed", "locks", "unlocks"), zero)
    for step in dispatch.steps(dense, canvases, params):
        now = {
            "active": step.num_active, "masked": step.masked.sum(1), "refreshed": step.refreshed.sum(1),
            "locks": step.newly_locked.sum(1), "unlocks": step.unlocked.sum(1),
        }  # fmt: skip
        counts = {name: counts[name] + now[name] for name in counts}
        tokens, num_steps = step.tokens, step.num_steps
    of = {name: values.tolist() for name, values in counts.items()}
    tested = (zero + dispatch.tested).tolist()
    cost = RowCost.from_config(llm.config)
    for index, row in enumerate(tokens.tolist()):
        generated = row[len(row) - params.max_tokens :]
        kept = generated if params.ignore_eos else _before_end(llm, generated)
        row_cost, masked = cost.transformer(len(row)), cost.head * of["masked"][index]
        locked, base = of["active"][index] * row_cost, num_steps * len(row) * row_cost
        yield Decoded(
            text="" if llm.tokenizer is None else llm.tokenizer.decode(kept), kept=kept, generated=generated,
            num_positions=len(row), num_steps=num_steps, rows=[of["active"][index]], exact=(locked, base),
            full=(locked + masked + 2 * cost.head * tested[index], base + masked), refreshed=of["refreshed"][index],
            locks=of["locks"][index], unlocks=of["unlocks"][index],
        )  # fmt: skip


def _before_end(llm: LLM, token_ids: list[int]) -> list[int]:
    end_ids = llm.tokenizer.end_ids if llm.tokenizer else frozenset(llm.config.eos_token_ids)
    return token_ids[: next((place for place, token in enumerate(token_ids) if token in end_ids), len(token_ids))]


def _part(state: DenseState, where: slice) -> DenseState:
    """Of some of the canvases."""
    own: dict[str, Any] = {}
    for each in fields(state):
        value = getattr(state, each.name)
        if isinstance(value, Tensor):
            own[each.name] = value[where]
        elif isinstance(value, KVDrift):
            own[each.name] = KVDrift(*(getattr(value, of.name)[:, where] for of in fields(value)))
    return replace(state, **own)
