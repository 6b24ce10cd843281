"""LLaDA's config.json: real files, both dialects, defaults, bounds, refusals and the map of tensor names."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surelock.errors import ConfigError
from surelock.models.config import ModelConfig
from surelock.models.llada import LLADA, LLaDAConfig, parameter_sources, parse_config
from surelock.models.registry import family_for
from tests.checkpoints import TINY_CONFIG, random_tensors, tiny_config

DATA = Path(__file__).parents[1] / "data"


def read(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text())
    assert isinstance(value, dict)
    return value


def without(*keys: str, **overrides: Any) -> dict[str, Any]:
    return {key: value for key, value in tiny_config(**overrides).items() if key not in keys}


@pytest.fixture
def llada_8b() -> dict[str, Any]:
    return read(DATA / "hf_configs" / "llada-8b-instruct.config.json")


def test_llada_8b_config(llada_8b: dict[str, Any]) -> None:
    generation = read(DATA / "hf_configs" / "llada-8b-instruct.generation_config.json")
    assert family_for(llada_8b) is LLADA
    assert parse_config(llada_8b, generation) == LLaDAConfig(
        family="llada",
        vocab_size=126464,
        embedding_size=126464,
        hidden_size=4096,
        intermediate_size=12288,
        num_layers=32,
        num_heads=32,
        num_kv_heads=32,
        head_dim=128,
        max_sequence_length=4096,
        norm_eps=1e-5,
        rope_theta=500000.0,
        mask_token_id=126336,
        eos_token_ids=(126081,),
    )


def test_llada_8b_sources_are_the_tensors_of_its_index(llada_8b: dict[str, Any]) -> None:
    index = read(DATA / "hf_configs" / "llada-8b-instruct.model.safetensors.index.json")
    sources = [source for parts in parameter_sources(parse_config(llada_8b, {})).values() for source in parts]
    assert {source.name for source in sources} == set(index["weight_map"])
    assert len(sources) == len(index["weight_map"]) == 291
    assert 2 * sum(math.prod(source.shape) for source in sources) == index["metadata"]["total_size"]


def test_golden_options() -> None:
    config = parse_config(read(DATA / "golden" / "llada" / "opts" / "config.json"), {})
    assert config.tie_embeddings
    assert config.qkv_bias
    assert not config.bias
    assert config.qk_norm
    assert config.scale_logits
    assert config.scale_embeddings
    assert (config.num_heads, config.num_kv_heads, config.head_dim) == (4, 2, 16)
    assert (config.norm_eps, config.rope_theta) == (1e-6, 10000.0)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_theta": 5e5},
        {"rope_theta": 500000},
        {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
        {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default", "partial_rotary_factor": 1.0}},
        {"rope_theta": 5e5, "rope_parameters": {"rope_theta": 5e5}},
        {"rope_theta": 5e5, "rope_parameters": None, "rope_scaling": None},
        {"rope_theta": 5e5, "rope_scaling": {"type": "default"}},
    ],
)
@pytest.mark.parametrize("dtype", [{"torch_dtype": "bfloat16"}, {"dtype": "bfloat16"}, {"torch_dtype": None}, {}])
def test_both_dialects(rope: dict[str, Any], dtype: dict[str, Any]) -> None:
    raw = without("rope_theta", "torch_dtype") | rope | dtype
    assert parse_config(raw, {}) == parse_config(tiny_config(rope_theta=5e5), {})


@pytest.mark.parametrize(
    ("overrides", "field", "value"),
    [
        ({"n_kv_heads": None}, "num_kv_heads", 4),
        ({"n_kv_heads": None, "multi_query_attention": False}, "num_kv_heads", 4),
        ({"n_kv_heads": None, "multi_query_attention": True}, "num_kv_heads", 1),
        ({"n_kv_heads": 1, "multi_query_attention": True}, "num_kv_heads", 1),
        ({"mlp_hidden_size": None}, "intermediate_size", 128),
        ({"mlp_hidden_size": None, "mlp_ratio": 2.5}, "intermediate_size", 80),
        ({"embedding_size": None}, "embedding_size", 80),
        ({"eos_token_id": None}, "eos_token_ids", ()),
        ({"eos_token_id": [5, 3, 5]}, "eos_token_ids", (5, 3)),
        ({"vocab_size": 126464, "embedding_size": None, "mask_token_id": None}, "mask_token_id", 126336),
        ({"mask_token_id": 95}, "mask_token_id", 95),
        ({"include_bias": True}, "bias", True),
        ({"bias_for_layer_norm": None}, "bias", False),
        ({"rope_full_precision": False}, "rope_full_precision", False),
        ({"unknown_key": {"nested": [1]}, "auto_map": {"AutoModel": "x.Y"}}, "num_layers", 2),
        ({"layer_types": ["full_attention"] * 2, "sliding_window": None, "use_sliding_window": False}, "num_layers", 2),
    ],
)
def test_defaults_and_nulls(overrides: dict[str, Any], field: str, value: object) -> None:
    assert getattr(parse_config(tiny_config(**overrides), {}), field) == value


@pytest.mark.parametrize(
    "key",
    sorted(
        TINY_CONFIG.keys()
        - {"d_model", "n_layers", "n_heads", "vocab_size", "max_sequence_length", "rope_theta", "mask_token_id"}
    ),
)
def test_optional_keys_may_be_absent(key: str) -> None:
    assert parse_config(without(key), {}).hidden_size == 32


def test_eos_ids_are_the_union_in_order() -> None:
    raw = tiny_config(eos_token_id=[7, 3])
    assert parse_config(raw, {"eos_token_id": [3, 9]}).eos_token_ids == (7, 3, 9)
    assert parse_config(raw, {"eos_token_id": 9}).eos_token_ids == (7, 3, 9)
    assert parse_config(raw, {"eos_token_id": None, "bos_token_id": 1}).eos_token_ids == (7, 3)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"n_layers": 10**9}, "n_layers is 1000000000; it must be less than or equal to 1024"),
        ({"n_layers": 0}, "n_layers is 0; it must be greater than or equal to 1"),
        ({"n_layers": True}, "n_layers is true; it must be a valid integer"),
        ({"n_layers": 2.0}, "n_layers is 2.0; it must be a valid integer"),
        ({"n_layers": None}, "n_layers is null; it must be a valid integer"),
        ({"n_layers": [2]}, "n_layers is a list of 1; it must be a valid integer"),
        ({"n_layers": {}}, "n_layers is an object; it must be a valid integer"),
        ({"vocab_size": -1}, "vocab_size is -1; it must be greater than or equal to 1"),
        ({"vocab_size": "80"}, "vocab_size is '80'; it must be a valid integer"),
        ({"vocab_size": "8\n0"}, r"vocab_size is '8\n0'; it must be a valid integer"),
        ({"vocab_size": "8" * 10**6}, "...; it must be a valid integer"),
        ({"d_model": 2**62}, "d_model is 4611686018427387904; it must be less than or equal to 65536"),
        ({"d_model": 10**4000}, "d_model is an integer of 13288 bits; it must be less than or equal to 65536"),
        ({"n_heads": 0}, "n_heads is 0; it must be greater than or equal to 1"),
        ({"n_kv_heads": 0}, "n_kv_heads is 0; it must be greater than or equal to 1"),
        ({"max_sequence_length": 2**40}, "it must be less than or equal to 16777216"),
        ({"mlp_hidden_size": 2**40}, "it must be less than or equal to 1048576"),
        ({"mlp_ratio": math.nan}, "mlp_ratio is nan; it must be a finite number"),
        ({"rms_norm_eps": math.nan}, "rms_norm_eps is nan; it must be a finite number"),
        ({"rms_norm_eps": 0}, "rms_norm_eps is 0; it must be greater than 0"),
        ({"rms_norm_eps": 10**400}, "rms_norm_eps is an integer of 1329 bits; it must be a valid number"),
        ({"rope_theta": math.inf}, "rope_theta is inf; it must be a finite number"),
        ({"rope_theta": -1.0}, "rope_theta is -1.0; it must be greater than or equal to 1"),
        ({"rope_theta": "10000"}, "rope_theta is '10000'; it must be a valid number"),
        ({"rope_theta": None}, "rope_theta is missing"),
        ({"rope_parameters": {"rope_theta": 5e5}}, "rope_theta is given as 10000 and as 500000; keep one"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters.rope_type is 'yarn'; it must be 'default'"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "rope_parameters.partial_rotary_factor is 0.5; it must"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "rope_scaling.type is 'linear'; it must be 'default'"),
        ({"rope_scaling": 2}, "rope_scaling is 2; it must be a valid dictionary"),
        ({"include_bias": 1}, "include_bias is 1; it must be a valid boolean"),
        ({"weight_tying": "true"}, "weight_tying is 'true'; it must be a valid boolean"),
        ({"mask_token_id": 96}, "mask_token_id is 96; it must be less than embedding_size, 96"),
        ({"mask_token_id": -1}, "mask_token_id is -1; it must be greater than or equal to 0"),
        ({"mask_token_id": None}, "mask_token_id is missing; set it to the id of the tokenizer's mask token"),
        ({"mask_token_id": 77}, "is 77, which is also mask_token_id"),
        ({"eos_token_id": 96}, "is 96; it must be less than embedding_size, 96"),
        ({"eos_token_id": True}, "eos_token_id.0 is true; it must be a valid integer"),
        ({"eos_token_id": "2"}, "eos_token_id is '2'; it must be a valid list"),
        ({"eos_token_id": list(range(65))}, "eos_token_id is a list of 65; it must have at most 64 items"),
        ({"embedding_size": 79}, "embedding_size is 79; it must be at least vocab_size, 80"),
        ({"n_heads": 5}, "d_model is 32; it must be a multiple of n_heads, 5"),
        ({"n_heads": 32, "n_kv_heads": 32}, "d_model / n_heads is 1; rotary embeddings need an even head size"),
        ({"n_kv_heads": 3}, "n_heads is 4; it must be a multiple of n_kv_heads, 3"),
        ({"n_kv_heads": 8}, "n_heads is 4; it must be a multiple of n_kv_heads, 8"),
        ({"multi_query_attention": True}, "n_kv_heads is 2, but multi_query_attention is true, which means 1"),
        ({"multi_query_attention": False}, "n_kv_heads is 2, but multi_query_attention is false, which means 4"),
        ({"mlp_hidden_size": None, "mlp_ratio": 0.51}, "mlp_ratio is 0.51 and d_model 32; their product must be an"),
        ({"block_group_size": 3}, "n_layers is 2; it must be a multiple of block_group_size, 3"),
        ({"block_type": "sequential"}, "block_type is 'sequential'; it must be 'llama', which is all that surelock"),
        ({"activation_type": "gelu"}, "activation_type is 'gelu'; it must be 'silu'"),
        ({"layer_norm_type": "default"}, "layer_norm_type is 'default'; it must be 'rms'"),
        ({"layer_norm_with_affine": False}, "layer_norm_with_affine is false; it must be true"),
        ({"rope": False}, "rope is false; it must be true"),
        ({"alibi": True}, "alibi is true; it must be false"),
        ({"bias_for_layer_norm": True}, "bias_for_layer_norm is true and include_bias false"),
        ({"bias_for_layer_norm": None, "include_bias": True}, "bias_for_layer_norm is null and include_bias true"),
        (
            {"attention_layer_norm": True, "attention_layer_norm_with_affine": False},
            "attention_layer_norm_with_affine is false",
        ),
        ({"clip_qkv": 8.0}, "clip_qkv is 8.0; it must be null"),
        ({"sliding_window": 4096}, "sliding_window is 4096; it must be null"),
        ({"use_sliding_window": True}, "use_sliding_window is true; it must be false"),
        ({"layer_types": ["sliding_attention"]}, "layer_types.0 is 'sliding_attention'; it must be 'full_attention'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is an object; it must be null"),
        ({"n_layers": 0, "n_heads": 0, "alibi": True}, "(and 2 more bad fields)"),
    ],
)
def test_bad_config_is_one_line_that_names_the_field(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(tiny_config(**overrides), {})
    text = str(caught.value)
    assert text.startswith("config.json: ")
    assert message in text
    assert text.isprintable()
    assert len(text) < 300


@pytest.mark.parametrize(
    "key", ["d_model", "n_layers", "n_heads", "vocab_size", "max_sequence_length", "rope_theta", "mask_token_id"]
)
def test_required_key_is_missing(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^config\.json: {key} is missing"):
        parse_config(without(key), {})


@pytest.mark.parametrize("value", ["2", -1, [True], 2**40, {}, 1.5])
def test_bad_generation_config_names_its_file(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^generation_config\.json: eos_token_id"):
        parse_config(tiny_config(), {"eos_token_id": value})


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({}, "architectures is null"),
        ({"architectures": []}, "architectures is a list of 0"),
        ({"architectures": "LLaDAModelLM"}, "architectures is 'LLaDAModelLM'; it must be a list"),
        ({"architectures": [5]}, "architectures is a list of 1"),
        ({"architectures": ["LlamaForCausalLM"]}, "architectures is ['LlamaForCausalLM'], which is unknown"),
        # Shares its model_type with LLaDA.
        ({"architectures": ["LLaDAMoEModelLM"], "model_type": "llada"}, "['LLaDAMoEModelLM'], which is unknown"),
        ({"architectures": ["x\n" * 1000]}, "which is unknown"),
    ],
)
def test_unknown_architecture_lists_the_supported_ones(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        family_for(raw)
    text = str(caught.value)
    assert message in text
    assert "surelock supports" in text
    assert "LLaDAModelLM" in text
    assert text.isprintable()


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"include_qkv_bias": True, "attention_layer_norm": True, "weight_tying": True},
        {"include_bias": True},
        {"n_layers": 6, "block_group_size": 3},
        {"multi_query_attention": True, "n_kv_heads": None, "mlp_hidden_size": None, "embedding_size": None},
    ],
)
def test_sources_are_the_tensors_of_the_reference(overrides: dict[str, Any]) -> None:
    raw = tiny_config(**overrides)
    sources = [source for parts in parameter_sources(parse_config(raw, {})).values() for source in parts]
    tensors = random_tensors(raw)
    assert {source.name: source.shape for source in sources} == {name: tuple(t.shape) for name, t in tensors.items()}
    assert len(sources) == len(tensors)


def test_parameter_names_and_order_of_parts() -> None:
    sources = parameter_sources(parse_config(tiny_config(n_layers=1), {}))
    leaves = {name: [part.name.removeprefix("model.transformer.") for part in parts] for name, parts in sources.items()}
    assert leaves == {
        "embedding.weight": ["wte.weight"],
        "layers.0.attn_norm.weight": ["blocks.0.attn_norm.weight"],
        "layers.0.qkv.weight": ["blocks.0.q_proj.weight", "blocks.0.k_proj.weight", "blocks.0.v_proj.weight"],
        "layers.0.attn_out.weight": ["blocks.0.attn_out.weight"],
        "layers.0.ff_norm.weight": ["blocks.0.ff_norm.weight"],
        "layers.0.gate_up.weight": ["blocks.0.ff_proj.weight", "blocks.0.up_proj.weight"],
        "layers.0.down.weight": ["blocks.0.ff_out.weight"],
        "norm.weight": ["ln_f.weight"],
        "head.weight": ["ff_out.weight"],
    }


def test_sources_of_a_plain_model_config_are_ungrouped() -> None:
    config = parse_config(tiny_config(), {})
    names = {name: getattr(config, name) for name in ModelConfig.__dataclass_fields__}
    assert parameter_sources(ModelConfig(**names)) == parameter_sources(config)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted(TINY_CONFIG)), JSON_VALUES, max_size=4))
def test_any_value_gives_a_config_or_one_line(overrides: dict[str, Any]) -> None:
    raw = tiny_config(**overrides)
    try:
        config = parse_config(raw, {})
        is_sound = config.query_size == config.hidden_size and config.mask_token_id < config.embedding_size
    except ConfigError as error:
        is_sound = str(error).isprintable()
    assert is_sound
