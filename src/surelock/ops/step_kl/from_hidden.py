"""The products with the head around the KL: parts of the vocabulary on a CPU, parts of the rows on a CUDA device."""

from __future__ import annotations

import torch
from torch import Tensor

from surelock.ops.dispatch import choose
from surelock.ops.head_logits import Head, copies_head, head_logits_float32
from surelock.ops.step_kl.reference import PART_ELEMENTS, StepKL, of_parts
from surelock.ops.step_kl.reference import kl_from_logits as reference

kl_from_logits = choose("step_kl", reference)

# Tokens of one part at most, where the part of the head is copied in float32.
PART_TOKENS = 1 << 13
# Pairs of rows of one product: enough to be worth reading the head for; 247 MiB of logits at V = 126,464.
PART_PAIRS = 256


def step_kl(hidden: Tensor, previous: Tensor, head: Head) -> StepKL:
    """KL(p_t || p_{t-1}) and 1 - max p_t of n rows; shapes in the package's docstring."""
    return (by_pairs if hidden.is_cuda else by_vocabulary)(hidden, previous, head)


def by_vocabulary(hidden: Tensor, previous: Tensor, head: Head, *, part_elements: int = PART_ELEMENTS) -> StepKL:
    """All rows, some tokens at a time: [n, tokens] tensors have part_elements elements at most."""
    num_rows = hidden.shape[0]
    if num_rows == 0:
        return StepKL.empty(0, hidden.device)
    width = max(1, part_elements // num_rows)
    if copies_head(hidden):
        width = min(width, PART_TOKENS)
    both = torch.cat((hidden, previous))
    starts = range(0, head.vocab_size, width)
    return of_parts(head_logits_float32(both, head.part(start, start + width)).chunk(2) for start in starts)


def by_pairs(hidden: Tensor, previous: Tensor, head: Head, *, part_pairs: int = PART_PAIRS) -> StepKL:
    """All tokens, part_pairs pairs of rows at a time. Asks nothing of the host."""
    result = StepKL.empty(hidden.shape[0], hidden.device)
    for start in range(0, hidden.shape[0], part_pairs):
        part = slice(start, start + part_pairs)
        logits = head_logits_float32(torch.cat((hidden[part], previous[part])), head)
        for whole, found in zip(result, kl_from_logits(*logits.chunk(2)), strict=True):
            whole[part] = found
    return result
