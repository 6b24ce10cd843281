"""The weights of a checkpoint: checked against the config by their headers before anything is allocated."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch

from surelock.errors import WeightsError
from surelock.models.config import ModelConfig
from surelock.models.family import Family, Source
from surelock.models.shards import INDEX_FILE, Shards, StoredTensor, listed, open_shards, plain

_DTYPES: Final = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class Weights:
    """Weights that fit the config, none of which is read yet: `open_weights`.

    Attributes:
        dtype: the checkpoint's own type, which is the one that most elements are stored in.
        num_file_bytes: of the files.
    """

    def __init__(self, shards: Shards, sources: Mapping[str, tuple[Source, ...]]) -> None:
        self._shards = shards
        self._sources = sources
        self.dtype = _main_dtype(shards.tensors, sources)
        self.num_file_bytes = shards.num_bytes

    def load(self, dtype: torch.dtype, device: torch.device) -> dict[str, torch.Tensor]:
        """Every parameter of the model, by our names, on `device`.

        Each parameter is allocated once and filled tensor by tensor from the mapped file, converted on the way, so the
        peak is the model itself. For a CUDA device the host converts one tensor at a time.

        Raises:
            WeightsError: a file cannot be read, or a value is not finite in `dtype`.
        """
        return {
            name: _load_parameter(self._shards, parts, dtype=dtype, device=device)
            for name, parts in self._sources.items()
        }


@contextmanager
def open_weights(folder: Path, config: ModelConfig, family: Family) -> Iterator[Weights]:
    """The weights in `folder`, to be loaded while the context lasts.

    Raises:
        WeightsError: files are missing, damaged, outside the folder or pickled; tensors are missing, unexpected, of a
            wrong shape or type.
    """
    sources, ignored = family.parameter_sources(config), family.ignored_sources(config)
    expected = {source.name: source.shape for parts in sources.values() for source in parts}
    accepted = expected | {source.name: source.shape for source in ignored}
    with open_shards(folder, accepted) as shards:
        _check_fit(shards, expected, accepted)
        yield Weights(shards, sources)


def load_weights(
    folder: Path, config: ModelConfig, family: Family, *, dtype: torch.dtype | None, device: torch.device
) -> dict[str, torch.Tensor]:
    """Open and load: every parameter of the model, by our names, on `device`.

    Args:
        dtype: type of the parameters. None: the checkpoint's own.

    Raises:
        WeightsError: as `open_weights` and `Weights.load`.
    """
    with open_weights(folder, config, family) as weights:
        return weights.load(dtype or weights.dtype, device)


def num_parameters(config: ModelConfig, family: Family) -> int:
    """Elements of all parameters of a model with this config; tied ones count once."""
    sources = family.parameter_sources(config)
    return sum(math.prod(source.shape) for parts in sources.values() for source in parts)


def _check_fit(
    shards: Shards, expected: Mapping[str, tuple[int, ...]], accepted: Mapping[str, tuple[int, ...]]
) -> None:
    """expected: name and shape of each tensor that must be there; accepted: also of those that may."""
    stored = shards.tensors
    problems = {
        "missing": [plain(name) for name in expected if name not in stored],
        "unexpected": [plain(name) for name in sorted(stored.keys() - accepted.keys())],
        "of the wrong shape": [
            f"{name} {list(stored[name].shape)}, not {list(shape)}"
            for name, shape in accepted.items()
            if name in stored and stored[name].shape != shape
        ],
        f"not of type {', '.join(_DTYPES)}": [
            f"{name} {stored[name].dtype}" for name in expected if name in stored and stored[name].dtype not in _DTYPES
        ],
        f"not in the shard that {INDEX_FILE} names": [
            f"{plain(name)} in {stored[name].shard}, not {shard}"
            for name, shard in shards.index.items()
            if name in stored and stored[name].shard != shard
        ],
    }
    found = [f"{len(names)} {kind}: {listed(names)}" for kind, names in problems.items() if names]
    if found:
        raise WeightsError(f"{shards.folder}: the weights do not fit config.json: tensors {'; '.join(found)}")


def _main_dtype(stored: Mapping[str, StoredTensor], sources: Mapping[str, tuple[Source, ...]]) -> torch.dtype:
    num_elements: Counter[str] = Counter()
    for parts in sources.values():
        for source in parts:
            num_elements[stored[source.name].dtype] += math.prod(source.shape)
    return _DTYPES[num_elements.most_common(1)[0][0]]


def _load_parameter(
    shards: Shards, parts: tuple[Source, ...], *, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    num_rows = sum(part.shape[0] for part in parts)
    parameter = torch.empty((num_rows, *parts[0].shape[1:]), dtype=dtype, device=device)
    start = 0
    for part in parts:
        rows = parameter[start : start + part.shape[0]]
        start += part.shape[0]
        tensor = shards.read(part.name)
        rows.copy_(tensor)
        if not _is_finite(rows):
            path = shards.folder / shards.tensors[part.name].shard
            if _is_finite(tensor):
                raise WeightsError(
                    f"{path}: {part.name} has values too large for {str(dtype).removeprefix('torch.')}; "
                    "choose a wider type, such as float32"
                )
            raise WeightsError(f"{path}: {part.name} holds NaN or infinity; the file is damaged")
    return parameter


def _is_finite(tensor: torch.Tensor) -> bool:
    # One pass and no temporary: NaN and infinities come through as the least or the greatest element.
    return all(math.isfinite(bound.item()) for bound in torch.aminmax(tensor))
