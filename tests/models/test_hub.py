"""Where a model's files come from: the embedded model, folders, and the hub's cache. Nothing here uses the network."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants, errors
from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]

from surelock.errors import ModelNotFoundError, OutOfMemoryError, ParameterError
from surelock.models.checkpoint import read_model_config
from surelock.models.hub import ALLOWED_FILES, IGNORED_FILES, ModelFiles, resolve_model
from surelock.models.weights import load_weights
from tests.checkpoints import write_checkpoint

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HTTP_CLIENT_ERROR = errors.HfHubHTTPError.__bases__[0]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def cached(cache: Path) -> Path:
    """A hub cache that holds org/name, as huggingface_hub lays it out; returns the snapshot."""
    repository = cache / "models--org--name"
    snapshot = write_checkpoint(repository / "snapshots" / COMMIT, num_shards=2)
    (repository / "blobs").mkdir()
    for number, path in enumerate(sorted(snapshot.iterdir())):
        path.rename(repository / "blobs" / f"{number:064x}")
        path.symlink_to(Path("..", "..", "blobs", f"{number:064x}"))
    (repository / "refs").mkdir()
    for revision in ("main", "v1.0"):
        (repository / "refs" / revision).write_text(COMMIT)
    return snapshot


def refused(model: Any, **options: Any) -> str:
    with pytest.raises(ModelNotFoundError) as caught:
        resolve_model(model, **options)
    message = str(caught.value)
    assert message.isprintable()
    return message


def test_embedded_model_loads() -> None:
    files = resolve_model(None)
    assert (files.name, files.commit) == ("surelock-demo", None)
    config, family = read_model_config(files.folder)
    assert (config.mask_token_id, config.eos_token_ids, config.max_sequence_length) == (1, (0, 3), 512)
    weights = load_weights(files.folder, config, family, dtype=torch.float32, device=torch.device("cpu"))
    assert sum(tensor.numel() for tensor in weights.values()) == 17_308_032
    assert (files.folder / "tokenizer.json").is_file()


def test_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_checkpoint(tmp_path / "org" / "name")
    assert resolve_model(folder) == resolve_model(str(folder)) == ModelFiles(folder, "name", None)
    monkeypatch.chdir(tmp_path)
    assert resolve_model("org/name") == ModelFiles(Path("org/name"), "name", None)
    monkeypatch.chdir(folder)
    assert resolve_model(".").name == "name"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_model("~/org/name").folder == folder


def test_hub_scheme_passes_over_a_folder_of_that_name(
    tmp_path: Path, cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(tmp_path / "org" / "name")
    write_checkpoint(tmp_path / "hf:" / "org" / "name")
    monkeypatch.chdir(tmp_path)
    assert resolve_model("hf://org/name", offline=True).folder == cached


@pytest.mark.parametrize("revision", [None, "main", "v1.0", COMMIT])
@pytest.mark.parametrize("offline", [None, True])
def test_cached_repository(cached: Path, revision: str | None, offline: bool | None) -> None:
    files = resolve_model("org/name", revision=revision, offline=offline)
    assert files == ModelFiles(cached, "org/name", COMMIT)
    config, family = read_model_config(files.folder)
    assert load_weights(files.folder, config, family, dtype=None, device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("", "model is ''; give an existing folder, a hub id such as"),
        ("a\0b", r"model is 'a\x00b'"),
        ("org/name\n", r"model is 'org/name\n'"),
        (b"org/name", "model is b'org/name'"),
        (5, "model is 5"),
        ("/absent/folder", "'/absent/folder' is neither an existing folder nor a hub id"),
        ("./absent", "'./absent' is neither an existing folder nor a hub id"),
        ("../absent", "'../absent' is neither an existing folder nor a hub id"),
        ("org/../name", "is neither an existing folder nor a hub id"),
        ("org/name/more", "is neither an existing folder nor a hub id"),
        ("models--org--name", "is neither an existing folder nor a hub id"),
        ("a" * 97, "is neither an existing folder nor a hub id"),
        ("hf://", "'' is neither an existing folder nor a hub id"),
        ("hf://../x", "'../x' is neither an existing folder nor a hub id"),
        ("hf:///etc", "'/etc' is neither an existing folder nor a hub id"),
        ("file:///etc", "model is 'file:///etc'; addresses are not accepted"),
        ("hf://file:///etc", "model is 'hf://file:///etc'; addresses are not accepted"),
        ("https://huggingface.co/org/name", "addresses are not accepted"),
        (Path("org/name"), "there is no folder org/name; give an existing folder"),
    ],
)
def test_name_of_no_model(cache: Path, model: object, message: str) -> None:
    refusal = refused(model)
    assert message in refusal
    assert "GSAI-ML/LLaDA-8B-Instruct" in refusal


def test_file_instead_of_folder(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    assert "is a file; give the folder that holds" in refused(folder / "model.safetensors")


@pytest.mark.parametrize("revision", ["../main", "refs/../../x", "", " main", "a\0", "-x", "a" * 300, 5])
def test_malformed_revision(cached: Path, revision: Any) -> None:
    with pytest.raises(ParameterError, match="it must be the name of a branch or tag, or a commit hash"):
        resolve_model("org/name", revision=revision)


def test_revision_of_something_without_revisions(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="revision is 'main', but the embedded model has no revisions"):
        resolve_model(None, revision="main")
    with pytest.raises(ParameterError, match="revision is 'main', but the local folder"):
        resolve_model(tmp_path, revision="main")


@pytest.mark.parametrize(("model", "revision"), [("org/other", None), ("org/name", "v2"), ("org/name", "f" * 40)])
def test_offline_and_not_cached(cached: Path, model: str, revision: str | None) -> None:
    message = refused(model, revision=revision, offline=True)
    assert message.startswith(f"{model} at revision {revision} is" if revision else f"{model} is")
    assert "offline mode is on: run once with network access" in message


def test_offline_setting_of_the_environment_counts(cached: Path) -> None:
    assert constants.HF_HUB_OFFLINE
    assert "offline mode is on" in refused("org/other")
    assert "the hub cannot be reached" in refused("org/other", offline=False)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("config.json", f"hub repository org/name at {COMMIT} has no config.json; run once with network access"),
        ("*.safetensors", f"hub repository org/name at {COMMIT} has no *.safetensors file, and pickle weights are"),
    ],
)
def test_incomplete_snapshot_names_the_file(cached: Path, pattern: str, message: str) -> None:
    for path in list(cached.glob(pattern)):
        path.unlink()
    assert message in refused("org/name", offline=True)


def http_error(kind: type[errors.HfHubHTTPError], text: str = "") -> errors.HfHubHTTPError:
    # The response's class belongs to the HTTP client, which differs between releases of the hub's library.
    error = kind.__new__(kind)
    error.args = (text,)
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            http_error(errors.RepositoryNotFoundError),
            "there is no folder and no public hub repository org/name: check the spelling, or run `hf auth login`",
        ),
        (http_error(errors.GatedRepoError), "hub repository org/name is gated: accept its terms at https://"),
        (http_error(errors.RevisionNotFoundError), "hub repository org/name has no revision v9: give an existing"),
        (
            errors.LocalEntryNotFoundError("Got: ConnectError:\nno route"),
            "the hub cannot be reached, and org/name at revision v9 is not complete in its cache",
        ),
        (http_error(errors.HfHubHTTPError, "503\nService Unavailable"), "503 Service Unavailable; try again"),
        (http_error(errors.DisabledRepoError, "disabled"), "cannot be downloaded to"),
        (OSError(28, "No space left on device"), "No space left on device; try again or give a local folder"),
        (ConnectionError(), "ConnectionError; try again"),
        (HTTP_CLIENT_ERROR("peer closed\nconnection"), "peer closed connection; try again"),
        (RuntimeError("Data processing error: CAS service error"), "CAS service error; try again"),
    ],
)
def test_errors_of_the_hub(cache: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str) -> None:
    def fail(*arguments: object, **options: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    assert message in refused("org/name", revision="v9", offline=False)


def test_online_download(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[tuple[object, ...], dict[str, object]]] = []

    def download(*arguments: object, **options: object) -> str:
        calls.append((arguments, options))
        return str(write_checkpoint(cache / "models--org--name" / "snapshots" / COMMIT))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve_model("hf://org/name", revision="v1.0", offline=False).commit == COMMIT
    assert calls == [
        (
            ("org/name",),
            {
                "revision": "v1.0",
                "local_files_only": False,
                "allow_patterns": list(ALLOWED_FILES),
                "ignore_patterns": list(IGNORED_FILES),
            },
        )
    ]


def test_a_model_is_checked_before_its_weights_are_downloaded(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, object]] = []

    def download(*arguments: object, **options: object) -> str:
        asked.append((options["revision"], options["allow_patterns"]))
        return str(write_checkpoint(cache / "models--org--name" / "snapshots" / COMMIT))

    def refuse(files: ModelFiles) -> None:
        assert (files.name, files.commit) == ("org/name", COMMIT)
        raise OutOfMemoryError("too large")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    everything = list(ALLOWED_FILES)
    small = [name for name in everything if name != "*.safetensors"]
    with pytest.raises(OutOfMemoryError, match="too large"):
        resolve_model("org/name", offline=False, check=refuse)
    assert asked == [(None, small)]
    resolve_model("org/name", revision="v1.0", offline=False, check=lambda files: None)
    assert asked[1:] == [("v1.0", small), (COMMIT, everything)]
    resolve_model("org/name", offline=True, check=refuse)
    assert asked[3:] == [(None, everything)]
    assert resolve_model("org/name", offline=False, with_weights=False).name == "org/name"
    assert asked[4:] == [(None, small)]


@pytest.mark.parametrize(
    ("removed", "way_out"), [("config.json", "config.json"), ("model.safetensors", "*.safetensors")]
)
def test_repository_without_a_needed_file(
    cache: Path, monkeypatch: pytest.MonkeyPatch, removed: str, way_out: str
) -> None:
    folder = write_checkpoint(cache / "models--org--name" / "snapshots" / COMMIT)
    (folder / removed).unlink()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *arguments, **options: str(folder))
    message = refused("org/name", offline=False)
    assert f"has no {way_out}" in message
    assert message.endswith("choose another repository")


def test_only_data_files_are_asked_for() -> None:
    wanted = {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "vocab.json",
        "merges.txt",
        "added_tokens.json",
        "chat_template.jinja",
    }
    unwanted = {
        "modeling_llada.py",
        "configuration_llada.py",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        "model.pt",
        "README.md",
        "original/model.safetensors",
        "sub/config.json",
        "tokenizer.model",
        "training_args.bin",
    }
    kept = filter_repo_objects(
        sorted(wanted | unwanted), allow_patterns=list(ALLOWED_FILES), ignore_patterns=list(IGNORED_FILES)
    )
    assert set(kept) == wanted


@pytest.fixture(scope="module")
def modules_of() -> Callable[[str], set[str]]:
    def run(code: str) -> set[str]:
        program = f"import sys; {code}; print(*sys.modules)"
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        return set(result.stdout.split())

    return run


def test_embedded_model_is_found_without_the_hub_library(modules_of: Callable[[str], set[str]]) -> None:
    loaded = modules_of("from surelock.models.hub import resolve_model; resolve_model(None)")
    assert "surelock.models.hub" in loaded
    assert "huggingface_hub._snapshot_download" not in loaded
