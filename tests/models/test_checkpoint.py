"""Reading config.json and generation_config.json from a folder that cannot be trusted."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from surelock.errors import ConfigError, ModelNotFoundError
from surelock.models.checkpoint import MAX_CONFIG_BYTES, MAX_NESTING, read_json_object, read_model_config
from surelock.models.llada import LLADA
from surelock.models.weights import load_weights
from tests.checkpoints import tiny_config, write_checkpoint


def test_reads_both_files(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, generation={"eos_token_id": [77, 3]})
    config, family = read_model_config(tmp_path)
    assert family is LLADA
    assert (config.hidden_size, config.eos_token_ids) == (32, (77, 3))


def test_generation_config_is_optional(tmp_path: Path) -> None:
    config, _ = read_model_config(write_checkpoint(tmp_path))
    assert config.eos_token_ids == (77,)


def test_remote_code_is_never_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    folder = write_checkpoint(
        tmp_path / "model",
        auto_map={
            "AutoConfig": "configuration_llada.LLaDAConfig",
            "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM",
        },
    )
    for name in ("configuration_llada.py", "modeling_llada.py", "__init__.py", "sitecustomize.py"):
        (folder / name).write_text(f"open({str(marker)!r}, 'w').close()\n")
    config, family = read_model_config(folder)
    load_weights(folder, config, family, dtype=None, device=torch.device("cpu"))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is not valid JSON: Expecting value"),
        (b"{", "is not valid JSON"),
        (b"[1]", "holds a list of 1; it must be a JSON object"),
        (b"null", "holds null; it must be a JSON object"),
        (b'{"a": 1} x', "is not valid JSON: Extra data"),
        (b'\xef\xbb\xbf{"a": 1}', "starts with a byte order mark"),
        (b'{"a": "\xff"}', "is not UTF-8 text: bad byte at offset 7"),
        (b'{"a": NaN}', "is not valid JSON: NaN is not a JSON number"),
        (b'{"a": -Infinity}', "is not valid JSON: -Infinity is not a JSON number"),
        (b'{"a": 1, "a": 2}', "is not valid JSON: the key 'a' occurs twice"),
        (b'{"b": {"a": 1, "a": 1}}', "is not valid JSON: the key 'a' occurs twice"),
        (b'{"\\n": 1, "\\n": 1}', r"the key '\n' occurs twice"),
        (b'{"a": "x\ny"}', "is not valid JSON: Invalid control character"),
        (b'{"a": ' + b"1" * 5000 + b"}", "is not valid JSON: Exceeds the limit"),
        (b'{"a": ' + b"[" * MAX_NESTING + b"]" * MAX_NESTING + b"}", "is nested too deeply; the limit is 32"),
        (b'{"a": ' + b"[" * 500_000, "is nested too deeply; the limit is 32"),
        (b'{"a":' * 100_000, "is nested too deeply; the limit is 32"),
        (b'{"a": "' + b"x" * MAX_CONFIG_BYTES + b'"}', "is larger than 1048576 bytes"),
    ],
    ids=range(18),
)
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_bad_json_is_one_line_that_names_the_file(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        read_model_config(tmp_path)
    assert str(tmp_path / name) in str(caught.value)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


def test_deepest_accepted_nesting(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"a": ' + "[" * (MAX_NESTING - 1) + "1" + "]" * (MAX_NESTING - 1) + "}")
    assert list(read_json_object(path, max_bytes=1000, error=ConfigError)) == ["a"]


def test_overflowing_float_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    text = json.dumps(tiny_config(rope_theta=12345.5)).replace("12345.5", "1e999")
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match="rope_theta is inf; it must be a finite number"):
        read_model_config(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_pipe_does_not_block(tmp_path: Path, name: str) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(ConfigError, match=rf"{name} is not a regular file"):
        read_model_config(tmp_path)


def test_missing_config(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"has no config\.json; give a folder"):
        read_model_config(tmp_path)
    with pytest.raises(ModelNotFoundError, match="there is no folder"):
        read_model_config(tmp_path / "absent")
