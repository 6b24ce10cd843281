"""Finds the files of a model: the embedded one, a local folder, or a repository of the Hugging Face hub."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from surelock.errors import ModelNotFoundError, ParameterError, shown

EMBEDDED_FOLDER: Final = Path(__file__).resolve().parent.parent / "embedded"
EMBEDDED_NAME: Final = "surelock-demo"
HUB_SCHEME: Final = "hf://"

# Data only: no Python files, no pickles, and nothing below the top folder.
ALLOWED_FILES: Final = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "chat_template.jinja",
)
IGNORED_FILES: Final = ("*/*",)
SMALL_FILES: Final = tuple(name for name in ALLOWED_FILES if name != "*.safetensors")

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_REVISION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
_CHOICES: Final = (
    "give an existing folder, a hub id such as GSAI-ML/LLaDA-8B-Instruct, or no model at all for the embedded one"
)


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where a model's files are.

    Attributes:
        folder: holds config.json and *.safetensors.
        name: hub id, name of the local folder, or `surelock-demo` for the embedded model.
        commit: commit hash of a hub snapshot; None for the others.
    """

    folder: Path
    name: str
    commit: str | None


def resolve_model(
    model: str | os.PathLike[str] | None,
    *,
    revision: str | None = None,
    offline: bool | None = None,
    check: Callable[[ModelFiles], object] | None = None,
    with_weights: bool = True,
) -> ModelFiles:
    """The files of `model`, downloaded to the hub's cache if need be.

    Args:
        model: None for the embedded model, an existing folder, or a hub id with or without `hf://`. A folder wins over
            a hub id of the same name.
        revision: branch, tag or commit of a hub repository. None: its main branch.
        offline: use only what the hub's cache holds. None: as the environment variable HF_HUB_OFFLINE says.
        check: called before the weights of a hub repository are downloaded, with a folder that holds its other files;
            what it raises ends the download.
        with_weights: False downloads no weights, so there may be none in the folder.

    Raises:
        ModelNotFoundError: the folder, repository, revision or file does not exist or cannot be reached.
        ParameterError: `revision` is malformed, or given for something that has no revisions.
    """
    if model is None:
        _refuse_revision(revision, "the embedded model")
        return ModelFiles(EMBEDDED_FOLDER, EMBEDDED_NAME, None)
    name = _as_text(model)
    if not name.startswith(HUB_SCHEME):
        folder = Path(os.path.expanduser(name))
        if folder.is_dir():
            _refuse_revision(revision, f"the local folder {folder}")
            return ModelFiles(folder, folder.resolve().name or str(folder), None)
        if folder.exists():
            raise ModelNotFoundError(f"{folder} is a file; give the folder that holds config.json and the weights")
        if isinstance(model, os.PathLike):
            raise ModelNotFoundError(f"there is no folder {folder}; {_CHOICES}")
    repository = _as_repository(name)
    _check_revision(revision)
    return _resolve_repository(repository, revision, offline, check, with_weights)


def _as_text(model: str | os.PathLike[str]) -> str:
    name = os.fspath(model) if isinstance(model, str | os.PathLike) else model
    if not isinstance(name, str) or not name or not name.isprintable():
        raise ModelNotFoundError(f"model is {shown(name)}; {_CHOICES}")
    return name


def _as_repository(name: str) -> str:
    repository = name.removeprefix(HUB_SCHEME)
    if "://" in repository:
        raise ModelNotFoundError(f"model is {shown(name)}; addresses are not accepted: {_CHOICES}")
    return repository


def _refuse_revision(revision: str | None, what: str) -> None:
    if revision is not None:
        raise ParameterError(f"revision is {shown(revision)}, but {what} has no revisions; leave revision out")


def _check_revision(revision: str | None) -> None:
    if revision is None:
        return
    if not (isinstance(revision, str) and _REVISION.fullmatch(revision) and ".." not in revision):
        raise ParameterError(f"revision is {shown(revision)}; it must be the name of a branch or tag, or a commit hash")


def _resolve_repository(
    repository: str,
    revision: str | None,
    offline: bool | None,
    check: Callable[[ModelFiles], object] | None,
    with_weights: bool,
) -> ModelFiles:
    # Imported late: it takes longer than the embedded model needs to load.
    from huggingface_hub import constants

    is_offline = constants.HF_HUB_OFFLINE if offline is None else offline
    way_out = "; run once with network access to complete it" if is_offline else "; choose another repository"
    if not with_weights or (check is not None and not is_offline):
        files = _with_config(repository, _download(repository, revision, SMALL_FILES, is_offline=is_offline), way_out)
        if check is not None:
            check(files)
        if not with_weights:
            return files
        # What was checked is what is loaded.
        revision = files.commit or revision
    files = _with_config(repository, _download(repository, revision, ALLOWED_FILES, is_offline=is_offline), way_out)
    if not any(files.folder.glob("*.safetensors")):
        raise ModelNotFoundError(
            f"hub repository {repository} at {files.folder.name} has no *.safetensors file, and pickle weights are "
            f"refused{way_out}"
        )
    return files


def _with_config(repository: str, folder: Path, way_out: str) -> ModelFiles:
    if not (folder / "config.json").is_file():
        raise ModelNotFoundError(f"hub repository {repository} at {folder.name} has no config.json{way_out}")
    return ModelFiles(folder, repository, folder.name if _COMMIT.fullmatch(folder.name) else None)


def _download(repository: str, revision: str | None, files: Sequence[str], *, is_offline: bool) -> Path:
    from huggingface_hub import constants, errors, snapshot_download

    # Base of the errors of the HTTP client, which is httpx in hub 1 and httpx2 in hub 2.
    http_client_error: type[Exception] = errors.HfHubHTTPError.__bases__[0]
    wanted = repository if revision is None else f"{repository} at revision {revision}"
    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                local_files_only=is_offline,
                allow_patterns=list(files),
                ignore_patterns=list(IGNORED_FILES),
            )
        )
    except errors.HFValidationError as fault:
        raise ModelNotFoundError(
            f"{shown(repository)} is neither an existing folder nor a hub id; {_CHOICES}"
        ) from fault
    except errors.GatedRepoError as fault:
        reason = (
            f"hub repository {repository} is gated: accept its terms at {constants.ENDPOINT}/{repository}, then run "
            "`hf auth login`"
        )
        raise ModelNotFoundError(reason) from fault
    except errors.RepositoryNotFoundError as fault:
        reason = (
            f"there is no folder and no public hub repository {repository}: check the spelling, or run `hf auth login` "
            "if it is private"
        )
        raise ModelNotFoundError(reason) from fault
    except errors.RevisionNotFoundError as fault:
        reason = f"hub repository {repository} has no revision {revision}: give an existing branch, tag or commit hash"
        raise ModelNotFoundError(reason) from fault
    except errors.LocalEntryNotFoundError as fault:
        if is_offline:
            reason = (
                f"{wanted} is not complete in the hub cache {constants.HF_HUB_CACHE}, and offline mode is on: run once "
                "with network access, or give a local folder"
            )
        else:
            reason = (
                f"the hub cannot be reached, and {wanted} is not complete in its cache {constants.HF_HUB_CACHE}: check "
                "the network (and that HF_HUB_OFFLINE is not set), or give a local folder"
            )
        raise ModelNotFoundError(reason) from fault
    # RuntimeError is what the hub's Xet transfers, written in Rust, fail with.
    except (OSError, RuntimeError, errors.EntryNotFoundError, http_client_error) as fault:
        detail = " ".join(str(fault).split())[:200] or type(fault).__name__
        reason = (
            f"{wanted} cannot be downloaded to {constants.HF_HUB_CACHE}: {detail}; try again or give a local folder"
        )
        raise ModelNotFoundError(reason) from fault
