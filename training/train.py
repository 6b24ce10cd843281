"""Train the masked diffusion model: one leg on one GPU, or on several of one machine.

    python -m training.train --data DIR --tokenizer DIR/tokenizer.json --out DIR [--warm-start DIR] [--minutes 9]
    torchrun --nproc-per-node 8 -m training.train ...

A leg ends with a checkpoint in LLaDA's format and `log.jsonl`. `--warm-start` continues from such a checkpoint: only
the weights are taken, the rate rises afresh. `--batch-tokens` is kept whatever the number of GPUs, by accumulation.
`--unlikelihood W` counts repeats in the model's own continuations against it (`training/repetition.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader

from training.batches import KINDS, Batch, PackedCanvases, Source
from training.checkpoint import load_weights, save_checkpoint
from training.model import MaskedDiffusionModel, Shape, denoising_loss, half_precision
from training.optimizer import BatchedMuon
from training.problems import TASK_WEIGHTS
from training.repetition import SelfDecoded
from training.schedule import rate


@dataclass(frozen=True, slots=True)
class Settings:
    """One leg. Rates are the top ones; `minutes` excludes compilation.

    `unlikelihood` is what a repeat in the model's own text counts, where a masked token of a row counts about 1; in a
    leg with any, new text is decoded every `decode_every` steps, `decoded_tokens` of it over all GPUs.
    """

    data: Path
    tokenizer: Path
    out: Path
    warm_start: Path | None = None
    minutes: float = 9.0
    steps: int | None = None
    batch_tokens: int = 524_288
    micro_tokens: int = 65_536
    muon_rate: float = 0.01
    adam_rate: float = 2e-3
    weight_decay: float = 0.02
    seed: int = 0
    workers: int = 12
    layers: int = 8
    tasks: str = ""
    unlikelihood: float = 0.0
    decode_every: int = 50
    decoded_tokens: int = 49_152
    log_every: int = 50


class Ranks:
    """The processes of this run: alone, or one a GPU under torchrun."""

    def __init__(self) -> None:
        self.rank, self.count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if torch.cuda.is_available():
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
            torch.cuda.set_device(self.device)
        else:
            self.device = torch.device("cpu")
        if self.count > 1:
            dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo")

    def average(self, parameters: list[nn.Parameter]) -> None:
        """Replace every gradient by its sum over the processes; the loss is already divided by their number."""
        if self.count == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        pieces = torch.split(flat, [gradient.numel() for gradient in gradients])
        torch._foreach_copy_(gradients, [p.view_as(g) for p, g in zip(pieces, gradients, strict=True)])

    def agree(self, value: float) -> float:
        """The first process's value."""
        if self.count == 1:
            return value
        shared = torch.tensor(value, device=self.device, dtype=torch.float64)
        dist.broadcast(shared, 0)
        return float(shared)


class Trainer:
    """Model, optimizers and data of one leg."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.ranks = settings, Ranks()
        device = self.ranks.device
        torch.manual_seed(settings.seed)
        torch.set_float32_matmul_precision("high")
        self.model = MaskedDiffusionModel(Shape(n_layers=settings.layers)).to(device)
        if settings.warm_start is not None:
            load_weights(self.model, settings.warm_start)
        matrices = [p for n, p in self.model.named_parameters() if n.startswith("blocks") and p.dim() == 2]
        others = [p for n, p in self.model.named_parameters() if not (n.startswith("blocks") and p.dim() == 2)]
        self.parameters = matrices + others
        self.muon = BatchedMuon(matrices, settings.muon_rate, weight_decay=settings.weight_decay)
        self.adam = torch.optim.AdamW(others, settings.adam_rate, (0.9, 0.95), weight_decay=0.0)
        per_rank = settings.batch_tokens // self.ranks.count
        self.micro_tokens = min(settings.micro_tokens, per_rank)
        self.num_micro = per_rank // self.micro_tokens
        self.batches = iter(_loader(settings, self.ranks, self.micro_tokens))
        self.forward = torch.compile(self.model) if device.type == "cuda" else self.model
        self.losses = _LossByKind(device)
        self.repeats = self._repeats() if settings.unlikelihood else None
        self.num_steps_made = 0

    def step(self, share: float) -> None:
        """One optimizer step at `share` of the top rates."""
        num_tokens = self.micro_tokens * self.num_micro * self.ranks.count
        for _ in range(self.num_micro):
            batch: Batch = next(self.batches).to(self.ranks.device)
            with half_precision(self.ranks.device):
                logits = self.forward(batch.inputs, batch.positions, batch.starts)
                loss, per_token = denoising_loss(logits, batch.targets, batch.weights)
            # Rows weigh what they mask, so the sum over a batch is about its number of tokens.
            (loss / num_tokens).backward()  # type: ignore[no-untyped-call]
            self.losses.add(per_token, batch)
        if self.repeats is not None:
            if self.num_steps_made % self.settings.decode_every == 0:
                self.repeats.refill()
            against = self.settings.unlikelihood * self.repeats.loss()
            (against / num_tokens).backward()  # type: ignore[no-untyped-call]
        self.num_steps_made += 1
        self.ranks.average(self.parameters)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer, top in ((self.muon, self.settings.muon_rate), (self.adam, self.settings.adam_rate)):
            for group in optimizer.param_groups:
                group["lr"] = top * share
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def run(self) -> None:
        """The whole leg."""
        settings = self.settings
        if self.ranks.rank == 0:
            settings.out.mkdir(parents=True, exist_ok=True)
        for _ in range(3):
            self.step(0.0)
        num_steps = settings.steps or self._steps_in(settings.minutes)
        begin = time.perf_counter()
        for step in range(num_steps):
            self.step(rate((step + 1) / num_steps))
            if (step + 1) % settings.log_every == 0 or step + 1 == num_steps:
                self._log(step + 1, num_steps, time.perf_counter() - begin)
        if self.ranks.rank == 0:
            # A folder's name is of use to nobody else; that there was one to start from is.
            settings_text = {
                key: value.name if isinstance(value, Path) else str(value)
                for key, value in asdict(settings).items()
                if key not in ("data", "tokenizer", "out")
            }
            facts: dict[str, Any] = {
                "steps": num_steps,
                "tokens": num_steps * settings.batch_tokens,
                "seconds": round(time.perf_counter() - begin, 1),
                "gpus": self.ranks.count,
                "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
                "torch": torch.__version__,
                "settings": settings_text,
            }
            save_checkpoint(self.model, settings.out, settings.tokenizer.parent, facts)
        if self.ranks.count > 1:
            dist.barrier()
            dist.destroy_process_group()

    def _repeats(self) -> SelfDecoded:
        seed = 1_000_003 * (1 + self.ranks.rank) + self.settings.seed
        source = Source(self.settings.data, self.settings.tokenizer, seed, TASK_WEIGHTS)
        return SelfDecoded(
            self.model,
            lambda length: torch.from_numpy(source.text(length)),
            self.settings.decoded_tokens // self.ranks.count,
            self.ranks.device,
        )

    def _steps_in(self, minutes: float) -> int:
        """How many steps fit, by the time of a few at rate zero and of one pool, if any are decoded."""
        num_timed = 20
        _synchronize(self.ranks.device)
        begin = time.perf_counter()
        for _ in range(num_timed):
            self.step(0.0)
        _synchronize(self.ranks.device)
        each = (time.perf_counter() - begin) / num_timed
        if self.repeats is not None:
            begin = time.perf_counter()
            self.repeats.refill()
            _synchronize(self.ranks.device)
            each += (time.perf_counter() - begin) / self.settings.decode_every
        seconds = self.ranks.agree(each)
        return max(num_timed, int(minutes * 60 / seconds))

    def _log(self, step: int, num_steps: int, seconds: float) -> None:
        losses = self.losses.take(self.ranks)
        if self.ranks.rank != 0:
            return
        line = {"step": step, "of": num_steps, "seconds": round(seconds, 1), "rate": round(rate(step / num_steps), 4)}
        line["batch_tokens"] = self.settings.batch_tokens
        if self.repeats is not None:
            line["distinct_3"] = round(self.repeats.distinct, 4)
        with (self.settings.out / "log.jsonl").open("a") as log:
            log.write(json.dumps({**line, "loss": losses}) + "\n")
        if step % (10 * self.settings.log_every) == 0:
            shown = " ".join(f"{kind} {loss:.3f}" for kind, loss in losses.items())
            print(f"{step}/{num_steps} {seconds:.0f} s  {shown}  {line.get('distinct_3', '')}", flush=True)


class _LossByKind:
    """Mean cross entropy of the masked tokens that count at all, by kind of row."""

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(2, len(KINDS), device=device)

    def add(self, per_token: Tensor, batch: Batch) -> None:
        counted = (batch.weights > 0).float()
        self._sums[0].index_add_(0, batch.kinds, per_token * counted)
        self._sums[1].index_add_(0, batch.kinds, counted)

    def take(self, ranks: Ranks) -> dict[str, float]:
        if ranks.count > 1:
            dist.all_reduce(self._sums)
        sums, counts = self._sums.tolist()
        self._sums.zero_()
        return {kind: round(s / n, 4) for kind, s, n in zip(KINDS, sums, counts, strict=True) if n}


def _loader(settings: Settings, ranks: Ranks, num_tokens: int) -> DataLoader[Batch]:
    chosen = settings.tasks.split(",") if settings.tasks else list(TASK_WEIGHTS)
    weights = {task: TASK_WEIGHTS[task] for task in chosen}
    canvases = PackedCanvases(settings.data, settings.tokenizer, num_tokens, settings.seed * 1009 + ranks.rank, weights)
    return DataLoader(
        canvases,
        batch_size=None,
        num_workers=settings.workers,
        pin_memory=ranks.device.type == "cuda",
        prefetch_factor=4 if settings.workers else None,
        worker_init_fn=_one_thread,
    )


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _parse() -> Settings:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in fields(Settings):
        name = "--" + field.name.replace("_", "-")
        required = field.name in ("data", "tokenizer", "out")
        kind = {"Path": Path, "Path | None": Path, "int | None": int}.get(str(field.type)) or {
            "int": int,
            "float": float,
            "str": str,
        }[str(field.type)]
        if required:
            parser.add_argument(name, type=kind, required=True)
        else:
            parser.add_argument(name, type=kind, default=field.default)
    return Settings(**vars(parser.parse_args()))


if __name__ == "__main__":
    Trainer(_parse()).run()
