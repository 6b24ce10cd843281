"""Which masked positions get their token: one file per policy, keyed as `SamplingParams.unmasking`."""

from collections.abc import Mapping
from types import MappingProxyType

from surelock.decoding.protocols import UnmaskingPolicy
from surelock.decoding.unmasking.random_order import RandomOrder
from surelock.decoding.unmasking.top_k import TopK

POLICIES: Mapping[str, UnmaskingPolicy] = MappingProxyType({"low_confidence": TopK(), "random": RandomOrder()})

__all__ = ["POLICIES", "RandomOrder", "TopK"]
