"""From a model's files to a transformer on its device, in a type that fits it: known before anything is read."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

import torch

from surelock.engine.free_memory import free_bytes
from surelock.engine.memory import is_out_of_memory
from surelock.errors import OutOfMemoryError, ParameterError, shown, shown_bytes
from surelock.models.checkpoint import read_model_config
from surelock.models.config import ModelConfig
from surelock.models.hub import ModelFiles
from surelock.models.transformer import Transformer
from surelock.models.weights import num_parameters, open_weights

WAY_OUT: Final = "free memory, or use a smaller model or a device with more memory"
DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class WeightMemory:
    """What a model's weights need and what a device has.

    Attributes:
        name: of the model, for messages.
        num_parameters: elements of all parameters.
        free: bytes that could be allocated on the device.
        own_dtype: the checkpoint's own type. While that is not known, bfloat16: none needs less.
    """

    name: str
    num_parameters: int
    device: torch.device
    free: int
    own_dtype: torch.dtype = torch.bfloat16

    @classmethod
    def on(
        cls, device: torch.device, name: str, num_parameters: int, own_dtype: torch.dtype = torch.bfloat16
    ) -> WeightMemory:
        """With what is free on the device now."""
        return cls(name, num_parameters, device, free_bytes(device), own_dtype)

    def needs(self, dtype: torch.dtype) -> int:
        """Bytes of the weights in this type. Loading needs no more: each is filled where it stays."""
        return self.num_parameters * dtype.itemsize

    def fits(self, dtype: torch.dtype) -> bool:
        """Whether the weights fit. A canvas needs memory beside them, which the engine plans with what is left."""
        return self.needs(dtype) <= self.free

    @property
    def narrow_dtype(self) -> torch.dtype:
        """The type of half the size of float32 that suits the checkpoint."""
        return self.own_dtype if self.own_dtype.itemsize == 2 else torch.bfloat16

    def choices(self, wanted: torch.dtype | None) -> list[torch.dtype]:
        """Types to load the weights in, best first: the one that is wanted.

        None: on a CPU float32, the exact one; then, and on other devices, the checkpoint's own.
        """
        if wanted is not None:
            return [wanted]
        return [torch.float32, self.own_dtype] if self.device.type == "cpu" else [self.own_dtype]

    def choose(self, wanted: torch.dtype | None) -> torch.dtype:
        """The first of the choices that fits.

        Raises:
            OutOfMemoryError: none does; the message names the type that would.
        """
        choices = self.choices(wanted)
        for dtype in choices:
            if self.fits(dtype):
                return dtype
        raise OutOfMemoryError(self._shortage(choices[0]))

    def why_not_float32(self) -> str:
        """For a note: what float32 would have needed."""
        return (
            f"{self.name} is loaded in {_name(self.own_dtype)}, its own type: float32 needs "
            f"{shown_bytes(self.needs(torch.float32))}, {self._shown_free}"
        )

    def ran_out(self, dtype: torch.dtype) -> OutOfMemoryError:
        """For an allocation that failed although the weights should have fitted."""
        return OutOfMemoryError(
            f"memory ran out while {self.name} was loaded: it needs {shown_bytes(self.needs(dtype))} in "
            f"{_name(dtype)}, {self._shown_free}, but others or a limit of the process (ulimit -v, which counts the "
            f"files too) took them: {WAY_OUT}"
        )

    def _shortage(self, dtype: torch.dtype) -> str:
        narrow = self.narrow_dtype
        need = f"{self.name} needs {shown_bytes(self.needs(dtype))} in {_name(dtype)}"
        if narrow.itemsize < dtype.itemsize:
            needs_less = shown_bytes(self.needs(narrow))
            if self.fits(narrow):
                return f"{need}, {self._shown_free}: --dtype {_name(narrow)} needs {needs_less}"
            need += f" and {needs_less} in {_name(narrow)}"
        return f"{need}, {self._shown_free}: {WAY_OUT}"

    @property
    def _shown_free(self) -> str:
        return f"{shown_bytes(self.free)} are free on {self.device}"


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


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
