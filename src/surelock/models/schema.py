"""What every family's config.json schema shares: strict, bounded types and one-line messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from surelock.errors import ConfigError, shown

# Each bound leaves room for models an order of magnitude above the largest published ones, and keeps every product
# of sizes far below 2^63.
MAX_LAYERS: Final = 1 << 10
MAX_HEADS: Final = 1 << 10
MAX_HIDDEN_SIZE: Final = 1 << 16
MAX_INTERMEDIATE_SIZE: Final = 1 << 20
MAX_VOCAB_SIZE: Final = 1 << 22
MAX_SEQUENCE_LENGTH: Final = 1 << 24
MAX_EOS_IDS: Final = 64

NumLayers = Annotated[int, Field(ge=1, le=MAX_LAYERS)]
NumHeads = Annotated[int, Field(ge=1, le=MAX_HEADS)]
HiddenSize = Annotated[int, Field(ge=1, le=MAX_HIDDEN_SIZE)]
IntermediateSize = Annotated[int, Field(ge=1, le=MAX_INTERMEDIATE_SIZE)]
VocabSize = Annotated[int, Field(ge=1, le=MAX_VOCAB_SIZE)]
SequenceLength = Annotated[int, Field(ge=1, le=MAX_SEQUENCE_LENGTH)]
NormEps = Annotated[float, Field(gt=0, le=0.1)]
RopeTheta = Annotated[float, Field(ge=1, le=1e12)]
TokenId = Annotated[int, Field(ge=0, lt=MAX_VOCAB_SIZE)]


def _as_list(value: object) -> object:
    if value is None:
        return []
    return [value] if isinstance(value, int) else value


EosTokenIds = Annotated[list[TokenId], Field(max_length=MAX_EOS_IDS), BeforeValidator(_as_list)]


class CheckpointSchema(BaseModel):
    """Base of the schemas: no conversions, no NaN or infinity, unknown keys ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)


class GenerationSchema(CheckpointSchema):
    """The part of generation_config.json that is read, in every family."""

    eos_token_id: EosTokenIds = Field(default_factory=list)


class RopeSchema(CheckpointSchema):
    """`rope_parameters` (transformers 5) or `rope_scaling` (transformers 4)."""

    rope_theta: RopeTheta | None = None
    rope_type: Literal["default"] | None = None
    type: Literal["default"] | None = None
    partial_rotary_factor: Annotated[float, Field(ge=1, le=1)] | None = None


SchemaT = TypeVar("SchemaT", bound=CheckpointSchema)


def parse(schema: type[SchemaT], raw: Mapping[str, Any], file: str) -> SchemaT:
    """`raw` as `schema`; ConfigError names `file`, the first bad field, its value and its limit."""
    try:
        return schema.model_validate(dict(raw))
    except ValidationError as error:
        details = error.errors(include_url=False)
    more = f" (and {len(details) - 1} more bad fields)" if len(details) > 1 else ""
    raise ConfigError(f"{file}: {_describe(details[0])}{more}")


def _describe(detail: ErrorDetails) -> str:
    field = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "missing":
        return f"{field} is missing; a model cannot be built without it"
    if detail["type"] in ("literal_error", "none_required"):
        expected = str(detail.get("ctx", {}).get("expected", "null"))
        expected = {"True": "true", "False": "false"}.get(expected, expected)
        return (
            f"{field} is {shown_as_json(detail['input'])}; it must be {expected}, which is all that surelock implements"
        )
    limit = detail["msg"].replace("Input should be", "it must be").replace("List should have", "it must have")
    return f"{field} is {shown_as_json(detail['input'])}; {limit}"


def require(condition: bool, problem: str) -> None:
    """Raises ConfigError: config.json has the problem unless the condition holds."""
    if not condition:
        raise ConfigError(f"config.json: {problem}")


def require_multiple(name: str, value: int, of: str, unit: int) -> None:
    """Raises ConfigError: the value of the field `name` is no multiple of that of the field `of`."""
    require(value % unit == 0, f"{name} is {value}; it must be a multiple of {of}, {unit}")


def head_size(width_name: str, width: int, heads_name: str, num_heads: int) -> int:
    """Elements of one head.

    Raises:
        ConfigError: the heads do not divide the width, or into a size that cannot be rotated.
    """
    require_multiple(width_name, width, heads_name, num_heads)
    size = width // num_heads
    require(size % 2 == 0, f"{width_name} / {heads_name} is {size}; rotary embeddings need an even head size")
    return size


def rope_theta(own: float | None, *nested: RopeSchema | None) -> float:
    """The one base of the rotary embedding, which may be given in several places.

    Raises:
        ConfigError: it is given nowhere, or differently in two places.
    """
    values = {theta for theta in (own, *(rope.rope_theta for rope in nested if rope is not None)) if theta is not None}
    require(len(values) > 0, "rope_theta is missing; a model cannot be built without it")
    shown_values = " and as ".join(f"{theta:g}" for theta in sorted(values))
    require(len(values) == 1, f"rope_theta is given as {shown_values}; keep one of them")
    return values.pop()


def end_ids(
    config_ids: Sequence[int], generation: GenerationSchema, *, mask_token_id: int, embedding_size: int
) -> tuple[int, ...]:
    """Ids that end a text, of both files, each once.

    Raises:
        ConfigError: one is outside the embedding, or is the mask's.
    """
    ids = tuple(dict.fromkeys((*config_ids, *generation.eos_token_id)))
    for token_id in ids:
        told = f"eos_token_id (here or in generation_config.json) is {token_id}"
        require(token_id < embedding_size, f"{told}; it must be less than embedding_size, {embedding_size}")
        require(token_id != mask_token_id, f"{told}, which is also mask_token_id")
    return ids


def shown_as_json(value: object) -> str:
    """A value of a JSON file in the words of JSON, on one line and short, whatever it holds."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case list():
            return f"a list of {len(value)}"
        case Mapping():
            return "an object"
        case _:
            return shown(value)
