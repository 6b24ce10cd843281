"""`ModelConfig`: the one shape every family's config.json is translated to, once, at the border."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The numbers a transformer is built from. Sizes in elements; ids are token ids.

    Attributes:
        family: name of the family that read the config, for messages.
        vocab_size: token ids a prompt may contain are 0 .. vocab_size - 1.
        embedding_size: rows of the embedding and width of the logits, >= vocab_size.
        num_kv_heads: key and value heads; divides num_heads (grouped-query attention).
        eos_token_ids: ids that end the text, from config.json and generation_config.json.
        qkv_bias: bias on the query, key and value projections; `bias`: on every projection and the head.
        qk_norm: RMSNorm over the whole query and key projections, before heads are split.
        scale_logits: logits are divided by sqrt(hidden_size).
        scale_embeddings: embeddings are multiplied by sqrt(hidden_size).
        rope_full_precision: rotate queries and keys in float32 whatever the activations' type.
    """

    family: str
    vocab_size: int
    embedding_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_sequence_length: int
    norm_eps: float
    rope_theta: float
    mask_token_id: int
    eos_token_ids: tuple[int, ...] = ()
    tie_embeddings: bool = False
    qkv_bias: bool = False
    bias: bool = False
    qk_norm: bool = False
    scale_logits: bool = False
    scale_embeddings: bool = False
    rope_full_precision: bool = True

    @property
    def query_size(self) -> int:
        """Width of the query projection."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of the key projection, and of the value projection."""
        return self.num_kv_heads * self.head_dim
