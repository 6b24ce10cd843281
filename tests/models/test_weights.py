"""Safetensors weights: what is loaded, and what is refused before anything is allocated."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from surelock.errors import WeightsError
from surelock.models.checkpoint import read_model_config
from surelock.models.shards import INDEX_FILE, SINGLE_FILE
from surelock.models.weights import load_weights
from tests.checkpoints import random_tensors, tiny_config, write_checkpoint, write_weights

ROOT = "model.transformer"
CPU = torch.device("cpu")


def load(folder: Path, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    config, family = read_model_config(folder)
    return load_weights(folder, config, family, dtype=dtype, device=CPU)


def refused(folder: Path, dtype: torch.dtype | None = None) -> str:
    with pytest.raises(WeightsError) as caught:
        load(folder, dtype)
    message = str(caught.value)
    assert message.isprintable()
    assert str(folder) in message
    return message


@pytest.mark.parametrize("num_shards", [1, 2, 5])
def test_parts_are_concatenated_in_order(tmp_path: Path, num_shards: int) -> None:
    folder = write_checkpoint(tmp_path, num_shards=num_shards, include_bias=True, attention_layer_norm=True)
    tensors = random_tensors(json.loads((folder / "config.json").read_text()))
    loaded = load(folder)

    def parts(*leaves: str) -> torch.Tensor:
        return torch.cat([tensors[f"{ROOT}.{leaf}"] for leaf in leaves])

    expected = {
        "embedding.weight": parts("wte.weight"),
        "norm.weight": parts("ln_f.weight"),
        "head.weight": parts("ff_out.weight"),
        "head.bias": parts("ff_out.bias"),
    }
    for i in range(2):
        block = f"blocks.{i}"
        expected |= {
            f"layers.{i}.attn_norm.weight": parts(f"{block}.attn_norm.weight"),
            f"layers.{i}.q_norm.weight": parts(f"{block}.q_norm.weight"),
            f"layers.{i}.k_norm.weight": parts(f"{block}.k_norm.weight"),
            f"layers.{i}.ff_norm.weight": parts(f"{block}.ff_norm.weight"),
        }
        for kind in ("weight", "bias"):
            expected |= {
                f"layers.{i}.qkv.{kind}": parts(*(f"{block}.{leaf}_proj.{kind}" for leaf in "qkv")),
                f"layers.{i}.attn_out.{kind}": parts(f"{block}.attn_out.{kind}"),
                f"layers.{i}.gate_up.{kind}": parts(f"{block}.ff_proj.{kind}", f"{block}.up_proj.{kind}"),
                f"layers.{i}.down.{kind}": parts(f"{block}.ff_out.{kind}"),
            }
    assert loaded.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(loaded[name], tensor), name


def test_grouped_layers(tmp_path: Path) -> None:
    loaded = load(write_checkpoint(tmp_path, n_layers=4, block_group_size=2))
    tensors = load_file(tmp_path / SINGLE_FILE)
    assert torch.equal(loaded["layers.3.down.weight"], tensors[f"{ROOT}.block_groups.1.1.ff_out.weight"])


@pytest.mark.parametrize("head", [False, True], ids=["no head", "redundant head"])
def test_tied_head_is_absent(tmp_path: Path, head: bool) -> None:
    write_checkpoint(tmp_path, weight_tying=True)
    if head:
        tensors = load_file(tmp_path / SINGLE_FILE)
        tensors[f"{ROOT}.ff_out.weight"] = tensors[f"{ROOT}.wte.weight"].clone()
        write_weights(tmp_path, tensors)
    assert not [name for name in load(tmp_path) if name.startswith("head")]


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dtype", [None, torch.float32, torch.float16, torch.bfloat16])
def test_conversion(tmp_path: Path, stored: torch.dtype, dtype: torch.dtype | None) -> None:
    loaded = load(write_checkpoint(tmp_path, dtype=stored), dtype)
    tensor = load_file(tmp_path / SINGLE_FILE)[f"{ROOT}.blocks.1.attn_out.weight"]
    assert torch.equal(loaded["layers.1.attn_out.weight"], tensor.to(dtype or stored))
    assert {value.dtype for value in loaded.values()} == {dtype or stored}


def test_own_type_of_a_mixed_checkpoint_is_the_commonest(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, dtype=torch.bfloat16)
    tensors = load_file(tmp_path / SINGLE_FILE)
    write_weights(tmp_path, {name: t.float() if "norm" in name else t for name, t in tensors.items()})
    assert {value.dtype for value in load(tmp_path).values()} == {torch.bfloat16}


def test_parameters_do_not_depend_on_the_file(tmp_path: Path) -> None:
    loaded = load(write_checkpoint(tmp_path))
    before = {name: tensor.clone() for name, tensor in loaded.items()}
    with (tmp_path / SINGLE_FILE).open("r+b") as file:
        file.write(b"\0" * (tmp_path / SINGLE_FILE).stat().st_size)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in before.items())


def test_every_misfit_is_named_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path)
    tensors = load_file(tmp_path / SINGLE_FILE)
    del tensors[f"{ROOT}.ln_f.weight"], tensors[f"{ROOT}.blocks.0.q_proj.weight"]
    tensors["lm_head\nweight"] = torch.zeros(1)
    tensors[f"{ROOT}.wte.weight"] = torch.zeros(4, 4)
    tensors[f"{ROOT}.blocks.1.attn_norm.weight"] = torch.zeros(32, dtype=torch.float64)
    write_weights(tmp_path, tensors)
    monkeypatch.setattr(torch, "empty", None)
    message = refused(tmp_path)
    assert f"2 missing: {ROOT}.blocks.0.q_proj.weight, {ROOT}.ln_f.weight;" in message
    assert r"1 unexpected: lm_head\nweight;" in message
    assert f"1 of the wrong shape: {ROOT}.wte.weight [4, 4], not [96, 32];" in message
    assert f"1 not of type F32, F16, BF16: {ROOT}.blocks.1.attn_norm.weight F64" in message


def test_long_lists_are_capped(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, n_layers=8)
    write_weights(tmp_path, {"x": torch.zeros(1)})
    message = refused(tmp_path)
    assert "75 missing: " in message
    assert " and 65 more; 1 unexpected: x" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight_tying": True}, None),
        ({"include_bias": True}, "missing: "),
        ({"n_layers": 1}, "unexpected: "),
        ({"n_layers": 1024}, "missing: "),
        ({"d_model": 65536, "mlp_hidden_size": 1048576}, "of the wrong shape: "),
        ({"attention_layer_norm": True}, "missing: "),
    ],
)
def test_config_that_lies_about_the_weights(tmp_path: Path, change: dict[str, Any], message: str | None) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(tiny_config(**change)))
    if message is None:
        load(tmp_path)
    else:
        assert message in refused(tmp_path)


def test_redundant_head_of_the_wrong_shape_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, weight_tying=True)
    write_weights(tmp_path, load_file(tmp_path / SINGLE_FILE) | {f"{ROOT}.ff_out.weight": torch.zeros(80, 32)})
    assert f"1 of the wrong shape: {ROOT}.ff_out.weight [80, 32], not [96, 32]" in refused(tmp_path)


def with_header(header: object, body: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(start: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "only a length": lambda data: data[:8],
    "truncated": lambda data: data[:-4],
    "header cut": lambda data: data[:100],
    "trailing bytes": lambda data: data + b"xx",
    "huge header": lambda data: struct.pack("<Q", 1 << 62) + data[8:],
    "header not JSON": lambda data: data[:8] + b"\xff" + data[9:],
    "overlap": lambda data: with_header({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, b"0" * 12),
    "gap": lambda data: with_header({"a": entry(0, 8, [2]), "b": entry(12, 20, [2])}, b"0" * 20),
    "false shape": lambda data: with_header({"a": entry(0, 8, [3])}, b"0" * 8),
    "huge shape": lambda data: with_header({"a": entry(0, 8, [2**62, 2**62])}, b"0" * 8),
    "unknown type": lambda data: with_header({"a": entry(0, 8, [2], "F31")}, b"0" * 8),
    "web page": lambda data: b"<!DOCTYPE html><html>404</html>",
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("num_shards", [1, 2])
def test_damaged_file_is_named(tmp_path: Path, damage: str, num_shards: int) -> None:
    write_checkpoint(tmp_path, num_shards=num_shards)
    path = max(tmp_path.glob("*.safetensors"))
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    message = refused(tmp_path)
    assert f"{path} is not a sound safetensors file" in message
    assert "fetch it again" in message


def test_git_lfs_pointer_is_recognised(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / SINGLE_FILE).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 100\n")
    assert "it is a Git LFS pointer; run `git lfs pull`" in refused(tmp_path)


def test_file_without_tensors(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / SINGLE_FILE).write_bytes(with_header({}))
    assert "21 missing: " in refused(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "name", [f"{ROOT}.blocks.1.v_proj.weight", f"{ROOT}.wte.weight", f"{ROOT}.blocks.0.ff_norm.weight"]
)
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_values_that_are_not_finite(tmp_path: Path, name: str, value: float, stored: torch.dtype) -> None:
    write_checkpoint(tmp_path, dtype=stored)
    tensors = load_file(tmp_path / SINGLE_FILE)
    tensors[name].view(-1)[-1] = value
    write_weights(tmp_path, tensors)
    assert f"{SINGLE_FILE}: {name} holds NaN or infinity; the file is damaged" in refused(tmp_path, torch.float32)


def test_values_too_large_for_the_type(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    tensors = load_file(tmp_path / SINGLE_FILE)
    tensors[f"{ROOT}.ln_f.weight"][3] = 1e6
    write_weights(tmp_path, tensors)
    message = f"{ROOT}.ln_f.weight has values too large for float16; choose a wider type, such as float32"
    assert message in refused(tmp_path, torch.float16)
    load(tmp_path, torch.bfloat16)


def test_missing_shards_are_named(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, num_shards=3)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    assert f"lacks model-00002-of-00003.safetensors, named in {INDEX_FILE}; the download" in refused(tmp_path)


@pytest.mark.parametrize(
    "shard",
    [
        "../outside.safetensors",
        "/etc/outside.safetensors",
        "sub/outside.safetensors",
        "..\\outside.safetensors",
        "C:outside.safetensors",
        "a\0.safetensors",
        "a\n.safetensors",
        "model.safetensors\n",
        "..safetensors",
        ".safetensors",
        "model.bin",
        "model.safetensors.bin",
        "a" * 300 + ".safetensors",
        "",
        5,
        None,
        ["model.safetensors"],
    ],
)
def test_shard_name_that_is_no_plain_file_name(tmp_path: Path, shard: object) -> None:
    folder = write_checkpoint(tmp_path / "model", num_shards=2)
    write_weights(tmp_path, {"x": torch.zeros(1)})
    (tmp_path / SINGLE_FILE).rename(tmp_path / "outside.safetensors")
    index = json.loads((folder / INDEX_FILE).read_text())
    index["weight_map"][f"{ROOT}.ln_f.weight"] = shard
    (folder / INDEX_FILE).write_text(json.dumps(index))
    assert "a shard must be a plain file name in the same folder" in refused(folder)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (b"{}", "weight_map is null"),
        (b'{"weight_map": {}}', "weight_map is an object; it must name the shard of each tensor"),
        (b'{"weight_map": []}', "weight_map is a list of 0"),
        (b"[]", "must be a JSON object"),
        (b'{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}', "the key 'a' occurs twice"),
        (
            json.dumps({"weight_map": {str(i): f"{i}.safetensors" for i in range(513)}}).encode(),
            "names 513 shards; the limit is 512",
        ),
    ],
)
def test_bad_index(tmp_path: Path, index: bytes, message: str) -> None:
    write_checkpoint(tmp_path, num_shards=2)
    (tmp_path / INDEX_FILE).write_bytes(index)
    assert message in refused(tmp_path)


def test_index_and_headers_must_agree(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, num_shards=2)
    index = json.loads((tmp_path / INDEX_FILE).read_text())
    name = f"{ROOT}.wte.weight"
    first, second = index["weight_map"][name], "model-00002-of-00002.safetensors"
    index["weight_map"][name] = second
    (tmp_path / INDEX_FILE).write_text(json.dumps(index))
    assert f"1 not in the shard that {INDEX_FILE} names: {name} in {first}, not {second}" in refused(tmp_path)


def test_tensor_in_two_shards(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, num_shards=2)
    tensors = random_tensors(tiny_config())
    write_weights(tmp_path, tensors)
    (tmp_path / SINGLE_FILE).rename(tmp_path / "model-00002-of-00002.safetensors")
    assert "is in both model-00001-of-00002.safetensors and model-00002-of-00002.safetensors" in refused(tmp_path)


@pytest.mark.parametrize("target", ["elsewhere.safetensors", "blobs/0", "blobs/deeper/0"])
@pytest.mark.parametrize("name", ["models/one", "snapshots/0/0"])
def test_link_out_of_the_folder(tmp_path: Path, name: str, target: str) -> None:
    folder = write_checkpoint(tmp_path / name)
    (tmp_path / target).parent.mkdir(parents=True, exist_ok=True)
    (folder / SINGLE_FILE).rename(tmp_path / target)
    (folder / SINGLE_FILE).symlink_to(tmp_path / target)
    assert "is a link out of its folder" in refused(folder)


def test_link_within_the_folder(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    (folder / SINGLE_FILE).rename(folder / "v1.safetensors")
    (folder / SINGLE_FILE).symlink_to("v1.safetensors")
    (tmp_path / "alias").symlink_to(folder)
    assert load(folder).keys() == load(tmp_path / "alias").keys()


@pytest.mark.parametrize("num_shards", [1, 2])
def test_links_of_a_hub_cache(tmp_path: Path, num_shards: int) -> None:
    cache = tmp_path / "models--org--name"
    folder = write_checkpoint(cache / "snapshots" / ("0" * 40), num_shards=num_shards)
    (cache / "blobs").mkdir()
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(cache / "blobs" / str(number))
        path.symlink_to(Path("..", "..", "blobs", str(number)))
    assert len(load(folder)) == 15


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_weights_that_are_no_regular_file(tmp_path: Path, kind: str) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / SINGLE_FILE).unlink()
    if kind == "folder":
        (tmp_path / SINGLE_FILE).mkdir()
    else:
        os.mkfifo(tmp_path / SINGLE_FILE)
    assert f"{SINGLE_FILE} is not a regular file" in refused(tmp_path)


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (Path.touch, (self.marker,))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "last.ckpt", "weights.pkl"])
def test_pickle_is_refused_unopened(tmp_path: Path, name: str) -> None:
    folder = write_checkpoint(tmp_path / "model")
    (folder / SINGLE_FILE).unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "marker")))
    message = refused(folder)
    assert f"has only pickle weights ({name})" in message
    assert "convert them with safetensors.torch.save_file" in message
    assert not (tmp_path / "marker").exists()
    pickle.loads((folder / name).read_bytes())
    assert (tmp_path / "marker").exists()


def test_no_weights_at_all(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / SINGLE_FILE).rename(tmp_path / "other.safetensors")
    assert f"has neither {SINGLE_FILE} nor {INDEX_FILE}" in refused(tmp_path)


def test_golden_checkpoints_load() -> None:
    golden = Path(__file__).parents[1] / "data" / "golden" / "llada"
    assert load(golden / "mha4")["head.weight"].shape == (320, 64)
    options = load(golden / "opts")
    assert options["layers.1.qkv.bias"].shape == (128,)
    assert "head.weight" not in options
