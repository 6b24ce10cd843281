"""How surprising a causal language model finds a text: `Judge`, for generative perplexity.

Prefix and text are tokenised apart and their ids joined: no token spans the border, so what is scored is exactly the
text's own tokens, each given everything before it. Natural logarithms throughout.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import tokenizers
import torch
import torch.nn.functional as F

from surelock.errors import (
    ModelError,
    NonFiniteLogitsError,
    ParameterError,
    TokenizerError,
    WeightsError,
    shown,
    shown_error,
)
from surelock.models.checkpoint import MAX_CONFIG_BYTES, read_json_object
from surelock.models.hub import EMBEDDED_FOLDER, ModelFiles, resolve_model
from surelock.models.packed_weights import PACKED_FILE
from surelock.models.shards import read_tensors
from surelock.text.tokenizer_files import TokenizerFiles, read_tokenizer_files

if TYPE_CHECKING:
    from transformers import PreTrainedModel

JUDGE_FOLDER: Final = Path(__file__).with_name("judge")
JUDGE_NAME: Final = "surelock-judge"

# Of logits held at the same time.
_MAX_LOGIT_BYTES: Final = 512 << 20


class Judge:
    """A causal language model that scores text, built with `Judge.load`.

    Attributes:
        name: hub id, name of the local folder, or `surelock-judge` for the one in the package.
        commit: commit hash of a hub snapshot; None for the others.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: tokenizers.Tokenizer, start: list[int], files: ModelFiles):
        self._model = model
        self._tokenizer = tokenizer
        self._start = start
        self.name = files.name
        self.commit = files.commit

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str] | None = None,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        offline: bool | None = None,
    ) -> Self:
        """Load a Hugging Face causal language model: safetensors only, and no code of the repository runs.

        Args:
            model: local folder or hub id; None for the small judge inside the package.
            device: None: "cuda" if there is one, else "cpu".
            dtype: None: float32 for the judge inside the package and on a CPU, the checkpoint's own elsewhere.
            offline: use only files already downloaded. None: as the environment variable HF_HUB_OFFLINE says.

        Raises:
            ModelError: the model cannot be used; the message says why.
            ParameterError: the device does not exist.
        """
        files = ModelFiles(JUDGE_FOLDER, JUDGE_NAME, None) if model is None else resolve_model(model, offline=offline)
        own_tokenizer = _embedded_tokenizer() if model is None else read_tokenizer_files(files.folder)
        if own_tokenizer is None:
            raise TokenizerError(f"{files.folder} has no tokenizer, so it cannot judge text; choose another judge")
        try:
            place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        except RuntimeError:
            raise ParameterError(f"device is {shown(device)}; use cpu, cuda or cuda:N") from None
        exact = torch.float32 if model is None or place.type == "cpu" else None
        network = _load_network(files.folder, dtype or exact)
        return cls(network.to(place).eval(), _plain(own_tokenizer), _start_ids(own_tokenizer), files)  # type: ignore[arg-type]

    @property
    def max_length(self) -> int:
        """Positions the judge reads at a time, its context."""
        return int(getattr(self._model.config, "max_position_embeddings", 1 << 11))

    def encode(self, text: str) -> list[int]:
        """The text's token ids; text that spells a special token is read as its literal characters."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def negative_log_likelihood(self, prefix_texts: Sequence[str], texts: Sequence[str]) -> list[tuple[float, int]]:
        """-ln p(text | prefix) in nats and the number of judge tokens of each text.

        The judge's begin-of-sequence token comes first, where it has one. Where prefix and text are longer than its
        context, the text is scored in windows of that length, each token given at least half a window (or all there
        is) before it. A text's first token counts only if something comes before it.

        Raises:
            ParameterError: there are not as many prefixes as texts.
            TokenizerError: the tokenizer has an id that the model does not.
            NonFiniteLogitsError: the judge's logits are NaN or infinite.
        """
        if len(prefix_texts) != len(texts):
            raise ParameterError(f"there are {len(prefix_texts)} prefixes for {len(texts)} texts; give one for each")
        totals, counts = [0.0] * len(texts), [0] * len(texts)
        windows: list[_Window] = []
        for index, (prefix, text) in enumerate(zip(prefix_texts, texts, strict=True)):
            before = [*self._start, *self.encode(prefix)]
            windows += _windows(index, [*before, *self.encode(text)], max(len(before), 1), self.max_length)
        self._check_ids(windows)
        for batch in self._batches(windows):
            for window, nats in zip(batch, self._score(batch), strict=True):
                totals[window.text] += nats
                counts[window.text] += len(window.ids) - window.first
        return list(zip(totals, counts, strict=True))

    def _batches(self, windows: list[_Window]) -> Iterator[list[_Window]]:
        """Windows of similar length together, as many as the logits' memory allows."""
        per_row = 4 * int(self._model.config.vocab_size)
        batch: list[_Window] = []
        for window in sorted(windows, key=lambda window: -len(window.ids)):
            longest = len(batch[0].ids) if batch else len(window.ids)
            if batch and (len(batch) + 1) * longest * per_row > _MAX_LOGIT_BYTES:
                yield batch
                batch = []
            batch.append(window)
        if batch:
            yield batch

    def _check_ids(self, windows: list[_Window]) -> None:
        limit = int(self._model.config.vocab_size)
        largest = max((max(window.ids) for window in windows), default=0)
        # On a CUDA device it would end the process' use of it.
        if largest >= limit:
            raise TokenizerError(
                f"the tokenizer of the judge {self.name} gives id {largest}, and the model has {limit} ids: "
                "choose another judge"
            )

    @torch.inference_mode()
    def _score(self, batch: list[_Window]) -> list[float]:
        longest = max(len(window.ids) for window in batch)
        # Padding comes last, and attention is causal: no mask is needed.
        # [B, T]
        ids = torch.tensor([window.ids + [0] * (longest - len(window.ids)) for window in batch])
        ids = ids.to(self._model.device)
        logits = self._model(input_ids=ids, use_cache=False).logits.float()
        # [B, T - 1]: of each token but the first
        nats = F.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none").double().cpu()
        totals = [
            float(row[window.first - 1 : len(window.ids) - 1].sum()) for window, row in zip(batch, nats, strict=True)
        ]
        if not all(map(math.isfinite, totals)):
            raise NonFiniteLogitsError(f"the logits of the judge {self.name} are NaN or infinite: use dtype float32")
        return totals


@dataclass(frozen=True, slots=True)
class _Window:
    """Ids of which those from `first` on are scored, for the text of that index."""

    text: int
    ids: list[int]
    first: int


def _windows(text: int, ids: list[int], first: int, length: int) -> Iterator[_Window]:
    """Windows of at most `length` ids that score each of ids[first:] once."""
    while first < len(ids):
        end = min(len(ids), max(length, first + length // 2))
        start = max(0, end - length)
        yield _Window(text, ids[start:end], first - start)
        first = end


def _embedded_tokenizer() -> TokenizerFiles | None:
    """The embedded model's, which the judge inside the package was trained with, under the judge's own settings."""
    files = read_tokenizer_files(EMBEDDED_FOLDER)
    path = JUDGE_FOLDER / "tokenizer_config.json"
    settings = read_json_object(path, max_bytes=MAX_CONFIG_BYTES, error=TokenizerError)
    return files and replace(files, bos_token=settings["bos_token"])


def _plain(files: TokenizerFiles) -> tokenizers.Tokenizer:
    backend = files.backend
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    return backend


def _start_ids(files: TokenizerFiles) -> list[int]:
    """What the tokenizer puts before a text by itself: its begin-of-sequence id, or nothing."""
    written: list[int] = files.backend.encode("", add_special_tokens=True).ids[:1]
    named = None if files.bos_token is None else files.backend.token_to_id(files.bos_token)
    return written or ([] if named is None else [named])


def _load_network(folder: Path, dtype: torch.dtype | None) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    kind: Any = AutoModelForCausalLM
    place: str | None = str(folder)
    weights: dict[str, Any] = {}
    try:
        with _silence():
            # The judge inside the package.
            if (folder / PACKED_FILE).is_file():
                weights = {"config": LlamaConfig.from_pretrained(str(folder)), "state_dict": read_tensors(folder)}
                kind, place = LlamaForCausalLM, None
            loaded: Any = kind.from_pretrained(
                place,
                dtype=dtype or "auto",
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                **weights,
            )
    except ImportError as error:
        raise ModelError(f"{folder} needs a package that is missing: {shown_error(error)}") from error
    # Damaged files make transformers, safetensors and torch raise errors of many kinds.
    except Exception as error:
        raise ModelError(f"{folder} cannot be loaded as a causal language model: {shown_error(error)}") from error
    network, report = loaded
    missing = sorted(report["missing_keys"])
    if missing:
        raise WeightsError(
            f"{folder} lacks {len(missing)} tensors of a {type(network).__name__}, the first {missing[0]}: give the "
            "folder of a causal language model"
        )
    return network  # type: ignore[no-any-return]


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """No progress bar, and no table of missing tensors: those become an error of one line."""
    from transformers.utils import logging as untyped_logging

    logging: Any = untyped_logging
    was_shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if was_shown:
            logging.enable_progress_bar()
