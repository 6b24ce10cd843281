"""Checkpoints made to hang, to fill memory or to run code: each is refused in one line, within 5 s and 1 GiB."""

from __future__ import annotations

import json
import os
import pickle
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from safetensors.torch import load_file

from surelock.models.shards import INDEX_FILE, SINGLE_FILE
from tests.checkpoints import tiny_config, write_checkpoint, write_sparse_checkpoint, write_weights
from tests.hostile import Hostile, check_refused, open_checkpoint

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of processes as Linux does")

Build = Callable[[Path], object]


def config(**changes: Any) -> Build:
    """config.json with other values."""
    return lambda folder: (folder / "config.json").write_text(json.dumps(tiny_config(**changes)))


def config_text(old: str, new: str) -> Build:
    """config.json with other text."""

    def build(folder: Path) -> None:
        path = folder / "config.json"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    return build


def weights(change: Callable[[bytes], bytes]) -> Build:
    """model.safetensors with other bytes."""
    return lambda folder: (folder / SINGLE_FILE).write_bytes(change((folder / SINGLE_FILE).read_bytes()))


def entry(start: int, end: int, shape: list[int]) -> dict[str, Any]:
    """A tensor in a safetensors header."""
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}


def header(text: bytes, body: bytes = b"") -> Build:
    """A safetensors file with this header."""
    return weights(lambda _: struct.pack("<Q", len(text)) + text + body)


def header_bomb(num_tensors: int, num_shards: int) -> Build:
    """Sound headers of tensors that config.json knows nothing of."""

    def build(folder: Path) -> None:
        (folder / SINGLE_FILE).unlink()
        names = [f"model-{number:05d}-of-{num_shards:05d}.safetensors" for number in range(num_shards)]
        for number, name in enumerate(names):
            part = ",".join(f'"{i}":{NO_ELEMENTS}' for i in range(number, num_tensors, num_shards))
            text = f"{{{part}}}".encode()
            (folder / name).write_bytes(struct.pack("<Q", len(text)) + text)
        (folder / INDEX_FILE).write_text(json.dumps({"weight_map": dict(enumerate(names))}))

    return build


def nan_weights(folder: Path) -> None:
    tensors = load_file(folder / SINGLE_FILE)
    tensors["model.transformer.wte.weight"][0, 0] = torch.nan
    write_weights(folder, tensors)


def only_pickle(folder: Path) -> None:
    (folder / SINGLE_FILE).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"x": 1}))


def pipe(folder: Path) -> None:
    (folder / SINGLE_FILE).unlink()
    os.mkfifo(folder / SINGLE_FILE)


def endless_device(name: str) -> Build:
    def build(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to("/dev/zero")

    return build


def link_out(folder: Path) -> None:
    outside = folder.parent / "elsewhere.safetensors"
    (folder / SINGLE_FILE).rename(outside)
    (folder / SINGLE_FILE).symlink_to(outside)


def index(text: bytes) -> Build:
    def build(folder: Path) -> None:
        (folder / SINGLE_FILE).unlink()
        (folder / INDEX_FILE).write_bytes(text)

    return build


def sparse(**changes: Any) -> Build:
    """Weights of any size that take no room on the disk."""
    return lambda folder: write_sparse_checkpoint(folder, weight_tying=True, **changes)


MANY: Final = 1 << 22
NO_ELEMENTS: Final = json.dumps({"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}, separators=(",", ":"))
TWICE: Final = f'{{"a":{NO_ELEMENTS},"b":{NO_ELEMENTS},"a":{NO_ELEMENTS}}}'.encode()
LFS_POINTER: Final = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 100\n"
HOSTILE: Final = [
    Hostile("nested config", config_text("{", '{"a": ' + "[" * 500_000), "nested too deeply", "ConfigError"),
    Hostile("endless config", endless_device("config.json"), "config.json is not a regular file", "ConfigError"),
    Hostile("NaN rope theta", config_text("10000.0", "NaN"), "NaN is not a JSON number", "ConfigError"),
    Hostile("infinite rope theta", config_text("10000.0", "1e999"), "rope_theta is inf", "ConfigError"),
    Hostile("sequence length", config(max_sequence_length=1 << 40), "max_sequence_length is", "ConfigError"),
    Hostile("negative size", config(d_model=-32), "d_model is -32", "ConfigError"),
    Hostile("integer of many digits", config_text("10000.0", "1" * 5000), "Exceeds the limit", "ConfigError"),
    Hostile("huge vocabulary", config(embedding_size=MANY, vocab_size=MANY), "wrong shape", "WeightsError"),
    Hostile("huge layers", config(d_model=1 << 16, mlp_hidden_size=1 << 20), "wrong shape", "WeightsError"),
    Hostile("more layers than weights", config(n_layers=1024), "missing", "WeightsError"),
    Hostile("NaN weights", nan_weights, "holds NaN or infinity", "WeightsError"),
    Hostile("only pickle", only_pickle, "has only pickle weights", "WeightsError"),
    Hostile("LFS pointer", weights(lambda _: LFS_POINTER), "git lfs pull", "WeightsError"),
    Hostile("cut file", weights(lambda data: data[:-4]), "fetch it again", "WeightsError"),
    Hostile("pipe", pipe, "is not a regular file", "WeightsError"),
    Hostile("endless weights", endless_device(SINGLE_FILE), "is a link out of its folder", "WeightsError"),
    Hostile("link out", link_out, "is a link out of its folder", "WeightsError"),
    Hostile("false length", weights(lambda data: struct.pack("<Q", 1 << 62) + data[8:]), "header", "WeightsError"),
    Hostile(
        "overlapping tensors",
        header(json.dumps({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}).encode(), b"0" * 12),
        "fetch it again",
        "WeightsError",
    ),
    Hostile("header bomb", header_bomb(300_000, 1), "need at most", "WeightsError"),
    Hostile("header bomb in shards", header_bomb(300_000, 40), "need at most", "WeightsError"),
    Hostile("as many tensors as a header may name", header_bomb(15_000, 1), "15000 unexpected", "WeightsError"),
    Hostile("tensor named twice", header(TWICE), "the key 'a' occurs twice", "WeightsError"),
    Hostile(
        "index bomb",
        index(json.dumps({"weight_map": dict.fromkeys(map(str, range(300_000)), "a.safetensors")}).encode()),
        f"{INDEX_FILE} is larger than",
        "WeightsError",
    ),
    # Half a GiB, then the file and its copy in memory are too much; one GiB, then the file alone.
    Hostile("large weights", sparse(embedding_size=MANY), "512.1 MiB in float32", "OutOfMemoryError"),
    Hostile("larger weights", sparse(embedding_size=MANY, d_model=64), "1.0 GiB in float32", "OutOfMemoryError"),
    Hostile("huge shape", header(json.dumps({"a": entry(0, 8, [1 << 62] * 2)}).encode(), b"0" * 8), "", "WeightsError"),
    Hostile("shard outside", index(b'{"weight_map": {"a": "../a"}}'), "must be a plain file name", "WeightsError"),
]


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
def test_refused_in_one_line(tmp_path: Path, hostile: Hostile) -> None:
    check_refused(hostile, write_checkpoint(tmp_path / "model"))


@pytest.mark.parametrize("max_sequence_length", [128, 1 << 24])
def test_a_sound_checkpoint_is_not_refused(tmp_path: Path, max_sequence_length: int) -> None:
    """However long its sequences may be, memory is taken for those that there are."""
    # Heads as large as those of LLaDA-8B.
    folder = write_checkpoint(tmp_path, d_model=128, n_heads=1, n_kv_heads=1, max_sequence_length=max_sequence_length)
    outcome = open_checkpoint(folder, "generate")
    assert outcome.error is None, outcome


def test_the_limits_hold(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    assert open_checkpoint(folder, "spin", max_seconds=0).error == "killed"
    assert open_checkpoint(folder, "fill").error == "MemoryError"
