"""`surelock verify`: does this machine decode exactly, and how far does locking move the result?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.text import Text

from surelock.cli.generate import PromptFile, PromptTexts
from surelock.cli.loading import load_llm
from surelock.cli.options import DecodingOptions, JsonFlag, MaxTokens, option, with_options
from surelock.cli.prompts import Prompt, read_prompts
from surelock.cli.terminal import print_facts, standard_output, status
from surelock.cli.watch import write_json

if TYPE_CHECKING:
    from surelock.measure.verify import VerifyReport

DEFAULT_PROMPTS: Final[tuple[Prompt, ...]] = (
    "Once upon a time, in a small town by the sea,",
    "The committee has considered the report and",
    "def add(first, second):\n    ",
    "Q: What is 17 + 25?\nA:",
)

EXACT_DTYPE: Final = "float32"


@with_options()
def verify(
    decoding: DecodingOptions,
    texts: PromptTexts = None,
    file: PromptFile = None,
    max_tokens: MaxTokens = 64,
    noise_floor: Annotated[
        bool,
        option("Also measure the KL divergence that rounding alone causes: set --kl-threshold above it.", "Output"),
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Check the engine against the plain algorithm, and measure what locking changes.

    With locking off and in float32 every token must equal that of the oracle: exit code 1 if one does not. In half
    precision the two are compared as well, but their rounding differs, so tokens may, and the exit code stays 0.

    Without TEXT or --file a few built-in prompts are used.
    """
    params = decoding.params(max_tokens)
    prompts = read_prompts(texts or [], file) if texts or file else list(DEFAULT_PROMPTS)
    llm = load_llm(decoding.model)

    from surelock.measure.verify import noise_floor as measure_noise
    from surelock.measure.verify import verify as run_verify

    with status("verifying") as show:
        report = run_verify(llm, prompts, params, progress=lambda done, total: show(f"verified {done} of {total}"))
        show("measuring the noise floor")
        floor = measure_noise(llm, prompts, params) if noise_floor else None
    if json:
        extra: dict[str, Any] = {"model": llm.name, "commit": llm.commit}
        write_json(extra | report.to_dict() | ({} if floor is None else {"noise_floor": floor}))
    else:
        print_facts(standard_output(), _rows(report, floor))
    if not report.exact and report.dtype == EXACT_DTYPE:
        raise typer.Exit(1)


def _rows(report: VerifyReport, floor: dict[str, float] | None) -> list[tuple[str, str | Text]]:
    rows: list[tuple[str, str | Text]] = [
        ("checked", f"{report.num_prompts} prompts, {report.num_tokens} tokens, in {report.dtype}")
    ]
    verdict = Text("exact: every token equals the oracle's", style="green")
    if not report.exact:
        prompt, position = report.first_mismatch or (-1, -1)
        where = f"first at prompt {prompt + 1}, position {position}"
        verdict = Text(f"NOT EXACT: {where}", style="bold red")
        if report.dtype != EXACT_DTYPE:
            advice = f"equality is promised in {EXACT_DTYPE} only: add --dtype {EXACT_DTYPE}"
            verdict = Text(f"differs from the oracle, {where}; {advice}", style="yellow")
    rows.append(("locking off", verdict))
    identical = f"{report.identical_outputs} of {report.num_prompts} outputs identical"
    rows.append(("locking on", f"{report.lock_agreement:.2%} of tokens as without, {identical}"))
    if report.first_difference is not None:
        prompt, step = report.first_difference
        rows.append(("first difference", f"prompt {prompt + 1}, step {step}"))
    deviation = f"mean {report.mean_deviation:.2e}, max {report.max_deviation:.2e}"
    rows.append(("deviation of probabilities", deviation))
    rows.append(("rows computed", f"{report.active_ratio:.1%}"))
    if floor is not None:
        rows.append(("noise floor of KL, nats", ", ".join(f"{name} {value:.2e}" for name, value in floor.items())))
    return rows
