"""`python -m studies list | NAME ... | all`: measure studies and write their results."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from studies.bench import Bench, Length, Options, parse_length
from studies.progress import Journal, Progress
from studies.results import write_result
from studies.study import Study, run_study, written
from surelock import LLM
from surelock.config import EngineConfig
from surelock.errors import ParameterError, SureLockError, shown
from surelock.results.result_folder import check_folder

DESCRIPTION = """Measure studies of locking: tables, pictures and a page each. `list` shows the studies and their
settings, `all` measures the paper's six, `open` the questions it left open. The same command resumes a run that was
cut off."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser("python -m studies", description=DESCRIPTION)
    add = found.add_argument
    add("names", nargs="+", metavar="list|all|open|NAME", help="names or numbers, as `list` shows them")
    add("--quick", action="store_true", help="small settings: minutes on a CPU, and nothing follows from them")
    add("--set", dest="changes", action="append", default=[], metavar="FIELD=VALUE",
        help="a setting in place of the study's own: lengths=64,128/64")  # fmt: skip
    add("--model", "-m", help="hub id or folder of a checkpoint; default: the embedded model")
    add("--revision", help="of a hub id")
    add("--dtype", choices=("float32", "bfloat16", "float16"), help="default: chosen for the device")
    add("--device", help="cpu, cuda or cuda:N; default: a GPU if there is one")
    add("--offline", action="store_true", help="read models from files that are there")
    add("--prompts", type=Path, help='JSON lines with "turns" (MT-Bench), "prompt" or "text", or text, one a line; '
        "default: held-out text and problems of the package")  # fmt: skip
    add("--judge", help="causal language model for Gen-PPL; default: a small one in the package")
    add("--seed", type=int, default=0, help="of drawn problems and of the bootstrap")
    add("--out", type=Path, default=Path("results"), help="folder for the results, one below it for each study")
    return found


def main(given: argparse.Namespace, command: str) -> None:
    """Measure what is asked for.

    Raises:
        SureLockError: something cannot be measured as it is asked for.
    """
    names: list[str] = given.names
    if names == ["list"]:
        for study in everything():
            told = " ".join(f"{name}={_text(value)}" for name, value in study.settings.items())
            print(f"{study.number:>4}  {study.name:<17} {study.title}\n      {told}")
        return
    chosen = [study for name in names for study in find(name)]
    values = dict(_split(text) for text in given.changes)
    changed = {study.name: parse_settings(study, values) for study in chosen}
    for field in values:
        if not any(field in of_study for of_study in changed.values()):
            known = ", ".join(dict.fromkeys(name for study in chosen for name in study.settings))
            raise ParameterError(f"--set names {shown(field)}; {', '.join(names)} has the settings {known}")
    check_folder(given.out)
    options = Options(**{name: getattr(given, name) for name in ("quick", "prompts", "judge", "seed", "offline")})
    bench = cache(lambda needs_model: Bench(_load(given) if needs_model else None, options))
    for study in chosen:
        _measure(study, bench(study.needs_model), changed[study.name], given.out / study.folder, command)


def _measure(study: Study, bench: Bench, changes: dict[str, Any], folder: Path, command: str) -> None:
    # Beside the folder: an older result that is whole outlives a run that is cut off.
    path = folder.with_name(f"{folder.name}.partial.jsonl")
    journal, progress = Journal(path), Progress(Console(stderr=True, highlight=False, markup=False, soft_wrap=True))
    try:
        result = run_study(study, bench, journal, changes=changes, progress=progress)
    except BaseException:
        progress.stop()
        if path.is_file():
            _tell(study, f"stopped; what was measured is in {path}, and the same command goes on from there")
        raise
    progress.stop()
    page, *_ = write_result(folder, result, command)
    journal.remove()
    for line in result.left_out:
        _tell(study, f"left out: {line}")
    print(page)


def _tell(study: Study, line: str) -> None:
    print(f"{study.name}: {line}", file=sys.stderr)


def everything() -> tuple[Study, ...]:
    """All studies, the paper's first."""
    from studies.open import STUDIES as OPEN
    from studies.paper import STUDIES as PAPER

    return (*PAPER, *OPEN)


def find(name: str) -> tuple[Study, ...]:
    """The studies that a name, a number, `all` or `open` stands for.

    Raises:
        ParameterError: there is none.
    """
    if name in ("all", "open"):
        return tuple(study for study in everything() if (study.number == "open") == (name == "open"))
    found = tuple(study for study in everything() if name == study.name or name == study.number)
    if not found:
        names = ", ".join(study.name for study in everything())
        raise ParameterError(f"the study is {shown(name)}; use {names}, all, open or list")
    return found


def parse_settings(study: Study, given: dict[str, str]) -> dict[str, Any]:
    """Values of the study's settings from text; those it does not have are for another study.

    Raises:
        ParameterError: a value is not of the setting's kind.
    """
    known = study.settings
    return {name: _parsed(name, text, known[name]) for name, text in given.items() if name in known}


def _parsed(name: str, text: str, like: object) -> object:
    if isinstance(like, tuple):
        kind = next((one for one in like if one is not None), "")
        return tuple(_parsed(name, part, kind) for part in text.split(","))
    try:
        if text == "none":
            return None
        return parse_length(text) if isinstance(like, Length) else type(like)(text)  # type: ignore[call-arg]
    except ParameterError as error:
        raise ParameterError(f"--set {name}: {error}") from None
    except ValueError:
        raise ParameterError(f"--set {name} is {shown(text)}; write it like {_text(like)}") from None


def _split(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not value:
        raise ParameterError(f"--set is {shown(text)}; write FIELD=VALUE, for example lengths=64,128/64")
    return name.strip(), value.strip()


def _text(value: object) -> str:
    plain = written(value)
    return ",".join(map(_text, plain)) if isinstance(plain, list) else "none" if plain is None else f"{plain}"


def _load(given: argparse.Namespace) -> LLM:
    is_gpu = (given.device or ("cuda" if torch.cuda.is_available() else "cpu")).startswith("cuda")
    # Launching a step costs a GPU more than the rows of a small model do, so many requests share one.
    config = EngineConfig(max_batch_size=512, max_rows=1 << 17) if is_gpu else EngineConfig()
    chosen: dict[str, Any] = {name: getattr(given, name) for name in ("dtype", "device", "revision")}
    return LLM(given.model, **chosen, offline=True if given.offline else None, engine_config=config)


def run(arguments: Sequence[str]) -> int:
    """The exit status: 0, 1 or 2 with one line on stderr, 130 if it was interrupted."""
    try:
        main(parser().parse_args(arguments), shlex.join(["python", "-m", "studies", *arguments]))
    except SureLockError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
