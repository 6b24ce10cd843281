"""The safetensors files of a folder, of which none is trusted: `open_shards`, `read_tensors`. Never pickle."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open

from surelock.errors import WeightsError, shown, shown_error
from surelock.models.checkpoint import parse_json_object, read_json_object
from surelock.models.packed_weights import PACKED_FILE, PackedFile, unpacked_header
from surelock.models.schema import shown_as_json

SINGLE_FILE: Final = "model.safetensors"
INDEX_FILE: Final = "model.safetensors.index.json"
MAX_SHARDS: Final = 512
MAX_LISTED: Final = 10
# What a header or an index may take for metadata and for tensors of another model, which the error is to name; and for
# each tensor beside its name: type, shape and offsets, or the longest name of a shard.
SPARE_BYTES: Final = 1 << 20
TENSOR_BYTES: Final = 320

_SHARD_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,240}\.safetensors")
_PICKLE_SUFFIXES: Final = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})
_GIT_LFS_POINTER: Final = b"version https://git-lfs"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as a file's header describes it; `dtype` is safetensors' name for it."""

    shard: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Shards:
    """Open files.

    Attributes:
        tensors: by name, what the headers say.
        index: tensor names to shard names, as the index says; empty for a single file.
        num_bytes: of all files.
    """

    folder: Path
    tensors: Mapping[str, StoredTensor]
    index: Mapping[str, str]
    num_bytes: int
    _files: Mapping[str, Any]

    def read(self, name: str) -> torch.Tensor:
        """A tensor of the type and shape in `tensors`.

        One that is not packed shares the file's memory, which is no cost: the system may drop it any time.
        """
        shard = self.tensors[name].shard
        try:
            tensor: torch.Tensor = self._files[shard].get_tensor(name)
        except (SafetensorError, OSError) as fault:
            path = self.folder / shard
            raise WeightsError(f"{path} cannot be read: {_reason(path, fault)}") from fault
        return tensor


@contextmanager
def open_shards(folder: Path, expected: Collection[str]) -> Iterator[Shards]:
    """`model.safetensors`, or else `model.safetensors.index.json` and the shards it names, while the context lasts.

    A folder that has neither may hold the packed file of the models inside the package (`packed_weights`). Only headers
    are read, and only of a size that the expected tensors explain.

    Raises:
        WeightsError: files are missing, damaged, outside the folder or pickled; a header or the index is too large or
            names a tensor twice.
        MemoryError: a limit of the process, such as ulimit -v, is too low for the files.
    """
    max_bytes = SPARE_BYTES + sum(len(name) + TENSOR_BYTES for name in expected)
    paths, index = _find_shards(folder, max_bytes)
    _check_header_sizes(folder, paths, max_bytes)
    with ExitStack() as stack:
        files = {name: stack.enter_context(_open_shard(path)) for name, path in paths.items()}
        if PACKED_FILE in files:
            files[PACKED_FILE] = PackedFile(paths[PACKED_FILE], files[PACKED_FILE])
        num_bytes = sum(path.stat().st_size for path in paths.values())
        yield Shards(folder, _read_headers(folder, paths), index, num_bytes, files)


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor in a folder by the name it has there, whatever the model: packed ones, or a few plain ones.

    Raises:
        WeightsError: as `open_shards`, which expects none here, and as `Shards.read`.
        MemoryError: as `open_shards`.
    """
    with open_shards(folder, ()) as shards:
        return {name: shards.read(name) for name in shards.tensors}


def _find_shards(folder: Path, max_index_bytes: int) -> tuple[dict[str, Path], dict[str, str]]:
    """Shard names to their files, and the index's tensor names to shard names (empty for a single file)."""
    if (folder / SINGLE_FILE).exists():
        return {SINGLE_FILE: _checked_path(folder, SINGLE_FILE)}, {}
    if (folder / INDEX_FILE).exists():
        index = _read_index(folder / INDEX_FILE, max_index_bytes)
        names = sorted(set(index.values()))
        missing = [name for name in names if not (folder / name).exists()]
        if missing:
            raise WeightsError(
                f"{folder} lacks {listed(missing)}, named in {INDEX_FILE}; the download is incomplete: fetch it again"
            )
        return {name: _checked_path(folder, name) for name in names}, index
    if (folder / PACKED_FILE).exists():
        return {PACKED_FILE: _checked_path(folder, PACKED_FILE)}, {}
    pickled = sorted(path.name for path in folder.glob("*") if path.suffix in _PICKLE_SUFFIXES)
    if pickled:
        raise WeightsError(
            f"{folder} has only pickle weights ({listed(pickled)}), which can run code when opened and are refused; "
            f"convert them with safetensors.torch.save_file to {SINGLE_FILE}, on a machine where that is safe"
        )
    raise WeightsError(f"{folder} has neither {SINGLE_FILE} nor {INDEX_FILE}; give a folder that holds one of them")


def _read_index(path: Path, max_bytes: int) -> dict[str, str]:
    weight_map = read_json_object(path, max_bytes=max_bytes, error=WeightsError).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsError(f"{path}: weight_map is {shown_as_json(weight_map)}; it must name the shard of each tensor")
    for shard in weight_map.values():
        if not (isinstance(shard, str) and _SHARD_NAME.fullmatch(shard)):
            raise WeightsError(
                f"{path} names the shard {shown_as_json(shard)}; a shard must be a plain file name in the same folder, "
                "such as model-00001-of-00002.safetensors"
            )
    num_shards = len(set(weight_map.values()))
    if num_shards > MAX_SHARDS:
        raise WeightsError(f"{path} names {num_shards} shards; the limit is {MAX_SHARDS}")
    return weight_map


def _checked_path(folder: Path, name: str) -> Path:
    path, root = folder / name, folder.resolve()
    target = path.resolve()
    # In a hub cache, snapshots/<commit>/<file> is a link to blobs/<hash>.
    is_hub_blob = root.parent.name == "snapshots" and target.parent == (root.parent.parent / "blobs").resolve()
    if not (target.is_relative_to(root) or is_hub_blob):
        raise WeightsError(f"{path} is a link out of its folder, to {target}; put the file itself into the folder")
    if not path.is_file():
        raise WeightsError(f"{path} is not a regular file")
    return path


def _check_header_sizes(folder: Path, paths: Mapping[str, Path], max_bytes: int) -> None:
    """Refuse headers that would take long to parse. One longer than its file is left to the library."""
    num_bytes = 0
    for path in paths.values():
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
        num_bytes += length if length <= path.stat().st_size else 0
    if num_bytes > max_bytes:
        raise WeightsError(
            f"{folder}: the headers of {listed(list(paths))} have {num_bytes} bytes, and the tensors of config.json "
            f"need at most {max_bytes}: they are damaged, or belong to another model"
        )


def _open_shard(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as fault:
        raise WeightsError(f"{path} is not a sound safetensors file: {_reason(path, fault)}") from fault
    except RuntimeError as fault:
        # Torch maps the file a second time, which takes address space and no memory.
        raise MemoryError(f"{path} cannot be mapped: {shown_error(fault)}") from fault


def _reason(path: Path, fault: Exception) -> str:
    if isinstance(fault, SafetensorError):
        with path.open("rb") as file:
            if file.read(len(_GIT_LFS_POINTER)) == _GIT_LFS_POINTER:
                return "it is a Git LFS pointer; run `git lfs pull` in its folder"
        return f"{' '.join(str(fault).split())[:200]}; the download is damaged or incomplete: fetch it again"
    return " ".join(str(fault).split())[:200]


def _read_headers(folder: Path, names: Iterable[str]) -> dict[str, StoredTensor]:
    """What headers say that the library has found sound; a name that occurs twice is refused here, not there."""
    tensors: dict[str, StoredTensor] = {}
    for shard in names:
        with (folder / shard).open("rb") as file:
            data = file.read(int.from_bytes(file.read(8), "little"))
        header = parse_json_object(folder / shard, data, error=WeightsError)
        if shard == PACKED_FILE:
            header = unpacked_header(folder / shard, header)
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            if name in tensors:
                raise WeightsError(f"{folder}: {plain(name)} is in both {tensors[name].shard} and {shard}; keep one")
            tensors[name] = StoredTensor(shard, tuple(entry["shape"]), entry["dtype"])
    return tensors


def listed(names: list[str]) -> str:
    """The first names, and how many more there are."""
    rest = len(names) - MAX_LISTED
    return ", ".join(names[:MAX_LISTED]) + (f" and {rest} more" if rest > 0 else "")


def plain(name: str) -> str:
    """A tensor name from a file, on one line and short, whatever it holds."""
    return shown(name).strip("'\"") if not name.isprintable() or len(name) > 120 else name
