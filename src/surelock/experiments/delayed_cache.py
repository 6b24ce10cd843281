"""A baseline that measures nothing: rows that hold a token are kept after one step, and refreshed at times.

What block and delayed caches for diffusion models do (such as dKV-Cache, arXiv 2505.15781), put in terms of locks.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from surelock.decoding.canvas import Mask
from surelock.eval.dense import DenseDecoder, DenseState

if TYPE_CHECKING:
    from surelock.experiments.mixture import Run
    from surelock.llm import LLM


@dataclass(frozen=True, slots=True)
class Decoded:
    """What was written, and the rows computed for it of all there were."""

    text: str
    token_ids: list[int]
    num_active: int
    num_rows: int


@dataclass(frozen=True, slots=True)
class LockAtOnce:
    """Lock every visible row, prompt or not, after one forward with its token.

    is_cached: bool [B, 1], the canvases this is done to.
    """

    is_cached: Mask

    def __call__(self, state: DenseState) -> Mask:
        """Positions to lock."""
        return state.candidates & (state.age >= 1) & self.is_cached


def decode_cached(llm: LLM, run: Run, period: int) -> tuple[list[Decoded], list[Decoded]]:
    """With the delayed cache, and without any in the same batch, since half-precision sums depend on its shape."""
    decoder = DenseDecoder(llm.transformer)
    alike = defaultdict(list)
    for index, (prompt, params) in enumerate(zip(run.prompts, run.params, strict=True)):
        alike[len(prompt), params].append(index)
    cached: dict[int, Decoded] = {}
    free: dict[int, Decoded] = {}
    for (num_prompt, params), all_indices in alike.items():
        num_positions = num_prompt + params.max_tokens
        size = max(1, decoder.batch_size(num_positions) // 2)
        for start in range(0, len(all_indices), size):
            indices = all_indices[start : start + size]
            num = len(indices)
            canvases = [run.prompts[index] for index in indices] * 2
            rule = LockAtOnce(torch.arange(2 * num, device=llm.device)[:, None] < num)
            record = decoder.run(canvases, params, rule=rule, refresh=period)
            tokens, active = record.tokens.tolist(), record.num_active.sum(0).tolist()
            num_rows = len(record.num_active) * num_positions
            for place, (ids, num_active) in enumerate(zip(tokens, active, strict=True)):
                kept = _kept(llm, ids[num_prompt:], ignore_eos=params.ignore_eos)
                text = "" if llm.tokenizer is None else llm.tokenizer.decode(kept)
                side = cached if place < num else free
                side[indices[place % num]] = Decoded(text, kept, num_active, num_rows)
    return tuple([side[index] for index in range(len(run.prompts))] for side in (cached, free))  # type: ignore[return-value]


def _kept(llm: LLM, token_ids: list[int], *, ignore_eos: bool) -> list[int]:
    if ignore_eos:
        return token_ids
    end_ids = llm.tokenizer.end_ids if llm.tokenizer else frozenset(llm.config.eos_token_ids)
    return token_ids[: next((place for place, token in enumerate(token_ids) if token in end_ids), len(token_ids))]
