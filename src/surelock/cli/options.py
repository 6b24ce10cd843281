"""Options that several commands share, and the parameters they build.

A command takes a group of options as one argument: `@with_options` shows Typer the group's fields instead of it. What
is declared as a bool is a flag under its own name, without a counterpart such as --no-NAME.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, get_origin, get_type_hints

import typer

from surelock.errors import ParameterError, shown
from surelock.params import LOCK_PRESETS, GateScope, LockParams, SamplingParams, Unmasking

Dtype = Literal["float32", "bfloat16", "float16"]
Result = TypeVar("Result")

# Of `--help`.
Panel = Literal["Model", "Sampling", "Locking", "Measurement", "Tasks", "Job", "Server", "Limits", "Ray", "Output"]
SAMPLING_PANEL: Final = "Sampling"
LOCK_PANEL: Final = "Locking"


def option(help_text: str, panel: Panel | None = None, *names: str, default: str | bool = True, **details: Any) -> Any:
    """An option as Typer has it, declared on one line; without names it has that of its parameter.

    `default` is what `--help` says in place of the default value; False is nothing.
    """
    return typer.Option(*names, help=help_text, rich_help_panel=panel, show_default=default, **details)


def refuse(problem: str, **given: bool) -> None:
    """Raise ParameterError for the first of these options that is given: it has the problem."""
    for name in (name for name, is_given in given.items() if is_given):
        raise ParameterError(f"--{name.replace('_', '-')} {problem}")


Steps = Annotated[int | None, option("Denoising steps.", SAMPLING_PANEL, default="one per masked position")]
BlockLength = Annotated[
    int | None, option("Positions of a semi-autoregressive block.", SAMPLING_PANEL, default="one block")
]
MaxTokens = Annotated[int, option("Tokens to generate after each prompt.", SAMPLING_PANEL, "--max-tokens", "-n")]
NoPlots = Annotated[bool, option("Draw nothing.", "Output")]
JsonFlag = Annotated[bool, option("Print JSON on stdout, one object per result, nothing else.", "Output")]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """Which model to load, and where to put it."""

    model: Annotated[
        str | None,
        option("Hub id or local folder of a LLaDA checkpoint.", "Model", "--model", "-m", default="the embedded model"),
    ] = None
    dtype: Annotated[Dtype | None, option("Type of the weights.", "Model", default="chosen for the device")] = None
    device: Annotated[
        str | None, option("Torch device, for example cpu or cuda:0.", "Model", default="cuda, else cpu")
    ] = None
    revision: Annotated[str | None, option("Branch, tag or commit of a hub repository.", "Model")] = None
    offline: Annotated[bool, option("Use local files only.", "Model")] = False
    threads: Annotated[
        int | None,
        option(
            "CPU threads of torch's operations.",
            "Model",
            default="one for each core this process may use",
            min=1,
            max=1024,
        ),
    ] = None

    def for_llm(self) -> dict[str, Any]:
        """These options as arguments of `LLM`."""
        arguments = asdict(self) | {"offline": True if self.offline else None}
        del arguments["threads"]
        return arguments

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


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodingOptions:
    """A model, and how its requests are decoded."""

    model: ModelOptions
    sampling: SamplingOptions
    lock: LockOptions

    def params(self, max_tokens: int) -> SamplingParams:
        """See `sampling_params`."""
        return sampling_params(max_tokens, self.sampling, self.lock, self.model)


def with_options(panel: Panel | None = None) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Show Typer the fields of each argument whose annotation is a group of options, in the argument's place.

    Args:
        panel: of `--help`, for those options that name none.
    """

    def decorate(command: Callable[..., Result]) -> Callable[..., Result]:
        hints = get_type_hints(command, include_extras=True)
        defaults = {name: each.default for name, each in inspect.signature(command).parameters.items()}
        parameters = _parameters({name: (hints[name], default) for name, default in defaults.items()}, panel)

        @wraps(command)
        def flat_command(**values: Any) -> Result:
            return command(**{name: _value(name, hints[name], values) for name in defaults})

        flat_command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        flat_command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return flat_command

    return decorate


def _parameters(declared: Mapping[str, tuple[Any, Any]], panel: str | None) -> list[inspect.Parameter]:
    """A parameter for Typer's eyes for each name with its annotation and default, or for each field of a group."""
    parameters: list[inspect.Parameter] = []
    for name, (hint, default) in declared.items():
        if is_dataclass(hint):
            hints = get_type_hints(hint, include_extras=True)
            own = {field.name: (hints[field.name], field.default) for field in fields(hint)}
            parameters += _parameters(own, panel)
            continue
        if get_origin(hint) is Annotated:
            kind, info = hint.__origin__, copy(hint.__metadata__[0])
            info.rich_help_panel = info.rich_help_panel or panel
            if kind is bool:
                # It has its one name, and no value.
                info.default, info.param_decls, info.metavar = ..., (f"--{name.replace('_', '-')}",), ""
            hint = Annotated[kind, info]
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint))
    return parameters


def _value(name: str, hint: Any, values: Mapping[str, Any]) -> Any:
    """The value of an option, or a group of the options that are its fields."""
    if not is_dataclass(hint):
        return values[name]
    hints = get_type_hints(hint)
    return hint(**{field.name: _value(field.name, hints[field.name], values) for field in fields(hint)})  # type: ignore[operator]
