"""FLOPs accounting: LLaDA-8B's published numbers, the formula against counted matrix products, and the modes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from surelock.bench.shapes import LLADA_8B
from surelock.flops import RowCost, paper_batch, request_flops, truncated
from surelock.models.config import ModelConfig

GROUPED = replace(
    LLADA_8B,
    hidden_size=48,
    intermediate_size=80,
    num_layers=3,
    num_heads=6,
    num_kv_heads=2,
    head_dim=16,
    embedding_size=96,
)


def test_row_cost_of_llada_8b() -> None:
    cost = RowCost.from_config(LLADA_8B)
    assert cost == RowCost(linear=13_958_643_712, attention_per_key=524_288, head=1_035_993_088)


@pytest.mark.parametrize("config", [GROUPED, replace(GROUPED, num_kv_heads=6)], ids=["grouped", "multi-head"])
@pytest.mark.parametrize(("num_rows", "num_keys"), [(1, 1), (5, 11)])
def test_row_cost_equals_the_counted_matrix_products(config: ModelConfig, num_rows: int, num_keys: int) -> None:
    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(*shape, device="meta")

    hidden, query, kv, inner = config.hidden_size, config.query_size, config.kv_size, config.intermediate_size
    rows = empty(num_rows, hidden)
    q = empty(config.num_heads, num_rows, config.head_dim)
    k = v = empty(config.num_heads, num_keys, config.head_dim)
    with FlopCounterMode(display=False) as counter:
        for _ in range(config.num_layers):
            for outputs, inputs in (
                (query, hidden),
                (kv, hidden),
                (kv, hidden),
                (hidden, query),
                (inner, hidden),
                (inner, hidden),
                (hidden, inner),
            ):
                F.linear(empty(num_rows, inputs), empty(outputs, inputs))
            (q @ k.mT) @ v
    cost = RowCost.from_config(config)
    assert counter.get_total_flops() == num_rows * cost.transformer(num_keys)

    with FlopCounterMode(display=False) as counter:
        F.linear(rows, empty(config.embedding_size, hidden))
    assert counter.get_total_flops() == num_rows * cost.head


@pytest.mark.parametrize(
    ("num_generated", "steps", "published"),
    [
        (64, 32, "4.488e11"),
        (64, 64, "8.976e11"),
        (128, 64, "8.997e11"),
        (128, 128, "1.799e12"),
        (256, 128, "1.808e12"),
        (256, 256, "3.616e12"),
        (512, 256, "3.650e12"),
        (512, 512, "7.301e12"),
    ],
)
def test_paper_batch_reproduces_the_baselines_of_table_2(num_generated: int, steps: int, published: str) -> None:
    flops = paper_batch(LLADA_8B, prompt_lengths=[64] * 4, num_generated=num_generated, steps=steps)
    assert truncated(flops["base"]) == published
    assert flops["locked"] == flops["base"]
    assert flops["ratio"] == flops["active_ratio"] == 1.0


def test_paper_batch_counts_pads_as_rows_that_are_always_active() -> None:
    # N = 6 + 4. The first sequence has 4 pads; both lock everything after step 1, so only the pads remain active.
    flops = paper_batch(LLADA_8B, prompt_lengths=[2, 6], num_generated=4, steps=3, active_rows=[[6, 0, 0], [10, 0, 0]])
    row = RowCost.from_config(LLADA_8B).transformer(10)
    num_computed = 20 + 4 + 4
    assert flops["base"] == 3 * row
    assert flops["locked"] == pytest.approx(num_computed / 20 * row, rel=1e-15)
    assert flops["active_ratio"] == num_computed / 60
    assert flops["ratio"] == pytest.approx(flops["active_ratio"], rel=1e-15)


def test_paper_batch_of_one_request_equals_its_paper_mode() -> None:
    rows = [12, 12, 9, 3]
    request = request_flops(
        LLADA_8B, active_rows=rows, num_positions=12, masked_rows=[4, 3, 2, 1], candidate_rows=[0, 8, 6, 0]
    )
    batch = paper_batch(LLADA_8B, prompt_lengths=[8], num_generated=4, steps=4, active_rows=[rows])
    assert request["paper"] == {key: batch[key] for key in ("base", "locked", "ratio")}


def test_request_flops_by_hand() -> None:
    flops = request_flops(
        LLADA_8B, active_rows=[5, 5, 2], num_positions=5, masked_rows=[2, 1, 1], candidate_rows=[0, 3, 0]
    )
    row = 13_958_643_712 + 5 * 524_288
    head = 1_035_993_088
    assert flops["paper"] == pytest.approx({"base": 3 * row, "locked": 12 * row / 5, "ratio": 12 / 15}, rel=1e-15)
    assert flops["exact"] == {"base": 15 * row, "locked": 12 * row, "ratio": 12 / 15}
    full_base, full_locked = 15 * row + 4 * head, 12 * row + (4 + 2 * 3) * head
    assert flops["full"] == {"base": full_base, "locked": full_locked, "ratio": full_locked / full_base}


def test_guidance_doubles_the_transformer_and_not_the_head() -> None:
    def flops(num_streams: int) -> dict[str, dict[str, float]]:
        return request_flops(
            LLADA_8B,
            active_rows=[7, 4],
            num_positions=7,
            masked_rows=[3, 2],
            candidate_rows=[0, 2],
            num_streams=num_streams,
        )

    one, two = flops(1), flops(2)
    assert two["paper"] == one["paper"]
    for side in ("base", "locked"):
        assert two["exact"][side] == 2 * one["exact"][side]
        assert two["full"][side] - two["exact"][side] == one["full"][side] - one["exact"][side]


def test_a_request_without_steps_costs_nothing() -> None:
    flops = request_flops(LLADA_8B, active_rows=[], num_positions=9, masked_rows=[], candidate_rows=[])
    assert list(flops) == ["paper", "exact", "full"]
    for mode in flops.values():
        assert mode == {"base": 0.0, "locked": 0.0, "ratio": 1.0}


@st.composite
def requests(draw: st.DrawFn) -> dict[str, list[int] | int]:
    num_positions = draw(st.integers(1, 4096))
    steps = draw(st.integers(1, 12))
    counts = st.lists(st.integers(0, num_positions), min_size=steps, max_size=steps)
    return {
        "num_positions": num_positions,
        "active_rows": draw(counts),
        "masked_rows": draw(counts),
        "candidate_rows": draw(counts),
    }


@given(request=requests())
def test_the_modes_agree_with_one_another(request: dict[str, list[int] | int]) -> None:
    active, num_positions = request["active_rows"], request["num_positions"]
    assert isinstance(active, list)
    assert isinstance(num_positions, int)
    flops = request_flops(LLADA_8B, **request)  # type: ignore[arg-type]
    paper, exact, full = flops["paper"], flops["exact"], flops["full"]
    active_ratio = sum(active) / (len(active) * num_positions)
    assert exact["ratio"] == pytest.approx(active_ratio)
    assert paper["ratio"] == pytest.approx(active_ratio)
    assert exact["base"] == pytest.approx(paper["base"] * num_positions)
    for side in ("base", "locked"):
        assert full[side] >= exact[side] >= paper[side]
    assert exact["locked"] <= exact["base"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_positions": 0}, "num_positions is 0; it must be at least 1"),
        ({"num_streams": 0}, "num_streams is 0; it must be at least 1"),
        ({"masked_rows": [1]}, "masked_rows has 1 steps; it must have 2"),
        ({"candidate_rows": [0, 0, 0]}, "candidate_rows has 3 steps; it must have 2"),
        ({"active_rows": [4, 5]}, "active_rows is 5 in step 2; it must be from 0 to 4"),
        ({"candidate_rows": [-1, 0]}, "candidate_rows is -1 in step 1"),
    ],
)
def test_request_flops_refuses_counts_that_do_not_fit(changes: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "active_rows": [4, 3],
        "num_positions": 4,
        "masked_rows": [2, 1],
        "candidate_rows": [0, 0],
    }
    with pytest.raises(ValueError, match=message) as caught:
        request_flops(LLADA_8B, **(arguments | changes))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt_lengths": []}, "prompt_lengths is empty"),
        ({"prompt_lengths": [3, -1]}, "prompt_lengths is -1; it must be at least 0"),
        ({"num_generated": 0}, "num_generated is 0; it must be at least 1"),
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"active_rows": [[5, 5]]}, "active_rows has 1 sequences; it must have 2"),
        ({"active_rows": [[5], [5, 5]]}, "active_rows has 1 steps; it must have 2"),
        ({"active_rows": [[5, 5], [4, 5]]}, "active_rows is 5 in step 2; it must be from 0 to 4"),
    ],
)
def test_paper_batch_refuses_what_it_cannot_count(changes: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"prompt_lengths": [3, 2], "num_generated": 2, "steps": 2, "active_rows": None}
    with pytest.raises(ValueError, match=message) as caught:
        paper_batch(LLADA_8B, **(arguments | changes))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "digits", "expected"),
    [
        (1.799591e12, 4, "1.799e12"),
        (1.7999e12, 2, "1.7e12"),
        (999_999, 3, "9.99e5"),
        (0.29, 4, "2.900e-1"),
        (-1.999, 2, "-1.9e0"),
        (5, 1, "5e0"),
        (0, 4, "0.000e0"),
        (10**30 + 1, 4, "1.000e30"),
    ],
)
def test_truncated(value: float, digits: int, expected: str) -> None:
    assert truncated(value, digits) == expected


@pytest.mark.parametrize(
    ("value", "digits", "message"), [(1.0, 0, "digits is 0"), (float("nan"), 4, "finite"), (float("inf"), 4, "finite")]
)
def test_truncated_refuses(value: float, digits: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        truncated(value, digits)
