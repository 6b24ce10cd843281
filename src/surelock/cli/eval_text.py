"""`surelock eval text`: what locking does to continuations of real text, and to gaps in it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

from surelock.cli.measuring import (
    ResultFolder,
    Rules,
    load_measured,
    note_written,
    parse_numbers,
    print_table,
    run_facts,
)
from surelock.cli.options import BlockLength, JsonFlag, ModelOptions, option, refuse, with_options
from surelock.cli.terminal import note, status
from surelock.cli.watch import write_json

_PROMPT_TOKENS: Final = 64
_MAX_TOKENS: Final = "64,128,256"
_TOKENS_PER_STEP: Final = "1"
# What a terminal has room for; the files hold every column.
_COLUMNS: Final = {
    "text": "max_tokens steps rule gen_ppl ppl_ratio ppl_ratio_low ppl_ratio_high distinct_3 distinct_3_difference "
    "distinct_3_low distinct_3_high entropy agreement active_ratio flops_ratio masked_floor end_share",
    "infill": "rule exact difference mcnemar_p token_match gap_ppl agreement active_ratio flops_ratio",
}
_METHODS: Final = {
    "text": "Continuations of prompts of real text, on canvases that end with the last generated token. gen_ppl: "
    "perplexity by the judge, each text given its prompt, micro-averaged over texts, natural logs; ppl_ratio: to no "
    "lock, with a 95 % bootstrap interval over prompts; distinct_n and entropy (nats): mean over texts; "
    "distinct_3_difference: to no lock, paired, with a 95 % bootstrap interval over prompts; agreement: "
    "positions with the token of no lock; flops_ratio: mode `exact`; masked_floor: the active ratio if only masked "
    "positions were computed. A low gen_ppl beside a low distinct_3 is repetition.",
    "infill": "Gaps of 4 to 16 words in sentences of real text, as many masked tokens as the answer has, one token a "
    "step. exact: share filled with the very words; difference: to no lock, in shares, with a 95 % paired bootstrap "
    "interval and McNemar's exact p; token_match: gap positions with the answer's token; gap_ppl: perplexity by the "
    "judge of gap and following text, given what comes before.",
}


@with_options("Measurement")
def text(
    model: ModelOptions,
    num_prompts: Annotated[int, option("Prompts, and gaps of --infill.", min=1, max=1 << 16)] = 64,
    prompt_tokens: Annotated[int, option("Tokens of a prompt.", min=1, max=1 << 16)] = _PROMPT_TOKENS,
    max_tokens: Annotated[str, option("Tokens to generate, one setting each.")] = _MAX_TOKENS,
    tokens_per_step: Annotated[str, option("Tokens unmasked in a step, one setting each.")] = _TOKENS_PER_STEP,
    block_length: BlockLength = None,
    temperature: Annotated[float, option("Scale of the Gumbel noise; 0 is greedy.", "Sampling")] = 0.0,
    seed: Annotated[int, option("Of the noise and of the intervals.", "Sampling")] = 0,
    rule: Rules = None,
    judge: Annotated[
        str | None,
        option(
            "Folder or hub id of a causal language model with safetensors weights.",
            "Model",
            default="the small one in the package",
            metavar="MODEL",
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        option(
            'A file of your own: one text a line, or .jsonl with "text" (cut to --prompt-tokens), "prompt" and '
            '"continuation", or FastChat\'s "turns".',
            default="held-out text in the package",
        ),
    ] = None,
    chat: Annotated[bool, option("Wrap each prompt as one user turn.")] = False,
    infill: Annotated[bool, option("Fill gaps in the held-out text instead.")] = False,
    out: ResultFolder = None,
    quick: Annotated[bool, option("8 prompts and 32 tokens, to see that it runs.")] = False,
    json: JsonFlag = False,
) -> None:
    """Compare continuations of held-out text with locks and without: quality, agreement and cost.

    Perplexity by a judge alone means little, since repetitive text has a low one: it is printed beside distinct-3 and
    entropy, and beside those of the real continuations.
    """
    lengths, rates = parse_numbers("--max-tokens", max_tokens), parse_numbers("--tokens-per-step", tokens_per_step)
    if quick:
        num_prompts, lengths = min(num_prompts, 8), [32]
    if infill:
        refuse(
            "has no effect with --infill, which has texts and gaps of its own; leave it out",
            prompts=prompts is not None,
            chat=chat,
            prompt_tokens=prompt_tokens != _PROMPT_TOKENS,
            max_tokens=max_tokens != _MAX_TOKENS,
            tokens_per_step=tokens_per_step != _TOKENS_PER_STEP,
            block_length=block_length is not None,
        )
    # Late, like all that brings torch.
    from surelock.measure.rules import DEFAULT_RULES, parse_rules
    from surelock.measure.text import load_infill, load_text
    from surelock.results.result_folder import check_folder

    rules = parse_rules(rule or DEFAULT_RULES)
    if out is not None:
        check_folder(out)
    if prompts is not None:
        # Found wrong before a model is loaded; the tokenizer that cuts the texts comes with the model.
        load_text(path=prompts)
    llm = load_measured(model)
    from surelock.measure.judge import Judge

    with status("loading the judge") as show:
        critic = Judge.load(judge, device=llm.device, offline=True if model.offline else None)
        if infill:
            from surelock.measure.text.fill import measure_infilling

            problems = load_infill(num_problems=num_prompts)
            rows, samples = measure_infilling(
                llm, critic, problems, rules, temperature=temperature, seed=seed, progress=show
            )
        else:
            from surelock.measure.text.continuation import TextSetting, measure_continuations

            texts = load_text(
                path=prompts,
                tokenizer=llm.tokenizer,
                num_prompts=num_prompts,
                num_prompt_tokens=prompt_tokens,
                num_continuation_tokens=max(256, *lengths),
            )
            if len(texts) < num_prompts:
                note(f"{num_prompts} prompts are asked for, and only {len(texts)} are there")
            settings = [
                TextSetting(
                    max_tokens=length,
                    steps=-(-length // rate),
                    block_length=block_length,
                    temperature=temperature,
                    seed=seed,
                )
                for length in lengths
                for rate in rates
            ]
            rows, samples = measure_continuations(llm, critic, texts, settings, rules, chat=chat, progress=show)
    name = "infill" if infill else "text"
    facts = run_facts(llm) | {"judge": critic.name, "judge_commit": critic.commit, "method": _METHODS[name]}
    if out is not None:
        from surelock.results.tables import write_results

        title = "Infilling" if infill else "Text continuation"
        note_written(write_results(out, name, title=title, facts=facts, rows=rows, samples=samples))
    if json:
        write_json(facts | {"rows": rows})
    else:
        print_table([{column: row[column] for column in _COLUMNS[name].split()} for row in rows])
