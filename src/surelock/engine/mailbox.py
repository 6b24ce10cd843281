"""From the thread that owns the device to the requests of an event loop: only the newest news of each is kept."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from surelock.engine.snapshot import Snapshot
    from surelock.params import SamplingParams


@dataclass(frozen=True, slots=True)
class News:
    """What became of a request; without anything, that the engine has accepted it.

    Attributes:
        snapshot: after the newest step.
        is_over: nothing follows.
        error: why it is over, if it was not finished.
    """

    snapshot: Snapshot | None = None
    is_over: bool = False
    error: BaseException | None = None


@dataclass(eq=False, slots=True)
class Ticket:
    """One request as both sides know it. What follows `mailbox` belongs to the event loop's thread alone."""

    canvas_ids: tuple[int | None, ...]
    params: SamplingParams
    watched: bool
    mailbox: Mailbox
    news: News | None = None
    is_closed: bool = False
    has_news: asyncio.Event = field(default_factory=asyncio.Event)

    def receive(self, news: News) -> None:
        """Replace what was not read yet."""
        if not self.is_closed:
            self.news = news
            self.has_news.set()

    def close(self) -> None:
        """Read nothing more: it is over for any task that waits."""
        self.receive(News(is_over=True))
        self.is_closed = True

    async def wait(self) -> News:
        """News, which stay unread."""
        while self.news is None:
            self.has_news.clear()
            await self.has_news.wait()
        return self.news

    async def read(self) -> News:
        """Wait for news and take them. What is over stays over."""
        news = await self.wait()
        self.news = News(is_over=True) if news.is_over else None
        return news


class Mailbox:
    """Carries news into one event loop.

    However slow the loop, it holds one piece of news for each ticket and has one callback scheduled: each snapshot is
    a whole canvas, so the newest replaces the others.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._lock = threading.Lock()
        self._items: dict[Ticket, News] = {}

    def put(self, ticket: Ticket, news: News) -> bool:
        """From any thread. False if the loop is closed, so that it will never be read."""
        with self._lock:
            is_first = not self._items
            self._items[ticket] = news
        if not is_first:
            return not self.loop.is_closed()
        try:
            self.loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:
            return False
        return True

    def _deliver(self) -> None:
        with self._lock:
            items, self._items = self._items, {}
        for ticket, news in items.items():
            ticket.receive(news)
