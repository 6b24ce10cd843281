"""Every error surelock raises on purpose; each message is one line a user can act on.

`shown`, `shown_error` and `shown_bytes` put foreign values, errors and sizes into such a line.

SureLockError
├── ParameterError        a sampling, lock or engine parameter is out of its limits (also a ValueError)
├── PromptError           a prompt, message or segment cannot be decoded (also a ValueError)
│   └── PromptTooLongError    it has more positions, or a text more characters, than the model takes
├── ModelError            a model folder or hub repository cannot be used
│   ├── ModelNotFoundError    no such folder, repository, revision or file
│   ├── ConfigError           config.json is malformed, out of bounds or of an unsupported kind
│   ├── WeightsError          safetensors files are damaged, incomplete or do not fit the config
│   └── TokenizerError        tokenizer files are damaged, or a text door was used without a tokenizer
├── NonFiniteLogitsError  the model produced NaN or infinity for a request
├── OutOfMemoryError      the memory there is does not hold what was asked for (also a MemoryError)
├── EngineError           an engine stopped at an error or was closed
└── JobError              a batch job cannot go on; what it has done is kept
    └── JobBusyError          another process works on it
"""

from __future__ import annotations

import reprlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from surelock.output import RequestOutput


class SureLockError(Exception):
    """Base of every error raised on purpose by this package."""


class ParameterError(SureLockError, ValueError):
    """A parameter is out of its limits."""


class PromptError(SureLockError, ValueError):
    """A prompt cannot be decoded."""


class PromptTooLongError(PromptError):
    """A prompt has more positions, or a text more characters, than the model takes."""


class ModelError(SureLockError):
    """A model cannot be used."""


class ModelNotFoundError(ModelError, FileNotFoundError):
    """A folder, repository, revision or file is missing."""


class ConfigError(ModelError, ValueError):
    """A config.json is malformed, out of bounds or of an unsupported kind."""


class WeightsError(ModelError, ValueError):
    """Weight files are damaged, incomplete or do not fit the config."""


class TokenizerError(ModelError, ValueError):
    """Tokenizer files are damaged, or text was used without a tokenizer."""


class NonFiniteLogitsError(SureLockError, ArithmeticError):
    """The model produced NaN or infinity; `outputs` holds every request's result, failed ones included."""

    def __init__(self, message: str, outputs: Sequence[RequestOutput] = ()) -> None:
        super().__init__(message)
        self.outputs = list(outputs)


class OutOfMemoryError(SureLockError, MemoryError):
    """The memory there is does not hold what was asked for."""


class EngineError(SureLockError, RuntimeError):
    """An error interrupted one of an engine's steps, then or earlier, or the engine was closed."""


class JobError(SureLockError, RuntimeError):
    """A batch job cannot go on; the rows it has done are kept."""


class JobBusyError(JobError):
    """Another process works on the same batch job."""


class _ShortRepr(reprlib.Repr):
    """Only the first items of a sequence or mapping, only 60 characters of anything else, and never a line break."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 60
        # At the default of 6 levels of 6 items each, a line could have tens of thousands of items.
        self.maxlevel = 2

    def repr_str(self, x: str, level: int) -> str:
        text = repr(x[: self.maxstring])
        return text if len(x) <= self.maxstring else f"{text}..."

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to print integers of more than a few thousand digits.
        return repr(x) if x.bit_length() <= 128 else f"an integer of {x.bit_length()} bits"

    def repr_instance(self, x: object, level: int) -> str:
        return " ".join(super().repr_instance(x, level).split())


_SHORT_REPR: Final = _ShortRepr()


def shown(value: object) -> str:
    """`value` as Python writes it, on one line and short, whatever it holds."""
    return _SHORT_REPR.repr(value)


def shown_error(error: BaseException) -> str:
    """The kind and the message of another library's error, on one line and short, whatever it holds."""
    text = " ".join(str(error).split())
    readable = "".join(character if character.isprintable() else "?" for character in text)
    return f"{type(error).__name__}: {readable:.200}"


def shown_bytes(num_bytes: int) -> str:
    """A size in the unit that suits it, to one decimal place."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        # Just below a unit, rounding would give 1024.0 of the next smaller one.
        if num_bytes >= 0.95 * size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes} bytes"
