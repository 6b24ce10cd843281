"""The whole measurement: teacher-forced twins of all prompts, then the runs that go free."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from surelock.errors import ParameterError
from surelock.eval.dense import DenseDecoder, group_canvases
from surelock.eval.twin.free import measure_free_runs
from surelock.eval.twin.lockstep import teacher_forced
from surelock.eval.twin.measure import Effort, Measurement
from surelock.eval.twin.records import RuleRecord, TwinRecord
from surelock.llm import LLM
from surelock.params import LockParams, SamplingParams


def run_twin(
    llm: LLM,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    rules: Mapping[str, LockParams],
    *,
    effort: Effort | None = None,
    progress: Callable[[str], None] | None = None,
) -> TwinRecord:
    """Measure what each rule does to the rows that are still masked.

    Args:
        llm: the model; in float32, or rounding is measured too.
        prompts: token ids.
        params: how to decode, at temperature 0 without guidance; its lock is not used.
        rules: by the names they are reported under.
        effort: how much to measure.
        progress: called with one line about what is being done.

    Raises:
        ParameterError: params asks for what has no twin, or there is no rule.
        PromptError, NonFiniteLogitsError: as `LLM.generate`.
    """
    if params.temperature > 0 or params.cfg_scale > 0 or params.allow_mask or params.unmasking != "low_confidence":
        raise ParameterError(
            "twins are decoded at temperature 0, by confidence and without guidance; leave temperature, cfg_scale, "
            "unmasking and allow_mask as they are"
        )
    if not rules:
        raise ParameterError("there is no rule to compare with no lock; give one, for example default")
    show = progress or (lambda message: None)
    llm.encode([{"prompt_token_ids": list(ids)} for ids in prompts], params)
    record = TwinRecord({name: RuleRecord() for name in rules})
    effort = effort or Effort()
    decoder = DenseDecoder(llm.transformer, keep_keys_values=True)
    done = 0
    for alike in group_canvases(prompts):
        # Every run keeps its own logits, keys and values.
        size = max(1, decoder.batch_size(len(prompts[alike[0]]) + params.max_tokens) // (len(rules) + 2))
        for start in range(0, len(alike), size):
            batch = alike[start : start + size]
            measurement = Measurement(record, batch, effort)
            for twin in teacher_forced(llm.transformer, [prompts[index] for index in batch], params, rules):
                measurement.take(twin)
                show(f"twins of {done + 1} to {done + len(batch)} of {len(prompts)}: step {twin.step}")
            done += len(batch)
    show("runs that go free")
    measure_free_runs(llm, prompts, params, rules, record)
    return record
