"""From a model's files to a transformer on its device, in a type that fits it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

import torch

from surelock.engine.memory import is_out_of_memory
from surelock.engine.weight_memory import WeightMemory
from surelock.errors import OutOfMemoryError, ParameterError, shown
from surelock.models.checkpoint import read_model_config
from surelock.models.config import ModelConfig
from surelock.models.hub import ModelFiles
from surelock.models.transformer import Transformer
from surelock.models.weights import num_parameters, open_weights

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that can be run.

    Attributes:
        note: why its type is not the exact float32, where that is the default; None if it is, or if a type was wanted.
    """

    config: ModelConfig
    transformer: Transformer
    note: str | None


def load_model(files: ModelFiles, wanted: torch.dtype | None, device: torch.device) -> LoadedModel:
    """Read, check and load the weights, in the type that `WeightMemory.choose` says.

    Raises:
        ModelError: the config or the weights cannot be used.
        OutOfMemoryError: the weights do not fit, which is known before any is read, or memory ran out on the way.
    """
    config, family = read_model_config(files.folder)
    memory = WeightMemory.on(device, files.name, num_parameters(config, family))
    dtype = memory.choices(wanted)[0]
    try:
        with open_weights(files.folder, config, family) as weights:
            memory = replace(memory, own_dtype=weights.dtype)
            dtype = memory.choose(wanted)
            transformer = Transformer.from_weights(config, weights.load(dtype, device))
    except OutOfMemoryError:
        raise
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise memory.ran_out(dtype) from error
    is_narrowed = wanted is None and device.type == "cpu" and dtype != torch.float32
    return LoadedModel(config, transformer, memory.why_not_float32() if is_narrowed else None)


def check_size(files: ModelFiles, wanted: torch.dtype | None, device: torch.device) -> None:
    """Refuse a model that cannot be used or cannot fit, by its config.json alone; raises as `load_model`."""
    config, family = read_model_config(files.folder)
    WeightMemory.on(device, files.name, num_parameters(config, family)).choose(wanted)


def parse_device(device: object) -> torch.device:
    """A device by its name; None is "cuda" if there is one, else "cpu".

    Raises:
        ParameterError: it is no such name, or this torch sees no such device.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = str(device) if isinstance(device, str | torch.device) else ""
    match = re.fullmatch(r"cpu|cuda(?::([0-9]{1,9}))?", name)
    if not match:
        raise ParameterError(f"device is {shown(device)}; use cpu, cuda or cuda:N")
    if name != "cpu":
        num_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if num_devices == 0:
            raise ParameterError(f"device is {name!r}, but this torch sees no CUDA device; use cpu")
        if int(match[1] or 0) >= num_devices:
            raise ParameterError(f"device is {name!r}, but the last CUDA device here is cuda:{num_devices - 1}; use it")
    return torch.device(name)


def parse_dtype(dtype: object) -> torch.dtype | None:
    """A type of weights by its name; None stays None.

    Raises:
        ParameterError: it is no such name.
    """
    if dtype is None:
        return None
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ParameterError(f"dtype is {shown(dtype)}; use one of {', '.join(DTYPES)}")
    return DTYPES[dtype]
