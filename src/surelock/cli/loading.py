"""From model options to a loaded `LLM`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from surelock.cli.options import ModelOptions
from surelock.cli.terminal import note, standard_error, status
from surelock.config import EngineConfig

if TYPE_CHECKING:
    import torch

    from surelock.llm import LLM


def load_llm(options: ModelOptions, engine_config: EngineConfig | None = None) -> LLM:
    """Import the library and load the model; a terminal on stderr is told what takes the time.

    Notes on stderr: the commit that a hub id resolved to, and why the type is not float32 where that is the default.

    Raises:
        ModelError: the model cannot be used.
        OutOfMemoryError: its weights do not fit the device.
        ParameterError: the dtype or the device does not exist.
    """
    # Imported here because it brings torch and transformers, which `surelock --help` does not need.
    with status("starting"):
        from surelock.llm import LLM
    options.set_threads()

    # A download shows the hub's own bars, which a second moving line would garble.
    is_local = options.model is None or Path(options.model).is_dir()
    with status(f"loading {options.model or 'the embedded model'}") if is_local else _hub_bars():
        llm = LLM(**options.for_llm(), engine_config=engine_config)
    if not is_local and llm.commit is not None:
        # What a name stands for may change; a commit repeats the run.
        note(f"{llm.name} at revision {llm.commit}")
    if llm.dtype_note is not None:
        note(llm.dtype_note)
    return llm


def device_and_dtype(model: ModelOptions) -> tuple[torch.device, torch.dtype | None]:
    """Where a model that is made up on the fly goes, and its type; None for the device's own.

    Raises:
        ParameterError: torch cannot use the device.
    """
    from surelock.engine.loading import parse_device, parse_dtype

    model.set_threads()
    return parse_device(model.device), parse_dtype(model.dtype)


def _hub_bars() -> AbstractContextManager[object]:
    if not standard_error().is_terminal:
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()
    return nullcontext()
