"""Reads safetensors weights: headers are checked against the config before anything is allocated. Never pickle."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open

from surelock.errors import WeightsError, shown
from surelock.models.checkpoint import read_json_object
from surelock.models.config import ModelConfig
from surelock.models.family import Family, Source
from surelock.models.schema import shown_as_json

SINGLE_FILE: Final = "model.safetensors"
INDEX_FILE: Final = "model.safetensors.index.json"
MAX_INDEX_BYTES: Final = 64 << 20
MAX_SHARDS: Final = 512
MAX_LISTED: Final = 10

_DTYPES: Final = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_SHARD_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,240}\.safetensors")
_PICKLE_SUFFIXES: Final = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})
_GIT_LFS_POINTER: Final = b"version https://git-lfs"


@dataclass(frozen=True, slots=True)
class _StoredTensor:
    """A tensor as a file's header describes it; `dtype` is safetensors' name for it."""

    shard: str
    shape: tuple[int, ...]
    dtype: str


def load_weights(
    folder: Path, config: ModelConfig, family: Family, *, dtype: torch.dtype | None, device: torch.device
) -> dict[str, torch.Tensor]:
    """Every parameter of the model, by our names, on `device`.

    Reads `model.safetensors`, or else `model.safetensors.index.json` and the shards it names. Each parameter is filled
    tensor by tensor, so that the peak is the model itself plus one checkpoint tensor.

    Args:
        dtype: type of the parameters. None: the checkpoint's own, which is the one that most elements are stored in.

    Raises:
        WeightsError: files are missing, damaged, outside the folder or pickled; tensors are missing, unexpected, of a
            wrong shape or type; or a value is not finite in `dtype`.
    """
    sources = family.parameter_sources(config)
    shard_paths, index = _find_shards(folder)
    with ExitStack() as stack:
        shards = {name: stack.enter_context(_open_shard(path)) for name, path in shard_paths.items()}
        stored = _read_headers(folder, shards)
        _check_fit(folder, stored, sources, family.ignored_sources(config), index)
        if dtype is None:
            dtype = _main_dtype(stored, sources)
        return {
            name: _load_parameter(folder, parts, stored, shards, dtype=dtype, device=device)
            for name, parts in sources.items()
        }


def _find_shards(folder: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """Shard names to their files, and the index's tensor names to shard names (empty for a single file)."""
    if (folder / SINGLE_FILE).exists():
        return {SINGLE_FILE: _checked_path(folder, SINGLE_FILE)}, {}
    if (folder / INDEX_FILE).exists():
        index = _read_index(folder / INDEX_FILE)
        names = sorted(set(index.values()))
        missing = [name for name in names if not (folder / name).exists()]
        if missing:
            raise WeightsError(
                f"{folder} lacks {_listed(missing)}, named in {INDEX_FILE}; the download is incomplete: fetch it again"
            )
        return {name: _checked_path(folder, name) for name in names}, index
    pickled = sorted(path.name for path in folder.glob("*") if path.suffix in _PICKLE_SUFFIXES)
    if pickled:
        raise WeightsError(
            f"{folder} has only pickle weights ({_listed(pickled)}), which can run code when opened and are refused; "
            f"convert them with safetensors.torch.save_file to {SINGLE_FILE}, on a machine where that is safe"
        )
    raise WeightsError(f"{folder} has neither {SINGLE_FILE} nor {INDEX_FILE}; give a folder that holds one of them")


def _read_index(path: Path) -> dict[str, str]:
    weight_map = read_json_object(path, max_bytes=MAX_INDEX_BYTES, error=WeightsError).get("weight_map")
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


def _open_shard(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as fault:
        raise WeightsError(f"{path} is not a sound safetensors file: {_reason(path, fault)}") from fault


def _reason(path: Path, fault: Exception) -> str:
    if isinstance(fault, SafetensorError):
        with path.open("rb") as file:
            if file.read(len(_GIT_LFS_POINTER)) == _GIT_LFS_POINTER:
                return "it is a Git LFS pointer; run `git lfs pull` in its folder"
        return f"{' '.join(str(fault).split())[:200]}; the download is damaged or incomplete: fetch it again"
    return " ".join(str(fault).split())[:200]


def _read_headers(folder: Path, shards: Mapping[str, Any]) -> dict[str, _StoredTensor]:
    stored: dict[str, _StoredTensor] = {}
    for shard, file in shards.items():
        names: list[str] = file.keys()
        for name in names:
            if name in stored:
                raise WeightsError(f"{folder}: {_plain(name)} is in both {stored[name].shard} and {shard}; keep one")
            header = file.get_slice(name)
            stored[name] = _StoredTensor(shard, tuple(header.get_shape()), header.get_dtype())
    return stored


def _check_fit(
    folder: Path,
    stored: Mapping[str, _StoredTensor],
    sources: Mapping[str, tuple[Source, ...]],
    ignored: Iterable[Source],
    index: Mapping[str, str],
) -> None:
    expected = {source.name: source.shape for parts in sources.values() for source in parts}
    accepted = expected | {source.name: source.shape for source in ignored}
    problems = {
        "missing": [_plain(name) for name in expected if name not in stored],
        "unexpected": [_plain(name) for name in sorted(stored.keys() - accepted.keys())],
        "of the wrong shape": [
            f"{name} {list(stored[name].shape)}, not {list(shape)}"
            for name, shape in accepted.items()
            if name in stored and stored[name].shape != shape
        ],
        f"not of type {', '.join(_DTYPES)}": [
            f"{name} {stored[name].dtype}" for name in expected if name in stored and stored[name].dtype not in _DTYPES
        ],
        f"not in the shard that {INDEX_FILE} names": [
            f"{_plain(name)} in {stored[name].shard}, not {shard}"
            for name, shard in index.items()
            if name in stored and stored[name].shard != shard
        ],
    }
    found = [f"{len(names)} {kind}: {_listed(names)}" for kind, names in problems.items() if names]
    if found:
        raise WeightsError(f"{folder}: the weights do not fit config.json: tensors {'; '.join(found)}")


def _main_dtype(stored: Mapping[str, _StoredTensor], sources: Mapping[str, tuple[Source, ...]]) -> torch.dtype:
    num_elements: Counter[str] = Counter()
    for parts in sources.values():
        for source in parts:
            num_elements[stored[source.name].dtype] += math.prod(source.shape)
    return _DTYPES[num_elements.most_common(1)[0][0]]


def _load_parameter(
    folder: Path,
    parts: tuple[Source, ...],
    stored: Mapping[str, _StoredTensor],
    shards: Mapping[str, Any],
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> torch.Tensor:
    num_rows = sum(part.shape[0] for part in parts)
    parameter = torch.empty((num_rows, *parts[0].shape[1:]), dtype=dtype, device=device)
    start = 0
    for part in parts:
        rows = parameter[start : start + part.shape[0]]
        start += part.shape[0]
        shard = stored[part.name].shard
        try:
            tensor = shards[shard].get_tensor(part.name)
        except (SafetensorError, OSError) as fault:
            raise WeightsError(f"{folder / shard} cannot be read: {_reason(folder / shard, fault)}") from fault
        rows.copy_(tensor)
        if not _is_finite(rows):
            if _is_finite(tensor):
                raise WeightsError(
                    f"{folder / shard}: {part.name} has values too large for {str(dtype).removeprefix('torch.')}; "
                    "choose a wider type, such as float32"
                )
            raise WeightsError(f"{folder / shard}: {part.name} holds NaN or infinity; the file is damaged")
    return parameter


def _is_finite(tensor: torch.Tensor) -> bool:
    # One pass and no temporary: NaN and infinities come through as the least or the greatest element.
    return all(math.isfinite(bound.item()) for bound in torch.aminmax(tensor))


def _listed(names: list[str]) -> str:
    rest = len(names) - MAX_LISTED
    return ", ".join(names[:MAX_LISTED]) + (f" and {rest} more" if rest > 0 else "")


def _plain(name: str) -> str:
    """A tensor name from a file, on one line and short, whatever it holds."""
    return shown(name).strip("'\"") if not name.isprintable() or len(name) > 120 else name
