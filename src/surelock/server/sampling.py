"""From the fields of a request to `SamplingParams`."""

from __future__ import annotations

from typing import Any

from surelock.params import LOCK_PRESETS, LockParams, SamplingParams
from surelock.server.errors import bad_request
from surelock.server.schemas import GenerationRequest, LockFields


def sampling_params(request: GenerationRequest, *, max_tokens: int, index: int = 0) -> SamplingParams:
    """Parameters of the choice `index` of a request: it draws its noise from `seed` + `index`.

    Raises:
        ParameterError: values that are right each on their own do not go together.
        ApiError: 400, likewise.
    """
    return SamplingParams(
        max_tokens=max_tokens,
        steps=request.steps,
        block_length=request.block_length,
        temperature=request.temperature,
        cfg_scale=request.cfg_scale,
        unmasking=request.unmasking,
        seed=None if request.seed is None else (request.seed + index) % (1 << 63),
        stop=request.stops if max_tokens else (),
        ignore_eos=request.ignore_eos,
        lock=lock_params(request),
    )


def lock_params(request: GenerationRequest) -> LockParams | None:
    """The rule that `preset` and `lock` ask for; None: no locking."""
    # `check_fields` has left out nulls that mean nothing.
    given: dict[str, Any] = request.lock.model_dump(exclude_unset=True) if isinstance(request.lock, LockFields) else {}
    if request.lock is False or request.preset == "off":
        if any(value is not None for value in given.values()):
            raise bad_request('lock has values and preset is "off"; leave one of them out', "lock")
        return None
    return LockParams(**{**LOCK_PRESETS[request.preset], **given})
