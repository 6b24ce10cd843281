"""What users pass becomes the prompt part of a canvas; everything is checked here, before any work starts."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from surelock.errors import ParameterError, PromptError, PromptTooLongError, TokenizerError, shown

if TYPE_CHECKING:
    from surelock.models.config import ModelConfig
    from surelock.params import SamplingParams
    from surelock.text.tokenizer import Tokenizer

Prompt = str | Mapping[str, Any]

TOKEN_IDS_KEY: Final = "prompt_token_ids"
CANVAS_KEY: Final = "canvas_token_ids"
_FORMS: Final = f"a string, {{'{TOKEN_IDS_KEY}': [...]}} or {{'{CANVAS_KEY}': [...]}}"


# The prompt part of a canvas, before the `max_tokens` masked positions that are appended; None where to denoise.
CanvasIds = tuple[int | None, ...]


def normalise_prompts(prompts: object) -> list[Prompt]:
    """One or several prompts as a list; PromptError if there is none, or if one is neither a string nor a mapping."""
    if isinstance(prompts, str | Mapping):
        return [prompts]
    if not isinstance(prompts, list | tuple):
        raise PromptError(f"prompts is {shown(prompts)}; a prompt is {_FORMS}")
    if not prompts:
        raise PromptError(f"the list of prompts is empty; pass at least one: {_FORMS}")
    for index, prompt in enumerate(prompts):
        if isinstance(prompt, numbers.Integral):
            raise PromptError(
                f"prompts[{index}] is {shown(prompt)}; a prompt given as token ids is "
                f"{{'{TOKEN_IDS_KEY}': [{shown(prompt)}, ...]}}"
            )
        if not isinstance(prompt, str | Mapping):
            raise PromptError(f"prompts[{index}] is {shown(prompt)}; a prompt is {_FORMS}")
    return list(prompts)


def encode_prompt(
    prompt: Prompt, *, tokenizer: Tokenizer | None, config: ModelConfig, params: SamplingParams
) -> CanvasIds:
    """Turn one prompt into the prompt part of its canvas.

    Args:
        prompt: raw text, or a mapping with one key: `prompt_token_ids`, a list of ids other than [MASK], or
            `canvas_token_ids`, where None says that a position is to be denoised. Ids are Python or NumPy integers.
        tokenizer: needed for text only.

    Raises:
        PromptError: the prompt is malformed, or longer than the model's context allows beside `params.max_tokens`.
        ParameterError: `params.max_tokens` is 0 and no position of the prompt is to be denoised.
        TokenizerError: the prompt is text and there is no tokenizer.
    """
    if isinstance(prompt, str):
        canvas_ids: CanvasIds = tuple(_text_encoder(tokenizer).encode(prompt))
    elif isinstance(prompt, Mapping):
        canvas_ids = _check_mapping(prompt, config)
    else:
        raise PromptError(f"the prompt is {shown(prompt)}; it must be {_FORMS}")
    if params.max_tokens == 0 and None not in canvas_ids:
        raise ParameterError(
            f"max_tokens is 0 and the prompt has no position to denoise; raise max_tokens, or pass {CANVAS_KEY} with "
            "None where to denoise"
        )
    num_positions, limit = len(canvas_ids) + params.max_tokens, config.max_sequence_length
    if num_positions > limit:
        room = limit - len(canvas_ids)
        way_out = f"lower max_tokens to at most {room}, or shorten the prompt" if room > 0 else "shorten the prompt"
        raise PromptTooLongError(
            f"the prompt has {len(canvas_ids)} positions and max_tokens is {params.max_tokens}, together "
            f"{num_positions}; the model's limit is {limit}: {way_out}"
        )
    return canvas_ids


def encode_segments(segments: Sequence[str | int], *, tokenizer: Tokenizer | None, config: ModelConfig) -> CanvasIds:
    """Turn text with gaps into a canvas.

    Args:
        segments: strings are given text, each encoded on its own; an integer n >= 1 is a gap of n positions. At least
            one must be a gap.
        tokenizer: needed for strings only.

    Returns:
        the canvas, None in the gaps.

    Raises:
        PromptError: a segment is malformed, there is no gap, or the canvas is longer than the model's context.
        TokenizerError: there is text and no tokenizer.
    """
    _check_segments(segments, config)
    limit = config.max_sequence_length
    canvas_ids: list[int | None] = []
    for index, segment in enumerate(segments):
        if isinstance(segment, str):
            canvas_ids += _text_encoder(tokenizer).encode(segment, bos=index == 0)
        else:
            canvas_ids += [None] * int(segment)
        # Here rather than after the loop, so that many long strings are not all encoded to be refused.
        if len(canvas_ids) > limit:
            raise PromptTooLongError(
                f"segments[0] to segments[{index}] have {len(canvas_ids)} positions, {canvas_ids.count(None)} of them "
                f"in gaps; the model's limit is {limit}: shorten the text or the gaps"
            )
    return tuple(canvas_ids)


def _text_encoder(tokenizer: Tokenizer | None) -> Tokenizer:
    if tokenizer is None:
        raise TokenizerError(f"the model has no tokenizer, so it takes no text; pass {{'{TOKEN_IDS_KEY}': [...]}}")
    return tokenizer


def _check_mapping(prompt: Mapping[str, Any], config: ModelConfig) -> CanvasIds:
    keys = list(prompt)
    if len(keys) != 1 or keys[0] not in (TOKEN_IDS_KEY, CANVAS_KEY):
        raise PromptError(
            f"the prompt has the keys {shown(keys)}; it must have exactly one, {TOKEN_IDS_KEY!r} or {CANVAS_KEY!r}"
        )
    key, ids = keys[0], prompt[keys[0]]
    if not isinstance(ids, list | tuple):
        raise PromptError(f"{key} is {shown(ids)}; it must be a list of integers (arrays and tensors have tolist())")
    if len(ids) > config.max_sequence_length:
        raise PromptTooLongError(
            f"{key} has {len(ids)} positions; the model's limit is {config.max_sequence_length}: shorten it"
        )
    return tuple(_check_id(token_id, key, index, config) for index, token_id in enumerate(ids))


def _check_id(token_id: object, key: str, index: int, config: ModelConfig) -> int | None:
    if token_id is None and key == CANVAS_KEY:
        return None
    if isinstance(token_id, bool) or not isinstance(token_id, numbers.Integral):
        hint = " or None" if key == CANVAS_KEY else f" (None, where to denoise, belongs into {CANVAS_KEY})"
        raise PromptError(f"{key}[{index}] is {shown(token_id)}; it must be an integer{hint}")
    plain_id = int(token_id)
    if not 0 <= plain_id < config.vocab_size:
        raise PromptError(f"{key}[{index}] is {shown(plain_id)}; the model's ids are 0 to {config.vocab_size - 1}")
    if plain_id == config.mask_token_id:
        raise PromptError(
            f"{key}[{index}] is {plain_id}, the id of [MASK], which no prompt may contain; pass None there, in "
            f"{CANVAS_KEY}, to denoise the position"
        )
    return plain_id


def _check_segments(segments: object, config: ModelConfig) -> None:
    """Check kinds and sizes before anything is encoded or allocated."""
    limit = config.max_sequence_length
    if not isinstance(segments, list | tuple):
        raise PromptError(f"segments is {shown(segments)}; it must be a list of strings and of gap lengths")
    num_gap, num_gaps = 0, 0
    for index, segment in enumerate(segments):
        if isinstance(segment, str):
            continue
        if isinstance(segment, bool) or not isinstance(segment, numbers.Integral) or segment < 1:
            raise PromptError(
                f"segments[{index}] is {shown(segment)}; it must be a string, or a gap's length of 1 or more positions"
            )
        num_gap, num_gaps = num_gap + int(segment), num_gaps + 1
    if not num_gaps:
        raise PromptError("segments has no gap; put an integer, the number of positions to fill, between the strings")
    if num_gap > limit:
        raise PromptTooLongError(
            f"the gaps take {shown(num_gap)} in all; the model's limit is {limit} positions: shorten them"
        )
