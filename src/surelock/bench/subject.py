"""What is measured: a model, the prompts it is given and the rule its positions lock by."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import torch

from surelock.bench.schedules import SCHEDULES, ScriptedLock, make_schedule
from surelock.bench.shapes import random_model
from surelock.decoding.protocols import LockingRule
from surelock.errors import ParameterError
from surelock.models.config import ModelConfig
from surelock.models.transformer import Transformer
from surelock.params import LockParams

if TYPE_CHECKING:
    from surelock.llm import LLM


@dataclass(frozen=True)
class Subject:
    """One model under one rule.

    Attributes:
        weights: "trained" or "random".
        lock: parameters of the locked side; under a script, which is of rows that only fall, without a refresh.
        rule: in place of the engine's own; None for that.
        text_ids: token ids that prompts are cut from; None for random ids.
        facts: what a result file says about model, weights, prompts and locks.
    """

    model: Transformer
    lock: LockParams
    rule: LockingRule | None
    text_ids: tuple[int, ...] | None
    facts: dict[str, Any]

    @property
    def config(self) -> ModelConfig:
        """The model's sizes."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def prompt(self, index: int, num_tokens: int) -> list[int]:
        """num_tokens token ids, others for every index; the same every time."""
        ids = self._ids
        start = index * 97 % len(ids)
        return [ids[(start + i) % len(ids)] for i in range(num_tokens)]

    @cached_property
    def _ids(self) -> tuple[int, ...]:
        if self.text_ids is not None:
            return self.text_ids
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(0, self.config.vocab_size, (4099,), generator=generator).tolist()
        return tuple(0 if token == self.config.mask_token_id else token for token in ids)

    def check_length(self, option: str, num_positions: int) -> None:
        """Refuse canvases longer than the model's limit.

        Raises:
            ParameterError: naming the option.
        """
        limit = self.config.max_sequence_length
        if num_positions > limit:
            raise ParameterError(
                f"{option} asks for a canvas of {num_positions} positions; the model's limit is {limit}: ask for fewer"
            )


def check_requests(what: str, num: int) -> None:
    """Refuse a number of requests that is not from 1 to 1024.

    Raises:
        ParameterError: it begins with what the number is of.
    """
    if not 1 <= num <= 1024:
        raise ParameterError(f"{what} {num}; it must be from 1 to 1024")


def random_subject(shape: str, schedule: str, *, device: torch.device, dtype: torch.dtype | None = None) -> Subject:
    """Random weights of a named shape, random prompts and scripted locks.

    Raises:
        ParameterError: the shape is unknown, or the device cannot hold it.
    """
    model = random_model(shape, device=device, dtype=dtype)
    return Subject(
        model=model,
        lock=LockParams.permanent(),
        rule=ScriptedLock(make_schedule(schedule, device)),
        text_ids=None,
        facts={
            "model": shape,
            "weights": "random",
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": str(device),
            "prompts": "random token ids",
            "lock": f"scripted, schedule {schedule}: {SCHEDULES[schedule]}; divergences are measured and not used",
            "schedule": schedule,
        },
    )


def trained_subject(llm: LLM, lock: LockParams) -> Subject:
    """A loaded model, text prompts and real locks. Without a tokenizer, prompts are random token ids."""
    text_ids = None
    if llm.tokenizer is not None:
        text = files("surelock.bench").joinpath("prompts.txt").read_text().replace("\n", " ")
        text_ids = tuple(llm.tokenizer.encode(text))
    return Subject(
        model=llm.transformer,
        lock=lock,
        rule=None,
        text_ids=text_ids,
        facts={
            "model": llm.name,
            "weights": "trained",
            "dtype": str(llm.dtype).removeprefix("torch."),
            "device": str(llm.device),
            "prompts": "English text" if text_ids else "random token ids",
            "lock": str(lock),
            "schedule": None,
        },
    )
