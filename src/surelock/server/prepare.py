"""From a checked request to `Choice`s: canvases to denoise, and which of their positions are the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from surelock.errors import PromptTooLongError, TokenizerError
from surelock.llm import LLM
from surelock.params import SamplingParams
from surelock.server.errors import bad_request
from surelock.server.sampling import sampling_params
from surelock.server.schemas import (
    ChatRequest,
    CompletionRequest,
    FimRequest,
    GenerationRequest,
    InfillRequest,
    Message,
)
from surelock.text.answers import Layout
from surelock.text.prompts import encode_segments
from surelock.text.tokenizer import Tokenizer

DEFAULT_MAX_TOKENS = SamplingParams().max_tokens


@dataclass(frozen=True, slots=True)
class Choice:
    """One canvas of a request.

    Attributes:
        index: in the response.
        canvas_ids: the prompt part, None where masked; params.max_tokens masks follow.
        layout: what of the canvas is the answer.
        prompt_tokens: given positions.
    """

    index: int
    canvas_ids: tuple[int | None, ...]
    params: SamplingParams
    layout: Layout
    prompt_tokens: int

    @property
    def num_generated(self) -> int:
        """Positions to denoise."""
        return self.params.max_tokens + len(self.canvas_ids) - self.prompt_tokens


def prepare(llm: LLM, request: GenerationRequest) -> list[Choice]:
    """Encode and check everything about a request; slow enough to be kept off the event loop.

    Raises:
        PromptError, ParameterError, TokenizerError: a prompt or parameter is out of its limits.
        ApiError: fields contradict each other.
    """
    tokenizer = tokenizer_of(llm)
    limit = llm.config.max_sequence_length
    if request.steps is not None and request.steps > limit:
        # More steps than positions commit nothing, and cost as much as the others.
        raise bad_request(f"steps is {request.steps}; no canvas of this model has more than {limit} positions", "steps")
    if isinstance(request, ChatRequest):
        if request.max_tokens is not None and request.max_completion_tokens is not None:
            raise bad_request("max_tokens and max_completion_tokens are both given; leave one out", "max_tokens")
        ids = llm.encode_chat(messages_of(request.messages))
        wanted = request.max_completion_tokens or request.max_tokens
        canvases = [_appended(llm, request, ids, wanted)]
    elif isinstance(request, FimRequest):
        canvases = [_between(llm, request, request.prompt, request.suffix, request.max_tokens)]
    elif isinstance(request, InfillRequest):
        before = "".join(f"{extra.text}\n" for extra in request.input_extra) + request.input_prefix + request.prompt
        wanted = request.n_predict or request.max_tokens
        canvases = [_between(llm, request, before, request.input_suffix, wanted)]
    elif isinstance(request, CompletionRequest):
        canvases = _completion(llm, request, tokenizer)
    else:
        raise AssertionError(f"no canvases for {type(request).__name__}")
    choices: list[Choice] = []
    for canvas in canvases:
        for number in range(request.n):
            params = sampling_params(request, max_tokens=canvas.max_tokens, index=number)
            (canvas_ids,) = llm.encode({"canvas_token_ids": list(canvas.ids)}, params)
            num_given = len(canvas_ids) - canvas_ids.count(None)
            choices.append(Choice(len(choices), canvas_ids, params, canvas.layout, num_given))
    return choices


def num_choices(request: GenerationRequest) -> int:
    """Canvases a request asks for; known before anything is encoded."""
    num_prompts = len(_prompts(request)) if isinstance(request, CompletionRequest) else 1
    return request.n * max(num_prompts, 1)


def tokenizer_of(llm: LLM) -> Tokenizer:
    """The tokenizer, without which there is no text to answer with."""
    if llm.tokenizer is None:
        raise TokenizerError(f"{llm.name} has no tokenizer, and a server answers with text: add tokenizer.json")
    return llm.tokenizer


def check_ids(llm: LLM, ids: Sequence[int], name: str, *, masked: str | None = None) -> None:
    """Raise if an id is none of the model's, or, unless `masked` is None, that of [MASK]: it says what to do instead.

    Args:
        name: of the field that holds the ids.

    Raises:
        ApiError: 400; the message names the item.
    """
    limit, mask = llm.config.vocab_size, llm.config.mask_token_id
    for index, token in enumerate(ids):
        if not 0 <= token < limit:
            raise bad_request(f"{name}.{index} is {token}; the model's ids are 0 to {limit - 1}", f"{name}.{index}")
        if masked is not None and token == mask:
            raise bad_request(
                f"{name}.{index} is {token}, the id of [MASK], which no prompt may contain; {masked}", f"{name}.{index}"
            )


def messages_of(messages: Sequence[Message]) -> list[dict[str, str]]:
    """A conversation as the chat template takes it."""
    return [
        {"role": "system" if message.role == "developer" else message.role, "content": message.text}
        for message in messages
    ]


@dataclass(frozen=True, slots=True)
class _Canvas:
    ids: Sequence[int | None]
    max_tokens: int
    layout: Layout


def _completion(llm: LLM, request: CompletionRequest, tokenizer: Tokenizer) -> list[_Canvas]:
    if request.template is not None:
        return [_template(llm, request, request.template, tokenizer)]
    if request.prompt is None:
        raise bad_request("prompt is missing: pass a text, a list of texts or token ids, or a template", "prompt")
    if not (prompts := _prompts(request)):
        raise bad_request("prompt is an empty list; pass at least one prompt", "prompt")
    for index, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            name = "prompt" if prompt is request.prompt else f"prompt.{index}"
            check_ids(llm, prompt, name, masked="pass a template with a gap there")
    if request.suffix is not None:
        return [_between(llm, request, prompt, request.suffix, request.max_tokens) for prompt in prompts]
    each = (tokenizer.encode(prompt) if isinstance(prompt, str) else prompt for prompt in prompts)
    return [_appended(llm, request, ids, request.max_tokens) for ids in each]


def _prompts(request: CompletionRequest) -> list[str | list[int]]:
    """The prompts of a body, which gives one or a list."""
    given = request.prompt
    is_one = isinstance(given, str) or (given and isinstance(given[0], int))
    return cast("list[str | list[int]]", [given] if is_one else given or [])


def _appended(llm: LLM, request: GenerationRequest, ids: Sequence[int], wanted: int | None) -> _Canvas:
    max_tokens = _max_tokens(llm, len(ids), wanted)
    end_ids = frozenset() if request.ignore_eos else tokenizer_of(llm).end_ids
    layout = Layout((range(len(ids), len(ids) + max_tokens),), end_ids, request.stops)
    return _Canvas(ids, max_tokens, layout)


def _between(llm: LLM, request: GenerationRequest, before: str | list[int], after: str, wanted: int | None) -> _Canvas:
    """A gap between two texts. Its end ids do not end it: they are how a model fills what it has no text for."""
    tokenizer = tokenizer_of(llm)
    head = tokenizer.encode(before) if isinstance(before, str) else before
    tail = tokenizer.encode(after, bos=False)
    num = _max_tokens(llm, len(head) + len(tail), wanted)
    layout = Layout((range(len(head), len(head) + num),), stops=request.stops)
    return _Canvas([*head, *[None] * num, *tail], 0, layout)


def _template(llm: LLM, request: CompletionRequest, template: list[str | int], tokenizer: Tokenizer) -> _Canvas:
    for name in ("prompt", "suffix", "max_tokens", "logprobs"):
        if getattr(request, name) is not None:
            raise bad_request(
                f"template and {name} are both given; the template says all of it: leave {name} out", name
            )
    if request.stops:
        raise bad_request("template and stop are both given; a document with gaps is not cut: leave stop out", "stop")
    ids = encode_segments(template, tokenizer=tokenizer, config=llm.config)
    return _Canvas(ids, 0, Layout.of_segments(template, ids))


def _max_tokens(llm: LLM, num_given: int, wanted: int | None) -> int:
    limit = llm.config.max_sequence_length
    room = limit - num_given
    if room < 1:
        raise PromptTooLongError(f"the prompt has {num_given} positions; the model's limit is {limit}: shorten it")
    if wanted is not None and wanted > room:
        raise PromptTooLongError(
            f"the prompt has {num_given} positions and max_tokens is {wanted}, together {num_given + wanted}; the "
            f"model's limit is {limit}: lower max_tokens to at most {room}, or shorten the prompt"
        )
    return min(DEFAULT_MAX_TOKENS, room) if wanted is None else wanted
