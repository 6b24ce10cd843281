"""`surelock doctor`: what this installation consists of, and what to do about its problems."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
import os
import platform
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import typer
from rich.text import Text

from surelock.cli.options import JsonFlag, ModelOptions, with_options
from surelock.cli.terminal import one_line, print_facts, standard_output
from surelock.cli.watch import write_json
from surelock.errors import shown_bytes

MIN_TORCH: Final = (2, 11)
# Extra, and a module that only it brings.
EXTRAS: Final = {"eval": "lm_eval", "parquet": "pyarrow", "plots": "matplotlib", "ray": "ray", "serve": "fastapi"}
_PACKAGES: Final = ("torch", "transformers", "tokenizers", "safetensors", "huggingface-hub")


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and the one line that mends it."""

    problem: str
    fix: str


@dataclass(slots=True)
class Diagnosis:
    """Facts by section, and the problems found on the way."""

    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def add(self, problem: str, fix: str) -> None:
        """Note a problem."""
        self.problems.append(Problem(problem, fix))

    def to_dict(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        return {**self.sections, "problems": [asdict(problem) for problem in self.problems]}


@with_options()
def doctor(model: ModelOptions, json: JsonFlag = False) -> None:
    """Show versions, device, kernels, memory and model, and how to mend what is wrong.

    Says what a model needs and where it fits without loading it or downloading its weights. Exit code 1 if a problem
    was found.
    """
    # Without torch there is something else to say.
    with suppress(ImportError, OSError):
        model.set_threads()
    diagnosis = examine(model)
    if json:
        write_json(diagnosis.to_dict())
    else:
        _print(diagnosis)
    if diagnosis.problems:
        raise typer.Exit(1)


def examine(model: ModelOptions) -> Diagnosis:
    """Look at everything; what fails becomes a problem and not an error."""
    diagnosis = Diagnosis()
    diagnosis.sections["system"] = {
        "surelock": _version("surelock"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name.replace("-", "_"): _version(name) for name in _PACKAGES},
    }
    try:
        _examine_torch(diagnosis)
        diagnosis.sections["memory"] = _memory()
        from surelock.cli.model_facts import examine_model

        examine_model(diagnosis, model)
    except (ImportError, OSError) as error:
        # A damaged installation; a library that torch cannot load is an OSError.
        fix = "install it again: pip install --force-reinstall surelock"
        diagnosis.add(f"a library cannot be imported: {one_line(str(error))}", fix)
    diagnosis.sections["extras"] = {
        name: importlib.util.find_spec(module) is not None for name, module in EXTRAS.items()
    }
    return diagnosis


def _examine_torch(diagnosis: Diagnosis) -> None:
    import torch

    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < MIN_TORCH:
        wanted = ".".join(map(str, MIN_TORCH))
        diagnosis.add(f"torch {torch.__version__} is too old", f"pip install 'torch>={wanted}'")
    has_cuda = torch.cuda.is_available()
    if not has_cuda and torch.version.cuda is not None and os.path.exists("/dev/nvidia0"):
        fix = "install a driver that supports it, or the torch build for yours (pytorch.org)"
        diagnosis.add(f"a GPU is there but CUDA {torch.version.cuda} cannot use it", fix)
    no_cuda = "this torch is built without CUDA" if torch.version.cuda is None else "torch finds no CUDA device"
    diagnosis.sections["device"] = {
        "chosen": "cuda: CUDA is available" if has_cuda else f"cpu: {no_cuda}",
        "kernels": _kernels(has_cuda),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] if has_cuda else [],
        **_cpu(diagnosis),
    }


def _cpu(diagnosis: Diagnosis) -> dict[str, Any]:
    import torch

    from surelock.engine.host_cpu import bfloat16_unit, num_usable_cpus

    num_threads, num_cpus = torch.get_num_threads(), num_usable_cpus()
    wanted = max(1, math.ceil(num_cpus))
    # Threads that wait for one that has no processor spin meanwhile: every operation takes milliseconds.
    if num_threads > wanted:
        fix = f"pass --threads {wanted}, or set OMP_NUM_THREADS={wanted}"
        diagnosis.add(f"torch runs {num_threads} threads on {num_cpus:g} CPUs", fix)
    return {"threads": num_threads, "cpus": num_cpus, "cpu_dtype": _cpu_dtype(bfloat16_unit())}


def _cpu_dtype(unit: str | None) -> str:
    from surelock.engine.host_cpu import BFLOAT16_TILES

    if unit == BFLOAT16_TILES:
        return f"float32 is exact and the default; bfloat16 is faster ({unit}): --dtype bfloat16"
    if unit is None:
        return "float32, exact and the default; no units for bfloat16 were found, so that is slower"
    return f"float32, exact and the default; bfloat16 ({unit}) may be slower: measure before you choose it"


def _kernels(has_cuda: bool) -> str:
    if not has_cuda:
        return "reference, plain PyTorch: the CPU has no other"
    import torch

    from surelock.ops.dispatch import TRITON_OPS, is_fast

    if is_fast(torch.device("cuda")):
        ops = ", ".join(TRITON_OPS)
        return f"triton for {ops}; in half precision each step is two captured graphs"
    return "reference, plain PyTorch: triton is missing, or SURELOCK_OPS=reference is set"


def _memory() -> dict[str, float | None]:
    """Free and total memory in GiB, of the machine and of the first GPU; free is what an engine counts with."""
    import torch

    from surelock.engine.free_memory import free_bytes, total_host_bytes

    total_host = total_host_bytes()
    sizes: dict[str, float | None] = {
        "free_gib": _gib(free_bytes(torch.device("cpu"))),
        "total_gib": None if total_host is None else _gib(total_host),
    }
    if torch.cuda.is_available():
        free, total = free_bytes(torch.device("cuda")), torch.cuda.mem_get_info()[1]
        sizes |= {"gpu_free_gib": _gib(free), "gpu_total_gib": _gib(total)}
    return sizes


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gib(num_bytes: int) -> float:
    return round(num_bytes / 2**30, 1)


def _print(diagnosis: Diagnosis) -> None:
    console = standard_output()
    rows = [
        (
            Text(section.replace("_", " ") if number == 0 else "", style="bold"),
            name.replace("_gib", "").replace("_bytes", "").replace("_", " "),
            _shown(name, value),
        )
        for section, facts in diagnosis.sections.items()
        for number, (name, value) in enumerate(facts.items())
    ]
    print_facts(console, rows)
    for problem in diagnosis.problems:
        console.print(Text.assemble(("\nproblem: ", "red"), problem.problem), soft_wrap=True)
        console.print(Text.assemble(("    fix: ", "green"), problem.fix), soft_wrap=True)
    if not diagnosis.problems:
        console.print(Text("\nno problem found", style="green"))


def _shown(name: str, value: Any) -> str:
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        fits_on = f"fits on {', '.join(value['fits_on'])}" if value["fits_on"] else "fits nowhere here"
        per_position, per_canvas = value["kv_bytes_per_position"], value["kv_bytes_per_canvas"]
        return (
            f"{shown_bytes(value['weights_bytes'])} of weights, {fits_on}; keys and values take "
            f"{shown_bytes(per_position)} a position, {shown_bytes(per_canvas)} a canvas of the model's length"
        )
    if name == "disk_bytes":
        return shown_bytes(value) if value else "not downloaded"
    if name.endswith("_gib"):
        return f"{value} GiB"
    return f"{value:,}" if name == "parameters" else str(value)
