"""`surelock eval twin`: what locking does to the rows that are still masked."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from surelock.cli.loading import load_llm
from surelock.cli.measuring import measuring_engine, measuring_status
from surelock.cli.options import OUTPUT_PANEL, SAMPLING_PANEL, MaxTokens, ModelOptions, with_options
from surelock.cli.terminal import note, standard_output

if TYPE_CHECKING:
    from surelock.llm import LLM

MEASURE_PANEL: Final = "Measurement"
DEFAULT_RULES: Final = ("default", "literal", "paper")
# Rounding of half precision would be measured too.
EXACT_DTYPE: Final = "float32"
NUM_PROMPT_TOKENS: Final = 64


@with_options
def twin(
    model: ModelOptions,
    rule: Annotated[
        list[str] | None,
        typer.Option(
            metavar="<str>",
            help="default, literal, paper, patient or always, with another KL threshold as in paper@5e-3; "
            "may be given several times.",
            show_default="default, literal and paper",
            rich_help_panel=MEASURE_PANEL,
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help='JSON lines with "turns" (MT-Bench), "prompt" or "text", or plain text, one prompt a line.',
            show_default="held-out text and tasks of the package",
            rich_help_panel=MEASURE_PANEL,
        ),
    ] = None,
    num_prompts: Annotated[
        int | None,
        typer.Option(
            help="Prompts, half of them text and half tasks.",
            show_default="4 on a CPU, 64 on a GPU",
            min=1,
            max=1 << 16,
            rich_help_panel=MEASURE_PANEL,
        ),
    ] = None,
    max_tokens: MaxTokens = 64,
    steps: Annotated[
        int | None,
        typer.Option(help="Denoising steps.", show_default="one per masked position", rich_help_panel=SAMPLING_PANEL),
    ] = None,
    block_length: Annotated[
        int | None,
        typer.Option(
            help="Positions of a semi-autoregressive block; with several there is no control.",
            show_default="one block",
            rich_help_panel=SAMPLING_PANEL,
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            metavar="",
            help="Set fewer locks free, and fewer groups of them.",
            rich_help_panel=MEASURE_PANEL,
        ),
    ] = False,
    raw: Annotated[
        bool,
        typer.Option(
            "--raw",
            metavar="",
            help="Also write a row for every single lock that was set free.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of drawn tasks.", min=0, rich_help_panel=MEASURE_PANEL)] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the results.", rich_help_panel=OUTPUT_PANEL)] = Path("twin"),
) -> None:
    """Repeat the unmasking decisions of a run without locks under locking rules, and compare the rows still masked.

    Both sides read the same canvas in every step, so what differs is due to frozen keys and values alone: divergence
    and changed tokens step by step, by age and layer of the locks, which locks are to blame, and how a difference
    spreads once runs go free. In float32 unless --dtype says otherwise.
    """
    from surelock.eval.prompt_sets import check_room
    from surelock.eval.rules import parse_rules
    from surelock.eval.twin import Effort, run_twin
    from surelock.experiments.twin import twin_result
    from surelock.experiments.write import check_output, write_result
    from surelock.params import SamplingParams

    rules = {name: lock for name, lock in parse_rules(rule or DEFAULT_RULES).items() if lock is not None}
    params = SamplingParams(max_tokens=max_tokens, steps=steps, block_length=block_length, ignore_eos=True, lock=None)
    check_output(out)
    llm = load_llm(replace(model, dtype=model.dtype or EXACT_DTYPE), measuring_engine(model.device))
    on_gpu = llm.device.type == "cuda"
    canvases, source = _prompts(llm, num_prompts or (64 if on_gpu else 4), prompts, seed)
    check_room(canvases, max_tokens, llm.config.max_sequence_length)
    effort = Effort() if on_gpu and not quick else Effort(group_every=8, num_probes=1, num_scenes=2, max_locks=16)
    with measuring_status() as show:
        record = run_twin(llm, canvases, params, rules, effort=effort, progress=show)
    facts = {
        "model": llm.name,
        "revision": llm.commit,
        "dtype": str(llm.dtype).removeprefix("torch."),
        "device": str(llm.device),
        "rules": list(rules),
        "num_prompts": len(canvases),
        "prompts": source,
        "max_tokens": max_tokens,
        "steps": steps or max_tokens,
        "block_length": block_length or max_tokens,
        "groups_every": effort.group_every,
        "probes": effort.num_probes,
        "traced_steps": effort.num_scenes,
        "locks_tried": effort.max_locks,
        "seed": seed,
    }
    result = twin_result(record, facts, raw=raw)
    write_result(out, result, shlex.join(["surelock", *sys.argv[1:]]))
    console = standard_output()
    for sentence in result.findings:
        console.print(f"- {sentence}", soft_wrap=True)
    note(f"wrote {out}")


def _prompts(llm: LLM, num: int, path: Path | None, seed: int) -> tuple[list[list[int]], str]:
    """Token ids of prompts, and where they are from."""
    from surelock.eval.prompt_sets import task_canvases, text_canvases

    tokenizer = llm.tokenizer
    has_tasks = path is None and tokenizer is not None and tokenizer.has_chat_template
    num_texts = (num + 1) // 2 if has_tasks else num
    canvases = text_canvases(llm, num_texts, num_prompt_tokens=NUM_PROMPT_TOKENS, path=path)
    source = f"{'held-out text' if path is None else path.name}, up to {NUM_PROMPT_TOKENS} tokens"
    if has_tasks and num > num_texts:
        canvases += task_canvases(llm, num - num_texts, seed=seed)
        source += "; task questions (test split), chat template"
    return [[token for token in canvas if token is not None] for canvas in canvases], source
