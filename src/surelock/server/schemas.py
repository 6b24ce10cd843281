"""What each route takes, as strict pydantic models; docs/serving.md explains the fields."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, field_validator

from surelock.params import MAX_STEPS, MAX_STOP_LENGTH, MAX_STOPS, MAX_TOKENS, GateScope, Unmasking

Item = TypeVar("Item")
# One error for a list, not one for each of its items.
Items: TypeAlias = Annotated[list[Item], Field(fail_fast=True)]
Number = Annotated[float, Field(allow_inf_nan=False)]
TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]


class Strict(BaseModel):
    """No conversion of types, no fields that are not there."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class LockFields(Strict):
    """See `LockParams`; what is left out comes from `preset`."""

    kl_threshold: Annotated[Number, Field(ge=-1e9, le=1e9)] | None = None
    confidence_percentile: Annotated[Number, Field(ge=0, le=100)] | None = None
    gate_scope: GateScope | None = None
    min_visible_steps: Annotated[int, Field(ge=0, le=MAX_STEPS)] | None = None
    kl_both_visible: bool | None = None
    prompt_lock_step: Annotated[int, Field(ge=1, le=MAX_STEPS)] | None = None
    refresh: Annotated[int, Field(ge=1, le=MAX_STEPS)] | None = None
    allow_noise_eps: bool | None = None


class StreamOptions(Strict):
    """What a stream carries besides the text."""

    include_usage: bool | None = None
    # Sent by OpenAI's clients; there is no padding here to turn off.
    include_obfuscation: bool | None = None
    surelock: Literal["state", "patch"] | None = None


class GenerationRequest(Strict):
    """What all routes that generate have in common; defaults are those of `SamplingParams`."""

    model: Annotated[str, Field(max_length=512)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    n: Annotated[int, Field(ge=1, le=1 << 16)] = 1
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] | None = None
    stop: (
        Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]
        | Annotated[Items[Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]], Field(max_length=MAX_STOPS)]
    ) = Field(default_factory=list)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    temperature: Annotated[Number, Field(ge=0, le=100)] = 0.0
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] | None = None
    block_length: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    cfg_scale: Annotated[Number, Field(ge=0, le=100)] = 0.0
    unmasking: Unmasking = "low_confidence"
    ignore_eos: bool = False
    preset: Literal["default", "paper", "off"] = "default"
    lock: LockFields | bool = LockFields()
    diffusing: bool = False
    mask_char: Annotated[str, Field(min_length=1, max_length=1)] = "░"
    frame_hz: Annotated[Number, Field(ge=1, le=1000)] = 20.0
    timeout: Annotated[Number, Field(ge=0.01, le=86400)] | None = None

    @field_validator("mask_char")
    @classmethod
    def _check_mask_char(cls, value: str) -> str:
        if unicodedata.category(value)[0] in "CZ":
            raise ValueError("it must be one character that can be seen")
        return value

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class CompletionRequest(GenerationRequest):
    """POST /v1/completions."""

    prompt: str | Items[TokenId] | Items[str] | Items[Items[TokenId]] | None = None
    suffix: str | None = None
    template: (
        Annotated[Items[StrictStr | Annotated[StrictInt, Field(ge=1)]], Field(min_length=1, max_length=1000)] | None
    ) = None
    logprobs: Annotated[int, Field(ge=0, le=1)] | None = None


class TextPart(Strict):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class Message(Strict):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[Items[TextPart], Field(max_length=1000)]
    # What clients send back of an earlier answer.
    refusal: None = None
    tool_calls: Annotated[Items[Any], Field(max_length=0)] | None = None
    function_call: None = None
    audio: None = None
    annotations: Annotated[Items[Any], Field(max_length=0)] | None = None

    @property
    def text(self) -> str:
        """The content as one string."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(GenerationRequest):
    """POST /v1/chat/completions."""

    messages: Annotated[Items[Message], Field(min_length=1, max_length=1000)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None
    logprobs: StrictBool = False
    top_logprobs: Annotated[int, Field(ge=0, le=0)] | None = None


class FimRequest(GenerationRequest):
    """POST /v1/fim/completions."""

    prompt: str
    suffix: str = ""


class InfillExtra(Strict):
    """A file shown before the text to fill in."""

    filename: Annotated[str, Field(max_length=4096)] = ""
    text: str


class InfillRequest(GenerationRequest):
    """POST /infill, as llama.cpp's server has it."""

    input_prefix: str = ""
    input_suffix: str = ""
    input_extra: Annotated[Items[InfillExtra], Field(max_length=256)] = Field(default_factory=list)
    prompt: str = ""
    n_predict: Annotated[int, Field(ge=1, le=MAX_TOKENS)] | None = None


class TokenizeRequest(Strict):
    """POST /tokenize."""

    model: Annotated[str, Field(max_length=512)] | None = None
    prompt: str | None = None
    content: str | None = None
    messages: Annotated[Items[Message], Field(min_length=1, max_length=1000)] | None = None


class DetokenizeRequest(Strict):
    """POST /detokenize."""

    model: Annotated[str, Field(max_length=512)] | None = None
    tokens: Annotated[Items[TokenId], Field(max_length=1 << 20)]
