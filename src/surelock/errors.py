"""Every error surelock raises on purpose; each message is one line a user can act on.

SureLockError
├── ParameterError        a sampling, lock or engine parameter is out of its limits (also a ValueError)
├── PromptError           a prompt, message or segment cannot be decoded (also a ValueError)
├── ModelError            a model folder or hub repository cannot be used
│   ├── ModelNotFoundError    no such folder, repository, revision or file
│   ├── ConfigError           config.json is malformed, out of bounds or of an unsupported kind
│   ├── WeightsError          safetensors files are damaged, incomplete or do not fit the config
│   └── TokenizerError        tokenizer files are damaged, or a text door was used without a tokenizer
└── NonFiniteLogitsError  the model produced NaN or infinity for a request
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from surelock.output import RequestOutput


class SureLockError(Exception):
    """Base of every error raised on purpose by this package."""


class ParameterError(SureLockError, ValueError):
    """A parameter is out of its limits."""


class PromptError(SureLockError, ValueError):
    """A prompt cannot be decoded."""


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
