"""What `surelock doctor` says of a model: read from its config and headers, so it takes no longer for a large one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from surelock.engine.memory import kv_bytes_per_position
from surelock.engine.weight_memory import WeightMemory
from surelock.models.checkpoint import read_model_config
from surelock.models.config import ModelConfig
from surelock.models.hub import ModelFiles
from surelock.models.weights import num_parameters, open_weights
from surelock.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model that is not loaded.

    Attributes:
        stored_dtype: the checkpoint's own type; None if its weights are not downloaded.
        num_file_bytes: size of the weights on the disk, 0 if they are not there.
    """

    files: ModelFiles
    config: ModelConfig
    num_parameters: int
    stored_dtype: torch.dtype | None
    num_file_bytes: int
    tokenizer: Tokenizer | None

    @classmethod
    def read(cls, files: ModelFiles) -> ModelFacts:
        """From a model's folder.

        Raises:
            ModelError: the model cannot be used.
            MemoryError: a limit of the process is too low for the files.
        """
        config, family = read_model_config(files.folder)
        stored_dtype, num_file_bytes = None, 0
        if files.commit is None or any(files.folder.glob("*.safetensors")):
            with open_weights(files.folder, config, family) as weights:
                stored_dtype, num_file_bytes = weights.dtype, weights.num_file_bytes
        tokenizer = Tokenizer.from_folder(files.folder, config)
        return cls(files, config, num_parameters(config, family), stored_dtype, num_file_bytes, tokenizer)

    def memory(self, device: torch.device) -> WeightMemory:
        """What the weights need beside what the device has."""
        return WeightMemory.on(device, self.files.name, self.num_parameters, self.stored_dtype or torch.bfloat16)

    def needs(self) -> dict[str, dict[str, Any]]:
        """By type: bytes of the weights, of keys and values, and the devices here on which the weights fit."""
        devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        memories = [self.memory(torch.device(device)) for device in devices]
        needs = {}
        for dtype in (torch.float32, memories[0].narrow_dtype):
            per_position = kv_bytes_per_position(self.config, dtype)
            needs[str(dtype).removeprefix("torch.")] = {
                "weights_bytes": memories[0].needs(dtype),
                "kv_bytes_per_position": per_position,
                "kv_bytes_per_canvas": per_position * self.config.max_sequence_length,
                "fits_on": [str(memory.device) for memory in memories if memory.fits(dtype)],
            }
        return needs
