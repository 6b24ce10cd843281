"""Write the model card of the embedded model from what was measured.

    python -m training.card --training data/final/training.json --evaluation DIR --out FILE

`training.json` is that of `training.average`. DIR holds what these commands wrote: `surelock eval tasks --out
DIR/tasks_full`, the same with `--block-length 32` and `--out DIR/tasks_block32`, `surelock eval text --out DIR/text`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Final

HEAD: Final = """---
library_name: llada
license: cc-by-sa-4.0
language: en
tags: [masked-diffusion, surelock]
---
# surelock-demo (17.3 M parameters)

A small masked diffusion language model in LLaDA's format, trained from scratch for this project: to show what
diffusion decoding and locking do, and to measure them where every answer can be checked. It solves the kinds of
problem listed here with worked steps. It is not an assistant: it knows no facts, and its free text, mostly
grammatical, makes little sense and repeats itself.

| | |
|---|---|
| shape | 8 layers, d 384, 6 heads, SwiGLU 1024, RMSNorm, RoPE (theta 10,000), vocabulary 4096, context 512 |
| file | model.packed.safetensors, bfloat16, 34.6 MB packed to 23.2, LLaDA tensor names |
"""

DATA: Final = """## Data and licence

**The weights are licensed under [CC BY-SA 4.0](https://creativecommons.org/licenses/by-sa/4.0/)**, because part of
the text they were trained on is share-alike. Whether weights derive from training text is unsettled; this is the
cautious reading. The tokenizer was trained on the same text and is offered under the same terms.

- Share-alike text, attributed to its authors: lead sections of English Wikipedia articles and recipes of the
  Wikibooks Cookbook (CC BY-SA 4.0, by their contributors), GNOME Help (CC BY-SA 3.0, by the GNOME Documentation
  Project), one page of the Embedded Rust Book (CC BY-SA 4.0).
- Public domain: novels of Jane Austen (all but *Persuasion*), *Moby Dick*, US State of the Union addresses, the World
  English Bible, verse from Project Gutenberg, the manual of SQLite.
- Permissive: chitchat-dataset (MIT; typed by volunteers, it names schools and a religion), WordNet 3.0, the manuals
  of PostgreSQL (PostgreSQL licence), Python (PSF-2.0), Django (BSD-3-Clause) and Rust (MIT or Apache-2.0), Python
  functions (PSF-2.0, BSD-3-Clause, MIT, Apache-2.0; the `codeio` part of reasoning-gym was rewritten by a language
  model).
- Problems made by `surelock.measure.tasks`. No text under the GPL or the MPL.

`training/corpus` rebuilds the text from public packages and lists every source; `training/README.md` says how to
train.

## Use

`surelock chat`, `surelock generate` and `LLM()` load it without a model name. Questions go through the chat template;
128 tokens are enough for most answers, 192 for sorting nine numbers. mask 1, eos = pad 0, end of turn 3. Keep a
question and its answer within 416 tokens, text within 512.

The weights are packed to two thirds, bit for bit. A folder with a plain model.safetensors, for other programs:

```python
import shutil
from safetensors.torch import save_file
from surelock.models.hub import EMBEDDED_FOLDER
from surelock.models.shards import read_tensors

shutil.copytree(EMBEDDED_FOLDER, "surelock-demo", ignore=shutil.ignore_patterns("*.packed.*", "surelock_*"))
save_file(read_tensors(EMBEDDED_FOLDER), "surelock-demo/model.safetensors", {"format": "pt"})
```
"""


def card(training: dict[str, Any], full: dict[str, Any], block: dict[str, Any], text: dict[str, Any]) -> str:
    """The card's text."""
    by_task = {name: _by_task(result) for name, result in (("full", full), ("block", block))}
    kinds = [task for task in by_task["full"] if task != "all"]
    good = [task for task in kinds if min(_accuracy(found[task]) for found in by_task.values()) >= 0.9]
    share = training["share_of_second"]
    lines = [
        HEAD + "\n".join(_leg(number, leg) for number, leg in enumerate(training["legs"], start=1)),
        f"| weights | {1 - share:g} of the first leg's and {share:g} of the second's (`training/average.py`) |",
        "| objective | masked diffusion on exactly the canvases decoding meets (`training/canvas.py`); in the second "
        "leg also unlikelihood of its own repeats (`training/repetition.py`) |",
        "",
        "## Right answers",
        "",
        f"{len(good)} kinds of problem are answered rightly in at least 90 % of held-out cases, in one block and in",
        f"blocks of 32: {', '.join(good)}.",
        "",
        "Share of right final answers at temperature 0, one token a step, canvas fitted to the answer,",
        f"{full['settings']['per_type']} held-out problems a kind over three levels (fewer where there are no more):",
        "",
        "| kind | problems | one block | block 32 | one block, default locks | one block, paper's locks |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for task in by_task["full"]:
        rules = by_task["full"][task]
        shares = [rules["none"], by_task["block"][task]["none"], rules["default"], rules["paper"]]
        name = "**all**" if task == "all" else task
        cells = " | ".join(f"{100 * row['accuracy']:.1f} %" for row in shares)
        lines.append(f"| {name} | {rules['none']['num_problems']} | {cells} |")
    padded = _by_task(full, "padded")["all"]
    lines += [
        "",
        f"In canvases of {full['settings']['max_tokens'] or 128} tokens, whatever the answer takes, "
        f"{100 * padded['none']['accuracy']:.1f} % are right without locks",
        f"(some answers do not fit), {100 * padded['default']['accuracy']:.1f} % with the default locks and "
        f"{100 * padded['paper']['accuracy']:.1f} % with the paper's.",
        "",
        "Not trained, and not answered: mul, date, sudoku.",
        "",
        "## Text",
        "",
        "Continuations of held-out text after 64 tokens, greedy, one token a step, by the judge in `../measure/judge`:",
        "",
        "| tokens | Gen-PPL | distinct-3 | entropy (nats) | real text: perplexity | distinct-3 |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for row in (row for row in text["rows"] if row["rule"] == "none"):
        real = next(r for r in text["rows"] if r["rule"] == "real text" and r["max_tokens"] == row["max_tokens"])
        lines.append(
            f"| {row['max_tokens']} | {row['gen_ppl']:.2f} | {row['distinct_3']:.3f} | {row['entropy']:.2f} "
            f"| {real['gen_ppl']:.2f} | {real['distinct_3']:.3f} |"
        )
    lines += ["", "Its text repeats itself far more than real text does: a low Gen-PPL alone says nothing.", "", DATA]
    return "\n".join(lines)


def _leg(number: int, leg: dict[str, Any]) -> str:
    return (
        f"| leg {number} | {leg['steps']:,} steps of {int(leg['settings']['batch_tokens']):,} tokens, "
        f"{leg['tokens'] / 1e9:.2f} billion in all, {leg['seconds']:.0f} s on {leg['gpus']} x {leg['gpu']} |"
    )


def _by_task(result: dict[str, Any], canvas: str = "fitted") -> dict[str, dict[str, Any]]:
    """All levels: task -> rule -> row."""
    found: dict[str, dict[str, Any]] = {}
    for row in result["rows"]:
        if row["canvas"] == canvas and row["level"] in (None, "all"):
            found.setdefault(row["task"], {})[row["rule"]] = row
    return found


def _accuracy(rules: dict[str, Any]) -> float:
    return float(rules["none"]["accuracy"])


def main() -> None:
    """Write the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--training", type=Path, required=True)
    parser.add_argument("--evaluation", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    results = [
        json.loads((arguments.evaluation / name).read_text())
        for name in ("tasks_full/tasks.json", "tasks_block32/tasks.json", "text/text.json")
    ]
    arguments.out.write_text(card(json.loads(arguments.training.read_text()), *results))


if __name__ == "__main__":
    main()
