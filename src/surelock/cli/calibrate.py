"""`surelock calibrate`: the largest KL threshold whose risk can be bounded, stored for a model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from surelock.cli.loading import load_llm
from surelock.cli.measuring import note_written, run_facts
from surelock.cli.options import DecodingOptions, JsonFlag, MaxTokens, NoPlots, option, refuse, with_options
from surelock.cli.terminal import note, print_facts, standard_output, status
from surelock.cli.watch import write_json
from surelock.errors import ParameterError

if TYPE_CHECKING:
    from surelock.llm import LLM
    from surelock.measure.calibration import CalibrationReport
    from surelock.measure.calibration_run import CalibrationResult
    from surelock.measure.instrumented import CanvasIds

# Of them 120 are not held out, half as many again as the least that bounds a risk by 0.05 from any of three starts.
QUICK_PROMPTS: Final = 180
QUICK_TOKENS: Final = 16
# On a CPU that takes minutes.
CPU_PROMPTS: Final = 180
GPU_PROMPTS: Final = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSetOptions:
    """Which prompts a measurement is taken on."""

    prompts: Annotated[
        Path | None,
        option(
            'A file of your own: one text a line, or .jsonl with "text" or "prompt".',
            default="held-out text in the package",
        ),
    ] = None
    tasks: Annotated[bool, option("Problems with checkable answers, as chat turns, instead of text.")] = False
    num_prompts: Annotated[
        int | None, option("Prompts to measure on.", default="chosen for the device", min=1, max=1 << 16)
    ] = None
    prompt_tokens: Annotated[int, option("Tokens of a text prompt.", min=1, max=1 << 16)] = 64

    @property
    def name(self) -> str:
        """For result files."""
        return str(self.prompts) if self.prompts is not None else "tasks" if self.tasks else "held-out text"

    def canvases(self, llm: LLM, max_tokens: int) -> list[CanvasIds]:
        """The prompt part of each canvas, max_tokens to be appended.

        Raises:
            PromptError, ParameterError: the file holds no usable prompt, one is too long, or options contradict each
                other.
        """
        if self.tasks and self.prompts is not None:
            raise ParameterError("--tasks contradicts --prompts; leave one of them out")
        num = self.num_prompts or (GPU_PROMPTS if llm.device.type == "cuda" else CPU_PROMPTS)
        from surelock.measure.prompt_sets import check_room, task_canvases, text_canvases

        if self.tasks:
            found = task_canvases(llm, num, seed=0)
        else:
            found = text_canvases(llm, num, num_prompt_tokens=self.prompt_tokens, path=self.prompts)
        check_room(found, max_tokens, llm.config.max_sequence_length)
        return found


@with_options("Measurement")
def calibrate(
    decoding: DecodingOptions,
    source: PromptSetOptions,
    max_tokens: MaxTokens = 64,
    delta: Annotated[float, option("Total variation from which a locked position has moved.")] = 0.05,
    alpha: Annotated[float, option("Highest share of locked positions that may have moved.")] = 0.05,
    confidence: Annotated[float, option("With which that is promised.")] = 0.95,
    generated_only: Annotated[
        bool, option("Leave prompt positions out of the risk; they are locked all the same.")
    ] = False,
    out: Annotated[
        Path | None, option("File for the calibration.", "Output", default="in the user's cache; with --quick none")
    ] = None,
    force: Annotated[bool, option("Replace a calibration.", "Output")] = False,
    report: Annotated[Path | None, option("Folder for the table and the picture as well.", "Output")] = None,
    no_plots: NoPlots = False,
    quick: Annotated[
        bool,
        option(
            f"{QUICK_PROMPTS} prompts of {QUICK_TOKENS} tokens, {QUICK_TOKENS} generated, to see that it runs; "
            "stored with --out only."
        ),
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Find the largest KL threshold with a bounded risk that a locked posterior moves afterwards, and store it.

    The risk that is bounded is that of runs without locks; on the held-out prompts it is measured in runs with locks as
    well, in which they are permanent unless --refresh says otherwise. `--calibrated` of the other commands and
    `LockParams.calibrated()` use what is stored. Exit code 1 if no threshold passes: nothing is stored then.
    """
    refuse(
        "contradicts calibrate, which finds the threshold; leave it out",
        **{
            name: getattr(decoding.lock, name) not in (None, False)
            for name in ("kl_threshold", "calibrated", "no_lock")
        },
    )
    if quick:
        max_tokens = QUICK_TOKENS
        source = replace(source, num_prompts=source.num_prompts or QUICK_PROMPTS, prompt_tokens=QUICK_TOKENS)
    params = decoding.params(max_tokens)
    assert params.lock is not None
    # The bound is of posteriors at their lock, which know of no refresh: there is one only where it was asked for.
    rule = replace(params.lock, refresh=decoding.lock.refresh)
    if report is not None:
        # Late, like all that brings torch.
        from surelock.results.figures import check_plots
        from surelock.results.result_folder import check_folder

        check_folder(report)
        if not no_plots:
            check_plots()
    from surelock.measure.calibration_run import Risk, calibration_content, calibration_facts, run_calibration

    risk = Risk(delta=delta, alpha=alpha, confidence=confidence, generated_only=generated_only)
    llm = load_llm(decoding.model)
    path = None if quick and out is None else _place(llm, out, force=force)
    canvases = source.canvases(llm, max_tokens)
    with status("starting") as show:
        result = run_calibration(llm, canvases, params, rule, risk, progress=show)
    found = result.report
    facts = run_facts(llm) | calibration_facts(llm, params, risk, found, source.name)
    table = {"kl_threshold": found.kl_threshold, "locked_run": result.locked_run, "table": found.table}
    if report is not None:
        _write_report(report, found, facts | table, plots=not no_plots)
    if found.kl_threshold is None:
        if json:
            write_json(facts | table)
        note(f"{_why_none(found)}; nothing was stored. Raise --delta or --alpha.")
        raise typer.Exit(1)
    content = calibration_content(llm, rule, result, facts)
    if path is not None:
        _store(path, content, force=force)
    if json:
        write_json(facts | content | table)
    else:
        print_facts(standard_output(), _rows(result, path))


def _place(llm: LLM, out: Path | None, *, force: bool) -> Path:
    """Where the file will be; refused now if what is there must not be lost."""
    from surelock.results.calibration_file import check_replaceable, fingerprint, places

    path = out or places(llm.folder, fingerprint(llm.folder))[0]
    replaced = check_replaceable(path, force=force)
    if replaced is not None:
        note(f"{path} will be replaced: it holds {replaced}")
    return path


def _store(path: Path, content: dict[str, Any], *, force: bool) -> None:
    from surelock.results.calibration_file import write_calibration

    try:
        write_calibration(path, content, force=force)
    except OSError as error:
        raise ParameterError(f"{path} cannot be written: {error.strerror}; give another place with --out") from None
    note_written([path])


def _write_report(folder: Path, found: CalibrationReport, facts: dict[str, Any], *, plots: bool) -> None:
    from surelock.results.tables import write_results

    method = (
        f"Risk: total variation above {found.delta:g} between the posterior at the lock and the last one, of a random "
        f"locked position of a random sequence; bounded by {found.alpha:g} with confidence {found.confidence:g} "
        f"(Learn-then-Test, Clopper-Pearson). Threshold found: {found.kl_threshold}."
    )
    rest = {name: value for name, value in facts.items() if name != "table"}
    figure = None
    if plots:
        from surelock.measure.calibration_plot import draw_calibration

        figure = draw_calibration(found, f"Calibration: {facts['model']}, {facts['risk']['prompts']}")
    paths = write_results(
        folder, "calibration", title="Calibration", facts=rest | {"method": method}, rows=found.table, figure=figure
    )
    note_written(paths)


def _why_none(found: CalibrationReport) -> str:
    tested = [row for row in found.table if row["upper_bound"] is not None]
    if not tested:
        return "too few prompts lock anything at any threshold"
    least = min(tested, key=lambda row: float(row["upper_bound"]))
    return (
        f"no threshold has a risk of at most {found.alpha:g}: at best, at {least['kl_threshold']:g}, "
        f"{least['violations']} of {least['sequences']} drawn positions moved, which bounds it by "
        f"{least['upper_bound']:.3f}"
    )


def _rows(result: CalibrationResult, path: Path | None) -> list[tuple[str, Any]]:
    found, locked = result.report, result.locked_run
    chosen = found.chosen
    assert chosen is not None
    assert locked is not None
    promise = (
        f"without locks, risk at most {found.alpha:g} with confidence {found.confidence:g}; moved: TV above "
        f"{found.delta:g}"
    )
    drawn = f"{chosen['violations']} of {chosen['sequences']} drawn positions moved"
    in_locked_run = f"{locked['violations']} of {locked['sequences']} drawn positions moved"
    return [
        ("KL threshold", f"{found.kl_threshold:g} nats"),
        ("promise", promise),
        ("calibration", f"{drawn}: risk at most {chosen['upper_bound']:.4f}"),
        ("held out", f"{_share(chosen['held_out_rate'])}, over {chosen['held_out_sequences']} sequences"),
        ("in a locked run", f"{_share(locked['rate'])}{_interval(locked)}, over {locked['sequences']} sequences"),
        ("", f"{in_locked_run}: risk at most {locked['upper_bound']:.4f}"),
        ("rows computed", f"{locked['active_ratio']:.1%}; {locked['locked_share']:.1%} of the positions lock"),
        ("stored in", str(path or "nothing: --quick stores with --out only")),
    ]


def _interval(locked: dict[str, Any]) -> str:
    return "" if locked["rate"] is None else f" (95 %: {locked['rate_low']:.2%} to {locked['rate_high']:.2%})"


def _share(rate: float | None) -> str:
    return "nothing locks" if rate is None else f"{rate:.2%} of the locked positions moved"
