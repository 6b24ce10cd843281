"""Waiting for another thread or process: for as long as it takes, with a limit that catches only what hangs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

# Below the limit of a whole test, and far above what the slowest machine needs.
WAIT_SECONDS: Final = 600.0


def until(condition: Callable[[], bool]) -> None:
    """Return once the condition holds.

    Raises:
        TimeoutError: it never did.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"what the test waits for did not come within {WAIT_SECONDS:g} s")
        time.sleep(0.001)
