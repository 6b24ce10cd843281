"""Continuations of held-out prompts, with locks and without: how good they are, how equal, and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from surelock.errors import PromptError, TokenizerError
from surelock.llm import LLM
from surelock.measure.judge import Judge
from surelock.measure.metrics import agreement, costs, distinct_n, entropy, perplexity
from surelock.measure.rules import check_rules
from surelock.measure.statistics import paired_difference, perplexity_ratio
from surelock.measure.text.prompts import TextPrompt
from surelock.output import RequestOutput
from surelock.params import LockParams, SamplingParams
from surelock.text.prompts import Prompt
from surelock.text.tokenizer import Tokenizer

REAL_TEXT = "real text"

Row = dict[str, Any]
Scores = list[tuple[float, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSetting:
    """How continuations are decoded, but for the rule; see `SamplingParams`.

    Every canvas is fitted: it ends with the last generated token, and end ids are ordinary tokens of it.
    """

    max_tokens: int
    steps: int
    block_length: int | None = None
    temperature: float = 0.0
    seed: int = 0

    def params(self, lock: LockParams | None) -> SamplingParams:
        """For one request."""
        return SamplingParams(
            max_tokens=self.max_tokens,
            steps=self.steps,
            block_length=self.block_length,
            temperature=self.temperature,
            seed=self.seed,
            ignore_eos=True,
            lock=lock,
        )


def measure_continuations(
    llm: LLM,
    judge: Judge,
    prompts: Sequence[TextPrompt],
    settings: Sequence[TextSetting],
    rules: Mapping[str, LockParams | None],
    *,
    chat: bool = False,
    progress: Callable[[str], None] = lambda message: None,
) -> tuple[list[Row], list[Row]]:
    """A row for each setting and rule, and a sample for each prompt in them.

    Args:
        llm: the model, with a tokenizer.
        judge: scores each continuation given its prompt's text.
        prompts: their `token_ids` are decoded where they have some.
        settings: each is decoded by every rule.
        rules: by name; `none` first (`surelock.measure.rules.parse_rules`).
        chat: each prompt is one user turn of the chat template.
        progress: called with what is being done.

    Returns:
        rows: gen_ppl (micro-averaged, natural logs) and its ratio to no lock with a 95 % interval (bootstrap over
            prompts); distinct-n and entropy in nats (mean over continuations), with the paired difference of distinct-3
            to no lock and its 95 % interval, as a low perplexity may be repetition; agreement with no lock, position by
            position; active_ratio (mean over prompts); flops_ratio (`full`, total over prompts); masked_floor, the
            share of rows masked positions alone would be; end_share, of end ids among generated tokens. The last row of
            a setting is the real continuations'.
        samples: the texts and their scores.

    Raises:
        PromptError, ParameterError: there is no prompt, or one that does not fit the model. Checked before anything
            runs.
        TokenizerError: the model has no tokenizer.
    """
    tokenizer = llm.tokenizer
    if tokenizer is None:
        raise TokenizerError(f"{llm.name} has no tokenizer, so no judge can read what it writes; choose another one")
    if not prompts:
        raise PromptError("there is no prompt to continue; give at least one")
    check_rules(rules)
    canvases = [_canvas(llm, prompt, chat) for prompt in prompts]
    for setting in settings:
        for lock in rules.values():
            llm.encode(canvases, setting.params(lock))

    rows: list[Row] = []
    samples: list[Row] = []
    for setting in settings:
        named = {"max_tokens": setting.max_tokens, "steps": setting.steps, "block_length": setting.block_length}
        baseline: _Run | None = None
        for name, lock in rules.items():
            progress(f"{setting.max_tokens} tokens in {setting.steps} steps, {name}")
            run = _Run.of(llm, judge, prompts, canvases, setting.params(lock))
            baseline = baseline or run
            rows.append(named | {"rule": name} | run.row(baseline, tokenizer, setting))
            samples += [named | {"rule": name} | sample for sample in run.samples(prompts)]
        progress(f"{setting.max_tokens} tokens, real text")
        real = _real_row(judge, tokenizer, prompts, setting)
        if real is not None:
            rows.append(dict.fromkeys(rows[-1]) | named | {"rule": REAL_TEXT} | real)
    return rows, samples


@dataclass(frozen=True, slots=True)
class _Run:
    """Every prompt continued by one rule."""

    outputs: list[RequestOutput]
    texts: list[str]
    scores: Scores

    @property
    def distinct(self) -> list[float]:
        """distinct-3 of each."""
        return [distinct_n(output.token_ids, 3) for output in self.outputs]

    @classmethod
    def of(
        cls, llm: LLM, judge: Judge, prompts: Sequence[TextPrompt], canvases: list[Prompt], params: SamplingParams
    ) -> _Run:
        # Each prompt its own noise: with one seed all would share it.
        each = [replace(params, seed=(params.seed or 0) + index) for index in range(len(canvases))]
        outputs = llm.generate(canvases, each)
        texts = [output.text for output in outputs]
        return cls(outputs, texts, judge.negative_log_likelihood([prompt.prompt for prompt in prompts], texts))

    def row(self, baseline: _Run, tokenizer: Tokenizer, setting: TextSetting) -> Row:
        ids = [output.token_ids for output in self.outputs]
        same = [agreement(a.token_ids, b.token_ids) for a, b in zip(self.outputs, baseline.outputs, strict=True)]
        ratio = perplexity_ratio(self.scores, baseline.scores, seed=setting.seed)
        moved = paired_difference(self.distinct, baseline.distinct, seed=setting.seed)
        masked = setting.max_tokens * (1 + 1 / self.outputs[0].stats.steps) / 2
        return _quality(ids, self.scores) | {
            "ppl_ratio": ratio.value,
            "ppl_ratio_low": ratio.low,
            "ppl_ratio_high": ratio.high,
            "distinct_3_difference": moved.value,
            "distinct_3_low": moved.low,
            "distinct_3_high": moved.high,
            "agreement": fmean(same),
            "identical": sum(share == 1 for share in same),
            **costs([output.stats for output in self.outputs]),
            "masked_floor": fmean(masked / len(output.canvas_token_ids) for output in self.outputs),
            "ghost_rate": fmean(output.stats.ghost_rate for output in self.outputs),
            "end_share": fmean(fmean(i in tokenizer.end_ids for i in output.token_ids) for output in self.outputs),
        }

    def samples(self, prompts: Sequence[TextPrompt]) -> list[Row]:
        return [
            {
                "index": index,
                "source": prompt.source,
                "prompt": prompt.prompt,
                "text": text,
                "nats": nats,
                "judge_tokens": count,
                "distinct_3": distinct,
                "active_ratio": output.stats.active_ratio,
            }
            for index, (prompt, text, (nats, count), distinct, output) in enumerate(
                zip(prompts, self.texts, self.scores, self.distinct, self.outputs, strict=True)
            )
        ]


def _canvas(llm: LLM, prompt: TextPrompt, chat: bool) -> Prompt:
    if chat:
        return {"prompt_token_ids": llm.encode_chat([{"role": "user", "content": prompt.prompt}])}
    return {"prompt_token_ids": list(prompt.token_ids)} if prompt.token_ids else prompt.prompt


def _quality(ids: Sequence[Sequence[int]], scores: Scores) -> Row:
    return {
        "num_prompts": len(ids),
        "gen_ppl": perplexity(scores),
        "judge_tokens": sum(count for _, count in scores),
        **{f"distinct_{n}": fmean(distinct_n(tokens, n) for tokens in ids) for n in (1, 2, 3)},
        "entropy": fmean(entropy(tokens) for tokens in ids),
    }


def _real_row(judge: Judge, tokenizer: Tokenizer, prompts: Sequence[TextPrompt], setting: TextSetting) -> Row | None:
    """What really follows, cut to as many tokens; None where no prompt has that much."""
    length = setting.max_tokens
    # More characters than so many tokens ever have.
    encoded = [tokenizer.encode(prompt.continuation[: 32 * length], bos=False) for prompt in prompts]
    long = [(prompt, ids[:length]) for prompt, ids in zip(prompts, encoded, strict=True) if len(ids) >= length]
    if not long:
        return None
    scores = judge.negative_log_likelihood(
        [prompt.prompt for prompt, _ in long], [tokenizer.decode(ids) for _, ids in long]
    )
    return _quality([ids for _, ids in long], scores)
