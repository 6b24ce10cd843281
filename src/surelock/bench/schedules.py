"""Locks that follow a script, for weights whose divergences mean nothing, and for holding a number of rows.

Requests of any prompt and any number of tokens share a batch: all a rule needs to know of one is read from the view, on
the device. Nothing waits for the device or depends on host numbers of a request, so a rule can be captured in a graph.
A script assumes one token a step and no gaps in the prompt.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import Final, Protocol

import torch
from torch import Tensor

from surelock.decoding.canvases import Mask
from surelock.decoding.protocols import LockDecision, LockNumbers, LockView, Scores
from surelock.ops.take_top import take_top

SCHEDULES: Final = {
    "default": "P [t <= 2] + (N_gen - t + 1) + min(t - 1, 8) active rows in step t",
    "paper": "the active ratio of the paper's Figure 2 (m = 20, epsilon = 5e-3) times N, in step t",
}


class Schedule(Protocol):
    """Active rows of a request in each step."""

    def rows(self, step: Tensor, num_prompt: Tensor, num_generated: Tensor) -> Tensor:
        """int64 [S] rows that step [S] computes of requests of num_prompt [S] + num_generated [S] positions."""
        ...


@dataclass(frozen=True, slots=True)
class DefaultSchedule:
    """Close to what permanent locks leave on trained weights: the masks, and eight tokens that have just settled."""

    def rows(self, step: Tensor, num_prompt: Tensor, num_generated: Tensor) -> Tensor:
        """See `Schedule.rows`."""
        return num_prompt * (step <= 2) + (num_generated - step + 1) + (step - 1).clamp_max(8)


@dataclass(frozen=True, slots=True, eq=False)
class PaperSchedule:
    """Curves read off the paper's Figure 2, between two of them by log N_gen and along each by the share of the run.

    Attributes:
        ratios: float64, the curves one after another. `starts`: int64 [C], where each begins.
        lengths: int64 [C], N_gen of each and its number of points, in rising order.
    """

    ratios: Tensor
    starts: Tensor
    lengths: Tensor

    @classmethod
    def load(cls, device: torch.device) -> PaperSchedule:
        """The curves inside the package."""
        content = json.loads(files("surelock.bench").joinpath("paper_active_ratio.json").read_text())
        curves = [content["active_ratio"][length] for length in sorted(content["active_ratio"], key=int)]
        lengths = torch.tensor([len(curve) for curve in curves])
        ratios = torch.tensor([ratio for curve in curves for ratio in curve], dtype=torch.float64)
        return cls(ratios.to(device), (lengths.cumsum(0) - lengths).to(device), lengths.to(device))

    def rows(self, step: Tensor, num_prompt: Tensor, num_generated: Tensor) -> Tensor:
        """See `Schedule.rows`. Never less than what cannot be locked yet: the masks and the token just committed."""
        num = num_generated.clamp_min(1)
        share = ((step - 1).double() / (num - 1).clamp_min(1)).clamp(0, 1)
        # [S, C]: whether a curve is of fewer tokens.
        above = (self.lengths < num.unsqueeze(1)).sum(1)
        low, high = (above - 1).clamp_min(0), above.clamp_max(len(self.lengths) - 1)
        log_low, log_high = self.lengths[low].double().log(), self.lengths[high].double().log()
        weight = ((num.double().log() - log_low) / (log_high - log_low).clamp_min(1e-9)).clamp(0, 1)
        ratio = torch.lerp(self._at(low, share), self._at(high, share), weight)
        floor = num_generated - step + 1 + (step > 1).long()
        return torch.maximum((ratio * (num_prompt + num_generated)).round().long(), floor)

    def _at(self, curve: Tensor, share: Tensor) -> Tensor:
        last = self.lengths[curve] - 1
        place = share * last
        before = place.floor().long()
        after = torch.minimum(before + 1, last)
        start = self.starts[curve]
        return torch.lerp(self.ratios[start + before], self.ratios[start + after], place - before)


@dataclass(frozen=True, slots=True, eq=False)
class ScriptedLock:
    """Locks the leftmost candidates until the next step has as many active rows as the schedule says.

    It measures its candidates' divergence all the same, so that cost is in every time.
    """

    schedule: Schedule
    needs_scores: bool = True

    def evaluate(self, view: LockView, numbers: LockNumbers, measure: Callable[[Mask], Scores]) -> LockDecision:
        """See `LockingRule.evaluate`."""
        measure(view.candidates)
        # A row that was masked before this step has never been computed with its token as input.
        num_masked = (view.rows & (view.age == 0)).sum(1)
        target = self.schedule.rows(view.step + 1, view.given.sum(1), num_masked + view.step - 1)
        return _lock_leftmost(view, target)


@dataclass(frozen=True, slots=True)
class HeldRows:
    """Keeps as many rows of a request as its `kl_threshold` says, from its second step on.

    Attributes:
        needs_scores: whether the divergence of the candidates is measured all the same, as a real rule would.
    """

    needs_scores: bool = False

    def evaluate(self, view: LockView, numbers: LockNumbers, measure: Callable[[Mask], Scores]) -> LockDecision:
        """See `LockingRule.evaluate`."""
        if self.needs_scores:
            measure(view.candidates)
        return _lock_leftmost(view, numbers.kl_threshold.long())


def make_schedule(name: str, device: torch.device) -> Schedule:
    """The schedule of that name, one of `SCHEDULES`."""
    return PaperSchedule.load(device) if name == "paper" else DefaultSchedule()


def script(schedule: Schedule, num_prompt: int, num_generated: int, device: torch.device) -> list[int]:
    """Active rows of a request alone, step by step, as the schedule says."""
    step = torch.arange(1, num_generated + 1, device=device)
    prompt, generated = torch.full_like(step, num_prompt), torch.full_like(step, num_generated)
    rows = schedule.rows(step, prompt, generated).tolist()
    # All are computed in the first step, and a locked row never comes back.
    scripted: list[int] = []
    lowest: float = math.inf
    for count in [num_prompt + num_generated, *rows[1:]]:
        lowest = min(lowest, count)
        scripted.append(int(lowest))
    return scripted


def _lock_leftmost(view: LockView, target: Tensor) -> LockDecision:
    surplus = view.rows.sum(1) - target
    leftmost = -torch.arange(view.rows.shape[1], device=view.rows.device).expand_as(view.rows).float()
    return LockDecision(take_top(leftmost, view.candidates, surplus), torch.zeros_like(view.step))
