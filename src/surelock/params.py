"""What a request asks for: `SamplingParams` and, inside it, `LockParams`. Frozen and checked at construction."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

from surelock.errors import ParameterError, shown

Unmasking = Literal["low_confidence", "random"]
GateScope = Literal["candidates", "active", "kl_passing"]

MAX_TOKENS: Final = 1 << 20
MAX_STEPS: Final = 1 << 16
MAX_STOPS: Final = 16
MAX_STOP_LENGTH: Final = 256
# Below this, rounding of bfloat16 logits decides what locks (docs/algorithm.md, "Noise").
MIN_HALF_PRECISION_KL: Final = 1e-6

# Named rules: the fields that differ from those of `LockParams()`, whatever these become.
LOCK_PRESETS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "default": {},
        "permanent": {"refresh": None},
        "paper": {"kl_threshold": 5e-4, "confidence_percentile": 20, "min_visible_steps": 0, "refresh": None},
    }
)


def _check_int(name: str, value: object, low: int, high: int, hint: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ParameterError(f"{name} is {shown(value)}; it must be an integer from {low} to {high}: {hint}")
    if not low <= value <= high:
        raise ParameterError(f"{name} is {shown(value)}; it must be from {low} to {high}: {hint}")


def _check_float(name: str, value: object, low: float, high: float, hint: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ParameterError(f"{name} is {shown(value)}; it must be a number from {low:g} to {high:g}: {hint}")
    # An integer may be too large for isfinite; NaN fails every comparison.
    if not low <= value <= high:
        raise ParameterError(f"{name} is {shown(value)}; it must be a finite number from {low:g} to {high:g}: {hint}")


def _check_bool(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise ParameterError(f"{name} is {shown(value)}; it must be true or false")


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ParameterError(f"{name} is {shown(value)}; it must be one of {', '.join(choices)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LockParams:
    """When a position stops being computed (SureLock, Algorithm 1 lines 17-25; docs/algorithm.md).

    Of the rules that were measured the default computes the fewest rows without a loss of answers that can be seen:
    docs/findings/default_rule.md.

    Args:
        kl_threshold: epsilon, in nats. A candidate locks when KL(p_t || p_{t-1}) <= epsilon. Negative: never lock.
        confidence_percentile: m, in percent. If set, a candidate must also have an uncertainty u = 1 - max p no
            greater than the m-th percentile of u over `gate_scope`. None: no confidence gate.
        gate_scope: rows of the sequence over which the percentile is taken: the `candidates` (Algorithm 1, line 21),
            all `active` rows (the paper's section 2.2), or the candidates that pass the KL test (`kl_passing`).
        min_visible_steps: forwards a position must have been computed with its real token as input before it may
            lock. 0 is the paper's literal rule, which can freeze the keys and values of [MASK].
        kl_both_visible: also require that p_{t-1} was computed with the real token as input.
        prompt_lock_step: lock every visible prompt position once this step is done, whatever its KL. None: the prompt
            follows the same rule as generated tokens.
        refresh: in every step that is a multiple of this, locked positions are computed once more, so that their keys
            and values see what has changed since; they stay locked. None or 0: never, as in the paper.
        allow_noise_eps: accept a `kl_threshold` below 1e-6 on a half-precision model, where it measures rounding.

    Raises:
        ParameterError: a value is out of its limits.
    """

    kl_threshold: float = 5e-4
    confidence_percentile: float | None = None
    gate_scope: GateScope = "candidates"
    min_visible_steps: int = 1
    kl_both_visible: bool = False
    prompt_lock_step: int | None = None
    refresh: int | None = 6
    allow_noise_eps: bool = False

    def __post_init__(self) -> None:
        _check_float("lock.kl_threshold", self.kl_threshold, -1e9, 1e9, "5e-4 is the default, below 0 never locks")
        if self.confidence_percentile is not None:
            _check_float("lock.confidence_percentile", self.confidence_percentile, 0, 100, "or None for no gate")
        _check_choice("lock.gate_scope", self.gate_scope, get_args(GateScope))
        _check_int("lock.min_visible_steps", self.min_visible_steps, 0, MAX_STEPS, "0 is the paper's literal rule")
        _check_bool("lock.kl_both_visible", self.kl_both_visible)
        if self.prompt_lock_step is not None:
            _check_int("lock.prompt_lock_step", self.prompt_lock_step, 1, MAX_STEPS, "or None for no prompt rule")
        if self.refresh is not None:
            _check_int("lock.refresh", self.refresh, 0, MAX_STEPS, "0 or None for no refresh")
            # One way to say it, so that equal rules are equal.
            object.__setattr__(self, "refresh", self.refresh or None)
        _check_bool("lock.allow_noise_eps", self.allow_noise_eps)

    @classmethod
    def paper(cls, kl_threshold: float = 5e-4) -> LockParams:
        """The paper's literal rule: confidence gate at m = 20 %, and a position may lock as it is unmasked."""
        return cls(**{**LOCK_PRESETS["paper"], "kl_threshold": kl_threshold})

    @classmethod
    def permanent(cls, kl_threshold: float = 5e-4) -> LockParams:
        """A locked position is never computed again: fewer rows than the default, and about a point fewer answers."""
        return cls(**{**LOCK_PRESETS["permanent"], "kl_threshold": kl_threshold})

    @classmethod
    def calibrated(
        cls, model: str | os.PathLike[str] | None = None, *, file: str | os.PathLike[str] | None = None
    ) -> LockParams:
        """The rule `surelock calibrate` found for a model: the largest threshold whose risk it could bound.

        The risk is that of the posteriors of runs without locks, at the moment the rule would lock them. What they do
        in a run with locks was measured on other prompts and is in the file, with an interval: no bound chose it. Locks
        are permanent, as in that run, unless the file has a refresh.

        Args:
            model: the model's folder; None for the embedded one. Of a hub model, `LLM(...).folder`.
            file: where the calibration is, if it was written elsewhere. None: in the user's cache, or beside the model.

        Raises:
            ParameterError: there is none, it is malformed, or it was made for other weights.
        """
        from surelock.results.calibration_file import read_lock

        return cls(**{"refresh": None, **read_lock(model, file, frozenset(field.name for field in fields(cls)))})

    @property
    def is_never(self) -> bool:
        """Whether no position can ever lock."""
        return self.kl_threshold < 0


# Where null stands for a value and not for a field that was left out.
LOCK_FIELDS_WITH_NONE: Final = frozenset(field.name for field in fields(LockParams) if "None" in str(field.type))


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How one request is decoded.

    Args:
        max_tokens: masked positions appended to the prompt. 0 only with gaps in `canvas_token_ids`.
        steps: denoising steps over the whole canvas. None: one for each masked position (under `allow_mask` those of
            the prompt are not counted, unless max_tokens is 0). Steps beyond one for each mask of a block are not run,
            except under `allow_mask`, where they commit nothing, as in the official sampler. Every block gets at least
            one step.
        block_length: positions of a semi-autoregressive block. None: one block, fully parallel.
        temperature: scale of the Gumbel noise added to the logits when a token is chosen. 0: argmax.
        cfg_scale: classifier-free guidance w: logits = u + (w + 1)(c - u), u computed with the prompt masked.
        unmasking: which masked positions get their token first: the most confident, or `random` ones.
        seed: of the noise. None draws one, reported in the output's stats.
        stop: strings that end the text of the appended part only, never that of gaps (at most 16, each at most 256
            characters). Needs a tokenizer, and max_tokens above 0.
        ignore_eos: keep all `max_tokens` tokens, whatever end ids they contain. Those in gaps are always kept.
        allow_mask: reproduce the official sampler where it proposes [MASK] itself: the position stays masked and the
            step is spent, and gaps inside the prompt take their share from the first block. For parity tests.
        lock: when positions lock. None: never.

    Raises:
        ParameterError: a value is out of its limits.
    """

    max_tokens: int = 128
    steps: int | None = None
    block_length: int | None = None
    temperature: float = 0.0
    cfg_scale: float = 0.0
    unmasking: Unmasking = "low_confidence"
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    allow_mask: bool = False
    lock: LockParams | None = field(default_factory=LockParams)

    def __post_init__(self) -> None:
        _check_int("max_tokens", self.max_tokens, 0, MAX_TOKENS, "tokens to generate")
        if self.steps is not None:
            _check_int("steps", self.steps, 1, MAX_STEPS, "or None for one token a step")
        if self.block_length is not None:
            _check_int("block_length", self.block_length, 1, MAX_TOKENS, "or None for one block")
        _check_float("temperature", self.temperature, 0, 100, "0 is greedy")
        _check_float("cfg_scale", self.cfg_scale, 0, 100, "0 is no guidance")
        _check_choice("unmasking", self.unmasking, get_args(Unmasking))
        if self.seed is not None:
            _check_int("seed", self.seed, 0, 2**63 - 1, "or None to draw one")
        self._check_stop()
        _check_bool("ignore_eos", self.ignore_eos)
        _check_bool("allow_mask", self.allow_mask)
        if self.lock is not None and not isinstance(self.lock, LockParams):
            raise ParameterError(f"lock is {shown(self.lock)}; it must be a LockParams, or None for no locking")

    def _check_stop(self) -> None:
        if isinstance(self.stop, str) or not isinstance(self.stop, tuple | list):
            raise ParameterError(f"stop is {shown(self.stop)}; it must be a tuple of strings, for example ('\\n\\n',)")
        if len(self.stop) > MAX_STOPS:
            raise ParameterError(f"stop has {len(self.stop)} strings; the limit is {MAX_STOPS}")
        for text in self.stop:
            if not isinstance(text, str) or not 1 <= len(text) <= MAX_STOP_LENGTH:
                raise ParameterError(
                    f"stop holds {shown(text)}; each must be a string of 1 to {MAX_STOP_LENGTH} characters"
                )
        object.__setattr__(self, "stop", tuple(self.stop))
