"""`LLM`, the public door: load a model, turn prompts into canvases, decode them, give back text."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from surelock.assemble import request_output, step_update
from surelock.config import EngineConfig
from surelock.engine.engine import Engine
from surelock.engine.noise_floor import noise_floor
from surelock.errors import NonFiniteLogitsError, ParameterError, PromptError, TokenizerError
from surelock.models.checkpoint import read_model_config
from surelock.models.hub import resolve_model
from surelock.models.transformer import Transformer
from surelock.models.weights import load_weights
from surelock.output import RequestOutput, StepUpdate
from surelock.params import SamplingParams
from surelock.prompts import EncodedPrompt, Prompt, encode_prompt, encode_segments, normalise_prompts
from surelock.tokenizer import Tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
OnStep = Callable[[StepUpdate], None]


class LLM:
    """A masked diffusion language model that can be asked for text.

    Args:
        model: local folder or hub id; None for the small model inside the package.
        dtype: "float32", "bfloat16" or "float16". None: float32 on a CPU, the checkpoint's own elsewhere.
        device: a torch device. None: "cuda" if there is one, else "cpu".
        revision: of a hub repository; the commit it resolves to is in `commit`.
        offline: use only files already downloaded. None: as the environment variable HF_HUB_OFFLINE says.
        config: limits of the engine.

    Raises:
        ModelError: the model cannot be used; the message says which file and why.
        ParameterError: dtype or device is unknown.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        dtype: str | None = None,
        device: str | None = None,
        revision: str | None = None,
        offline: bool | None = None,
        config: EngineConfig | None = None,
    ) -> None:
        self.device = _device(device)
        wanted = _dtype(dtype, self.device)
        files = resolve_model(model, revision=revision, offline=offline)
        self.name = files.name
        self.commit = files.commit
        self.folder = files.folder
        self.engine_config = config or EngineConfig()
        self.config, family = read_model_config(files.folder)
        weights = load_weights(files.folder, self.config, family, dtype=wanted, device=self.device)
        self.transformer = Transformer.from_weights(self.config, weights)
        self.tokenizer = Tokenizer.from_folder(files.folder, self.config)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
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
            NonFiniteLogitsError: the model's output was not finite; the other requests' outputs are in it.
        """
        normal = normalise_prompts(prompts)
        each = self._params(params, len(normal))
        encoded = [
            encode_prompt(prompt, tokenizer=self.tokenizer, config=self.config, params=own)
            for prompt, own in zip(normal, each, strict=True)
        ]
        return self._generate(encoded, each, on_step)

    def stream(
        self, prompts: Prompt | Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams] | None = None
    ) -> Iterator[StepUpdate]:
        """Like `generate`, yielding after each step of each prompt; the last update of a prompt carries its output.

        A prompt whose logits were not finite ends with finish_reason "error". Closing the iterator drops the requests.
        """
        normal = normalise_prompts(prompts)
        each = self._params(params, len(normal))
        encoded = [
            encode_prompt(prompt, tokenizer=self.tokenizer, config=self.config, params=own)
            for prompt, own in zip(normal, each, strict=True)
        ]
        return self._stream(encoded, each)

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
        return self.generate({"prompt_token_ids": self.encode_chat(messages)}, params, on_step=on_step)[0]

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

        `text` of the output is the whole document, `gaps` what was filled in. `params.max_tokens` is not used.

        Raises: as `generate`.
        """
        own = replace(params or SamplingParams(), max_tokens=0)
        canvas = encode_segments(segments, tokenizer=self.tokenizer, config=self.config)
        self._engine().check(own)
        output = self._generate([EncodedPrompt(canvas)], [own], on_step)[0]
        return replace(output, text=_document(segments, output))

    def logits(self, token_ids: Sequence[Sequence[int]] | Sequence[int]) -> Tensor:
        """float32 [N, V]: one plain forward of a canvas, every position a row. For verification.

        Several canvases give their rows one after another. MASK ids are allowed here.

        Raises:
            PromptError: an id is not an integer of the vocabulary, or a canvas is empty or too long.
        """
        canvases = [token_ids] if token_ids and isinstance(token_ids[0], int) else token_ids
        rows = [self.transformer.logits(self._checked(canvas)) for canvas in canvases]  # type: ignore[arg-type]
        if not rows:
            raise PromptError("logits was given no token ids; pass a list of lists of them")
        return torch.cat(rows)

    def noise_floor(self, prompts: Prompt | Sequence[Prompt], params: SamplingParams | None = None) -> dict[str, float]:
        """KL in nats of a null pair: the same canvas computed alone and next to others, where the truth is 0.

        {"median", "p99", "max"} over all positions. A `kl_threshold` below it locks on rounding.
        """
        own = params or SamplingParams()
        encoded = [
            encode_prompt(prompt, tokenizer=self.tokenizer, config=self.config, params=own)
            for prompt in normalise_prompts(prompts)
        ]
        mask = self.config.mask_token_id
        canvases = [
            [mask if i is None else i for i in prompt.canvas_ids] + [mask] * own.max_tokens for prompt in encoded
        ]
        return noise_floor(self.transformer, canvases)

    def _params(self, params: SamplingParams | Sequence[SamplingParams] | None, num: int) -> list[SamplingParams]:
        if params is None or isinstance(params, SamplingParams):
            each = [params or SamplingParams()] * num
        else:
            each = list(params)
            if len(each) != num or not all(isinstance(own, SamplingParams) for own in each):
                raise ParameterError(
                    f"params has {len(each)} entries for {num} prompts; pass one SamplingParams for each"
                )
        engine = self._engine()
        for own in each:
            engine.check(own)
        return each

    def _engine(self) -> Engine:
        # One for each call: an abandoned iterator or an error can leave nothing behind for the next.
        return Engine(self.transformer, self.engine_config)

    def _generate(
        self, encoded: Sequence[EncodedPrompt], params: Sequence[SamplingParams], on_step: OnStep | None
    ) -> list[RequestOutput]:
        outputs: list[RequestOutput | None] = [None] * len(encoded)
        for update in self._stream(encoded, params, watched=on_step is not None):
            if on_step is not None:
                on_step(update)
            if update.output is not None:
                outputs[update.index] = update.output
        done = [output for output in outputs if output is not None]
        failed = [index for index, output in enumerate(done) if output.finish_reason == "error"]
        if failed:
            raise NonFiniteLogitsError(
                f"the model's logits were NaN or infinite for prompt {failed[0]} (of {len(failed)} such): check the "
                "weights or use dtype float32; the error's `outputs` holds the others",
                done,
            )
        return done

    def _stream(
        self, encoded: Sequence[EncodedPrompt], params: Sequence[SamplingParams], *, watched: bool = True
    ) -> Iterator[StepUpdate]:
        engine = self._engine()
        index_of = {
            engine.add_request(prompt.canvas_ids, own): index
            for index, (prompt, own) in enumerate(zip(encoded, params, strict=True))
        }
        while engine.has_unfinished:
            for snapshot in engine.step(watched=watched):
                request = snapshot.request
                output = request_output(snapshot, self.config, self.tokenizer) if request.is_finished else None
                yield step_update(snapshot, index_of[request], self.config, output)

    def _checked(self, canvas: Sequence[int]) -> list[int]:
        limit = self.config.max_sequence_length
        if not isinstance(canvas, Sequence) or not 1 <= len(canvas) <= limit:
            raise PromptError(f"a canvas must be a list of 1 to {limit} token ids")
        for position, token in enumerate(canvas):
            if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < self.config.embedding_size:
                raise PromptError(
                    f"token id {token!r} at position {position} is not an integer below {self.config.embedding_size}"
                )
        return list(canvas)


def _document(segments: Sequence[str | int], output: RequestOutput) -> str:
    gaps = iter(output.gaps)
    merged = [segment if isinstance(segment, str) else None for segment in segments]
    return "".join(part if part is not None else next(gaps).text for part in merged)


def _device(device: str | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ParameterError(f"device is {device!r}; use cpu, cuda or cuda:N") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ParameterError(f"device is {device!r}, but this torch sees no CUDA device; use cpu")
    return chosen


def _dtype(dtype: str | None, device: torch.device) -> torch.dtype | None:
    if dtype is None:
        return torch.float32 if device.type == "cpu" else None
    if dtype not in DTYPES:
        raise ParameterError(f"dtype is {dtype!r}; use one of {', '.join(DTYPES)}")
    return DTYPES[dtype]
