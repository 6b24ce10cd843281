"""Adapters, over miniature copies of a peer's files: what they load, what they time, and how they refuse."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from surelock.bench.baselines import load_baseline
from surelock.bench.shapes import TINY
from surelock.errors import ParameterError

CPU = torch.device("cpu")

CONFIGURATION = """
from dataclasses import dataclass
from enum import Enum

class LayerNormType(str, Enum):
    rms = "rms"

class ActivationType(str, Enum):
    silu = "silu"

class BlockType(str, Enum):
    llama = "llama"

FIELDS = '''d_model n_heads n_kv_heads n_layers mlp_hidden_size vocab_size embedding_size max_sequence_length rope
rope_theta rope_full_precision layer_norm_type rms_norm_eps activation_type block_type block_group_size
attention_dropout residual_dropout embedding_dropout attention_layer_norm layer_norm_with_affine bias_for_layer_norm
include_bias include_qkv_bias weight_tying scale_logits flash_attention mask_token_id eos_token_id pad_token_id
init_device'''.split()

ModelConfig = dataclass(type("ModelConfig", (), {"__annotations__": dict.fromkeys(FIELDS, object)}))

class LLaDAConfig:
    def __init__(self, **values):
        self.__dict__.update(values)
"""
MODELLING = """
import torch

class LLaDAModel(torch.nn.Module):
    def __init__(self, config, init_params=True):
        super().__init__()
        assert not init_params
        self.wte = torch.nn.Embedding(config.embedding_size, config.d_model, device=config.init_device)

class LLaDAModelLM(torch.nn.Module):
    def __init__(self, config, model):
        super().__init__()
        self.config, self.model = config, model
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.model.wte(x)
"""
GENERATE = """
import time

def generate(model, prompt, steps, gen_length, block_length, mask_id):
    assert steps == gen_length == block_length
    for _ in range(steps):
        model(prompt)
        time.sleep(0.001)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    before = set(sys.modules)
    for name, text in (
        ("configuration_llada", CONFIGURATION), ("modeling_llada", MODELLING), ("generate", GENERATE),
    ):  # fmt: skip
        (tmp_path / f"{name}.py").write_text(text)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("surelock_peer_code"):
            del sys.modules[name]


def official(folder: Path) -> Any:
    return load_baseline("official", folder, TINY, device=CPU, dtype=torch.bfloat16)


def let_only_sleep_take_time(peer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer's clock shows what its sampler has slept."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(sys.modules["surelock_peers.clock"], "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setitem(peer.generate.__globals__, "time", SimpleNamespace(sleep=sleep))


def test_official_times_steady_steps(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = official(folder)
    let_only_sleep_take_time(peer, monkeypatch)
    assert peer.facts["name"] == peer.name == "official"
    assert {parameter.dtype for parameter in peer.model.parameters()} == {torch.bfloat16}
    assert torch.get_default_dtype() == torch.float32
    assert peer.model.config.use_cache is False
    assert peer.step_ms(2, 8, 500) == pytest.approx(1.0)
    # Four to warm up and 32 timed; the hook that ends the run comes before the forward.
    assert peer.model.calls == 36


def test_the_peers_revision_is_recorded(folder: Path) -> None:
    revision = official(folder).facts["revision"]
    assert (revision["commit"], revision["uncommitted_changes"]) == (None, None)
    git = ("git", "-C", str(folder), "-c", "user.name=n", "-c", "user.email=e@e.invalid")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "theirs"]):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    again = official(folder).facts["revision"]
    assert again == revision | {"commit": commit, "uncommitted_changes": False}
    (folder / "generate.py").write_text(f"{GENERATE}\n")
    changed = official(folder).facts["revision"]
    assert changed["uncommitted_changes"] is True
    assert changed["sha256"] != revision["sha256"]


def test_runs_shorter_than_what_is_timed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = official(folder)
    let_only_sleep_take_time(peer, monkeypatch)
    assert peer.step_ms(1, 8, 16) == pytest.approx(1.0)
    assert peer.model.calls == 16
    assert peer.step_ms(1, 8, 2) == pytest.approx(1.0)


def test_a_peer_that_has_no_such_model(folder: Path) -> None:
    with pytest.raises(ParameterError, match="no qk_norm"):
        load_baseline("official", folder, replace(TINY, qk_norm=True), device=CPU, dtype=torch.float32)


@pytest.mark.parametrize("name", ["official", "fast-dllm", "dinfer"])
def test_a_folder_without_the_code(name: str, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=f"--baseline {name} .* cannot be used") as error:
        load_baseline(name, tmp_path, TINY, device=CPU, dtype=torch.float32)
    assert "\n" not in str(error.value)


def test_unknown_names_and_missing_folders(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="use one of official, fast-dllm, dinfer"):
        load_baseline("vllm", tmp_path, TINY, device=CPU, dtype=torch.float32)
    with pytest.raises(ParameterError, match="there is no such folder"):
        load_baseline("official", tmp_path / "no", TINY, device=CPU, dtype=torch.float32)
