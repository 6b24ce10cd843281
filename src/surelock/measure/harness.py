"""The model `surelock` of EleutherAI's lm-evaluation-harness (extra `eval`): every task that generates text.

    surelock eval harness --tasks gsm8k --limit 100
    python -m surelock.measure.harness run --model surelock --model_args model=GSAI-ML/LLaDA-8B-Instruct --tasks gsm8k

The second is the harness' own command line: importing this module is what registers the model. A task that asks for
likelihoods is refused, because a masked diffusion model has no likelihood of a text that one pass would give: it bounds
it by sampling masks, another bound for each number of samples, and locking takes no part in that.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import orjson
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import model_registry, register_model

from surelock.errors import ParameterError, shown
from surelock.llm import LLM
from surelock.measure.metrics import costs
from surelock.measure.rules import parse_rule
from surelock.output import RequestStats
from surelock.params import MAX_STOP_LENGTH, MAX_STOPS, SamplingParams
from surelock.text.prompts import Prompt

MODEL_NAME: Final = "surelock"
DEFAULT_MAX_GEN_TOKENS: Final = 256

_LOGGER: Final = logging.getLogger(__name__)
_REQUESTS_PER_PART: Final = 256
# The harness hands conversations on as text; no task's text begins with NUL.
_CHAT_MARK: Final = "\0surelock chat\0"
_LENGTH_NAMES: Final = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_KNOWN_NAMES: Final = frozenset({*_LENGTH_NAMES, "until", "do_sample", "temperature"})


class LikelihoodError(ParameterError, NotImplementedError):
    """A task asks for likelihoods, which this model does not give."""


class HarnessModel(LM):  # type: ignore[misc, unused-ignore]
    """A masked diffusion model as the harness calls it, built from `--model_args`.

    Args:
        model: hub id or local folder; None for the embedded model. `pretrained` is the harness' usual name for it.
        rule: none, default or paper, with a KL threshold as in paper@5e-3.
        tokens_per_step: how many tokens a denoising step unmasks.
        block_length: positions of a semi-autoregressive block. None: one block.
        max_gen_toks: tokens to generate where a task does not say.
        cfg_scale, seed: as in `SamplingParams`.
        dtype, device, revision, offline: as in `LLM`; without a GPU, cuda:0, the harness' default, is the CPU.
        batch_size, max_batch_size: the harness passes these; they are not used, because the engine fills its batch by
            itself.

    Raises:
        ParameterError, ModelError: an argument is out of its limits, or the model cannot be used.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        pretrained: str | None = None,
        rule: str = "default",
        tokens_per_step: int = 1,
        block_length: int | None = None,
        max_gen_toks: int = DEFAULT_MAX_GEN_TOKENS,
        cfg_scale: float = 0.0,
        seed: int = 0,
        dtype: str | None = None,
        device: str | None = None,
        revision: str | None = None,
        offline: bool | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        llm: LLM | None = None,
    ) -> None:
        super().__init__()
        if model is not None and pretrained is not None:
            raise ParameterError("model and pretrained are two names for the same argument; leave one of them out")
        if isinstance(tokens_per_step, bool) or not isinstance(tokens_per_step, int) or tokens_per_step < 1:
            raise ParameterError(f"tokens_per_step is {shown(tokens_per_step)}; it must be an integer of at least 1")
        self._tokens_per_step = tokens_per_step
        self._max_gen_tokens = max_gen_toks
        self._params = SamplingParams(
            max_tokens=max_gen_toks, block_length=block_length, cfg_scale=cfg_scale, seed=seed, lock=parse_rule(rule)
        )
        # The harness' command line passes this one where none was given.
        place = None if device == "cuda:0" and not torch.cuda.is_available() else device
        self.llm = llm or LLM(model or pretrained, dtype=dtype, device=place, revision=revision, offline=offline)
        self._device = self.llm.device
        self._stats: list[RequestStats] = []

    @property
    def tokenizer_name(self) -> str:
        """Name the harness files cached requests under."""
        return self.llm.name.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str:
        """For the harness' records; templates other than the model's own are not supported."""
        if isinstance(chat_template, str):
            raise ParameterError(
                f"the chat template is {shown(chat_template)}; only the model's own is used: leave it out"
            )
        return "the model's own" if chat_template else ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as text that `generate_until` takes apart again, so that no content can become control."""
        return _CHAT_MARK + orjson.dumps(chat_history).decode()

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Decode every request, in the engine's own batches; each text ends before the first of its `until` strings.

        Raises:
            PromptError: a prompt does not fit the model. ParameterError: a task sets something unknown. Both before
                anything runs.
        """
        calls = [(str(request.args[0]), dict(request.args[1])) for request in requests]
        settings = [self._settings(index, settings) for index, (_, settings) in enumerate(calls)]
        prompts = [self._prompt(context) for context, _ in calls]
        for prompt, (params, _) in zip(prompts, settings, strict=True):
            self.llm.encode(prompt, params)
        texts: list[str] = []
        # In parts, so that the log moves and the harness' cache keeps what is done.
        for start in range(0, len(requests), _REQUESTS_PER_PART):
            part = slice(start, start + _REQUESTS_PER_PART)
            outputs = self.llm.generate(prompts[part], [params for params, _ in settings[part]])
            self._stats += [output.stats for output in outputs]
            for request, output, (_, until) in zip(requests[part], outputs, settings[part], strict=True):
                texts.append(_cut(output.text, until))
                self.cache_hook.add_partial("generate_until", request.args, texts[-1])
            _LOGGER.info("%s: %d of %d requests", MODEL_NAME, len(texts), len(requests))
        return texts

    def cost(self) -> dict[str, float]:
        """num_requests decoded so far, and their `costs`."""
        return {"num_requests": len(self._stats), **costs(self._stats)}

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Refused: see the module's first lines."""
        raise _no_likelihood(requests)

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Refused: see the module's first lines."""
        raise _no_likelihood(requests)

    def _prompt(self, context: str) -> Prompt:
        if not context.startswith(_CHAT_MARK):
            return context
        messages = orjson.loads(context.removeprefix(_CHAT_MARK))
        # What the answer shall begin with follows the template's own beginning of an answer.
        begun = messages.pop()["content"] if messages and messages[-1]["role"] == "assistant" else ""
        ids = self.llm.encode_chat(messages)
        if begun and self.llm.tokenizer is not None:
            ids += self.llm.tokenizer.encode(begun, bos=False)
        return {"prompt_token_ids": ids}

    def _settings(self, index: int, settings: dict[str, Any]) -> tuple[SamplingParams, list[str]]:
        unknown = sorted(settings.keys() - _KNOWN_NAMES)
        # Such as top_p: the tokens would come from another distribution than the task asks for.
        if unknown and settings.get("do_sample"):
            raise ParameterError(
                f"the task sets {unknown[0]}={shown(settings[unknown[0]])}, which has no meaning here: change it with "
                f"--gen_kwargs to {', '.join(sorted(_KNOWN_NAMES))} only"
            )
        given = [settings[name] for name in _LENGTH_NAMES if settings.get(name) is not None]
        length = int(given[0]) if given else self._max_gen_tokens
        temperature = float(settings.get("temperature") or 0.0) if settings.get("do_sample", True) else 0.0
        until = settings.get("until") or []
        texts = [text for text in ([until] if isinstance(until, str) else until) if text]
        params = replace(
            self._params,
            max_tokens=length,
            steps=math.ceil(length / self._tokens_per_step),
            temperature=temperature,
            seed=(self._params.seed or 0) + index,
            # Those left out are cut at afterwards.
            stop=tuple(text for text in texts if len(text) <= MAX_STOP_LENGTH)[:MAX_STOPS],
        )
        return params, texts


def _cut(text: str, until: Sequence[str]) -> str:
    return text[: min((text.index(stop) for stop in until if stop in text), default=len(text))]


def _no_likelihood(requests: list[Instance]) -> LikelihoodError:
    task = getattr(requests[0], "task_name", None) if requests else None
    return LikelihoodError(
        f"the task {shown(task)} asks for likelihoods, which a masked diffusion model only bounds by sampling masks: "
        "choose a task that generates text (output_type: generate_until), such as gsm8k, humaneval, mbpp or ifeval"
    )


if MODEL_NAME not in model_registry:
    register_model(MODEL_NAME)(HarnessModel)


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    sys.exit(cli_evaluate())
