"""Options that several commands share, and the parameters they build.

A command takes a group of options as one argument: `@with_options` shows Typer the group's fields instead of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, get_type_hints

import typer

from surelock.errors import ParameterError, shown
from surelock.params import LOCK_PRESETS, GateScope, LockParams, SamplingParams, Unmasking

Dtype = Literal["float32", "bfloat16", "float16"]
Result = TypeVar("Result")

MODEL_PANEL: Final = "Model"
SAMPLING_PANEL: Final = "Sampling"
LOCK_PANEL: Final = "Locking"
OUTPUT_PANEL: Final = "Output"

MaxTokens = Annotated[
    int,
    typer.Option("--max-tokens", "-n", help="Tokens to generate after each prompt.", rich_help_panel=SAMPLING_PANEL),
]
JsonFlag = Annotated[
    bool,
    typer.Option(
        "--json",
        metavar="",
        help="Print JSON on stdout, one object per result, nothing else.",
        rich_help_panel=OUTPUT_PANEL,
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """Which model to load, and where to put it."""

    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Hub id or local folder of a LLaDA checkpoint.",
            show_default="the embedded model",
            rich_help_panel=MODEL_PANEL,
        ),
    ] = None
    dtype: Annotated[
        Dtype | None,
        typer.Option(help="Type of the weights.", show_default="chosen for the device", rich_help_panel=MODEL_PANEL),
    ] = None
    device: Annotated[
        str | None,
        typer.Option(
            help="Torch device, for example cpu or cuda:0.", show_default="cuda, else cpu", rich_help_panel=MODEL_PANEL
        ),
    ] = None
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a hub repository.", rich_help_panel=MODEL_PANEL)
    ] = None
    offline: Annotated[
        bool, typer.Option("--offline", metavar="", help="Use local files only.", rich_help_panel=MODEL_PANEL)
    ] = False
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1024,
            help="CPU threads of torch's operations.",
            show_default="one for each core this process may use",
            rich_help_panel=MODEL_PANEL,
        ),
    ] = None

    def set_threads(self) -> None:
        """Let torch have that many, if any were asked for."""
        if self.threads is not None:
            import torch

            torch.set_num_threads(self.threads)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingOptions:
    """How a request is decoded; see `surelock.SamplingParams`."""

    steps: Annotated[
        int | None,
        typer.Option(help="Denoising steps.", show_default="one per masked position", rich_help_panel=SAMPLING_PANEL),
    ] = None
    block_length: Annotated[
        int | None,
        typer.Option(
            help="Positions of a semi-autoregressive block.", show_default="one block", rich_help_panel=SAMPLING_PANEL
        ),
    ] = None
    temperature: Annotated[
        float, typer.Option(help="Scale of the Gumbel noise; 0 is greedy.", rich_help_panel=SAMPLING_PANEL)
    ] = 0.0
    cfg_scale: Annotated[
        float, typer.Option(help="Classifier-free guidance; 0 is none.", rich_help_panel=SAMPLING_PANEL)
    ] = 0.0
    unmasking: Annotated[
        Unmasking, typer.Option(help="Which masked positions get their token first.", rich_help_panel=SAMPLING_PANEL)
    ] = "low_confidence"
    seed: Annotated[
        int | None,
        typer.Option(help="Of the noise.", show_default="drawn and reported", rich_help_panel=SAMPLING_PANEL),
    ] = None
    stop: Annotated[
        list[str] | None,
        typer.Option(
            metavar="<str>",
            help="End the text at this string; may be given up to 16 times.",
            rich_help_panel=SAMPLING_PANEL,
        ),
    ] = None
    ignore_eos: Annotated[
        bool,
        typer.Option(
            "--ignore-eos", metavar="", help="Keep what follows an end token.", rich_help_panel=SAMPLING_PANEL
        ),
    ] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LockOptions:
    """When a position stops being computed; see `surelock.LockParams`. None: not given."""

    kl_threshold: Annotated[
        float | None,
        typer.Option(
            help="Lock a position whose posterior moved by at most this many nats in a step; negative: never.",
            show_default="5e-4",
            rich_help_panel=LOCK_PANEL,
        ),
    ] = None
    confidence_percentile: Annotated[
        float | None,
        typer.Option(
            help="Lock only the most confident percentage of the gate scope.",
            show_default="no gate",
            rich_help_panel=LOCK_PANEL,
        ),
    ] = None
    gate_scope: Annotated[
        GateScope | None,
        typer.Option(
            help="Rows over which that percentage is taken.", show_default="candidates", rich_help_panel=LOCK_PANEL
        ),
    ] = None
    min_visible_steps: Annotated[
        int | None,
        typer.Option(
            help="Forwards with its real token as input before a position may lock.",
            show_default="1",
            rich_help_panel=LOCK_PANEL,
        ),
    ] = None
    kl_both_visible: Annotated[
        bool,
        typer.Option(
            "--kl-both-visible",
            metavar="",
            help="Compare only posteriors that both saw the real token.",
            rich_help_panel=LOCK_PANEL,
        ),
    ] = False
    prompt_lock_step: Annotated[
        int | None,
        typer.Option(
            help="Lock the whole prompt after this step.", show_default="as generated text", rich_help_panel=LOCK_PANEL
        ),
    ] = None
    refresh: Annotated[
        int | None,
        typer.Option(
            help="Compute locked positions once more in every step that is a multiple of this; 0: never.",
            show_default="6",
            rich_help_panel=LOCK_PANEL,
        ),
    ] = None
    allow_noise_eps: Annotated[
        bool,
        typer.Option(
            "--allow-noise-eps",
            metavar="",
            help="Accept a KL threshold below 1e-6 on a half-precision model.",
            rich_help_panel=LOCK_PANEL,
        ),
    ] = False
    no_lock: Annotated[
        bool,
        typer.Option("--no-lock", metavar="", help="Compute every position in every step.", rich_help_panel=LOCK_PANEL),
    ] = False
    paper: Annotated[
        bool,
        typer.Option(
            "--paper",
            metavar="",
            help="The paper's literal rule: --confidence-percentile 20 --min-visible-steps 0 --refresh 0.",
            rich_help_panel=LOCK_PANEL,
        ),
    ] = False
    permanent: Annotated[
        bool,
        typer.Option(
            "--permanent",
            metavar="",
            help="Never compute a locked position again: a fifth fewer rows, a point fewer answers; --refresh 0.",
            rich_help_panel=LOCK_PANEL,
        ),
    ] = False
    calibrated: Annotated[
        bool,
        typer.Option(
            "--calibrated",
            metavar="",
            help="The rule that surelock calibrate found for this model.",
            rich_help_panel=LOCK_PANEL,
        ),
    ] = False

    def lock_params(self, model: ModelOptions) -> LockParams | None:
        """The rule these options ask for; None for no locking. The model is that of --calibrated.

        Raises:
            ParameterError: two options contradict each other, one has no effect, a value is out of its limits, or the
                model has no calibration.
        """
        presets = ("no_lock", "paper", "permanent", "calibrated")
        rule = (field.name for field in fields(self) if field.name not in presets)
        # By identity: a threshold of 0.0 and a refresh of 0 are given, and equal to False.
        given = {name: value for name in rule if (value := getattr(self, name)) is not None and value is not False}
        for preset in ("calibrated", "no_lock"):
            if getattr(self, preset):
                others = [name for name in presets if name != preset and getattr(self, name)] + list(given)
                self._refuse(others, f"--{preset.replace('_', '-')}", "leave one of them out")
        if self.calibrated:
            return LockParams.calibrated(_folder(model))
        if self.no_lock:
            return None
        if self.permanent:
            self._refuse(["paper"] if self.paper else [], "--permanent", "leave one of them out")
            self._refuse(
                ["refresh"] if "refresh" in given else [], "--permanent", "--permanent fixes it: leave one of them out"
            )
            given = {**LOCK_PRESETS["permanent"], **given}
        if self.paper:
            fixed = ("confidence_percentile", "min_visible_steps", "kl_both_visible", "prompt_lock_step", "refresh")
            self._refuse(
                [name for name in fixed if name in given], "--paper", "--paper fixes it: leave one of them out"
            )
            given = {**LOCK_PRESETS["paper"], **given}
        if "gate_scope" in given and "confidence_percentile" not in given:
            raise ParameterError("--gate-scope has no effect without --confidence-percentile: add it, for example 20")
        return LockParams(**given)

    def note_other_decoding(self, model: ModelOptions, params: SamplingParams) -> None:
        """Say on stderr if --calibrated was found for another way of decoding: its risk is bounded for that alone."""
        if not self.calibrated:
            return
        from surelock.cli.terminal import note
        from surelock.results.calibration_file import read_decoding

        found = read_decoding(_folder(model))
        if params.max_tokens == 0:
            # Gaps have no length of their own.
            found.pop("max_tokens", None)

        def differs(name: str, value: object) -> bool:
            own = getattr(params, name)
            if name in ("steps", "block_length"):
                # None is one token a step, and one block.
                own, value = own or params.max_tokens, value or params.max_tokens
            return bool(own != value)

        told = [(name, value) for name, value in found.items() if differs(name, value)]
        if told:
            theirs = ", ".join(f"{name} {shown(value)}" for name, value in told)
            ours = ", ".join(f"{name} {shown(getattr(params, name))}" for name, _ in told)
            note(f"the calibration was made with {theirs}, and this run has {ours}: the risk it bounds may be another")

    @staticmethod
    def _refuse(names: list[str] | dict[str, Any], against: str, way_out: str) -> None:
        for name in names:
            raise ParameterError(f"--{name.replace('_', '-')} contradicts {against}; {way_out}")


def _folder(model: ModelOptions) -> Path | None:
    """Where a model's files are, downloaded if need be; None for the embedded one."""
    if model.model is None:
        return None
    from surelock.models.hub import resolve_model

    return resolve_model(model.model, revision=model.revision, offline=True if model.offline else None).folder


def sampling_params(
    max_tokens: int, sampling: SamplingOptions, lock: LockOptions, model: ModelOptions
) -> SamplingParams:
    """The parameters the options ask for; the model is that of --calibrated, which says if it was found for others.

    Raises:
        ParameterError: options contradict each other, or a value is out of its limits.
    """
    params = SamplingParams(
        max_tokens=max_tokens,
        steps=sampling.steps,
        block_length=sampling.block_length,
        temperature=sampling.temperature,
        cfg_scale=sampling.cfg_scale,
        unmasking=sampling.unmasking,
        seed=sampling.seed,
        stop=tuple(sampling.stop or ()),
        ignore_eos=sampling.ignore_eos,
        lock=lock.lock_params(model),
    )
    lock.note_other_decoding(model, params)
    return params


def with_options(command: Callable[..., Result]) -> Callable[..., Result]:
    """Show Typer the fields of each argument whose annotation is a group of options, in the argument's place."""
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        group = groups.get(parameter.name)
        if group is None:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[parameter.name]))
            continue
        group_hints = get_type_hints(group, include_extras=True)
        parameters += [
            inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=group_hints[field.name]
            )
            for field in fields(group)
        ]

    @wraps(command)
    def flat_command(**values: Any) -> Result:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        return command(**values)

    flat_command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    flat_command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return flat_command
