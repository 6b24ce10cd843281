"""A scripted `LLM`: the interface of `surelock.llm.LLM` without a model, for tests of the command line."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from surelock.config import EngineConfig
from surelock.errors import ModelNotFoundError, ParameterError, PromptError, TokenizerError
from surelock.models.config import ModelConfig
from surelock.output import Gap, RequestOutput, RequestStats, StepUpdate
from surelock.params import SamplingParams

STORY = (
    "Once upon a time, in a small town by the sea, there lived a clockmaker who never slept. Every night she wound "
    "the great clock in the tower, and every morning the fishermen found their boats a little closer to the shore. "
    "One winter the clock stopped, and nobody could say why."
)
MASK, END, TURN = 0, 1, 2
CONFIG = ModelConfig(
    family="fake",
    vocab_size=4096,
    embedding_size=4096,
    hidden_size=8,
    intermediate_size=16,
    num_layers=2,
    num_heads=2,
    num_kv_heads=2,
    head_dim=4,
    max_sequence_length=512,
    norm_eps=1e-5,
    rope_theta=1e4,
    mask_token_id=MASK,
    eos_token_ids=(END,),
)


class FakeTokenizer:
    """One id per word with its leading blank, made up as words come in."""

    def __init__(self, has_chat_template: bool = True) -> None:
        self.words = ["[MASK]", "<end>", "<turn>"]
        self.end_ids = frozenset({END, TURN})
        self.has_chat_template = has_chat_template

    def encode(self, text: str) -> list[int]:
        ids = []
        for word in re.findall(r"\s?\S+|\s", text):
            if word not in self.words:
                self.words.append(word)
            ids.append(self.words.index(word))
        return ids

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        return [id_ for message in messages for id_ in [*self.encode(message["content"]), TURN]]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.words[id_] for id_ in ids if id_ > TURN)

    def decode_visible(self, ids: Sequence[int | None]) -> list[str]:
        return ["░" if id_ is None else self.words[id_] for id_ in ids]


@dataclass
class FakeLLM:
    """Fills masks with the words of `reply` in random order and locks each two steps later."""

    model: str | None = None
    dtype: str | None = "float32"
    device: str | None = "cpu"
    revision: str | None = None
    offline: bool | None = None
    engine_config: EngineConfig | None = None
    reply: str = STORY
    error: BaseException | None = None
    error_at_step: int = 0
    after_step: Callable[[StepUpdate], None] = lambda update: None
    notes: tuple[str, ...] = ()
    config: ModelConfig = CONFIG
    hides_tokenizer: bool = False
    words: FakeTokenizer = field(default_factory=FakeTokenizer)
    commit: str | None = "0" * 40
    dtype_note: str | None = None
    calls: list[tuple[Any, SamplingParams]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.model == "missing":
            raise ModelNotFoundError("model 'missing' is neither a folder nor a hub repository; check the name")
        self.name = self.model or "embedded"
        self.device = self.device or "cpu"
        self.dtype = self.dtype or "float32"
        self.tokenizer = None if self.hides_tokenizer else self.words

    def generate(
        self,
        prompts: Any,
        params: SamplingParams | None = None,
        *,
        on_step: Callable[[StepUpdate], None] | None = None,
    ) -> list[RequestOutput]:
        outputs: dict[int, RequestOutput] = {}
        for update in self.stream(prompts, params):
            if on_step is not None:
                on_step(update)
            if update.output is not None:
                outputs[update.index] = update.output
        return [outputs[index] for index in range(len(outputs))]

    def stream(self, prompts: Any, params: SamplingParams | None = None) -> Iterator[StepUpdate]:
        params = params or SamplingParams()
        prompts = [prompts] if isinstance(prompts, str | dict) else list(prompts)
        self.calls += [(prompt, params) for prompt in prompts]
        runs = [self._run(index, self._given(prompt), params) for index, prompt in enumerate(prompts)]
        while runs:
            for run in list(runs):
                try:
                    update = next(run)
                except StopIteration:
                    runs.remove(run)
                    continue
                if self.error is not None and update.step > self.error_at_step:
                    raise self.error
                yield update
                self.after_step(update)

    def chat(
        self,
        messages: Sequence[Mapping[str, str]],
        params: SamplingParams | None = None,
        *,
        on_step: Callable[[StepUpdate], None] | None = None,
    ) -> RequestOutput:
        return self.generate({"prompt_token_ids": self.encode_chat(messages)}, params, on_step=on_step)[0]

    def infill(
        self,
        segments: Sequence[str | int],
        params: SamplingParams | None = None,
        *,
        on_step: Callable[[StepUpdate], None] | None = None,
    ) -> RequestOutput:
        canvas: list[int | None] = []
        for segment in segments:
            canvas += [None] * segment if isinstance(segment, int) else self.words.encode(segment)
        return self.generate({"canvas_token_ids": canvas}, params, on_step=on_step)[0]

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        if not self.words.has_chat_template:
            raise TokenizerError("the tokenizer has no chat template; use generate")
        return self.words.encode_chat(messages)

    def _given(self, prompt: str | dict[str, list[Any]]) -> list[int | None]:
        if isinstance(prompt, str):
            return list(self.words.encode(prompt))
        (ids,) = prompt.values()
        return list(ids)

    def _run(self, index: int, given: list[int | None], params: SamplingParams) -> Iterator[StepUpdate]:
        canvas = given + [None] * params.max_tokens
        if params.max_tokens == 0 and None not in given:
            raise ParameterError("max_tokens is 0 and the prompt has no gap; nothing would be generated")
        if len(canvas) > self.config.max_sequence_length:
            raise PromptError(f"prompt {index} is too long: {len(canvas)} > {self.config.max_sequence_length}")
        masked = [position for position, id_ in enumerate(canvas) if id_ is None]
        words = self.words.encode(self.reply)
        target = dict(zip(masked, words + [END] * len(masked), strict=False))
        noise = random.Random(index)
        order = sorted(masked, key=lambda position: position + noise.uniform(0, len(masked) * 0.6))
        num_steps = params.steps or len(masked)
        age = [1 if id_ is not None else 0 for id_ in canvas]
        locked = [False] * len(canvas)
        locked_at: list[int | None] = [None] * len(canvas)
        active_rows: list[int] = []
        done = spent = 0
        base = 0
        for step in range(1, num_steps + 1):
            rows = locked.count(False)
            active_rows.append(rows)
            spent, base = spent + rows, base + len(canvas)
            until = round(len(masked) * step / num_steps)
            committed = sorted(order[done:until])
            done = until
            for position in committed:
                canvas[position] = target[position]
            candidates = [p for p, id_ in enumerate(canvas) if id_ is not None and not locked[p] and p not in committed]
            kl = {p: 10 ** noise.uniform(-6, -2) / age[p] if step > 1 else float("inf") for p in candidates}
            locked_now = [p for p in candidates if params.lock and kl[p] < params.lock.kl_threshold]
            for position in candidates:
                age[position] += 1
            for position in committed:
                age[position] = 1
            for position in locked_now:
                locked[position], locked_at[position] = True, step
            output = None
            if step == num_steps:
                output = self._output(given, canvas, masked, params, active_rows, locked_at)
            yield StepUpdate(
                index=index,
                step=step,
                num_steps=num_steps,
                canvas_token_ids=list(canvas),
                num_prompt=len(given),
                locked=list(locked),
                active_rows=rows,
                committed=committed,
                confidence=[0.5] * len(committed),
                locked_now=locked_now,
                kl=kl,
                flops=(float(spent), float(base)),
                output=output,
            )

    def _output(
        self,
        given: list[int | None],
        canvas: list[int | None],
        masked: list[int],
        params: SamplingParams,
        active_rows: list[int],
        locked_at: list[int | None],
    ) -> RequestOutput:
        ids = [id_ for position in masked if (id_ := canvas[position]) is not None]
        ends = [place for place, id_ in enumerate(ids) if id_ in self.words.end_ids]
        kept = ids[: ends[0]] if ends and not params.ignore_eos else ids
        spent, base = float(sum(active_rows)), float(len(active_rows) * len(canvas))
        counts = {"base": base, "locked": spent, "ratio": spent / base}
        gaps = None in given
        return RequestOutput(
            text=self.words.decode([id_ for id_ in canvas if id_ is not None] if gaps else kept),
            token_ids=kept,
            finish_reason="stop" if ends else "length",
            canvas_token_ids=[MASK if id_ is None else id_ for id_ in canvas],
            prompt_tokens=len(given) - given.count(None),
            stats=RequestStats(
                steps=len(active_rows),
                active_rows=active_rows,
                active_ratio=spent / base,
                flops=dict.fromkeys(("paper", "exact", "full"), counts),
                locked_at=locked_at,
                ghost_rate=0.0,
                gate_blocked=0,
                seed=params.seed,
            ),
            gaps=(Gap(start=masked[0], token_ids=kept, text=self.words.decode(kept)),) if gaps else (),
            notes=self.notes,
        )
