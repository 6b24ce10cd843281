"""What each route takes, as strict pydantic models; docs/serving.md explains the fields.

What depends on the model or the settings is checked where they are known. The document says it too: a limit that is
written as `"$name"` here is filled in by `openapi`, from `Service.limits`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictStr, field_validator

from surelock.params import MAX_STEPS, MAX_STOP_LENGTH, MAX_STOPS, MAX_TOKENS, GateScope, Unmasking

Item = TypeVar("Item")
# One error for a list, not one for each of its items.
Items: TypeAlias = Annotated[list[Item], Field(fail_fast=True)]


def _integral(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


# In JSON 5.0 is the integer 5.
INTEGRAL: Final = BeforeValidator(_integral)
Number = Annotated[float, Field(allow_inf_nan=False)]
TokenId = Annotated[int, Field(ge=0, lt=1 << 31, json_schema_extra={"maximum": "$last_id"}), INTEGRAL]
PromptId = Annotated[
    int, Field(ge=0, lt=1 << 31, json_schema_extra={"maximum": "$last_id", "not": {"const": "$mask_id"}}), INTEGRAL
]
PromptIds: TypeAlias = Annotated[Items[PromptId], Field(json_schema_extra={"maxItems": "$room"})]
NumTokens = Annotated[int, Field(ge=1, le=MAX_TOKENS, json_schema_extra={"maximum": "$positions"}), INTEGRAL]
NumSteps = Annotated[int, Field(ge=1, le=MAX_STEPS, json_schema_extra={"maximum": "$positions"}), INTEGRAL]
Text = Annotated[str, Field(json_schema_extra={"maxLength": "$characters"})]
ModelName = Annotated[str, Field(max_length=512, json_schema_extra={"enum": ["$model"]})]
# What cannot be seen: control and format characters, and spaces.
_UNSEEN: Final = (
    r"\u0000-\u0020\u007f-\u00a0\u00ad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u1680\u180e\u2000-\u200f"
    r"\u2028-\u202f\u205f-\u206f\u3000\ufeff\ufff9-\ufffb"
)
_SEEN: Final = f"^[^{_UNSEEN}]$"


def _null(*names: str) -> dict[str, Any]:
    return {"properties": {name: {"type": "null"} for name in names}}


def _only(name: str, others: tuple[str, ...]) -> dict[str, Any]:
    """The schema of a body with this one of some fields."""
    rest = _null(*(other for other in others if other != name))["properties"]
    return {"required": [name], "properties": {name: {"not": {"type": "null"}}, **rest}}


class Strict(BaseModel):
    """No conversion of types, no fields that are not there.

    Attributes:
        rules: JSON schemas of what a body must be besides.
    """

    rules: ClassVar[tuple[Mapping[str, Any], ...]] = ()
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class LockFields(Strict):
    """See `LockParams`; what is left out comes from `preset`.

    Null is no gate, no prompt rule and no refresh; for the other fields it is left out.
    """

    kl_threshold: Annotated[Number, Field(ge=-1e9, le=1e9)] | None = None
    confidence_percentile: Annotated[Number, Field(ge=0, le=100)] | None = None
    gate_scope: GateScope | None = None
    min_visible_steps: Annotated[int, Field(ge=0, le=MAX_STEPS), INTEGRAL] | None = None
    kl_both_visible: bool | None = None
    prompt_lock_step: Annotated[int, Field(ge=1, le=MAX_STEPS), INTEGRAL] | None = None
    refresh: Annotated[int, Field(ge=0, le=MAX_STEPS), INTEGRAL] | None = None
    allow_noise_eps: bool | None = None


class StreamOptions(Strict):
    """What a stream carries besides the text."""

    include_usage: bool | None = None
    # Sent by OpenAI's clients; there is no padding here to turn off.
    include_obfuscation: bool | None = None
    surelock: Literal["state", "patch"] | None = None


class GenerationRequest(Strict):
    """What all routes that generate have in common; defaults are those of `SamplingParams`."""

    rules: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {
            "anyOf": [
                {"properties": {"preset": {"enum": ["default", "permanent", "paper", None]}}},
                {"properties": {"lock": {"type": ["boolean", "null"]}}},
                {"properties": {"lock": {"type": "object", "additionalProperties": {"type": "null"}}}},
            ]
        },
    )

    model: ModelName | None = None
    max_tokens: NumTokens | None = None
    n: Annotated[int, Field(ge=1, le=1 << 16, json_schema_extra={"maximum": "$choices"}), INTEGRAL] = 1
    seed: Annotated[int, Field(ge=0, lt=1 << 63), INTEGRAL] | None = None
    stop: (
        Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]
        | Annotated[Items[Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]], Field(max_length=MAX_STOPS)]
    ) = Field(default_factory=list)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    temperature: Annotated[Number, Field(ge=0, le=100)] = 0.0
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS, json_schema_extra={"maximum": "$positions"}), INTEGRAL] | None = (
        None
    )
    block_length: Annotated[int, Field(ge=1, le=MAX_TOKENS), INTEGRAL] | None = None
    cfg_scale: Annotated[Number, Field(ge=0, le=100)] = 0.0
    unmasking: Unmasking = "low_confidence"
    ignore_eos: bool = False
    preset: Literal["default", "permanent", "paper", "off"] = "default"
    lock: LockFields | bool = LockFields()
    diffusing: bool = False
    mask_char: Annotated[str, Field(min_length=1, max_length=1, json_schema_extra={"pattern": _SEEN})] = "░"
    frame_hz: Annotated[Number, Field(ge=1, le=1000)] = 20.0
    timeout: Annotated[Number, Field(ge=0.01, le=86400)] | None = None

    @field_validator("mask_char")
    @classmethod
    def _check_mask_char(cls, value: str) -> str:
        if not re.match(_SEEN, value):
            raise ValueError("it must be one character that can be seen")
        return value

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class CompletionRequest(GenerationRequest):
    """POST /v1/completions."""

    rules: ClassVar[tuple[Mapping[str, Any], ...]] = (
        *GenerationRequest.rules,
        {
            "anyOf": [
                _only("prompt", ("prompt", "template")),
                {
                    "allOf": [
                        _only("template", ("template", "prompt", "suffix", "max_tokens", "logprobs")),
                        {"properties": {"stop": {"type": ["array", "null"], "maxItems": 0}}},
                    ]
                },
            ]
        },
    )

    prompt: (
        Text
        | Annotated[PromptIds, Field(json_schema_extra={"minItems": 1})]
        | Annotated[Items[Text], Field(json_schema_extra={"minItems": 1, "maxItems": "$choices"})]
        | Annotated[Items[PromptIds], Field(json_schema_extra={"minItems": 1, "maxItems": "$choices"})]
        | None
    ) = None
    suffix: Text | None = None
    template: (
        Annotated[
            Items[StrictStr | Annotated[int, Field(ge=1, json_schema_extra={"maximum": "$positions"}), INTEGRAL]],
            Field(min_length=1, max_length=1000, json_schema_extra={"contains": {"type": "integer"}}),
        ]
        | None
    ) = None
    logprobs: Annotated[int, Field(ge=0, le=1), INTEGRAL] | None = None


class TextPart(Strict):
    """A part of a message's content."""

    type: Literal["text"]
    text: Text


class Message(Strict):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[Items[TextPart], Field(max_length=1000)]
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

    rules: ClassVar[tuple[Mapping[str, Any], ...]] = (
        *GenerationRequest.rules,
        {"anyOf": [_null("max_tokens"), _null("max_completion_tokens")]},
    )

    messages: Annotated[Items[Message], Field(min_length=1, max_length=1000)]
    max_completion_tokens: NumTokens | None = None
    logprobs: StrictBool = False
    top_logprobs: Annotated[int, Field(ge=0, le=0), INTEGRAL] | None = None


class FimRequest(GenerationRequest):
    """POST /v1/fim/completions."""

    prompt: Text
    suffix: Text = ""


class InfillExtra(Strict):
    """A file shown before the text to fill in."""

    filename: Annotated[str, Field(max_length=4096)] = ""
    text: Text


class InfillRequest(GenerationRequest):
    """POST /infill, as llama.cpp's server has it."""

    rules: ClassVar[tuple[Mapping[str, Any], ...]] = (
        *GenerationRequest.rules,
        {"properties": {"n": {"enum": [1, None]}}},
    )

    input_prefix: Text = ""
    input_suffix: Text = ""
    input_extra: Annotated[Items[InfillExtra], Field(max_length=256)] = Field(default_factory=list)
    prompt: Text = ""
    n_predict: NumTokens | None = None


_TOKENIZED: Final = ("prompt", "content", "messages")


class TokenizeRequest(Strict):
    """POST /tokenize."""

    rules: ClassVar[tuple[Mapping[str, Any], ...]] = ({"anyOf": [_only(name, _TOKENIZED) for name in _TOKENIZED]},)

    model: ModelName | None = None
    prompt: Text | None = None
    content: Text | None = None
    messages: Annotated[Items[Message], Field(min_length=1, max_length=1000)] | None = None


class DetokenizeRequest(Strict):
    """POST /detokenize."""

    model: ModelName | None = None
    tokens: Annotated[Items[TokenId], Field(json_schema_extra={"maxItems": "$ids"})]
