"""Settings every test runs under."""

from __future__ import annotations

import os

# Read when huggingface_hub is first imported; subprocesses inherit it. No test may reach the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"

import torch
from hypothesis import settings

# The models are tiny: more threads cost more than they give, and pytest-xdist brings processes of its own.
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, os.cpu_count() or 1))

settings.register_profile("surelock", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("surelock")
