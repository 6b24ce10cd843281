"""`LLM`: load a model, turn prompts into canvases, decode them, give back text."""

from __future__ import annotations

import numbers
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import torch
from torch import Tensor

from surelock.assemble import request_output, step_update
from surelock.config import EngineConfig
from surelock.engine.engine import Engine, check_params
from surelock.engine.loading import check_size, load_model, parse_device, parse_dtype
from surelock.engine.request import Request
from surelock.errors import NonFiniteLogitsError, ParameterError, PromptError, TokenizerError, shown
from surelock.models.hub import resolve_model
from surelock.output import RequestOutput, StepUpdate
from surelock.params import SamplingParams
from surelock.text.answers import Layout, no_text
from surelock.text.prompts import CanvasIds, Prompt, encode_prompt, encode_segments, normalise_prompts
from surelock.text.tokenizer import Tokenizer

OnStep = Callable[[StepUpdate], None]


class LLM:
    """A masked diffusion language model that can be asked for text.

    Args:
        model: local folder or hub id; None for the small model inside the package.
        dtype: "float32", "bfloat16" or "float16". None: float32 on a CPU whose memory it fits, the checkpoint's own
            otherwise; `dtype_note` says why it is not float32. On a CPU with tiles for bfloat16 (`surelock doctor`
            says), that is faster, most of all with several requests; float32 is the exact one.
        device: "cpu", "cuda" or "cuda:N". None: "cuda" if there is one, else "cpu".
        revision: of a hub repository; the commit it resolves to is in `commit`.
        offline: use only files already downloaded. None: as the environment variable HF_HUB_OFFLINE says.
        engine_config: limits of each call, such as how many prompts are decoded at the same time, and the number of
            threads on a CPU.

    Raises:
        ModelError: the model cannot be used; the message says which file and why.
        OutOfMemoryError: the weights do not fit the device. Known before they are read, and before those of a hub
            repository are downloaded.
        ParameterError: dtype or device is unknown, or engine_config is not an EngineConfig.

    A model that was used does not survive a fork: torch's threads are not there in the child, which waits for them for
    ever. With `multiprocessing`, whose default on Linux is to fork before Python 3.14, use `get_context("spawn")` and
    load the model in the child.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        dtype: str | None = None,
        device: str | torch.device | None = None,
        revision: str | None = None,
        offline: bool | None = None,
        engine_config: EngineConfig | None = None,
    ) -> None:
        self.device = parse_device(device)
        wanted = parse_dtype(dtype)
        self.engine_config = _engine_config(engine_config)
        if self.engine_config.num_threads is not None and self.device.type == "cpu":
            torch.set_num_threads(self.engine_config.num_threads)
        files = resolve_model(
            model, revision=revision, offline=offline, check=lambda files: check_size(files, wanted, self.device)
        )
        self.name = files.name
        self.commit = files.commit
        self.folder = files.folder
        loaded = load_model(files, wanted, self.device)
        self.config = loaded.config
        self.transformer = loaded.transformer
        self.dtype_note = loaded.note
        self.tokenizer = Tokenizer.from_folder(files.folder, self.config)

        # What a call has left behind: memory and captured graphs for the next one.
        self._idle_engine: Engine | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights, keys and values."""
        return self.transformer.dtype

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        on_step: OnStep | None = None,
    ) -> list[RequestOutput]:
        """Decode prompts together; one output for each, in their order.

        Args:
            prompts: text (no template is applied), {"prompt_token_ids": [int]} or {"canvas_token_ids": [int | None]}
                (None = denoise this position), or a list of them. All are checked before anything runs.
            params: one for all, or one for each.
            on_step: called with every `StepUpdate`.

        Raises:
            PromptError, ParameterError: a prompt or parameter is out of its limits.
            TokenizerError: text was given and the model has no tokenizer.
            NonFiniteLogitsError: the model's output was not finite for a prompt; the error's `outputs` holds the output
                of every prompt, failed ones (finish_reason "error") included.
        """
        _check_on_step(on_step)
        return _all_finite(self._run(self._prepare(prompts, params), on_step))

    def stream(
        self, prompts: Prompt | Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams] | None = None
    ) -> Iterator[StepUpdate]:
        """Like `generate`, yielding after each step of each prompt; the last update of a prompt carries its output.

        A prompt whose logits were not finite ends with finish_reason "error". Closing the iterator drops the requests.
        """
        return self._stream(self._prepare(prompts, params))

    def chat(
        self,
        messages: Sequence[Mapping[str, str]],
        params: SamplingParams | None = None,
        *,
        on_step: OnStep | None = None,
    ) -> RequestOutput:
        """Answer a conversation: [{"role": ..., "content": ...}, ...] through the model's own chat template.

        Raises: as `generate`; TokenizerError if there is no chat template.
        """
        _check_on_step(on_step)
        own = _one_params(params)
        return self.generate({"prompt_token_ids": self.encode_chat(messages)}, own, on_step=on_step)[0]

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation up to where the answer begins; no content can become a special token."""
        if self.tokenizer is None:
            raise TokenizerError(
                f"{self.name} has no tokenizer, so no chat template: pass prompt_token_ids to generate"
            )
        return self.tokenizer.encode_chat(messages)

    def infill(
        self,
        segments: Sequence[str | int],
        params: SamplingParams | None = None,
        *,
        on_step: OnStep | None = None,
    ) -> RequestOutput:
        """Fill gaps inside a text: a string is given text, an integer a gap of so many tokens.

        `text` of the output is the whole document, the given strings in it as they are; `gaps` is what was filled in,
        end ids included, gaps that touch as one. Nothing is appended: `params.max_tokens` is not used, `block_length`
        has no effect, and `stop`, which cuts the appended part only, is refused.

        Raises: as `generate`.
        """
        _check_on_step(on_step)
        each = [replace(_one_params(params), max_tokens=0)]
        self._check_params(each)
        canvas = encode_segments(segments, tokenizer=self.tokenizer, config=self.config)
        output = self._run(_Call([canvas], each), on_step)[0]
        decode = self.tokenizer.decode if self.tokenizer else no_text
        final = Layout.of_segments(segments, canvas).final_text(output.canvas_token_ids, [False] * len(canvas), decode)
        return _all_finite([replace(output, text=final.text)])[0]

    def logits(self, token_ids: Sequence[Sequence[int]] | Sequence[int]) -> Tensor:
        """float32 [N, V]: one plain forward of a canvas, every position a row. For verification.

        Several canvases give their rows one after another. MASK ids are allowed here.

        Raises:
            PromptError: an id is not an integer of the vocabulary, or a canvas is empty or too long.
        """
        if not _is_list(token_ids) or not token_ids:
            raise PromptError(
                f"logits was given {shown(token_ids)}; pass a list of token ids, or a list of such lists (arrays and "
                "tensors have tolist())"
            )
        canvases = [token_ids] if isinstance(token_ids[0], numbers.Integral) else token_ids
        checked = [self._check_canvas(canvas) for canvas in canvases]
        return torch.cat([self.transformer.logits(canvas) for canvas in checked])

    def encode(self, prompts: Prompt | Sequence[Prompt], params: SamplingParams | None = None) -> list[CanvasIds]:
        """Each prompt as `generate` would decode it; all that `generate` checks is checked, and nothing runs.

        Raises: as `generate`, except NonFiniteLogitsError.
        """
        return self._prepare(prompts, _one_params(params)).encoded

    def _prepare(
        self, prompts: Prompt | Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams] | None
    ) -> _Call:
        normal = normalise_prompts(prompts)
        each = _params_of_each(params, len(normal))
        self._check_params(each)
        encoded = [
            encode_prompt(prompt, tokenizer=self.tokenizer, config=self.config, params=own)
            for prompt, own in zip(normal, each, strict=True)
        ]
        return _Call(encoded, each)

    def _check_params(self, each: Sequence[SamplingParams]) -> None:
        """Parameters that do not suit this model are refused before anything runs."""
        for own in each:
            check_params(own, self.transformer)
            if own.stop and self.tokenizer is None:
                raise ParameterError(
                    f"stop is {shown(own.stop)}, but the model has no tokenizer, so no text to find it in; leave it out"
                )
            if own.stop and own.max_tokens == 0:
                raise ParameterError(
                    f"stop is {shown(own.stop)}, but it cuts the appended tokens, and with max_tokens 0, as in infill, "
                    "there are none; leave it out"
                )

    def _run(self, call: _Call, on_step: OnStep | None) -> list[RequestOutput]:
        outputs: list[RequestOutput | None] = [None] * len(call.encoded)
        for update in self._stream(call, watched=on_step is not None):
            if on_step is not None:
                on_step(update)
            if update.output is not None:
                outputs[update.index] = update.output
        return [output for output in outputs if output is not None]

    def _stream(self, call: _Call, *, watched: bool = True) -> Iterator[StepUpdate]:
        engine = self._idle_engine or Engine(self.transformer, self.engine_config)
        self._idle_engine = None
        index_of: dict[Request, int] = {}
        try:
            for index, (canvas_ids, own) in enumerate(zip(call.encoded, call.params, strict=True)):
                index_of[engine.add_request(canvas_ids, own)] = index
            for snapshot in engine.run(watched=watched):
                request = snapshot.request
                if request.error is not None:
                    raise request.error
                output = request_output(snapshot, self.config, self.tokenizer) if request.is_finished else None
                yield step_update(snapshot, index_of[request], self.config, output)
        finally:
            # An abandoned iterator leaves requests behind; an engine that failed is left to itself.
            if not engine.has_failed:
                for request in index_of:
                    engine.abort_request(request)
                self._idle_engine = engine

    def _check_canvas(self, canvas: object) -> list[int]:
        limit = self.config.max_sequence_length
        if not _is_list(canvas) or not 1 <= len(canvas) <= limit:
            raise PromptError(f"a canvas is {shown(canvas)}; it must be a list of 1 to {limit} token ids")
        for position, token in enumerate(canvas):
            is_integer = isinstance(token, numbers.Integral) and not isinstance(token, bool)
            if not is_integer or not 0 <= token < self.config.embedding_size:
                raise PromptError(
                    f"token id {shown(token)} at position {position} is not an integer from 0 to "
                    f"{self.config.embedding_size - 1}"
                )
        return [int(token) for token in canvas]


@dataclass(frozen=True, slots=True)
class _Call:
    """Everything about one call, checked."""

    encoded: list[CanvasIds]
    params: list[SamplingParams]


def _all_finite(outputs: list[RequestOutput]) -> list[RequestOutput]:
    failed = [index for index, output in enumerate(outputs) if output.finish_reason == "error"]
    if failed:
        raise NonFiniteLogitsError(
            f"the model's logits were NaN or infinite for prompt {failed[0]} (of {len(failed)} such): check the "
            "weights or use dtype float32; the error's `outputs` holds every prompt's output, the failed ones' too",
            outputs,
        )
    return outputs


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)


def _one_params(params: object) -> SamplingParams:
    if params is None:
        return SamplingParams()
    if not isinstance(params, SamplingParams):
        raise ParameterError(f"params is {shown(params)}; pass a SamplingParams, such as SamplingParams(max_tokens=64)")
    return params


def _params_of_each(params: object, num: int) -> list[SamplingParams]:
    """One SamplingParams for each of num prompts."""
    if not isinstance(params, list | tuple):
        return [_one_params(params)] * num
    if len(params) != num:
        raise ParameterError(f"params has {len(params)} entries for {num} prompts; pass one SamplingParams for each")
    for index, own in enumerate(params):
        if not isinstance(own, SamplingParams):
            raise ParameterError(f"params[{index}] is {shown(own)}; pass a SamplingParams")
    return list(params)


def _check_on_step(on_step: object) -> None:
    if on_step is not None and not callable(on_step):
        raise ParameterError(f"on_step is {shown(on_step)}; pass a function that takes a StepUpdate")


def _engine_config(config: object) -> EngineConfig:
    if config is None:
        return EngineConfig()
    if not isinstance(config, EngineConfig):
        raise ParameterError(
            f"engine_config is {shown(config)}; pass an EngineConfig, such as EngineConfig(max_batch_size=8)"
        )
    return config
