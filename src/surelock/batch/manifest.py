"""What a job is: a job may only go on as what it was begun as."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

import orjson
from pydantic import Field, TypeAdapter, ValidationError, with_config

from surelock.batch.folder import open_regular, replacing
from surelock.batch.progress import READ_STRICTLY, Totals
from surelock.errors import JobError, ParameterError, shown
from surelock.params import SamplingParams
from surelock.results.calibration_file import fingerprint

if TYPE_CHECKING:
    from surelock.llm import LLM

MAX_MANIFEST_BYTES: Final = 1 << 20
_PREFIXES: Final = {"input": "the input's ", "options": "", "model": "the model's "}


@with_config(READ_STRICTLY)
@dataclass(frozen=True, slots=True)
class Manifest:
    """Written once, when the first row is about to run.

    Attributes:
        input: sha256 and number of rows of the input file.
        options: what was asked for, by name.
        seed: of the job, drawn if none was asked for.
        model: `describe_model` of the model that runs.
        finished: totals of a job whose output is complete and whose journal is gone.
    """

    input: dict[str, Any]
    options: dict[str, Any]
    seed: Annotated[int, Field(ge=0, lt=1 << 63)]
    model: dict[str, Any] | None = None
    finished: Totals | None = None
    format: Literal[1] = 1

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The manifest of a job, or None if there is none; JobError if it is damaged."""
        try:
            with open_regular(path) as file:
                manifest = TypeAdapter(cls).validate_json(file.read(MAX_MANIFEST_BYTES))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise JobError(f"{path} cannot be read: {error.strerror}") from None
        except ValidationError as error:
            field = ".".join(map(str, error.errors()[0]["loc"]))
            problem = f"{field}: {error.errors()[0]['msg']}" if field else "no JSON"
            raise JobError(
                f"{path} is damaged ({problem}), so the job cannot go on; start over with --force-new"
            ) from None
        return manifest

    def write(self, path: Path) -> None:
        """Put it in the place of what is there. Raises JobError if that is not possible."""
        with replacing(path) as file:
            file.write(orjson.dumps(asdict(self), option=orjson.OPT_INDENT_2) + b"\n")

    def is_same(self, source: dict[str, Any], options: dict[str, Any]) -> bool:
        """Whether a job of this input and these options is this one."""
        return (self.input, self.options) == (source, options)

    def check_same(self, part: Literal["input", "options", "model"], now: dict[str, Any]) -> None:
        """Raise ParameterError for the first thing in that part that differs: what it was, and what it is now."""
        before = getattr(self, part)
        for name in [*now, *before]:
            was, is_now = before.get(name), now.get(name)
            if was != is_now:
                raise ParameterError(
                    f"{_PREFIXES[part]}{name} was {shown(was)} when this job began and is {shown(is_now)} now: restore "
                    "it, or start over with --force-new"
                )


def options_of(params: SamplingParams, prompt_column: str, model: dict[str, Any]) -> dict[str, Any]:
    """What the rows of a job depend on besides the input, the seed and the model's files, as JSON would give it back.

    Args:
        model: how the model is asked for.
    """
    sampling = asdict(params)
    del sampling["seed"]
    lock = sampling.pop("lock")
    flat = {f"lock.{name}": value for name, value in lock.items()} if lock else {"lock": False}
    versions = {f"version of {name}": version(name) for name in ("surelock", "torch")}
    options = sampling | flat | {"prompt column": prompt_column} | model | versions
    plain: dict[str, Any] = orjson.loads(orjson.dumps(options))
    return plain


def describe_model(llm: LLM) -> dict[str, Any]:
    """Name, commit, files, type and kind of device of a model.

    The files are told apart by the `fingerprint` of config and weights, and by the whole of the others.
    """
    return {
        "name": llm.name,
        "commit": llm.commit,
        "fingerprint": _fingerprint(llm.folder),
        "dtype": str(llm.dtype).removeprefix("torch."),
        "device": llm.device.type,
    }


def _fingerprint(folder: Path) -> str:
    content = hashlib.sha256(fingerprint(folder).encode())
    for path in sorted([*folder.glob("*.json"), *folder.glob("*.jinja")]):
        content.update(f"{path.name} {path.stat().st_size} ".encode() + path.read_bytes())
    return content.hexdigest()
