"""What every family's config.json schema shares: strict, bounded types and one-line messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, TypeVar

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
