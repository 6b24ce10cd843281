"""Whether a model's weights fit a device, known from its sizes before anything is read or downloaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

from surelock.engine.free_memory import free_bytes
from surelock.errors import OutOfMemoryError, shown_bytes

WAY_OUT: Final = "free memory, or use a smaller model or a device with more memory"


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


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
