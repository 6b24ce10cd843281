"""The trainer's model is the model surelock decodes, and it learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from surelock import LLM
from surelock.models.hub import EMBEDDED_FOLDER
from training.average import average
from training.batches import PackedCanvases
from training.checkpoint import config_of, load_weights, save_checkpoint
from training.model import MaskedDiffusionModel, Shape, denoising_loss
from training.optimizer import BatchedMuon, orthogonalize
from training.schedule import rate
from training.train import Settings, Trainer

TINY = Shape(d_model=64, n_layers=2, n_heads=2, mlp_hidden_size=96)


def test_a_checkpoint_gives_the_trainers_logits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MaskedDiffusionModel(TINY)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((parameter * 3).bfloat16().float())
    save_checkpoint(model, tmp_path, EMBEDDED_FOLDER, {})
    llm = LLM(str(tmp_path), dtype="float32", device="cpu")
    canvases = [[5, 6, 7, 1, 1], [2, 1, 9]]
    starts = torch.tensor([0, 5, 8, 8], dtype=torch.int32)
    ours = model(torch.tensor([*canvases[0], *canvases[1]]), torch.tensor([0, 1, 2, 3, 4, 0, 1, 2]), starts)
    torch.testing.assert_close(llm.logits(canvases), ours.detach(), rtol=1e-4, atol=1e-4)


def test_the_embedded_model_is_of_the_default_shape() -> None:
    import json

    assert json.loads((EMBEDDED_FOLDER / "config.json").read_text()) == config_of(Shape())


def test_weights_go_through_a_checkpoint(tmp_path: Path) -> None:
    first, second = MaskedDiffusionModel(TINY), MaskedDiffusionModel(TINY)
    save_checkpoint(first, tmp_path, EMBEDDED_FOLDER, {"steps": 1})
    load_weights(second, tmp_path)
    for mine, read in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(mine.bfloat16().float(), read)
    with pytest.raises(RuntimeError, match="size mismatch"):
        load_weights(MaskedDiffusionModel(Shape(d_model=128, n_layers=2, n_heads=2)), tmp_path)


def test_the_embedded_model_can_be_trained_on() -> None:
    model = MaskedDiffusionModel(Shape())
    load_weights(model, EMBEDDED_FOLDER)
    canvas = [2, 50, 1, 1]
    ours = model(torch.tensor(canvas), torch.arange(4), torch.tensor([0, 4], dtype=torch.int32))
    torch.testing.assert_close(LLM(device="cpu").logits([canvas]), ours.detach(), rtol=1e-3, atol=1e-3)


def test_an_average_lies_between_its_checkpoints(tmp_path: Path) -> None:
    models = {name: MaskedDiffusionModel(TINY) for name in ("first", "second")}
    for name, model in models.items():
        save_checkpoint(model, tmp_path / name, EMBEDDED_FOLDER, {})
    between = average(tmp_path / "first", tmp_path / "second", 0.25)
    for mine, first, second in zip(between.parameters(), *(m.parameters() for m in models.values()), strict=True):
        torch.testing.assert_close(mine, 0.75 * first + 0.25 * second, rtol=2e-2, atol=2e-4)
    with pytest.raises(ValueError, match="share is 2"):
        average(tmp_path / "first", tmp_path / "second", 2)
    save_checkpoint(
        MaskedDiffusionModel(Shape(d_model=64, n_layers=1, n_heads=2)), tmp_path / "other", EMBEDDED_FOLDER, {}
    )
    with pytest.raises(ValueError, match="differ in shape"):
        average(tmp_path / "first", tmp_path / "other", 0.5)


@pytest.mark.parametrize("shape", [(3, 24, 24), (2, 40, 16), (2, 16, 40)])
def test_orthogonalize_brings_singular_values_near_one(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(1)
    values: Tensor = torch.linalg.svdvals(orthogonalize(torch.randn(shape)).float())
    assert values.min() > 0.4
    assert values.max() < 1.4


def test_muon_moves_matrices_together_as_it_would_alone() -> None:
    torch.manual_seed(2)
    both = [torch.nn.Parameter(torch.randn(8, 6)) for _ in range(2)]
    alone = torch.nn.Parameter(both[1].detach().clone())
    gradients = [torch.randn(8, 6) for _ in range(2)]
    for parameter, gradient in zip([*both, alone], [*gradients, gradients[1]], strict=True):
        parameter.grad = gradient.clone()
    BatchedMuon(both, 0.1).step()
    BatchedMuon([alone], 0.1).step()
    torch.testing.assert_close(both[1], alone, rtol=2e-2, atol=2e-3)


def test_muon_refuses_matrices_without_a_gradient() -> None:
    parameters = [torch.nn.Parameter(torch.ones(8, 6)) for _ in range(2)] + [torch.nn.Parameter(torch.ones(4, 4))]
    parameters[0].grad = torch.ones(8, 6)
    parameters[2].grad = torch.ones(4, 4)
    with pytest.raises(ValueError, match=r"1 of 3 matrices have no gradient, the first of shape \(8, 6\)"):
        BatchedMuon(parameters, 0.1).step()
    assert all(bool((parameter == 1).all()) for parameter in parameters)


def test_the_rate_rises_holds_and_falls_to_zero() -> None:
    assert rate(0.01) == pytest.approx(0.5)
    assert rate(0.1) == rate(0.25) == 1.0
    assert rate(0.65) == pytest.approx(0.5)
    assert rate(1.0) == 0.0


def test_a_leg_learns_and_the_next_goes_on_from_it(data: Path, tokenizer_file: Path, tmp_path: Path) -> None:
    def leg(name: str, warm_start: Path | None) -> MaskedDiffusionModel:
        settings = Settings(
            data=data,
            tokenizer=tokenizer_file,
            out=tmp_path / name,
            warm_start=warm_start,
            steps=6,
            batch_tokens=512,
            micro_tokens=256,
            layers=1,
            workers=0,
            tasks="logic",
            log_every=3,
        )
        Trainer(settings).run()
        assert (tmp_path / name / "log.jsonl").read_text().count("\n") == 2
        model = MaskedDiffusionModel(Shape(n_layers=1))
        load_weights(model, tmp_path / name)
        return model

    batch = next(iter(PackedCanvases(data, tokenizer_file, 1024, 99, {"logic": 1.0})))

    @torch.no_grad()
    def loss(model: MaskedDiffusionModel) -> float:
        logits = model(batch.inputs, batch.positions, batch.starts)
        return float(denoising_loss(logits, batch.targets, batch.weights)[0] / batch.weights.sum())

    torch.manual_seed(0)
    untrained = loss(MaskedDiffusionModel(Shape(n_layers=1)))
    first = leg("first", None)
    assert loss(first) < untrained - 0.5
    assert loss(leg("second", tmp_path / "first")) < loss(first)
