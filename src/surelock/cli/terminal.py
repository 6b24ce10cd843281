"""The two streams of the process as rich consoles, and text that is safe to show on them."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from rich.console import Console
from rich.text import Text

# Of middling luminance, so that it reads on dark and on light backgrounds.
LOCKED_STYLE: Final = "color(32)"
_BAR_WIDTH: Final = 16

# C0 without line feed and tab, DEL, and C1: a model's or a stranger's text must not steer the terminal.
_PICTURES: Final = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"},
    0x7F: "\u2421",
    **dict.fromkeys(range(0x80, 0xA0), "\ufffd"),
}


def open_standard_streams() -> None:
    """Let a stream that was closed (`>&-`) go nowhere; its number would be that of the next file that is opened."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115


def standard_output() -> Console:
    """Console on stdout as it is now (tests and pagers replace the stream)."""
    return Console(file=sys.stdout, highlight=False, markup=False, emoji=False)


def standard_error() -> Console:
    """Console on stderr as it is now."""
    return Console(file=sys.stderr, highlight=False, markup=False, emoji=False)


def can_animate(console: Console) -> bool:
    """Whether the console can redraw lines it has printed."""
    return console.is_terminal and not console.is_dumb_terminal


@contextmanager
def status(message: str) -> Iterator[Callable[[str], None]]:
    """A line on stderr, where it is a terminal, that says what is being done; gives a function that changes it."""
    console = standard_error()
    if not can_animate(console):
        yield lambda message: None
        return
    with console.status(message) as line:
        yield line.update


@contextmanager
def silent_input() -> Iterator[None]:
    """Stop the terminal from echoing what is typed, which would move a live picture; it is read later all the same."""
    if not sys.stdin or not sys.stdin.isatty() or importlib.util.find_spec("termios") is None:
        yield
        return
    import termios

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    silent = [*before]
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(descriptor, termios.TCSANOW, silent)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)


def bar(share: float) -> Text:
    """How much of something is done, 0 to 1."""
    done = round(_BAR_WIDTH * share)
    return Text.assemble(("━" * done, LOCKED_STYLE), ("━" * (_BAR_WIDTH - done), "dim"), "  ")


def visible(text: str) -> str:
    """The text with control characters replaced by their pictures, line feeds and tabs kept."""
    return text.translate(_PICTURES)


def note(message: str) -> None:
    """One dim line on stderr."""
    _tell(Text(f"note: {one_line(message)}", style="dim"))


def report_error(message: str) -> None:
    """One red line on stderr."""
    _tell(Text(f"error: {one_line(message)}", style="red"))


def print_facts(console: Console, rows: Sequence[tuple[str | Text, ...]]) -> None:
    """Rows in columns, the last one as wide as it is: a pipe gets every fact on one line."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        line = Text()
        for cell, width in zip(row[:-1], widths, strict=True):
            label = Text(cell, style="dim") if isinstance(cell, str) else cell
            line.append_text(label).append(" " * (width - len(label) + 2))
        console.print(line.append(row[-1]), soft_wrap=True)


def one_line(message: str) -> str:
    """The message with line breaks and runs of blanks closed up, safe to show."""
    return visible(" ".join(message.split()))


def _tell(line: Text) -> None:
    # A full disk or a closed pipe under stderr must not end what goes on.
    with suppress(OSError):
        standard_error().print(line, soft_wrap=True)
