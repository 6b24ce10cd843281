from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from surelock.cli import watch
from surelock.cli.canvas_view import (
    COMPUTED_STYLE,
    FRESH_STYLE,
    MASKED_STYLE,
    CanvasView,
    PromptPicture,
)
from surelock.cli.progress import JobProgress
from surelock.cli.terminal import LOCKED_STYLE
from surelock.output import StepUpdate
from surelock.params import SamplingParams
from tests.cli.conftest import FakeLibrary, Run
from tests.cli.fake_llm import STORY, FakeLLM

PROMPT = "Tell me a story of the sea:"


def terminal(width: int = 80, height: int = 24) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=True, width=width, height=height, legacy_windows=False, _environ={}
    )


def printed(console: Console) -> str:
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def frame_lines(view: CanvasView, console: Console) -> list[str]:
    # Another console, because this one draws the live picture below whatever it prints.
    plain = Console(file=io.StringIO(), width=console.width, height=console.height)
    plain.print(view.frame())
    return printed(plain).splitlines()


def run_view(console: Console, *prompts: str, seconds_per_step: float = 1.0, max_tokens: int = 64) -> list[list[str]]:
    """Frames after each step."""
    llm = FakeLLM()
    clock = count(step=seconds_per_step)
    frames = []
    with CanvasView(console, llm.tokenizer, num_prompts=len(prompts), clock=lambda: next(clock)) as view:
        for update in llm.stream(list(prompts), SamplingParams(max_tokens=max_tokens)):
            view.update(update)
            frames.append(frame_lines(view, console))
    return frames


@pytest.mark.parametrize("width", [12, 36, 80, 200])
@pytest.mark.parametrize("height", [4, 8, 24])
@pytest.mark.parametrize(("num_prompts", "max_tokens"), [(1, 20), (2, 20), (7, 8)])
def test_frames_never_exceed_the_terminal(width: int, height: int, num_prompts: int, max_tokens: int) -> None:
    console = terminal(width, height)
    for frame in run_view(console, *[PROMPT] * num_prompts, max_tokens=max_tokens):
        assert len(frame) < height
        assert max(map(len, frame), default=0) <= width


def test_the_last_frame_is_the_final_state() -> None:
    first, *_, last = run_view(terminal(), PROMPT)
    assert first[0].startswith(PROMPT)
    assert "░" in " ".join(first[:-1])
    assert "░" not in " ".join(last[:-1])
    assert (PROMPT + STORY).split() == " ".join(last).split("·")[0].split()
    assert "step 64/64" in last[-2]


def test_the_figures_of_a_step() -> None:
    llm = FakeLLM()
    updates = list(llm.stream(PROMPT, SamplingParams(max_tokens=16)))
    console = terminal()
    view = CanvasView(console, llm.words, clock=iter([0.0, *[2.0] * 99]).__next__)
    for update in updates[:8]:
        view.update(update)
    last = updates[7]
    locked, unlocked = last.flops
    figures = frame_lines(view, console)[-2]
    assert f"step 8/16 · rows {last.active_rows}/{len(last.locked)}" in figures
    assert f"locked {sum(last.locked) / len(last.locked):.0%}" in figures
    assert f"FLOPs saved {1 - locked / unlocked:.0%}" in figures
    assert "4 tokens/s" in figures


def test_at_most_twenty_frames_a_second_and_the_last_one_always() -> None:
    llm = FakeLLM()
    now = 0.0
    console = terminal()
    drawn: list[int] = []
    with CanvasView(console, llm.tokenizer, clock=lambda: now) as view:
        for update in llm.stream(PROMPT, SamplingParams(max_tokens=100)):
            size = len(printed(console))
            view.update(update)
            if len(printed(console)) > size:
                drawn.append(update.step)
            now += 0.001
    assert drawn == [1, 51, 100]


def styles_of(picture: PromptPicture) -> dict[str, str]:
    """Style by character class of the canvas text."""
    text = picture.text(show_prompt=True)
    return {text.plain[span.start : span.end].strip(): str(span.style) for span in text.spans}


def test_states_are_told_apart() -> None:
    llm = FakeLLM()
    updates = list(llm.stream("one two", SamplingParams(max_tokens=16)))
    picture = PromptPicture(llm.words, updates[0])
    for update in updates[1:9]:
        picture.update(update)
        text = picture.text(show_prompt=True)
        pieces = llm.words.decode_visible(update.canvas_token_ids)
        offset = 0
        for position, piece in enumerate(pieces):
            style = str(text.get_style_at_offset(terminal(), offset + len(piece) - 1))
            offset += len(piece)
            if update.canvas_token_ids[position] is None:
                assert style == MASKED_STYLE
            elif position >= update.num_prompt and update.locked[position]:
                assert style == LOCKED_STYLE
            elif position in update.committed:
                assert style == FRESH_STYLE
    assert text.plain.startswith("one two")


def test_final_colours_have_nothing_fresh() -> None:
    llm = FakeLLM()
    *_, last = updates = list(llm.stream("one two", SamplingParams(max_tokens=16)))
    picture = PromptPicture(llm.words, updates[0])
    for update in updates[1:]:
        picture.update(update)
    assert last.output is not None
    text = picture.final_text(last.output, show_prompt=False)
    assert text.plain == last.output.text
    assert {str(span.style) for span in text.spans} <= {LOCKED_STYLE, COMPUTED_STYLE}


def finished(llm: FakeLLM, prompt: object, params: SamplingParams) -> tuple[PromptPicture, StepUpdate]:
    updates = list(llm.stream(prompt, params))
    picture = PromptPicture(llm.words, updates[0])
    for update in updates[1:]:
        picture.update(update)
    return picture, updates[-1]


def test_final_text_stops_at_the_end_token() -> None:
    picture, last = finished(FakeLLM(reply="short answer"), "one two", SamplingParams(max_tokens=16))
    assert last.output is not None
    assert picture.final_text(last.output, show_prompt=True).plain == "one twoshort answer"
    assert picture.text(show_prompt=True).plain == "one twoshort answer" + "·" * 14


def test_final_text_of_gaps_is_the_whole_document() -> None:
    llm = FakeLLM(reply=" B")
    canvas = {"canvas_token_ids": [*llm.words.encode("A"), None, *llm.words.encode(" C")]}
    picture, last = finished(llm, canvas, SamplingParams(max_tokens=0))
    assert last.output is not None
    assert picture.final_text(last.output, show_prompt=True).plain == "A B C"


def test_text_that_tokens_do_not_add_up_to_is_shown_as_it_is() -> None:
    from dataclasses import replace

    picture, last = finished(FakeLLM(), "one two", SamplingParams(max_tokens=4))
    assert last.output is not None
    output = replace(last.output, text="cut at a stop\x1b[2J", token_ids=last.output.token_ids[:2])
    assert picture.final_text(output, show_prompt=True).plain == "one twocut at a stop\u241b[2J"


def test_long_text_shows_where_the_masks_are() -> None:
    console = terminal(width=30, height=11)
    frames = run_view(console, PROMPT, max_tokens=64)
    middle = frames[40]
    assert re.match(r"⋮ \d+ lines? above", middle[0])
    assert any("░" in line for line in middle[:-3])


def test_control_characters_are_shown_as_pictures() -> None:
    frames = run_view(terminal(), "a\x1b[31mb\x07", max_tokens=2)
    assert frames[-1][0].startswith("a\u241b[31mb\u2407")


def test_several_prompts_have_a_picture_each() -> None:
    frames = run_view(terminal(height=40), "first", "second", max_tokens=12)
    assert any("1/2 · step 6/12" in line for line in frames[11])
    assert any("2/2 · step 6/12" in line for line in frames[11])
    assert any(line.startswith("0/2 prompts done") for line in frames[11])


def test_interrupt_restores_the_terminal() -> None:
    console = terminal()
    llm = FakeLLM()
    view = CanvasView(console, llm.words)

    def interrupt() -> None:
        with view:
            view.update(next(llm.stream(PROMPT)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert printed(console).count("\x1b[?25l") == printed(console).count("\x1b[?25h") == 1
    assert not hasattr(sys.stdout, "rich_proxied_file")


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> tuple[Console, Console]:
    """stdout and stderr of the commands, as terminals."""
    output, error = terminal(), terminal()
    monkeypatch.setattr(watch, "standard_output", lambda: output)
    monkeypatch.setattr(watch, "standard_error", lambda: error)
    return output, error


def on_screen(console: Console) -> str:
    """What is left of the output once every erased line is taken away."""
    lines = [""]
    row = 0
    for part in re.findall(r"\x1b\[[\d;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", printed(console)):
        if part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part.endswith("A") and part.startswith("\x1b"):
            row -= int(part[2:-1] or 1)
        elif part == "\x1b[2K":
            lines[row] = ""
        elif not part.startswith(("\x1b", "\r")):
            lines[row] += part
    return "\n".join(line.rstrip() for line in lines).strip("\n")


def test_on_a_terminal_the_text_stays_and_a_summary_follows(run: Run, screen: tuple[Console, Console]) -> None:
    assert run("generate", PROMPT, "-n", "64", "--seed", "5").exit_code == 0
    output, error = screen
    assert on_screen(output).split() == (PROMPT + STORY).split()
    summary = Text.from_ansi(printed(error)).plain.strip()
    assert re.fullmatch(
        r"52 tokens · 64 steps · [\d.]+ s \(\d+ tokens/s\) · \d+% of rows computed · \d+% of FLOPs saved · seed 5",
        summary,
    )


def test_on_a_terminal_several_texts_stay_in_order(run: Run, screen: tuple[Console, Console]) -> None:
    assert run("generate", "first", "second", "third", "-n", "4").exit_code == 0
    reply = "Once upon a time,"
    assert on_screen(screen[0]).splitlines() == [
        "[1/3]",
        f"first{reply}",
        "[2/3]",
        f"second{reply}",
        "[3/3]",
        f"third{reply}",
    ]


def test_json_on_a_terminal_is_json_alone(run: Run, screen: tuple[Console, Console]) -> None:
    result = run("generate", "a", "b", "-n", "4", "--json")
    assert result.stdout.count("\n") == 2
    assert printed(screen[0]) == ""
    assert "2/2 prompts" in printed(screen[1])


def test_progress_is_silent_off_a_terminal(library: FakeLibrary) -> None:
    console = Console(file=io.StringIO())
    with JobProgress(console, 1) as progress:
        for update in FakeLLM().stream("x", SamplingParams(max_tokens=4)):
            progress.update(update)
    assert printed(console) == ""


SCRIPT = """
import sys, termios
from types import ModuleType
from tests.cli.fake_llm import FakeLLM
module = ModuleType('surelock.llm')
def is_echoing():
    return bool(termios.tcgetattr(0)[3] & termios.ECHO)
def make(*arguments, **options):
    options |= {'after_step': lambda update: seen.add(is_echoing()), 'error': ERROR, 'error_at_step': 4}
    return FakeLLM(*arguments, **options)
seen, ERROR = set(), None
module.LLM = make
sys.modules['surelock.llm'] = module
from surelock.cli.main import app
"""


def run_on_real_terminal(script: Path, code: str) -> tuple[str, int]:
    """What a terminal gets to show, and the exit code."""
    script.write_text(SCRIPT + code)
    root = Path(__file__).parents[2]
    terminal_end, process_end = pty.openpty()
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(root), "TERM": "xterm-256color"}
    process = subprocess.Popen(
        [sys.executable, str(script)], stdin=process_end, stdout=process_end, stderr=process_end, env=environment
    )
    os.close(process_end)
    shown = b""
    with suppress(OSError):
        # Linux reports the end of the other side as an error.
        while part := os.read(terminal_end, 4096):
            shown += part
    os.close(terminal_end)
    return shown.decode(), process.wait()


def test_on_a_real_terminal(tmp_path: Path) -> None:
    code = (
        "try:\n    app(['generate', 'Hello there', '-n', '8'])\n"
        "finally:\n    print('echo during:', seen, 'after:', is_echoing())\n"
    )
    text, exit_code = run_on_real_terminal(tmp_path / "run.py", code)
    assert exit_code == 0
    assert "░" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert re.search(r"8 tokens · 8 steps", text)
    assert "echo during: {False} after: True" in text


def test_interrupt_on_a_real_terminal(tmp_path: Path) -> None:
    code = (
        "ERROR = KeyboardInterrupt()\n"
        "try:\n    app(['generate', 'Hello there', '-n', '8'])\n"
        "finally:\n    print('echo after:', is_echoing())\n"
    )
    text, exit_code = run_on_real_terminal(tmp_path / "run.py", code)
    assert exit_code == 130
    assert "Traceback" not in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert "echo after: True" in text
