"""Settings every test runs under."""

from __future__ import annotations

import gc
import os
from typing import NoReturn

# Read when huggingface_hub is first imported; subprocesses inherit it. No test may reach the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"
# The models are tiny, and threads that wait for each other crawl on a machine that is busy with something else. Read
# when torch is first imported; subprocesses inherit it.
os.environ["OMP_NUM_THREADS"] = "1"

import torch

if not torch.cuda.is_available():
    # Read when triton is first imported: its kernels run on the CPU, slowly, statement by statement.
    os.environ["TRITON_INTERPRET"] = "1"

import pytest
from hypothesis import settings

# Also where something else imported torch before.
torch.set_num_threads(1)

settings.register_profile("surelock", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("surelock")


_TESTS_PID, _exit = os.getpid(), os._exit


def _exit_unless_tests(status: int) -> NoReturn:
    """What a server does whose engine hangs, or at a second signal: in the tests' own process they would just end."""
    assert os.getpid() != _TESTS_PID, f"os._exit({status}) would end the tests"
    _exit(status)


def pytest_sessionstart() -> None:
    os._exit = _exit_unless_tests


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """None where a part of the tests is named, which is done before they have started, or where they share a GPU."""
    is_part = config.args_source is pytest.Config.ArgsSource.ARGS
    return 0 if is_part or torch.cuda.is_available() else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest test, whose worker the others then leave less to do."""
    items.sort(key=lambda item: item.name != "test_check_is_clean[mypy]")


def pytest_collection_finish() -> None:
    """Leave what is there before the first test out of garbage collections, which some tests ask for."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    os._exit = _exit
    gc.unfreeze()
