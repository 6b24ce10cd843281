"""The Ray cluster that batch jobs and replicas of a server run on."""

from __future__ import annotations

import importlib
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from surelock.errors import ParameterError

# Ray's name for a cluster of its own on this machine.
LOCAL: Final = "local"


def import_ray(*modules: str) -> list[Any]:
    """Ray and some of its modules, which have no types.

    Raises:
        ParameterError: one is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Lines of workers that differ in a number only are different lines.
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    try:
        return [importlib.import_module(name) for name in ("ray", *modules)]
    except ImportError:
        raise ParameterError("--ray needs Ray: pip install 'surelock[ray]'") from None


@contextmanager
def connected(ray: Any, address: str | None = None, *, shows_workers: bool = False) -> Iterator[None]:
    """Use the cluster this process has, or connect to one and leave it at the end; one of our own ends with it.

    Args:
        address: of a running cluster, `auto` to look for it on this machine, or `local` for one of our own. None: what
            the variable RAY_ADDRESS says, else `local`.
        shows_workers: print what workers write to their stderr.

    Raises:
        ParameterError: no cluster is there.
    """
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or LOCAL
    own: dict[str, Any] = {"include_dashboard": False} if address == LOCAL else {}
    # Ray puts its own in its place.
    handler = signal.getsignal(signal.SIGTERM)
    try:
        try:
            ray.init(address=address, log_to_driver=shows_workers, logging_level=logging.ERROR, **own)
        except (ConnectionError, ValueError) as error:
            line = " ".join(str(error).split())[:200]
            raise ParameterError(
                f"no Ray cluster answers at {address} ({line}); start one with 'ray start --head', or leave the "
                "address out"
            ) from None
        signal.signal(signal.SIGTERM, handler)
        yield
    finally:
        ray.shutdown()
