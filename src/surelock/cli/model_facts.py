"""What `surelock doctor` says of a model: read from its config and headers, so it takes no longer for a large one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from surelock.bench.roofline import break_even_rows, measure_limits
from surelock.cli.loading import device_and_dtype
from surelock.cli.options import ModelOptions
from surelock.cli.terminal import one_line
from surelock.engine.loading import WeightMemory
from surelock.engine.memory import kv_bytes_per_position
from surelock.errors import SureLockError
from surelock.models import hub
from surelock.models.checkpoint import read_model_config
from surelock.models.config import ModelConfig
from surelock.models.weights import num_parameters, open_weights
from surelock.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from surelock.cli.doctor import Diagnosis


def examine_model(diagnosis: Diagnosis, options: ModelOptions) -> None:
    """Add what a model is and needs. It is read, not loaded: a hub model's weights are not downloaded for it."""
    # None and 0 where the weights are not downloaded.
    stored_dtype, num_file_bytes = None, 0
    try:
        device, wanted = device_and_dtype(options)
        offline = True if options.offline else None
        files = hub.resolve_model(options.model, revision=options.revision, offline=offline, with_weights=False)
        config, family = read_model_config(files.folder)
        if files.commit is None or any(files.folder.glob("*.safetensors")):
            with open_weights(files.folder, config, family) as weights:
                stored_dtype, num_file_bytes = weights.dtype, weights.num_file_bytes
        tokenizer = Tokenizer.from_folder(files.folder, config)
    # A MemoryError is a limit of the process that is too low for the files.
    except (SureLockError, MemoryError) as error:
        fix = "check --model, --revision and --device, or leave them out for the embedded model"
        diagnosis.add(f"the model cannot be used: {one_line(str(error))}", fix)
        return
    num = num_parameters(config, family)
    devices = [torch.device("cpu"), *(torch.device("cuda", index) for index in range(torch.cuda.device_count()))]
    memories = [WeightMemory.on(each, files.name, num, stored_dtype or torch.bfloat16) for each in (*devices, device)]
    diagnosis.sections["model"] = {
        "name": files.name,
        "commit": files.commit,
        "family": config.family,
        "parameters": num,
        "stored_dtype": None if stored_dtype is None else _name(stored_dtype),
        "disk_bytes": num_file_bytes,
        "context": config.max_sequence_length,
        "tokenizer": tokenizer is not None,
        "chat_template": tokenizer is not None and tokenizer.has_chat_template,
    }
    narrow = memories[0].narrow_dtype
    diagnosis.sections["model_memory"] = {
        _name(dtype): _needs(config, dtype, memories[:-1]) for dtype in (torch.float32, narrow)
    }
    try:
        dtype = memories[-1].choose(wanted)
    except SureLockError as error:
        fix = "choose a --dtype and a --device that it fits, free memory, or use a smaller model"
        diagnosis.add(one_line(str(error)), fix)
    else:
        diagnosis.sections["model"] |= {"dtype": _name(dtype), "device": str(device)}
        break_even = _break_even(config, device, dtype)
        if break_even is not None:
            diagnosis.sections["device"]["break_even"] = break_even
    if tokenizer is None:
        fix = "add tokenizer.json to the model folder, or use prompt_token_ids"
        diagnosis.add(f"{files.name} has no tokenizer: it takes token ids only", fix)


def _needs(config: ModelConfig, dtype: torch.dtype, memories: list[WeightMemory]) -> dict[str, Any]:
    """Bytes of the weights, of keys and values, and the devices here on which the weights fit."""
    per_position = kv_bytes_per_position(config, dtype)
    return {
        "weights_bytes": memories[0].needs(dtype),
        "kv_bytes_per_position": per_position,
        "kv_bytes_per_canvas": per_position * config.max_sequence_length,
        "fits_on": [str(memory.device) for memory in memories if memory.fits(dtype)],
    }


def _break_even(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> str | None:
    """From how many rows on locking can pay, measured on a CUDA device; None where it cannot be known."""
    if device.type != "cuda":
        return None
    try:
        rows = break_even_rows(config, dtype.itemsize, measure_limits(device, dtype))
    except torch.cuda.OutOfMemoryError:
        return None
    return f"{rows:.0f} rows a step over all requests; below, locking cannot pay: decode more together or use --no-lock"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
