"""Packing: every token once, canvases whole, nothing left over."""

from __future__ import annotations

from itertools import islice, pairwise
from pathlib import Path

import pytest
import torch

from training.batches import KINDS, MASK, PackedCanvases
from training.problems import TASK_WEIGHTS


@pytest.mark.parametrize("num_tokens", [1024, 1031])
def test_batches_are_full_and_canvases_start_at_zero(data: Path, tokenizer_file: Path, num_tokens: int) -> None:
    for batch in islice(PackedCanvases(data, tokenizer_file, num_tokens, 0, TASK_WEIGHTS), 12):
        assert batch.inputs.shape == batch.targets.shape == batch.weights.shape == (num_tokens,)
        starts = batch.starts.tolist()
        ends = [end for end in starts if end < num_tokens] + [num_tokens]
        assert starts == sorted(starts)
        for begin, end in pairwise(ends):
            assert batch.positions[begin:end].tolist() == list(range(end - begin))
            assert len(set(batch.kinds[begin:end].tolist())) == 1
        differs = batch.inputs != batch.targets
        assert (batch.inputs[differs] == MASK).all()
        assert (batch.weights[~differs] == 0).all()


def test_seeds_repeat_and_workers_differ(data: Path, tokenizer_file: Path) -> None:
    def first(seed: int) -> torch.Tensor:
        return next(iter(PackedCanvases(data, tokenizer_file, 512, seed, TASK_WEIGHTS))).targets

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def test_only_the_chosen_tasks_are_asked(data: Path, tokenizer_file: Path) -> None:
    batches = islice(PackedCanvases(data, tokenizer_file, 2048, 0, {"logic": 1.0}), 4)
    kinds = {KINDS[kind] for batch in batches for kind in set(batch.kinds.tolist())}
    assert kinds <= {"text", "chat", "logic"}
    assert "logic" in kinds
