"""The file `surelock calibrate` leaves for a model: where it is, what it may hold, and which weights it is for.

The user's own lies in the user's cache under the weights' fingerprint. It goes before the one that came with the model,
surelock_calibration.json in its folder, which is read as data that anyone may have written and never replaced.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, NoneType
from typing import Any, Final

from surelock.errors import ParameterError, shown
from surelock.results.whole_file import write_whole

FILE_NAME: Final = "surelock_calibration.json"
FORMAT: Final = 1
KEYS: Final = frozenset(
    ("format", "lock", "model", "fingerprint", "risk", "decoding", "found", "command", "environment")
)
MAX_BYTES: Final = 1 << 20

# Of how its prompts were decoded, what a run can be compared with.
_DECODING: Final[Mapping[str, tuple[type, ...]]] = MappingProxyType(
    {
        "max_tokens": (int,),
        "steps": (int, NoneType),
        "block_length": (int, NoneType),
        "temperature": (int, float),
        "cfg_scale": (int, float),
        "unmasking": (str,),
    }
)

_EMBEDDED: Final = Path(__file__).resolve().parents[1] / "embedded"
# Of each weights file: its name, its size, and so many bytes at its start, in its middle and at its end.
_SAMPLE_BYTES: Final = 1 << 16


def model_folder(model: str | os.PathLike[str] | None) -> Path:
    """The folder of a model given as a path; None is the embedded one.

    Raises:
        ParameterError: it is no folder.
    """
    folder = _EMBEDDED if model is None else Path(os.path.expanduser(model))
    if not folder.is_dir():
        raise ParameterError(f"model is {shown(str(model))}, not a folder; for a hub id pass LLM(...).folder")
    return folder


def fingerprint(folder: Path) -> str:
    """SHA-256 of config.json and of samples of every *.safetensors file: tells models apart without reading them whole.

    Raises:
        ParameterError: there are no such files, or they cannot be read.
    """
    weights = sorted(folder.glob("*.safetensors"))
    digest = hashlib.sha256()
    try:
        digest.update((folder / "config.json").read_bytes())
        for path in weights:
            size = path.stat().st_size
            digest.update(f"\n{path.name} {size}\n".encode())
            with path.open("rb") as file:
                for start in (0, size // 2, max(0, size - _SAMPLE_BYTES)):
                    file.seek(start)
                    digest.update(file.read(_SAMPLE_BYTES))
    except OSError as error:
        raise ParameterError(f"{folder} cannot be fingerprinted: {error.strerror} ({error.filename})") from None
    if not weights:
        raise ParameterError(f"{folder} has no *.safetensors file, so it is no model folder")
    return digest.hexdigest()


def places(folder: Path, print_of_weights: str) -> tuple[Path, Path]:
    """Where the calibration of a model may be: the user's own in the cache, and what came with the model."""
    cache = os.environ.get("XDG_CACHE_HOME")
    root = Path(cache) if cache else Path(os.path.expanduser("~")) / ".cache"
    return root / "surelock" / "calibrations" / f"{print_of_weights[:32]}.json", folder / FILE_NAME


def read_lock(
    model: str | os.PathLike[str] | None, file: str | os.PathLike[str] | None, names: frozenset[str]
) -> dict[str, Any]:
    """The `LockParams` fields stored for a model; `names` are those there are.

    Raises:
        ParameterError: there is no calibration, it is malformed, or it is of other weights.
    """
    path, content = _read_own(model, file)
    lock = content.get("lock")
    if not isinstance(lock, dict) or not lock.keys() <= names or "kl_threshold" not in lock:
        raise ParameterError(f"lock in {path} is {shown(lock)}; run surelock calibrate again to replace the file")
    return lock


def read_decoding(model: str | os.PathLike[str] | None) -> dict[str, Any]:
    """How the prompts of a model's calibration were decoded, as far as its file says.

    Raises:
        ParameterError: there is no calibration, it is malformed, or it is of other weights.
    """
    _, content = _read_own(model, None)
    decoding = _object(content, "decoding")
    return {name: value for name, value in decoding.items() if type(value) in _DECODING.get(name, ())}


def _read_own(model: str | os.PathLike[str] | None, file: str | os.PathLike[str] | None) -> tuple[Path, dict[str, Any]]:
    """The calibration of a model and its file, which was made for the model's weights."""
    folder = model_folder(model)
    expected = fingerprint(folder)
    candidates = places(folder, expected) if file is None else (Path(file),)
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        what = "the embedded model" if model is None else shown(str(model))
        where = " or ".join(map(str, candidates))
        option = "" if model is None else f" --model {model}"
        raise ParameterError(f"{what} has no calibration at {where}; make one: surelock calibrate{option}")
    content = read_calibration(path)
    if content.get("fingerprint") != expected:
        raise ParameterError(
            f"{path} was made for other weights than those in {folder}; run surelock calibrate again, with --out "
            "elsewhere to keep this one"
        )
    return path, content


def read_calibration(path: Path) -> dict[str, Any]:
    """What a calibration file holds; only its form is checked.

    Raises:
        ParameterError: it cannot be read, or is not of the form this version writes.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ParameterError(f"{path} cannot be read: {error.strerror}") from None
    if len(text) > MAX_BYTES:
        raise ParameterError(f"{path} is larger than {MAX_BYTES} bytes, so it is no calibration; remove it")
    try:
        content = json.loads(text)
    # Undecodable bytes, malformed JSON, and nesting deeper than the interpreter follows.
    except (ValueError, RecursionError):
        raise ParameterError(f"{path} is not JSON; remove it and run surelock calibrate again") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ParameterError(
            f"{path} is not a calibration of format {FORMAT}; remove it and run surelock calibrate again"
        )
    return content


def _object(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A member that is an object; an empty one for anything else."""
    value = content.get(name)
    return value if isinstance(value, dict) else {}


def check_replaceable(path: Path, *, force: bool) -> str | None:
    """Refuse to overwrite what is not a calibration, or holds what this version does not write.

    Args:
        path: of the file.
        force: a calibration may be replaced.

    Returns:
        What would be replaced; None if there is nothing.

    Raises:
        ParameterError: there is such a file, or a calibration that may not be replaced.
    """
    if not path.exists():
        return None
    try:
        content = read_calibration(path)
    except ParameterError:
        raise ParameterError(f"{path} exists and is not a calibration; remove it or give another --out") from None
    unknown = content.keys() - KEYS
    if unknown:
        raise ParameterError(
            f"{path} holds {shown(sorted(unknown))}, which this version does not write and would lose; remove the file "
            "or give another --out"
        )
    lock, risk = _object(content, "lock"), _object(content, "risk")
    told = (
        f"a threshold of {shown(lock.get('kl_threshold'))} from {shown(risk.get('calibration_sequences'))} sequences "
        f"of {shown(risk.get('prompts'))}"
    )
    if not force:
        raise ParameterError(f"{path} holds {told}: --force replaces it, --out FILE keeps both")
    return told


def write_calibration(path: Path, content: Mapping[str, Any], *, force: bool = False) -> None:
    """Write the file whole or not at all; force: in place of another calibration.

    Raises:
        ParameterError: see `check_replaceable`.
        OSError: it cannot be written.
    """
    assert content.keys() <= KEYS
    check_replaceable(path, force=force)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
