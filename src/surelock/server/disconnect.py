"""Stop working for a client that has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

Value = TypeVar("Value")


class ClientGoneError(Exception):
    """The connection was closed before there was an answer."""


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, Value]) -> Value:
    """The result of `work`, which is cancelled if the client goes. The body must have been read.

    Raises:
        ClientGoneError: it went first.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait([working, watching], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGoneError
    finally:
        for task in (working, watching):
            task.cancel()
        # What a cancelled task still does, such as aborting requests, is waited for.
        await asyncio.gather(working, watching, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
