"""The judge's numbers are those of a plain forward, whatever is scored beside it."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from surelock.errors import (
    ModelError,
    ModelNotFoundError,
    NonFiniteLogitsError,
    ParameterError,
    TokenizerError,
    WeightsError,
)
from surelock.measure.judge import JUDGE_FOLDER, JUDGE_NAME, Judge
from surelock.measure.metrics import perplexity
from surelock.models.hub import EMBEDDED_FOLDER

PREFIXES = ["She had been forced into prudence in her", "", "The server listens on"]
TEXTS = [" youth, she learned romance as she grew older.", "Once upon a time", " port 80 of every address."]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the judge's with one small layer and a context of 16."""
    folder = tmp_path_factory.mktemp("judge")
    for path in (EMBEDDED_FOLDER / "tokenizer.json", JUDGE_FOLDER / "tokenizer_config.json"):
        shutil.copy(path, folder)
    config = json.loads((JUDGE_FOLDER / "config.json").read_text())
    config |= {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config |= {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 16}
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    factory: Any = AutoModelForCausalLM
    factory.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped judge as transformers reads it, made as its README says."""
    (code,) = re.findall(r"```python\n(.*?)```", (JUDGE_FOLDER / "README.md").read_text(), re.DOTALL)
    parent = tmp_path_factory.mktemp("plain")
    with contextlib.chdir(parent):
        exec(compile(code, "README.md", "exec"), {})
    return parent / "surelock-judge"


def by_hand(folder: Path, judge: Judge, prefix: str, text: str) -> tuple[float, int]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    before, after = [0, *judge.encode(prefix)], judge.encode(text)
    with torch.no_grad():
        logits = model(torch.tensor([before + after])).logits[0]
    nats = F.cross_entropy(logits[len(before) - 1 : -1], torch.tensor(after), reduction="sum")
    return float(nats), len(after)


def test_scores_are_those_of_one_forward_of_each_text(judge: Judge, plain: Path) -> None:
    found = judge.negative_log_likelihood(PREFIXES, TEXTS)
    for (nats, count), prefix, text in zip(found, PREFIXES, TEXTS, strict=True):
        expected, expected_count = by_hand(plain, judge, prefix, text)
        assert count == expected_count
        assert nats == pytest.approx(expected, rel=1e-4)


def test_it_prefers_english_to_noise(judge: Judge) -> None:
    english, noise = judge.negative_log_likelihood(["The "] * 2, ["people of the world", "zq vx kj wq zz xk"])
    assert english[0] / english[1] < noise[0] / noise[1] - 1


def test_a_text_longer_than_the_context_is_scored_in_windows(tiny: Path) -> None:
    judge = Judge.load(tiny, device="cpu")
    assert judge.max_length == 16
    text = " It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of folly."
    ids = [0, *judge.encode("A tale:"), *judge.encode(text)]
    start = len(ids) - len(judge.encode(text))
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    with torch.no_grad():
        expected, first = 0.0, start
        while first < len(ids):
            end = min(len(ids), max(16, first + 8))
            window = torch.tensor([ids[max(0, end - 16) : end]])
            log_p = model(window).logits[0].log_softmax(1)
            offset = max(0, end - 16)
            expected -= sum(float(log_p[i - offset - 1, ids[i]]) for i in range(first, end))
            first = end
    nats, count = judge.negative_log_likelihood(["A tale:"], [text])[0]
    assert count == len(ids) - start > 16
    assert nats == pytest.approx(expected, rel=1e-5)


def test_batches_bounded_by_memory_change_nothing(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Judge.load(tiny, device="cpu")
    together = judge.negative_log_likelihood(PREFIXES, TEXTS)
    monkeypatch.setattr("surelock.measure.judge._MAX_LOGIT_BYTES", 1)
    alone = judge.negative_log_likelihood(PREFIXES, TEXTS)
    assert [count for _, count in alone] == [count for _, count in together]
    assert [nats for nats, _ in alone] == pytest.approx([nats for nats, _ in together], rel=1e-5)


def test_text_that_spells_a_special_token_is_text(judge: Judge) -> None:
    assert len(judge.encode("<|endoftext|>")) > 1
    assert 0 not in judge.encode("<|endoftext|>")


def test_perplexity_is_micro_averaged() -> None:
    assert perplexity([(math.log(2) * 3, 3), (math.log(8), 1)]) == pytest.approx(2**1.5)
    assert perplexity([(1e6, 1)]) == math.inf
    with pytest.raises(ParameterError, match="no token in 1 texts"):
        perplexity([(0.0, 0)])


def test_an_empty_text_has_no_tokens(judge: Judge) -> None:
    assert judge.negative_log_likelihood(["Some"], [""]) == [(0.0, 0)]
    assert judge.negative_log_likelihood([], []) == []
    with pytest.raises(ParameterError, match="1 prefixes for 2 texts"):
        judge.negative_log_likelihood(["a"], ["b", "c"])


def test_the_shipped_judge_is_the_default(judge: Judge) -> None:
    assert judge.name == JUDGE_NAME
    assert judge.commit is None
    size = sum(path.stat().st_size for path in JUDGE_FOLDER.iterdir())
    assert size < 12 << 20


def test_the_shipped_judge_is_the_same_from_a_plain_folder(judge: Judge, plain: Path) -> None:
    copied = Judge.load(plain, device="cpu")
    assert copied.negative_log_likelihood(PREFIXES, TEXTS) == judge.negative_log_likelihood(PREFIXES, TEXTS)
    special = "a<|endoftext|><|mdm_mask|>"
    assert copied.encode(special) == judge.encode(special)


def test_a_model_that_cannot_judge_is_refused_in_one_line(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no/such/folder"):
        Judge.load("no/such/folder")
    folder = tmp_path / "judge"
    shutil.copytree(tiny, folder)
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {name: tensor for name, tensor in tensors.items() if name != "model.norm.weight"}, folder / "model.safetensors"
    )
    with pytest.raises(WeightsError, match=r"lacks 1 tensors of a LlamaForCausalLM, the first model\.norm\.weight"):
        Judge.load(folder, device="cpu")
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelError, match="cannot be loaded as a causal language model") as caught:
        Judge.load(folder, device="cpu")
    assert "\n" not in str(caught.value)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(TokenizerError, match="no tokenizer, so it cannot judge"):
        Judge.load(folder, device="cpu")


def test_a_judge_that_does_not_fit_its_tokenizer_or_is_not_finite_is_refused(tiny: Path) -> None:
    judge = Judge.load(tiny, device="cpu")
    judge._model.config.vocab_size = 5
    with pytest.raises(TokenizerError, match="the model has 5 ids"):
        judge.negative_log_likelihood(["A"], [" b"])
    judge = Judge.load(tiny, device="cpu")
    network: Any = judge._model
    network.get_output_embeddings().weight.data[:] = torch.nan
    with pytest.raises(NonFiniteLogitsError, match="NaN or infinite: use dtype float32"):
        judge.negative_log_likelihood(["A"], [" b"])
    with pytest.raises(ParameterError, match="device is 'gpu'; use cpu, cuda"):
        Judge.load(tiny, device="gpu")


def test_code_of_a_repository_is_never_run(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "judge"
    shutil.copytree(tiny, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "stranger",
        "auto_map": {"AutoModelForCausalLM": "code.Model", "AutoConfig": "code.Config"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelError, match="cannot be loaded as a causal language model"):
        Judge.load(folder, device="cpu")
    assert not (tmp_path / "ran").exists()
