"""Weights in two thirds of the bytes, bit for bit: the file of the models inside the package.

Of a trained bfloat16 value the low byte, mantissa for the most part, is noise, and the high one, sign and exponent, is
one of a few: Huffman codes alone make a third of the high bytes, smaller here than zlib with matches, or lzma, and fast
to read. So a tensor `name` is two of type U8 in a safetensors file: `name.low`, in the tensor's shape, and `name.high`,
a zlib stream followed by the CRC-32 of the low bytes. A file unpacks to less than twice its size, whatever it holds.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import save_file

from surelock.errors import WeightsError, shown

PACKED_FILE: Final = "model.packed.safetensors"
_LOW: Final = ".low"
_HIGH: Final = ".high"
_CRC_BYTES: Final = 4


def write_packed(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write tensors of type bfloat16, of any shape and on any device, to a file that `PackedFile` reads.

    Raises:
        WeightsError: a tensor is of another type.
    """
    parts = {}
    for name, tensor in tensors.items():
        if tensor.dtype != torch.bfloat16:
            raise WeightsError(
                f"{shown(name)} is of type {tensor.dtype}; only bfloat16 can be packed: convert it first"
            )
        bits = tensor.detach().cpu().flatten().view(torch.uint16).numpy()
        low = (bits & 0xFF).astype(np.uint8)
        deflate = zlib.compressobj(memLevel=9, strategy=zlib.Z_HUFFMAN_ONLY)
        high = deflate.compress((bits >> 8).astype(np.uint8).tobytes()) + deflate.flush()
        high += zlib.crc32(low.tobytes()).to_bytes(_CRC_BYTES, "little")
        parts[name + _LOW] = torch.from_numpy(low).view(tensor.shape)
        parts[name + _HIGH] = torch.from_numpy(np.frombuffer(bytearray(high), np.uint8))
    save_file(parts, path)


class PackedFile:
    """An open packed file, read as one with the tensors themselves would be."""

    def __init__(self, path: Path, file: Any) -> None:
        """file: what `safe_open` gives."""
        self._path = path
        self._file = file

    def get_tensor(self, name: str) -> torch.Tensor:
        """A tensor in memory of its own: bfloat16, of the shape that `unpacked_header` says.

        Raises:
            WeightsError: its bytes are damaged.
        """
        stored = self._file.get_tensor(name + _LOW)
        low = stored.flatten().numpy()
        stream = self._file.get_tensor(name + _HIGH).numpy()
        inflate = zlib.decompressobj()
        try:
            # One more than there should be, to notice it; and 0 would mean no limit.
            high = inflate.decompress(stream, low.size + 1)
        except zlib.error as fault:
            raise self._damaged(name) from fault
        found_crc = zlib.crc32(low).to_bytes(_CRC_BYTES, "little")
        if not inflate.eof or len(high) != low.size or inflate.unused_data != found_crc:
            raise self._damaged(name)
        bits = np.frombuffer(high, np.uint8).astype(np.uint16)
        bits <<= 8
        bits |= low
        return torch.from_numpy(bits).view(torch.bfloat16).view(stored.shape)

    def _damaged(self, name: str) -> WeightsError:
        return WeightsError(f"{self._path}: the packed tensor {shown(name)} is damaged; install surelock again")


def unpacked_header(path: Path, header: Mapping[str, Any]) -> dict[str, Any]:
    """The header that a plain file of the same tensors would have, of type and shape.

    Args:
        path: of the packed file, for messages.
        header: its own, found sound by safetensors.

    Raises:
        WeightsError: it is not that of a packed file, or high bytes take more than any stream of them.
    """
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    names = [name.removesuffix(_LOW) for name in entries if name.endswith(_LOW)]
    parts = {name + part for name in names for part in (_LOW, _HIGH)}
    odd = sorted(parts ^ entries.keys()) or sorted(name for name in parts if entries[name]["dtype"] != "U8")
    if odd:
        raise WeightsError(
            f"{path} is not a packed file: {shown(odd[0])} must be of type U8, and each {_LOW} have its {_HIGH}"
        )
    for name in names:
        num_elements = math.prod(entries[name + _LOW]["shape"])
        num_bytes = math.prod(entries[name + _HIGH]["shape"])
        if num_bytes > num_elements + num_elements // 64 + 64:
            raise WeightsError(f"{path}: {shown(name)} has {num_bytes} bytes of high ones for {num_elements} elements")
    return {name: {"dtype": "BF16", "shape": entries[name + _LOW]["shape"]} for name in names}
