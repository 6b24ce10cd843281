"""Repeats are blamed on the position that completed them, and a leg that counts them makes them less likely."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from torch import Tensor

from training import repetition
from training.batches import MASK
from training.checkpoint import load_weights
from training.model import MaskedDiffusionModel, Shape
from training.repetition import (
    NUM_STEPS,
    SelfDecoded,
    completes_repeat,
    decode,
    distinct_trigrams,
    unlikelihood,
)
from training.train import Settings, Trainer

TINY = Shape(d_model=64, n_layers=1, n_heads=2, mlp_hidden_size=96)


def blamed_by_hand(tokens: list[int], decided: list[int]) -> set[int]:
    """Trigrams in the order they were completed; the last position of each that was there before."""
    order = sorted(range(len(tokens) - 2), key=lambda i: (max(decided[i : i + 3]), i))
    seen: set[tuple[int, ...]] = set()
    blamed = set()
    for i in order:
        gram, last = tuple(tokens[i : i + 3]), max(decided[i : i + 3])
        if gram in seen and last >= 0:
            blamed |= {j for j in range(i, i + 3) if decided[j] == last}
        seen.add(gram)
    return blamed


def test_the_last_token_of_a_repeated_trigram_is_blamed() -> None:
    tokens = torch.tensor([[5, 6, 7, 9, 5, 6, 7]])
    decided = torch.tensor([[-1, -1, -1, 0, 3, 1, 2]])
    assert completes_repeat(tokens, decided).tolist() == [[False, False, False, False, True, False, False]]
    # Completed first, the later stretch is the original and the earlier one the repeat.
    decided = torch.tensor([[0, 4, 1, 2, 0, 1, 2]])
    assert completes_repeat(tokens, decided).nonzero().tolist() == [[0, 1]]


def test_blame_is_what_reading_in_order_finds() -> None:
    rng = random.Random(0)
    for _ in range(40):
        length = rng.randint(3, 30)
        tokens = [rng.randint(2, 4) for _ in range(length)]
        decided = [rng.randint(-1, 12) for _ in range(length)]
        found = completes_repeat(torch.tensor([tokens]), torch.tensor([decided]))[0]
        assert set(found.nonzero().flatten().tolist()) == blamed_by_hand(tokens, decided)


def test_canvases_do_not_share_blame() -> None:
    tokens, decided = torch.tensor([[5, 6, 7, 8], [5, 6, 7, 9]]), torch.tensor([[0, 1, 2, 3], [0, 1, 2, 3]])
    assert not completes_repeat(tokens, decided).any()


def test_decoding_fills_the_canvas_in_steps_and_never_writes_a_mask() -> None:
    torch.manual_seed(0)
    prompts = torch.randint(2, 4096, (3, 5))
    tokens, decided = decode(MaskedDiffusionModel(TINY), prompts, 2 * NUM_STEPS)
    assert torch.equal(tokens[:, :5], prompts)
    assert not (tokens == MASK).any()
    assert (decided[:, :5] == -1).all()
    for row in decided[:, 5:]:
        assert torch.equal(row.bincount(), torch.full((NUM_STEPS,), 2))


def test_unlikelihood_is_minus_log_of_one_minus_p() -> None:
    logits = torch.tensor([[0.0, 0.0], [30.0, 0.0]], requires_grad=True)
    loss = unlikelihood(logits, torch.tensor([0, 0]))
    assert loss[0].item() == pytest.approx(0.6931, abs=1e-4)
    assert loss.isfinite().all()


def test_distinct_trigrams() -> None:
    assert distinct_trigrams(torch.tensor([[2, 3, 2, 3, 2, 3]])) == 0.5


def test_a_leg_lowers_the_probability_of_its_repeats(
    data: Path, tokenizer_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repetition, "NUM_STEPS", 8)
    monkeypatch.setattr(repetition, "LENGTHS", {64: 1.0})

    def leg(unlikelihood_weight: float) -> float:
        settings = Settings(
            data=data,
            tokenizer=tokenizer_file,
            out=tmp_path / str(unlikelihood_weight),
            steps=8,
            batch_tokens=512,
            micro_tokens=512,
            layers=1,
            workers=0,
            tasks="logic",
            unlikelihood=unlikelihood_weight,
            decode_every=8,
            decoded_tokens=512,
            log_every=8,
        )
        trainer = Trainer(settings)
        trainer.run()
        assert ('"distinct_3"' in (settings.out / "log.jsonl").read_text()) == (unlikelihood_weight > 0)
        model = MaskedDiffusionModel(Shape(n_layers=1))
        load_weights(model, settings.out)
        return repeats(model)

    def repeats(model: MaskedDiffusionModel) -> float:
        """Mean unlikelihood of one and the same token over a canvas that says nothing else."""
        with torch.no_grad():
            tokens = torch.full((64,), MASK)
            logits: Tensor = model(tokens, torch.arange(64), torch.tensor([0, 64], dtype=torch.int32))
        favourite = logits.softmax(-1).mean(0).argmax()
        return float(unlikelihood(logits, favourite.expand(64)).mean())

    assert leg(200.0) < leg(0.0)


def test_a_pool_is_of_one_length_and_its_loss_has_gradients() -> None:
    torch.manual_seed(0)
    model = MaskedDiffusionModel(TINY)
    pool = SelfDecoded(model, lambda length: torch.randint(2, 4096, (length,)), 512, torch.device("cpu"))
    pool.refill()
    # An untrained model answers every mask alike, so that its canvases are full of repeats.
    assert pool.distinct < 0.9
    loss = sum(pool.loss() for _ in range(4))
    assert isinstance(loss, Tensor)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss > 0
    assert model.ff_out.weight.grad is not None
    assert model.ff_out.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(("step", "counted"), [(0, [6, 10, 14]), (20, [10, 14]), (NUM_STEPS - 1, [14])])
def test_only_repeats_that_are_still_masked_count(
    step: int, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Three repeats of 5 6 7, completed in steps 10, 20 and 63.
    tokens = torch.tensor([[5, 6, 7, 8, 5, 6, 7, 9, 5, 6, 7, 10, 5, 6, 7]])
    decided = torch.tensor([[0, 1, 2, 3, 4, 5, 10, 6, 7, 8, 20, 30, 11, 12, 63]])
    logits = torch.randn(tokens.size(1), 11, generator=torch.Generator().manual_seed(0))
    seen: list[Tensor] = []

    def model(tokens: Tensor, positions: Tensor, starts: Tensor) -> Tensor:
        seen.append(tokens)
        return logits

    monkeypatch.setattr(repetition, "decode", lambda *_: (tokens, decided))
    monkeypatch.setattr(repetition, "PROMPT_LENGTH", 0)
    monkeypatch.setattr(torch, "randint", lambda low, high, size, device: torch.full(size, step))
    pool = SelfDecoded(model, lambda length: torch.zeros(length), 1, torch.device("cpu"))  # type: ignore[arg-type]
    pool.refill()
    assert pool.loss().item() == pytest.approx(unlikelihood(logits, tokens[0])[counted].sum().item(), rel=1e-6)
    assert torch.equal(seen[0], torch.where(decided[0] >= step, MASK, tokens[0]))


def test_processes_share_the_text_of_a_pool(
    data: Path, tokenizer_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def decoded(model: MaskedDiffusionModel, prompts: Tensor, num_generated: int) -> tuple[Tensor, Tensor]:
        sizes.append(len(prompts) * (prompts.size(1) + num_generated))
        tokens = torch.zeros(len(prompts), prompts.size(1) + num_generated, dtype=torch.int64)
        return tokens, tokens

    monkeypatch.setattr(repetition, "decode", decoded)
    monkeypatch.setattr(repetition, "LENGTHS", {64: 1.0})
    trainer = Trainer(
        Settings(
            data=data,
            tokenizer=tokenizer_file,
            out=tmp_path,
            layers=1,
            workers=0,
            tasks="logic",
            unlikelihood=1.0,
            decoded_tokens=4096,
        )
    )
    for count in (1, 4):
        trainer.ranks.count = count
        trainer._repeats().refill()
    assert sizes == [4096, 1024]
