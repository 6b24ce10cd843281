"""The LLaDA family (Nie et al., arXiv 2502.09992): LLaDA-8B Base and Instruct, LLaDA-1.5 and models of their format.

The checkpoint format is OLMo's: `ff_proj` is the gate, `up_proj` the up projection, `ff_out` inside a layer the down
projection and `ff_out` outside the layers the language model head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from surelock.errors import ConfigError
from surelock.models.config import ModelConfig
from surelock.models.family import Family, Source, linear_sources, norm_sources
from surelock.models.schema import (
    MAX_INTERMEDIATE_SIZE,
    CheckpointSchema,
    EosTokenIds,
    GenerationSchema,
    HiddenSize,
    IntermediateSize,
    NormEps,
    NumHeads,
    NumLayers,
    RopeSchema,
    RopeTheta,
    SequenceLength,
    TokenId,
    VocabSize,
    end_ids,
    head_size,
    parse,
    require,
    require_multiple,
    rope_theta,
    shown_as_json,
)

ROOT: Final = "model.transformer"

# LLaDA-8B's tokenizer, whose `<|mdm_mask|>` some of its configs leave out.
LLADA_8B_EMBEDDING_SIZE: Final = 126_464
LLADA_8B_MASK_TOKEN_ID: Final = 126_336


@dataclass(frozen=True, slots=True, kw_only=True)
class LLaDAConfig(ModelConfig):
    """A `ModelConfig` that also knows how the checkpoint groups its layers.

    Attributes:
        block_group_size: above 1, layer i is stored as `block_groups.{i // size}.{i % size}`, not `blocks.{i}`.
    """

    block_group_size: int = 1


class LLaDASchema(CheckpointSchema):
    """config.json of a LLaDA checkpoint.

    A key that is absent has the value it has in LLaDA-8B. Where that would be wrong for a checkpoint, its tensors have
    other names or shapes, and loading them fails.
    """

    d_model: HiddenSize
    n_layers: NumLayers
    n_heads: NumHeads
    n_kv_heads: NumHeads | None = None
    multi_query_attention: bool | None = None
    mlp_hidden_size: IntermediateSize | None = None
    mlp_ratio: Annotated[float, Field(gt=0, le=1024)] = 4
    vocab_size: VocabSize
    embedding_size: VocabSize | None = None
    max_sequence_length: SequenceLength
    block_group_size: NumLayers = 1
    rms_norm_eps: NormEps = 1e-5
    rope_theta: RopeTheta | None = None
    rope_parameters: RopeSchema | None = None
    rope_scaling: RopeSchema | None = None
    rope_full_precision: bool = True
    mask_token_id: TokenId | None = None
    eos_token_id: EosTokenIds = Field(default_factory=list)
    weight_tying: bool = False
    include_bias: bool = False
    include_qkv_bias: bool = False
    bias_for_layer_norm: bool | None = False
    attention_layer_norm: bool = False
    attention_layer_norm_with_affine: bool = True
    scale_logits: bool = False
    input_emb_norm: bool = False

    # Settings that change the computation and have one implemented value.
    block_type: Literal["llama"] = "llama"
    activation_type: Literal["silu"] = "silu"
    layer_norm_type: Literal["rms"] = "rms"
    layer_norm_with_affine: Literal[True] = True
    rope: Literal[True] = True
    alibi: Literal[False] = False
    clip_qkv: None = None
    sliding_window: None = None
    use_sliding_window: Literal[False] | None = None
    layer_types: list[Literal["full_attention"]] | None = None
    quantization_config: None = None


def parse_config(raw: Mapping[str, Any], generation: Mapping[str, Any]) -> LLaDAConfig:
    """The `ModelConfig` of a LLaDA config.json and generation_config.json (or an empty mapping).

    Raises:
        ConfigError: a field is missing, of the wrong type, out of bounds, not implemented or at odds with another.
    """
    schema = parse(LLaDASchema, raw, "config.json")
    generation_schema = parse(GenerationSchema, generation, "generation_config.json")
    embedding_size = schema.embedding_size or schema.vocab_size
    _check_norms(schema)
    head_dim = head_size("d_model", schema.d_model, "n_heads", schema.n_heads)
    num_kv_heads = _num_kv_heads(schema)
    require_multiple("n_heads", schema.n_heads, "n_kv_heads", num_kv_heads)
    require_multiple("n_layers", schema.n_layers, "block_group_size", schema.block_group_size)
    require(
        embedding_size >= schema.vocab_size,
        f"embedding_size is {embedding_size}; it must be at least vocab_size, {schema.vocab_size}",
    )
    mask_token_id = _mask_token_id(schema, embedding_size)
    return LLaDAConfig(
        family="llada",
        vocab_size=schema.vocab_size,
        embedding_size=embedding_size,
        hidden_size=schema.d_model,
        intermediate_size=_intermediate_size(schema),
        num_layers=schema.n_layers,
        num_heads=schema.n_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        max_sequence_length=schema.max_sequence_length,
        norm_eps=schema.rms_norm_eps,
        rope_theta=rope_theta(schema.rope_theta, schema.rope_parameters, schema.rope_scaling),
        mask_token_id=mask_token_id,
        eos_token_ids=end_ids(
            schema.eos_token_id, generation_schema, mask_token_id=mask_token_id, embedding_size=embedding_size
        ),
        tie_embeddings=schema.weight_tying,
        qkv_bias=schema.include_qkv_bias,
        bias=schema.include_bias,
        qk_norm=schema.attention_layer_norm,
        scale_logits=schema.scale_logits,
        scale_embeddings=schema.input_emb_norm,
        rope_full_precision=schema.rope_full_precision,
        block_group_size=schema.block_group_size,
    )


def parameter_sources(config: ModelConfig) -> dict[str, tuple[Source, ...]]:
    """Our parameter names to LLaDA's tensors (`Family.parameter_sources`)."""
    embedding = Source(f"{ROOT}.wte.weight", (config.embedding_size, config.hidden_size))
    sources: dict[str, tuple[Source, ...]] = {"embedding.weight": (embedding,)}
    for layer in range(config.num_layers):
        sources |= _layer_sources(config, f"layers.{layer}", _layer_name(config, layer))
    sources |= norm_sources("norm", f"{ROOT}.ln_f", config.hidden_size)
    if not config.tie_embeddings:
        sources |= _head_sources(config)
    return sources


def ignored_sources(config: ModelConfig) -> tuple[Source, ...]:
    """The head of a checkpoint whose head is tied: the reference model does not read it either."""
    if not config.tie_embeddings:
        return ()
    return tuple(source for sources in _head_sources(config).values() for source in sources)


def _layer_name(config: ModelConfig, layer: int) -> str:
    group_size = config.block_group_size if isinstance(config, LLaDAConfig) else 1
    if group_size == 1:
        return f"{ROOT}.blocks.{layer}"
    return f"{ROOT}.block_groups.{layer // group_size}.{layer % group_size}"


def _layer_sources(config: ModelConfig, ours: str, theirs: str) -> dict[str, tuple[Source, ...]]:
    hidden_size, intermediate_size = config.hidden_size, config.intermediate_size
    query_size, kv_size = config.query_size, config.kv_size
    qkv = {f"{theirs}.q_proj": query_size, f"{theirs}.k_proj": kv_size, f"{theirs}.v_proj": kv_size}
    gate_up = {f"{theirs}.ff_proj": intermediate_size, f"{theirs}.up_proj": intermediate_size}
    sources = {
        **norm_sources(f"{ours}.attn_norm", f"{theirs}.attn_norm", hidden_size),
        **linear_sources(f"{ours}.qkv", qkv, hidden_size, bias=config.qkv_bias or config.bias),
        **linear_sources(f"{ours}.attn_out", {f"{theirs}.attn_out": hidden_size}, query_size, bias=config.bias),
        **norm_sources(f"{ours}.ff_norm", f"{theirs}.ff_norm", hidden_size),
        **linear_sources(f"{ours}.gate_up", gate_up, hidden_size, bias=config.bias),
        **linear_sources(f"{ours}.down", {f"{theirs}.ff_out": hidden_size}, intermediate_size, bias=config.bias),
    }
    if config.qk_norm:
        sources |= norm_sources(f"{ours}.q_norm", f"{theirs}.q_norm", query_size)
        sources |= norm_sources(f"{ours}.k_norm", f"{theirs}.k_norm", kv_size)
    return sources


def _head_sources(config: ModelConfig) -> dict[str, tuple[Source, ...]]:
    return linear_sources("head", {f"{ROOT}.ff_out": config.embedding_size}, config.hidden_size, bias=config.bias)


def _check_norms(schema: LLaDASchema) -> None:
    # The reference reads null as include_bias.
    norm_bias = schema.include_bias if schema.bias_for_layer_norm is None else schema.bias_for_layer_norm
    require(
        not norm_bias,
        f"bias_for_layer_norm is {shown_as_json(schema.bias_for_layer_norm)} and include_bias "
        f"{shown_as_json(schema.include_bias)}, which gives the norms a bias; surelock implements only norms without "
        "one",
    )
    require(
        schema.attention_layer_norm_with_affine or not schema.attention_layer_norm,
        "attention_layer_norm_with_affine is false; surelock implements only true with attention_layer_norm",
    )


def _num_kv_heads(schema: LLaDASchema) -> int:
    if schema.n_kv_heads is None:
        return 1 if schema.multi_query_attention else schema.n_heads
    if schema.multi_query_attention is not None:
        implied = 1 if schema.multi_query_attention else schema.n_heads
        require(
            schema.n_kv_heads == implied,
            f"n_kv_heads is {schema.n_kv_heads}, but multi_query_attention is "
            f"{shown_as_json(schema.multi_query_attention)}, which means {implied}; set one of them to null",
        )
    return schema.n_kv_heads


def _intermediate_size(schema: LLaDASchema) -> int:
    if schema.mlp_hidden_size is not None:
        return schema.mlp_hidden_size
    size = schema.mlp_ratio * schema.d_model
    require(
        size == int(size) and 1 <= size <= MAX_INTERMEDIATE_SIZE,
        f"mlp_ratio is {schema.mlp_ratio:g} and d_model {schema.d_model}; their product must be an integer from 1 to "
        f"{MAX_INTERMEDIATE_SIZE}, or set mlp_hidden_size",
    )
    return int(size)


def _mask_token_id(schema: LLaDASchema, embedding_size: int) -> int:
    mask_token_id = schema.mask_token_id
    if mask_token_id is None and embedding_size == LLADA_8B_EMBEDDING_SIZE:
        return LLADA_8B_MASK_TOKEN_ID
    if mask_token_id is None:
        raise ConfigError("config.json: mask_token_id is missing; set it to the id of the tokenizer's mask token")
    require(
        mask_token_id < embedding_size,
        f"mask_token_id is {mask_token_id}; it must be less than embedding_size, {embedding_size}",
    )
    return mask_token_id


LLADA: Final = Family(
    name="llada",
    architectures=("LLaDAModelLM",),
    parse_config=parse_config,
    parameter_sources=parameter_sources,
    ignored_sources=ignored_sources,
)
