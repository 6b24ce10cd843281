"""Parity with the unmodified reference LLaDA code on tiny checkpoints (tests/data/golden/README.md)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from surelock.config import EngineConfig
from surelock.decoding.oracle import oracle_decode
from surelock.engine.engine import Engine
from surelock.llm import LLM
from surelock.models.transformer import Transformer
from surelock.params import LockParams, SamplingParams

FOLDER = Path(__file__).parent / "data" / "golden" / "llada"
VARIANTS = ("mha4", "opts")


@cache
def load(variant: str) -> tuple[LLM, dict[str, np.ndarray]]:
    with np.load(FOLDER / variant / "golden.npz") as arrays:
        return LLM(FOLDER / variant), dict(arrays)


@cache
def index() -> dict[str, Any]:
    contents: dict[str, Any] = json.loads((FOLDER / "index.json").read_text())
    return contents


def cases() -> Iterator[tuple[str, str, str]]:
    for variant in VARIANTS:
        for name, case in index()[variant]["cases"].items():
            if "seed" not in case:
                yield from ((variant, name, prompt) for prompt in case["on"])


def params_of(variant: str, name: str, prompt: str, **overrides: Any) -> SamplingParams:
    case = index()[variant]["cases"][name]
    values = {
        "max_tokens": case["gen_length"],
        "steps": case["steps"],
        "block_length": case["block_length"],
        "cfg_scale": case.get("cfg_scale", 0.0),
        "allow_mask": f"{name}/{prompt}" in index()[variant]["outputs_with_mask_left"],
        "lock": None,
    }
    return SamplingParams(**{**values, **overrides})


def rows_of(variant: str, kind: str, name: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(token ids without padding, which columns they are) for each row of a golden input."""
    _, arrays = load(variant)
    ids = arrays[f"{kind}/{name}"]
    mask = arrays.get(f"{kind}_mask/{name}", np.ones_like(ids)).astype(bool)
    for row, keep in zip(ids, mask, strict=True):
        yield row[keep], keep


def canvas_of(model: Transformer, ids: np.ndarray) -> list[int | None]:
    return [None if token == model.config.mask_token_id else int(token) for token in ids]


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits(variant: str) -> None:
    llm, arrays = load(variant)
    names = [name.removeprefix("input/") for name in arrays if name.startswith("input/")]
    assert len(names) == 6
    for name in names:
        for row, (ids, keep) in enumerate(rows_of(variant, "input", name)):
            expected = arrays[f"logits/{name}"][row][keep]
            error = np.abs(llm.logits([ids.tolist()]).numpy() - expected).max() / np.abs(expected).max()
            assert error < 1e-5, name


@pytest.mark.parametrize(("variant", "name", "prompt"), list(cases()))
def test_tokens_without_locking(variant: str, name: str, prompt: str) -> None:
    llm, arrays = load(variant)
    model = llm.transformer
    params = params_of(variant, name, prompt)
    engine = Engine(model, EngineConfig(poison=True))
    expected, requests = [], []
    for row, (ids, keep) in enumerate(rows_of(variant, "prompt", prompt)):
        columns = np.concatenate([keep, np.ones(params.max_tokens, dtype=bool)])
        expected.append(arrays[f"tokens/{name}/{prompt}"][row][columns].tolist())
        requests.append(engine.add_request(canvas_of(model, ids), params))
    final = {}
    while engine.has_unfinished:
        final.update({snapshot.request: snapshot.tokens for snapshot in engine.step()})
    assert [final[request] for request in requests] == expected
    for request, tokens in zip(requests, expected, strict=True):
        oracle = oracle_decode(model, request.canvas_ids, params, mask_token_id=model.config.mask_token_id)
        assert oracle.tokens == tokens
        # One token a step at most, and no step without one.
        assert request.step == min(params.steps or 0, params.max_tokens)


def test_every_forward_saw_the_reference_canvas() -> None:
    """Not only the result: the canvas before each of the reference's forwards, idle ones included."""
    llm, arrays = load("mha4")
    params = params_of("mha4", "g16s32b8_idle", "p0", allow_mask=True)
    history = arrays["hist/g16s32b8_idle/p0"][:, 0]
    prompt = {"prompt_token_ids": arrays["prompt/p0"][0].tolist()}
    mask = llm.config.mask_token_id
    seen = [[mask if i is None else i for i in update.canvas_token_ids] for update in llm.stream(prompt, params)]
    assert len(history) == len(seen) == 32
    assert seen[:-1] == history[1:].tolist()


@pytest.mark.parametrize(("variant", "name", "prompt"), [("mha4", "g32s16b8", "p0"), ("opts", "g32s16b8", "p1")])
@pytest.mark.parametrize("threshold", [-1.0, -1e-12])
def test_negative_threshold_is_locking_off(variant: str, name: str, prompt: str, threshold: float) -> None:
    llm, arrays = load(variant)
    params = params_of(variant, name, prompt, lock=LockParams(kl_threshold=threshold, prompt_lock_step=1))
    output = llm.generate({"prompt_token_ids": arrays[f"prompt/{prompt}"][0].tolist()}, params)[0]
    assert output.canvas_token_ids == arrays[f"tokens/{name}/{prompt}"][0].tolist()
    assert output.stats.active_ratio == 1.0


def test_half_precision_forward_is_the_reference_within_its_rounding() -> None:
    llm = LLM(FOLDER / "mha4", dtype="bfloat16")
    _, arrays = load("mha4")
    logits = llm.logits(arrays["input/prompt_plus_mask"].tolist())
    expected = torch.from_numpy(arrays["logits_bf16/prompt_plus_mask"][0])
    # One bfloat16 unit in the last place is 2^-8 of the value; the largest logits differ by a few of them.
    assert float((logits - expected).abs().max() / expected.abs().max()) < 4 * 2**-8
