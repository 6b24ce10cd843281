"""Draws docs/canvas.svg, the picture of the README: three moments of one run as `surelock generate` shows them.

python docs/canvas.py
"""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from surelock import LLM, SamplingParams
from surelock.cli.canvas_view import CanvasView

PROMPT = (
    "Write a Python function keep(xs) that takes the numbers that are even, squares each and returns the sum. "
    "Use a loop."
)
MOMENTS = (11, 29, 52)
THEME = TerminalTheme((250, 250, 248), (40, 40, 40), [(40, 40, 40)] * 8, [(90, 90, 90)] * 8)
# Rich's own frame loads a font from the network; this one uses what the reader has.
FORMAT = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {terminal_width} {terminal_height}" role="img">
<title>A canvas of masked tokens filling in and locking</title>
<style>.{unique_id}-matrix {{ font: {char_height}px ui-monospace, Menlo, Consolas, monospace; }} {styles}</style>
<defs>{lines}</defs>
<rect width="100%" height="100%" rx="8" fill="#fafaf8"/>
<g transform="translate(12, 10)">{backgrounds}<g class="{unique_id}-matrix">{matrix}</g></g>
</svg>
"""


def main() -> None:
    """Run the prompt and export the moments."""
    console = Console(
        record=True, file=StringIO(), force_terminal=True, color_system="256", width=76, height=24, legacy_windows=False
    )
    llm = LLM(device="cpu")
    ids = llm.encode_chat([{"role": "user", "content": PROMPT}])
    view = CanvasView(console, llm.tokenizer, show_prompt=False)
    for update in llm.stream({"prompt_token_ids": ids}, SamplingParams(max_tokens=64)):
        view.update(update)
        if update.step in MOMENTS:
            console.print(view.frame(), Text())
    svg = console.export_svg(theme=THEME, code_format=FORMAT, unique_id="canvas")
    # A picture has no speed.
    svg = re.sub(r"(&#160;|\s)·(&#160;|\s)\d+(&#160;|\s)tokens/s", "", svg)
    (Path(__file__).parent / "canvas.svg").write_text(svg)


if __name__ == "__main__":
    main()
