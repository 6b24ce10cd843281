"""The model that lm-evaluation-harness calls, on a task of our own and no network."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from surelock import LLM, LockParams, SamplingParams
from surelock.errors import ParameterError, PromptError

lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'surelock[eval]'")

QUESTIONS = ["Once upon a time", "The sea was", "He said that"]
LIKELIHOOD = {"output_type": "multiple_choice", "doc_to_choice": ["a", "b"], "metric_list": [{"metric": "acc"}]}


def request(context: str, **settings: Any) -> Any:
    from lm_eval.api.instance import Instance

    return Instance("generate_until", {}, (context, settings), 0, ("words", 0, 1))


def task(name: str, folder: Path, **overrides: Any) -> dict[str, Any]:
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps({"question": question, "answer": "0"}) + "\n" for question in QUESTIONS))
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 6, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    } | overrides


@pytest.fixture(scope="module")
def model(embedded: LLM) -> Any:
    from surelock.measure.harness import HarnessModel

    return HarnessModel(rule="paper@5e-3", tokens_per_step=2, llm=embedded)


def test_requests_are_decoded_as_they_ask(model: Any, embedded: LLM) -> None:
    calls = [
        request(QUESTIONS[0], until=["\n"], max_gen_toks=8, do_sample=False),
        request(QUESTIONS[1], until="e", max_new_tokens=7),
        request(QUESTIONS[2], until=[], max_gen_toks=8, temperature=0.7),
    ]
    lock = LockParams.paper(5e-3)
    greedy = SamplingParams(max_tokens=8, steps=4, lock=lock)
    first, second, third = model.generate_until(calls)
    assert first == embedded.generate(QUESTIONS[0], greedy)[0].text.partition("\n")[0]
    assert second == embedded.generate(QUESTIONS[1], replace(greedy, max_tokens=7))[0].text.partition("e")[0]
    assert third == embedded.generate(QUESTIONS[2], replace(greedy, temperature=0.7, seed=2))[0].text
    cost = model.cost()
    assert cost["num_requests"] == 3
    assert cost["active_ratio"] < 1
    assert model.generate_until([]) == []


def test_a_conversation_goes_through_the_models_own_template(model: Any, embedded: LLM) -> None:
    messages = [{"role": "user", "content": "Say <|eot_id|> twice."}]
    context = model.apply_chat_template(messages)
    (text,) = model.generate_until([request(context, until=[], max_gen_toks=4)])
    assert text == embedded.chat(messages, SamplingParams(max_tokens=4, steps=2, lock=LockParams.paper(5e-3))).text
    begun = [*messages, {"role": "assistant", "content": "It is"}]
    (text,) = model.generate_until([request(model.apply_chat_template(begun, False), until=[], max_gen_toks=4)])
    assert embedded.tokenizer is not None
    ids = [*embedded.encode_chat(messages), *embedded.tokenizer.encode("It is", bos=False)]
    params = SamplingParams(max_tokens=4, steps=2, lock=LockParams.paper(5e-3))
    assert text == embedded.generate({"prompt_token_ids": ids}, params)[0].text


def test_likelihoods_are_refused_with_the_reason(model: Any) -> None:
    for method in (model.loglikelihood, model.loglikelihood_rolling):
        with pytest.raises(NotImplementedError, match="the task 'words' asks for likelihoods") as caught:
            method([request("a")])
        assert isinstance(caught.value, ParameterError)


def test_what_a_task_or_user_may_not_set_is_refused(model: Any, embedded: LLM) -> None:
    from surelock.measure.harness import HarnessModel

    with pytest.raises(ParameterError, match=r"the task sets top_p=0\.9"):
        model.generate_until([request("a", do_sample=True, top_p=0.9)])
    with pytest.raises(PromptError, match="512"):
        model.generate_until([request("a", max_gen_toks=4), request("a", max_gen_toks=600)])
    with pytest.raises(ParameterError, match="tokens_per_step is 0"):
        HarnessModel(tokens_per_step=0, llm=embedded)
    with pytest.raises(ParameterError, match="model and pretrained"):
        HarnessModel("a", pretrained="b")
    with pytest.raises(ParameterError, match="only the model's own is used"):
        model.chat_template("other")


# What the harness' own libraries warn of is their business.
@pytest.mark.filterwarnings("ignore")
def test_the_harness_runs_a_task(embedded: LLM, tmp_path: Path) -> None:
    from surelock.measure.harness import HarnessModel

    lm = HarnessModel(llm=embedded)
    found = lm_eval.simple_evaluate(lm, tasks=[task("surelock_words", tmp_path)], limit=2, bootstrap_iters=0)
    assert found["results"]["surelock_words"]["exact_match,none"] == 0
    assert lm.cost()["num_requests"] == 2
    with pytest.raises(NotImplementedError, match="surelock_choices"):
        lm_eval.simple_evaluate(lm, tasks=[task("surelock_choices", tmp_path, **LIKELIHOOD)], bootstrap_iters=0)


@pytest.mark.slow
def test_the_harness_own_command_line_finds_the_model(tmp_path: Path) -> None:
    # JSON is YAML.
    (tmp_path / "words.yaml").write_text(json.dumps(task("surelock_words", tmp_path)))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "surelock.measure.harness", "run", "--model", "surelock"),
            *("--model_args", "rule=paper@5e-3", "--tasks", "surelock_words", "--include_path", str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "surelock_words" in done.stdout
    assert "exact_match" in done.stdout
