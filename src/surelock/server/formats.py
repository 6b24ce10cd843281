"""The JSON objects of each interface: completions, chat, fill-in-the-middle and llama.cpp's infill."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from surelock.server.results import Result, TokenProbability, usage


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What one chunk of a stream says about one choice."""

    index: int
    text: str | None
    finish_reason: str | None = None
    stop: str | None = None
    probabilities: Sequence[TokenProbability] | None = None
    text_offset: int = 0
    is_first: bool = False
    surelock: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class CompletionFormat:
    """OpenAI's text_completion, and the base of the others; `model` is the name the answer calls the model by."""

    model: str
    fingerprint: str
    id: str = field(init=False)
    created: int = field(default_factory=lambda: int(time.time()))

    prefix: ClassVar[str] = "cmpl"
    kind: ClassVar[str] = "text_completion"
    chunk_kind: ClassVar[str] = "text_completion"
    has_done: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", f"{self.prefix}-{secrets.token_hex(12)}")

    def response(self, results: Sequence[Result]) -> dict[str, Any]:
        """The whole answer at once."""
        choices = [self._choice(result) for result in results]
        return self._envelope(self.kind) | {"choices": choices, "usage": usage(results)}

    def chunk(self, piece: Piece) -> dict[str, Any]:
        """One event of a stream."""
        choice = {
            "index": piece.index,
            "text": piece.text or "",
            "logprobs": _completion_logprobs(piece.probabilities, piece.text_offset),
            "finish_reason": piece.finish_reason,
        }
        return self._chunk(choice, piece)

    def usage_chunk(self, results: Sequence[Result]) -> dict[str, Any]:
        """The event that ends a stream with include_usage."""
        return self._envelope(self.chunk_kind) | {"choices": [], "usage": usage(results)}

    def _choice(self, result: Result) -> dict[str, Any]:
        return self._ended(result) | {
            "text": result.final.text,
            "logprobs": _completion_logprobs(result.probabilities, 0),
            "surelock": result.summary | {"gaps": [gap.text for gap in result.output.gaps]},
        }

    def _ended(self, result: Result) -> dict[str, Any]:
        return {
            "index": result.choice.index,
            "finish_reason": result.finish_reason,
            "stop_reason": result.final.stop,
            "surelock": result.summary,
        }

    def _chunk(self, choice: dict[str, Any], piece: Piece) -> dict[str, Any]:
        if piece.stop is not None:
            choice["stop_reason"] = piece.stop
        chunk = self._envelope(self.chunk_kind) | {"choices": [choice]}
        return chunk if piece.surelock is None else chunk | {"surelock": piece.surelock}

    def _envelope(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


class ChatFormat(CompletionFormat):
    """OpenAI's chat.completion."""

    prefix: ClassVar[str] = "chatcmpl"
    kind: ClassVar[str] = "chat.completion"
    chunk_kind: ClassVar[str] = "chat.completion.chunk"

    def _choice(self, result: Result) -> dict[str, Any]:
        return self._ended(result) | {
            "message": {"role": "assistant", "content": result.final.text, "refusal": None},
            "logprobs": _chat_logprobs(result.probabilities),
        }

    def chunk(self, piece: Piece) -> dict[str, Any]:
        delta: dict[str, Any] = {"role": "assistant"} if piece.is_first else {}
        if piece.text is not None:
            delta["content"] = piece.text
        choice = {
            "index": piece.index,
            "delta": delta,
            "logprobs": _chat_logprobs(piece.probabilities),
            "finish_reason": piece.finish_reason,
        }
        return self._chunk(choice, piece)


class FimFormat(ChatFormat):
    """Fill in the middle: as Mistral's chat-like answer, with the text as a completion's `text` too."""

    prefix: ClassVar[str] = "fim"

    def _choice(self, result: Result) -> dict[str, Any]:
        return super()._choice(result) | {"text": result.final.text}

    def chunk(self, piece: Piece) -> dict[str, Any]:
        chunk = super().chunk(piece)
        chunk["choices"][0]["text"] = piece.text or ""
        return chunk


class InfillFormat(CompletionFormat):
    """llama.cpp's infill: `content`, one choice, no [DONE]."""

    prefix: ClassVar[str] = "infill"
    has_done: ClassVar[bool] = False

    def response(self, results: Sequence[Result]) -> dict[str, Any]:
        (result,) = results
        return {
            "content": result.final.text,
            "model": self.model,
            "stop": True,
            "stop_type": _stop_type(result.finish_reason, result.final.stop),
            "stopping_word": result.final.stop or "",
            "tokens_predicted": len(result.final.tokens),
            "tokens_evaluated": result.choice.prompt_tokens,
            "truncated": False,
            "surelock": result.summary,
        }

    def chunk(self, piece: Piece) -> dict[str, Any]:
        chunk: dict[str, Any] = {"content": piece.text or "", "stop": piece.finish_reason is not None}
        if piece.finish_reason is not None:
            chunk |= {"stop_type": _stop_type(piece.finish_reason, piece.stop), "stopping_word": piece.stop or ""}
        return chunk if piece.surelock is None else chunk | {"surelock": piece.surelock}


def _stop_type(finish_reason: str, stop: str | None) -> str:
    if stop is not None:
        return "word"
    return "eos" if finish_reason == "stop" else "limit"


def _completion_logprobs(tokens: Sequence[TokenProbability] | None, offset: int) -> dict[str, Any] | None:
    if tokens is None:
        return None
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.text)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        # Only the committed token's probability is kept.
        "top_logprobs": None,
        "text_offset": offsets,
    }


def _chat_logprobs(tokens: Sequence[TokenProbability] | None) -> dict[str, Any] | None:
    if tokens is None:
        return None
    content = [
        {"token": token.text, "logprob": token.logprob, "bytes": list(token.text.encode()), "top_logprobs": []}
        for token in tokens
    ]
    return {"content": content, "refusal": None}
