"""The live picture of the canvas: masks that fill, fresh tokens bright, locked tokens settled in colour."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from surelock.cli.terminal import LOCKED_STYLE, bar, visible
from surelock.output import RequestOutput, StepUpdate

MASK_CHARACTER: Final = "░"
END_CHARACTER: Final = "·"
MAX_FRAMES_PER_SECOND: Final = 20
# Steps for which a committed token stays bright.
FRESH_STEPS: Final = 3

# Of middling luminance, as LOCKED_STYLE; the rest is the terminal's own ink.
FRESH_STYLE: Final = "bold color(166)"
MASKED_STYLE: Final = "dim"
GIVEN_STYLE: Final = "dim"
LOCKED_GIVEN_STYLE: Final = "color(66)"
COMPUTED_STYLE: Final = ""

_MIN_TEXT_LINES: Final = 3
_MIN_LINES_WITH_MARKERS: Final = 5


class DisplayTokenizer(Protocol):
    """The part of `surelock.text.tokenizer.Tokenizer` that a picture needs."""

    @property
    def end_ids(self) -> frozenset[int]:
        """Ids that end a text."""

    def decode_visible(self, ids: Sequence[int | None]) -> list[str]:
        """One string to display for each position."""


class PromptPicture:
    """What the view knows of one prompt: its last update, and which tokens are how fresh."""

    def __init__(self, tokenizer: DisplayTokenizer | None, update: StepUpdate) -> None:
        self._tokenizer = tokenizer
        self.last = update
        masked_at_first = {position for position, id_ in enumerate(update.canvas_token_ids) if id_ is None}
        appended = set(range(update.num_prompt, len(update.canvas_token_ids)))
        self.generated = sorted(masked_at_first | appended | set(update.committed))
        self._committed_at: dict[int, int] = {}
        self.update(update)

    def update(self, update: StepUpdate) -> None:
        """Take in one step."""
        self.last = update
        for position in update.committed:
            self._committed_at[position] = update.step

    @property
    def num_committed(self) -> int:
        """Positions that have got their token."""
        return len(self._committed_at)

    def text(self, *, show_prompt: bool) -> Text:
        """The whole canvas, or what is generated of it."""
        positions = range(len(self.last.canvas_token_ids)) if show_prompt else self.generated
        return self._assemble(positions)

    def lines(self, console: Console, width: int, height: int, *, show_prompt: bool) -> list[Text]:
        """The canvas wrapped to `width`; where it is taller than `height`, the part around the first mask."""
        wrapped = self.text(show_prompt=show_prompt).wrap(console, width, overflow="fold")
        if len(wrapped) <= height:
            return list(wrapped)
        has_markers = height >= _MIN_LINES_WITH_MARKERS
        room = height - 2 if has_markers else height
        busy = next((number for number, line in enumerate(wrapped) if MASK_CHARACTER in line.plain), len(wrapped))
        start = min(max(0, busy - room // 3), len(wrapped) - room)
        shown = list(wrapped[start : start + room])
        if has_markers:
            shown = [_elided(start, "above"), *shown, _elided(len(wrapped) - start - room, "below")]
        for line in shown:
            line.truncate(width, overflow="ellipsis")
        return shown

    def final_text(self, output: RequestOutput, *, show_prompt: bool) -> Text:
        """The finished text, coloured as the canvas was; exactly `output.text` after the prompt, if that is shown."""
        count = len(output.token_ids)
        kept = self.generated[:count]
        if [self.last.canvas_token_ids[position] for position in kept] == output.token_ids:
            end = len(self.last.canvas_token_ids) if count == len(self.generated) else self.generated[count]
            given = set(range(end)) - set(self.generated) if show_prompt else set()
            whole, alone = self._assemble(sorted(given | set(kept))), self._assemble(kept)
            text = visible(output.text)
            if text in (whole.plain, alone.plain):
                return whole if show_prompt else alone
        prompt = [position for position in range(self.last.num_prompt) if position not in set(self.generated)]
        start = self._assemble(prompt) if show_prompt and not output.gaps else Text()
        return start.append(visible(output.text))

    def _assemble(self, positions: Sequence[int]) -> Text:
        """Styled text of the positions."""
        ids = [self.last.canvas_token_ids[position] for position in positions]
        text = Text()
        end_ids = self._tokenizer.end_ids if self._tokenizer else frozenset()
        # Ids where there is no tokenizer.
        pieces = self._tokenizer.decode_visible(ids) if self._tokenizer else [f"{token_id} " for token_id in ids]
        for position, token_id, piece in zip(positions, ids, pieces, strict=True):
            is_end = token_id in end_ids and self._is_generated(position)
            shown = MASK_CHARACTER if token_id is None else END_CHARACTER if is_end else visible(piece)
            text.append(shown, self._style(position, token_id))
        return text

    def _is_generated(self, position: int) -> bool:
        return position >= self.last.num_prompt or position in self._committed_at

    def _style(self, position: int, token_id: int | None) -> str:
        if token_id is None:
            return MASKED_STYLE
        if not self._is_generated(position):
            return LOCKED_GIVEN_STYLE if self.last.locked[position] else GIVEN_STYLE
        if self.last.locked[position]:
            return LOCKED_STYLE
        is_running = self.last.output is None
        age = self.last.step - self._committed_at.get(position, self.last.step)
        return FRESH_STYLE if is_running and age < FRESH_STEPS else COMPUTED_STYLE


class CanvasView:
    """Draws the updates of one or several prompts on a terminal while its `with` block runs, then clears the picture.

    `finish` leaves a finished text above the picture, where it stays and can be selected.

    Args:
        console: the terminal.
        tokenizer: of the model; None shows token ids.
        num_prompts: how many will be run.
        show_prompt: draw given positions too.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        console: Console,
        tokenizer: DisplayTokenizer | None,
        *,
        num_prompts: int = 1,
        show_prompt: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._tokenizer = tokenizer
        self._num_prompts = num_prompts
        self._show_prompt = show_prompt
        self._clock = clock
        self._pictures: dict[int, PromptPicture] = {}
        self._num_done = 0
        self._started_at = clock()
        self._drawn_at = float("-inf")
        self._live = Live(
            console=console,
            auto_refresh=False,
            transient=True,
            vertical_overflow="crop",
            redirect_stderr=sys.stderr.isatty(),
        )

    def __enter__(self) -> Self:
        self._started_at = self._clock()
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # The picture is cleared, and clearing what is empty cannot scroll.
        self._live.update(Text(), refresh=True)
        self._live.stop()

    def update(self, update: StepUpdate) -> None:
        """Take in one step; draws at most `MAX_FRAMES_PER_SECOND`, and always the last step of the last prompt."""
        picture = self._pictures.get(update.index)
        if picture is None:
            self._pictures[update.index] = PromptPicture(self._tokenizer, update)
        else:
            picture.update(update)
        self._num_done += update.output is not None
        now = self._clock()
        if self._num_done == self._num_prompts or now - self._drawn_at >= 1 / MAX_FRAMES_PER_SECOND:
            self._drawn_at = now
            self._live.update(self.frame(), refresh=True)

    def finish(self, index: int, output: RequestOutput) -> None:
        """Print a finished prompt's text above the picture and drop it from the picture."""
        picture = self._pictures[index]
        if self._num_prompts > 1:
            self._console.print(Text(f"[{index + 1}/{self._num_prompts}]", style="dim"))
        text = picture.final_text(output, show_prompt=self._show_prompt)
        if self._live.is_started:
            self._live.update(self.frame(without=index), refresh=True)
        self._console.print(text, overflow="fold")

    def frame(self, without: int | None = None) -> Group:
        """The picture as it is now, no taller and no wider than the terminal."""
        width, height = self._console.size
        height -= 1
        footer = self._footer(width) if height > _MIN_TEXT_LINES + 3 else []
        running = [
            index
            for index, picture in sorted(self._pictures.items())
            if index != without and (picture.last.output is None or self._num_prompts == 1)
        ]
        num_shown = min(len(running), max(1, (height - len(footer)) // (_MIN_TEXT_LINES + 3)))
        if num_shown == 0:
            return Group(*footer) if self._num_done < self._num_prompts else Group()
        share = (height - len(footer)) // num_shown
        lines: list[Text] = []
        for index in running[:num_shown]:
            picture = self._pictures[index]
            figures = self._figures(index, picture, width)[: max(1, share - 1)]
            canvas = picture.lines(
                self._console, width, max(1, share - len(figures) - 1), show_prompt=self._show_prompt
            )
            lines += [*canvas, Text(), *figures] if self._num_prompts == 1 else [*canvas, *figures, Text()]
        return Group(*(lines + footer)[:height])

    def _figures(self, index: int, picture: PromptPicture, width: int) -> list[Text]:
        last = picture.last
        num_positions = len(last.canvas_token_ids)
        locked, unlocked = last.flops
        parts = [
            f"{index + 1}/{self._num_prompts}" if self._num_prompts > 1 else "",
            f"step {last.step}/{last.num_steps}",
            f"rows {last.active_rows}/{num_positions}",
            f"locked {sum(last.locked) / max(1, num_positions):.0%}",
            f"FLOPs saved {1 - locked / unlocked:.0%}" if unlocked else "",
            f"{picture.num_committed / self._elapsed():.0f} tokens/s" if self._num_prompts == 1 else "",
        ]
        text = bar(last.step / max(1, last.num_steps)).append(" · ".join(part for part in parts if part), "dim")
        return list((text if text.cell_len <= width else text[len(bar(0)) :]).wrap(self._console, width))

    def _footer(self, width: int) -> list[Text]:
        lines = []
        if self._num_prompts > 1:
            committed = sum(picture.num_committed for picture in self._pictures.values())
            rate = committed / self._elapsed()
            lines.append(Text(f"{self._num_done}/{self._num_prompts} prompts done · {rate:.0f} tokens/s", style="dim"))
        legend = Text.assemble(
            (f"{MASK_CHARACTER} masked", MASKED_STYLE), "  ", ("new", FRESH_STYLE), "  ", "computed", "  ",
            ("locked", LOCKED_STYLE),
        )  # fmt: skip
        lines.append(legend)
        for line in lines:
            line.truncate(width, overflow="ellipsis")
        return lines

    def _elapsed(self) -> float:
        return max(1e-3, self._clock() - self._started_at)


def _elided(num_lines: int, side: str) -> Text:
    return Text(f"⋮ {num_lines} {'line' if num_lines == 1 else 'lines'} {side}" if num_lines else "", style="dim")
