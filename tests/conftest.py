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

from hypothesis import settings

# Also where something else imported torch before.
torch.set_num_threads(1)

settings.register_profile("surelock", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("surelock")


_TESTS_PID, _exit = os.getpid(), os._exit


def _exit_unless_tests(code: int) -> NoReturn:
    """What a server does whose engine hangs, or at a second signal: in the tests' own process they would just end."""
    assert os.getpid() != _TESTS_PID, f"os._exit({code}) would end the tests"
    _exit(code)


def pytest_sessionstart() -> None:
    os._exit = _exit_unless_tests


def pytest_collection_finish() -> None:
    """Leave what is there before the first test out of garbage collections, which some tests ask for."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    os._exit = _exit
    gc.unfreeze()
