"""Parameters out of their limits: one line that names the field, the value, the limit and the way out."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from surelock import LockParams, SamplingParams, SureLockError
from surelock.config import EngineConfig
from surelock.errors import ParameterError
from surelock.params import LOCK_FIELDS_WITH_NONE

NOT_FINITE = [math.nan, math.inf, -math.inf, float("1e999")]

BAD_SAMPLING: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": 10**12}, r"max_tokens is 1000000000000; it must be from 0 to 1048576"),
    ({"max_tokens": 10**5000}, r"max_tokens is .*; it must be from 0"),
    ({"temperature": 10**5000}, r"temperature is .*; it must be a finite number"),
    ({"max_tokens": -1}, r"max_tokens is -1; it must be from 0"),
    ({"max_tokens": True}, r"max_tokens is True; it must be an integer"),
    ({"max_tokens": "5"}, r"max_tokens is '5'; it must be an integer"),
    ({"max_tokens": 5.0}, r"max_tokens is 5.0; it must be an integer"),
    ({"max_tokens": None}, r"max_tokens is None; it must be an integer"),
    ({"steps": 0}, r"steps is 0; it must be from 1 to 65536: or None"),
    ({"steps": 10**9}, r"steps is 1000000000; it must be from 1 to 65536"),
    ({"block_length": 0}, r"block_length is 0; it must be from 1"),
    ({"block_length": 10**9}, r"block_length is 1000000000"),
    ({"temperature": -0.1}, r"temperature is -0.1; it must be a finite number from 0 to 100"),
    ({"temperature": "hot"}, r"temperature is 'hot'; it must be a number"),
    ({"cfg_scale": -1}, r"cfg_scale is -1; it must be a finite number from 0"),
    ({"unmasking": "low-confidence"}, r"unmasking is 'low-confidence'; it must be one of low_confidence, random"),
    ({"seed": -1}, r"seed is -1; it must be from 0"),
    ({"seed": 2**63}, r"seed is 9223372036854775808"),
    ({"seed": 1.5}, r"seed is 1.5; it must be an integer"),
    ({"stop": "\n"}, r"stop is '\\n'; it must be a tuple of strings"),
    ({"stop": ("",)}, r"stop holds ''; each must be a string of 1 to 256 characters"),
    ({"stop": ("x" * 257,)}, r"stop holds 'x+'\.\.\.; each must be a string of 1 to 256 characters"),
    ({"stop": ("a",) * 10_000}, r"stop has 10000 strings; the limit is 16"),
    ({"stop": (3,)}, r"stop holds 3; each must be a string"),
    ({"ignore_eos": 1}, r"ignore_eos is 1; it must be true or false"),
    ({"allow_mask": "yes"}, r"allow_mask is 'yes'; it must be true or false"),
    ({"lock": 5e-4}, r"lock is 0.0005; it must be a LockParams, or None for no locking"),
    *(({"temperature": value}, r"temperature is -?(nan|inf); it must be a finite number") for value in NOT_FINITE),
    *(({"cfg_scale": value}, r"cfg_scale is -?(nan|inf); it must be a finite number") for value in NOT_FINITE),
]

BAD_LOCK: list[tuple[dict[str, Any], str]] = [
    *(({"kl_threshold": value}, r"lock.kl_threshold is -?(nan|inf); it must be a finite") for value in NOT_FINITE),
    ({"kl_threshold": True}, r"lock.kl_threshold is True; it must be a number"),
    ({"kl_threshold": None}, r"lock.kl_threshold is None; it must be a number"),
    ({"confidence_percentile": 101}, r"lock.confidence_percentile is 101; it must be a finite number from 0 to 100"),
    ({"confidence_percentile": math.nan}, r"lock.confidence_percentile is nan"),
    ({"gate_scope": "all"}, r"lock.gate_scope is 'all'; it must be one of candidates, active, kl_passing"),
    ({"min_visible_steps": -1}, r"lock.min_visible_steps is -1; it must be from 0"),
    ({"min_visible_steps": 10**9}, r"lock.min_visible_steps is 1000000000"),
    ({"kl_both_visible": 0}, r"lock.kl_both_visible is 0; it must be true or false"),
    ({"refresh": -1}, r"lock.refresh is -1; it must be from 0 .* 0 or None for no refresh"),
    ({"refresh": 6.0}, r"lock.refresh is 6.0; it must be an integer"),
    ({"refresh": False}, r"lock.refresh is False; it must be an integer"),
    ({"prompt_lock_step": 0}, r"lock.prompt_lock_step is 0; it must be from 1 .* or None"),
    ({"allow_noise_eps": None}, r"lock.allow_noise_eps is None; it must be true or false"),
]


@pytest.mark.parametrize(("values", "message"), BAD_SAMPLING)
def test_bad_sampling_params(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message) as caught:
        SamplingParams(**values)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, SureLockError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(("values", "message"), BAD_LOCK)
def test_bad_lock_params(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message) as caught:
        LockParams(**values)
    assert "\n" not in str(caught.value)


def test_unknown_fields_are_refused_and_fields_cannot_be_changed() -> None:
    with pytest.raises(TypeError, match="temprature"):
        SamplingParams(temprature=0.5)  # type: ignore[call-arg]
    with pytest.raises(AttributeError):
        SamplingParams().max_tokens = 3  # type: ignore[misc]


@pytest.mark.parametrize("value", [-0.0, 5e-324, 0, 100])
def test_signed_zero_denormals_and_integers_are_numbers(value: float) -> None:
    assert SamplingParams(temperature=value, cfg_scale=value).temperature == value


def test_defaults_and_presets() -> None:
    assert LockParams() == LockParams(
        kl_threshold=5e-4,
        confidence_percentile=None,
        gate_scope="candidates",
        min_visible_steps=1,
        kl_both_visible=False,
        prompt_lock_step=None,
        refresh=6,
        allow_noise_eps=False,
    )
    assert LockParams.permanent(5e-3) == LockParams(kl_threshold=5e-3, refresh=None)
    assert LockParams.paper(5e-3) == LockParams(
        kl_threshold=5e-3, confidence_percentile=20, min_visible_steps=0, refresh=None
    )
    assert SamplingParams().lock == LockParams()
    assert SamplingParams(stop=["a"]).stop == ("a",)  # type: ignore[arg-type]


def test_a_refresh_of_0_is_none() -> None:
    assert LockParams(refresh=0) == LockParams.permanent()
    assert LockParams(refresh=0).refresh is None
    assert replace(LockParams(), refresh=0) == LockParams.permanent()


def test_the_lock_fields_in_which_none_is_a_value() -> None:
    assert sorted(LOCK_FIELDS_WITH_NONE) == ["confidence_percentile", "prompt_lock_step", "refresh"]


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("max_batch_size", [0, -1, 1025, 10**5000, True, 2.0, None, "8"], "an integer from 1 to 1024"),
        ("max_rows", [0, -1, (1 << 20) + 1, True, 4096.0, "all"], "an integer from 1 to 1048576"),
        ("max_graphs", [0, -1, (1 << 16) + 1, False, 1.5, None], "an integer from 1 to 65536"),
        ("num_threads", [0, -1, 1025, True, 2.0, "auto"], "an integer from 1 to 1024"),
        (
            "memory_fraction",
            [0, -0.5, 1.01, float("nan"), float("inf"), True, None, "90%"],
            "a number above 0, up to 1",
        ),
        ("cuda_graphs", [None, 1, "no"], "true or false"),
        ("poison", [None, 0], "true or false"),
    ],
)
def test_bad_engine_config(name: str, values: list[Any], expected: str) -> None:
    for value in values:
        with pytest.raises(ParameterError, match=f"^{name} is .*; it must be {expected}$") as caught:
            EngineConfig(**{name: value})
        assert len(str(caught.value)) < 200


def test_limits_of_engine_config_are_accepted() -> None:
    EngineConfig(max_batch_size=1, max_rows=1, memory_fraction=1e-6, max_graphs=1, cuda_graphs=False, poison=True)
    EngineConfig(max_batch_size=1024, max_rows=1 << 20, memory_fraction=1, max_graphs=1 << 16)
    assert EngineConfig(num_threads=1024).num_threads == 1024
    assert EngineConfig().max_rows is None
    assert EngineConfig().num_threads is None
