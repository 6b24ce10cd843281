"""Questions the paper left open, a module each."""

from importlib import import_module
from typing import Final

from studies.study import Study

NAMES: Final = (
    "adaptive", "forced", "kv_drift", "long_canvases", "noise_floor", "oscillation", "refresh", "short_outputs",
    "temperature", "theorem",
)  # fmt: skip
STUDIES: Final[tuple[Study, ...]] = tuple(import_module(f"studies.open.{name}").STUDY for name in NAMES)
