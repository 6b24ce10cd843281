"""Packed weights are the same bits; a file that is anything else is refused in one line, and takes no memory."""

from __future__ import annotations

import json
import re
import shutil
import zlib
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from surelock import LLM
from surelock.errors import WeightsError
from surelock.models.checkpoint import read_model_config
from surelock.models.hub import EMBEDDED_FOLDER
from surelock.models.packed_weights import PACKED_FILE, write_packed
from surelock.models.shards import SINGLE_FILE, open_shards, read_tensors
from surelock.models.weights import open_weights

NAME = "model.norm.weight"
NUM_ELEMENTS = 200


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(torch.int16)


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A folder with one packed tensor."""
    torch.manual_seed(0)
    write_packed({NAME: torch.randn(NUM_ELEMENTS).bfloat16()}, tmp_path / PACKED_FILE)
    return tmp_path


def refused(folder: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        read_tensors(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert PACKED_FILE in message
    return message


def rewrite(folder: Path, low: torch.Tensor, high: bytes, **others: torch.Tensor) -> None:
    """A packed file with these two parts of the tensor."""
    stream = torch.frombuffer(bytearray(high), dtype=torch.uint8)
    save_file({f"{NAME}.low": low, f"{NAME}.high": stream, **others}, folder / PACKED_FILE)


def stream_of(high: bytes, low: torch.Tensor) -> bytes:
    return zlib.compress(high) + zlib.crc32(low.numpy().tobytes()).to_bytes(4, "little")


def test_every_value_there_is_comes_back_bit_for_bit(tmp_path: Path) -> None:
    # Infinities, both zeros, subnormals and every payload of NaN among them.
    everything = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.bfloat16)
    tensors = {
        "everything": everything,
        "shuffled": everything[torch.randperm(2**16, generator=torch.Generator().manual_seed(0))].view(4, 128, 128),
        "transposed": everything.view(256, 256).T,
        "none": torch.empty(0, 7, dtype=torch.bfloat16),
        "scalar": torch.tensor(-0.0, dtype=torch.bfloat16),
        "a.low": torch.full((3, 1), torch.nan, dtype=torch.bfloat16),
    }
    write_packed(tensors, tmp_path / PACKED_FILE)
    found = read_tensors(tmp_path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == torch.bfloat16
        assert found[name].shape == tensor.shape
        assert torch.equal(bits(found[name]), bits(tensor.contiguous()))


@given(st.binary(max_size=600).filter(lambda content: len(content) % 2 == 0))
def test_any_bytes_come_back(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.getbasetemp()
    words = [int.from_bytes(content[i : i + 2], "little", signed=True) for i in range(0, len(content), 2)]
    tensor = torch.tensor(words, dtype=torch.int16).view(torch.bfloat16)
    write_packed({NAME: tensor}, folder / PACKED_FILE)
    assert torch.equal(bits(read_tensors(folder)[NAME]), bits(tensor))


def test_trained_weights_take_two_thirds() -> None:
    config, family = read_model_config(EMBEDDED_FOLDER)
    with open_weights(EMBEDDED_FOLDER, config, family) as weights:
        assert weights.dtype == torch.bfloat16
        assert weights.num_file_bytes == (EMBEDDED_FOLDER / PACKED_FILE).stat().st_size
    plain = 2 * sum(tensor.numel() for tensor in read_tensors(EMBEDDED_FOLDER).values())
    assert weights.num_file_bytes < 0.68 * plain


def test_a_plain_file_goes_before_a_packed_one(packed: Path) -> None:
    save_file({"plain": torch.ones(2)}, packed / SINGLE_FILE)
    assert list(read_tensors(packed)) == ["plain"]


def test_only_bfloat16_is_packed(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"'a' is of type torch\.float16; only bfloat16 can be packed"):
        write_packed({"a": torch.ones(1, dtype=torch.float16)}, tmp_path / PACKED_FILE)


def test_every_changed_byte_of_the_data_is_noticed(packed: Path) -> None:
    path = packed / PACKED_FILE
    sound = path.read_bytes()
    start = 8 + int.from_bytes(sound[:8], "little")
    for where in range(start, len(sound)):
        damaged = bytearray(sound)
        damaged[where] ^= 0x55
        path.write_bytes(damaged)
        assert "is damaged" in refused(packed)


@pytest.mark.parametrize("length", [0, 4, 8, 100, 300, -1])
def test_a_truncated_file_is_refused(packed: Path, length: int) -> None:
    path = packed / PACKED_FILE
    path.write_bytes(path.read_bytes()[:length])
    assert "is not a sound safetensors file" in refused(packed)


def test_a_file_with_more_behind_it_is_refused(packed: Path) -> None:
    with (packed / PACKED_FILE).open("ab") as file:
        file.write(bytes(10))
    assert "is not a sound safetensors file" in refused(packed)


@pytest.mark.parametrize("num_bytes", [0, NUM_ELEMENTS - 1, NUM_ELEMENTS + 1, 2 * NUM_ELEMENTS])
def test_a_stream_of_another_length_is_refused(packed: Path, num_bytes: int) -> None:
    low = torch.zeros(NUM_ELEMENTS, dtype=torch.uint8)
    rewrite(packed, low, stream_of(bytes(num_bytes), low))
    assert f"the packed tensor '{NAME}' is damaged" in refused(packed)


def test_bytes_behind_a_stream_are_refused(packed: Path) -> None:
    low = torch.zeros(NUM_ELEMENTS, dtype=torch.uint8)
    rewrite(packed, low, stream_of(bytes(NUM_ELEMENTS), low) + b"\0")
    assert "is damaged" in refused(packed)


def test_a_decompression_bomb_unpacks_no_further_than_its_shape(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked = []
    low = torch.zeros(1 << 17, dtype=torch.uint8)
    bomb = stream_of(bytes(1 << 26), low)
    assert len(bomb) < low.numel()
    rewrite(packed, low, bomb)
    given_inflate = zlib.decompressobj

    class Inflate:
        """Tells how much came out."""

        def __init__(self) -> None:
            self.inflate = given_inflate()

        def decompress(self, data: bytes, max_length: int) -> bytes:
            unpacked.append(self.inflate.decompress(data, max_length))
            return unpacked[-1]

        @property
        def eof(self) -> bool:
            return self.inflate.eof

    monkeypatch.setattr("surelock.models.packed_weights.zlib.decompressobj", Inflate)
    assert "is damaged" in refused(packed)
    assert [len(part) for part in unpacked] == [low.numel() + 1]


def test_a_stream_larger_than_any_is_not_read(packed: Path) -> None:
    low = torch.zeros(NUM_ELEMENTS, dtype=torch.uint8)
    rewrite(packed, low, stream_of(bytes(NUM_ELEMENTS), low) + bytes(2 * NUM_ELEMENTS))
    with (
        pytest.raises(WeightsError, match=f"bytes of high ones for {NUM_ELEMENTS} elements"),
        open_shards(packed, [NAME]),
    ):
        pass


@pytest.mark.parametrize("other", ["other", "other.high", "other.low"])
def test_tensors_that_are_no_pair_are_refused(packed: Path, other: str) -> None:
    low = torch.zeros(1, dtype=torch.uint8)
    rewrite(packed, low, stream_of(b"\0", low), **{other: low.clone()})
    assert "is not a packed file: 'other" in refused(packed)


@pytest.mark.parametrize("low_type", [torch.int8, torch.bfloat16])
def test_parts_of_another_type_are_refused(packed: Path, low_type: torch.dtype) -> None:
    rewrite(packed, torch.zeros(1, dtype=low_type), stream_of(b"\0", torch.zeros(1, dtype=torch.uint8)))
    assert f"'{NAME}.low' must be of type U8" in refused(packed)


def test_a_link_out_of_the_folder_is_refused(packed: Path) -> None:
    folder = packed / "model"
    folder.mkdir()
    (folder / PACKED_FILE).symlink_to(packed / PACKED_FILE)
    assert "is a link out of its folder" in refused(folder)


def test_a_packed_file_of_another_model_does_not_fit(packed: Path) -> None:
    shutil.copy(EMBEDDED_FOLDER / "config.json", packed)
    with pytest.raises(WeightsError, match=rf"tensors 75 missing.*1 unexpected: {re.escape(NAME)}"):
        LLM(packed, device="cpu")


def test_the_model_card_says_how_to_get_a_plain_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (EMBEDDED_FOLDER / "README.md").read_text(), re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    (folder,) = tmp_path.iterdir()
    assert not (folder / PACKED_FILE).exists()
    tensors, plain = read_tensors(EMBEDDED_FOLDER), load_file(folder / SINGLE_FILE)
    assert plain.keys() == tensors.keys()
    assert all(torch.equal(bits(plain[name]), bits(tensor)) for name, tensor in tensors.items())
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == 4096
    canvas = [[2, 50, 1, 1]]
    assert torch.equal(LLM(folder, device="cpu").logits(canvas), LLM(device="cpu").logits(canvas))
