"""What is told about a choice: its text, its token probabilities, what it cost."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from surelock.assemble import request_output
from surelock.llm import LLM
from surelock.output import RequestOutput
from surelock.server.prepare import Choice, tokenizer_of
from surelock.server.recorder import RecordedSnapshot
from surelock.text.answers import FinalText, token_texts


@dataclass(frozen=True, slots=True)
class TokenProbability:
    """A generated token: the text it adds, and the log of its probability when it was committed."""

    text: str
    logprob: float


@dataclass(frozen=True, slots=True)
class Result:
    """A finished choice.

    Attributes:
        snapshot: its last.
        final: the answer.
        probabilities: of the answer's tokens, if they were asked for.
        output: everything else.
    """

    choice: Choice
    snapshot: RecordedSnapshot
    final: FinalText
    probabilities: list[TokenProbability] | None
    output: RequestOutput

    @property
    def finish_reason(self) -> Literal["stop", "length"]:
        """OpenAI's word for why the answer ended."""
        return "stop" if self.final.is_cut else "length"

    @property
    def num_locked(self) -> int:
        """Positions locked at the end."""
        return sum(step is not None for step in self.snapshot.locked_at)

    @property
    def summary(self) -> dict[str, Any]:
        """The object `surelock` of a finished choice."""
        stats = self.output.stats
        flops = stats.flops["full"]
        return {
            "steps": stats.steps,
            "active_ratio": stats.active_ratio,
            "locked_fraction": self.num_locked / max(len(stats.locked_at), 1),
            "saved_flops": 1 - flops["ratio"],
            "flops": flops,
            "seconds": self.snapshot.seconds,
            "seed": stats.seed,
            "notes": list(self.output.notes),
        }


def finished(llm: LLM, choice: Choice, snapshot: RecordedSnapshot, *, with_probabilities: bool) -> Result:
    """The result of a choice's last snapshot."""
    tokenizer = tokenizer_of(llm)
    final = choice.layout.final_text(snapshot.tokens, snapshot.masked, tokenizer.decode)
    chances = probabilities(llm, choice, snapshot, final.tokens) if with_probabilities else None
    return Result(choice, snapshot, final, chances, request_output(snapshot, llm.config, tokenizer))


def probabilities(llm: LLM, choice: Choice, snapshot: RecordedSnapshot, tokens: list[int]) -> list[TokenProbability]:
    """Of the first tokens of an answer."""
    texts = token_texts(tokens, tokenizer_of(llm).decode)
    confidences = (snapshot.commits[position][1] for position in choice.layout.positions)
    return [
        # A confidence rounds to 0 at worst, whose log JSON cannot say.
        TokenProbability(text, math.log(max(confidence, 1e-38)))
        for text, confidence in zip(texts, confidences, strict=False)
    ]


def usage(results: Iterable[Result]) -> dict[str, Any]:
    """OpenAI's token counts, each prompt's tokens counted once for each of its choices, and what locking saved."""
    everything = list(results)
    prompt_tokens = sum(result.choice.prompt_tokens for result in everything)
    completion_tokens = sum(len(result.final.tokens) for result in everything)
    flops = [result.output.stats.flops["full"] for result in everything]
    base = sum(each["base"] for each in flops)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "surelock": {
            "steps": sum(result.output.stats.steps for result in everything),
            "saved_flops": 1 - sum(each["locked"] for each in flops) / base if base else 0.0,
            "seconds": max((result.snapshot.seconds for result in everything), default=0.0),
        },
    }
