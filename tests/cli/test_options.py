from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from typer.main import get_command

from surelock.cli.main import app
from surelock.cli.options import LockOptions, ModelOptions, SamplingOptions, sampling_params
from surelock.errors import ParameterError
from surelock.params import LockParams, SamplingParams
from tests.cli.conftest import FakeLibrary, Run, assert_one_line_error


def test_defaults_are_the_library_s() -> None:
    assert sampling_params(128, SamplingOptions(), LockOptions(), ModelOptions()) == SamplingParams()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], LockParams()),
        (["--no-lock"], None),
        (["--paper"], LockParams.paper()),
        (["--permanent"], LockParams.permanent()),
        (["--permanent", "--kl-threshold", "1e-3"], LockParams(kl_threshold=1e-3, refresh=None)),
        (["--refresh", "3"], LockParams(refresh=3)),
        (["--refresh", "0"], LockParams.permanent()),
        (["--paper", "--kl-threshold", "1e-3"], LockParams.paper(1e-3)),
        (["--kl-threshold", "0"], LockParams(kl_threshold=0)),
        (["--kl-threshold", "-1"], LockParams(kl_threshold=-1)),
        (["--min-visible-steps", "0"], LockParams(min_visible_steps=0)),
        (["--confidence-percentile", "0"], LockParams(confidence_percentile=0)),
        (
            ["--confidence-percentile", "20", "--gate-scope", "active", "--kl-both-visible", "--prompt-lock-step", "2"],
            LockParams(confidence_percentile=20, gate_scope="active", kl_both_visible=True, prompt_lock_step=2),
        ),
        (["--allow-noise-eps"], LockParams(allow_noise_eps=True)),
    ],
)
def test_lock_options_reach_the_library(
    run: Run, library: FakeLibrary, arguments: list[str], expected: LockParams | None
) -> None:
    assert run("generate", "x", "-n", "4", *arguments).exit_code == 0
    ((_, params),) = library.calls
    assert params.lock == expected


def test_sampling_options_reach_the_library(run: Run, library: FakeLibrary) -> None:
    text = "-n 8 --steps 4 --block-length 4 --temperature 0.5 --cfg-scale 1.5 --unmasking random --seed 7"
    assert run("generate", "x", *text.split(), "--stop", "a b", "--stop", "c", "--ignore-eos").exit_code == 0
    ((_, params),) = library.calls
    assert params == SamplingParams(
        max_tokens=8,
        steps=4,
        block_length=4,
        temperature=0.5,
        cfg_scale=1.5,
        unmasking="random",
        seed=7,
        stop=("a b", "c"),
        ignore_eos=True,
    )


def test_model_options_reach_the_library(run: Run, library: FakeLibrary) -> None:
    text = "-n 2 -m some/model --dtype bfloat16 --device cuda:1 --revision abc --offline"
    assert run("generate", "x", *text.split()).exit_code == 0
    (llm,) = library.made
    assert (llm.model, llm.dtype, llm.device, llm.revision, llm.offline) == (
        "some/model",
        "bfloat16",
        "cuda:1",
        "abc",
        True,
    )


def test_threads_are_those_asked_for(run: Run, library: FakeLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    assert run("generate", "x", "-n", "2").exit_code == 0
    assert asked == []
    assert run("generate", "x", "-n", "2", "--threads", "3").exit_code == 0
    assert run("bench", "ops", "--shape", "tiny", "--device", "nowhere", "--threads", "4").exit_code == 2
    assert asked == [3, 4]
    assert_one_line_error(run("generate", "x", "--threads", "0"), "--threads")


def test_every_command_that_loads_a_model_takes_threads() -> None:
    def commands(group: Any) -> Iterator[Any]:
        for each in getattr(group, "commands", {}).values():
            yield each
            yield from commands(each)

    options = [[name for parameter in own.params for name in parameter.opts] for own in commands(get_command(app))]
    loading = [names for names in options if "--model" in names]
    assert len(loading) >= 15
    assert all(names.count("--threads") == 1 for names in loading)


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["--no-lock", "--kl-threshold", "1e-3"], "--kl-threshold contradicts --no-lock"),
        (["--no-lock", "--kl-threshold", "0"], "--kl-threshold contradicts --no-lock"),
        (["--no-lock", "--paper"], "--paper contradicts --no-lock"),
        (["--permanent", "--paper"], "--paper contradicts --permanent"),
        (["--permanent", "--refresh", "0"], "--refresh contradicts --permanent"),
        (["--paper", "--refresh", "0"], "--refresh contradicts --paper"),
        (["--calibrated", "--kl-threshold", "1e-3"], "--kl-threshold contradicts --calibrated"),
        (["--calibrated", "--no-lock"], "--no-lock contradicts --calibrated"),
        (["--no-lock", "--allow-noise-eps"], "--allow-noise-eps contradicts --no-lock"),
        (["--paper", "--confidence-percentile", "30"], "--confidence-percentile contradicts --paper"),
        (["--paper", "--min-visible-steps", "0"], "--min-visible-steps contradicts --paper"),
        (["--gate-scope", "active"], "no effect without --confidence-percentile"),
        (["--temperature", "nan"], "temperature is nan"),
        (["--temperature", "-0.5"], "temperature is -0.5"),
        (["--kl-threshold", "inf"], "lock.kl_threshold is inf"),
        (["--steps", "0"], "steps is 0"),
        (["--max-tokens", "-1"], "max_tokens is -1"),
        (["--stop", ""], "stop holds ''"),
        (["--seed", "-1"], "seed is -1"),
    ],
)
def test_bad_values_stop_before_the_model_is_loaded(
    run: Run, library: FakeLibrary, arguments: list[str], fragment: str
) -> None:
    assert_one_line_error(run("generate", "x", *arguments), fragment)
    assert not library.made


@pytest.mark.parametrize("values", [{"no_lock": True, "kl_threshold": 0.0}, {"no_lock": True, "min_visible_steps": 0}])
def test_zero_counts_as_given(values: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match="contradicts --no-lock"):
        LockOptions(**values).lock_params(ModelOptions())
