"""What the processes of `tests.hostile` have imported before they are limited."""

from __future__ import annotations

import importlib

import surelock.llm

# What `surelock.llm` imports only when a model is loaded.
assert importlib.import_module("transformers").PreTrainedTokenizerFast
assert surelock.llm
