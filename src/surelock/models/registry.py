"""Which family reads a checkpoint: decided by `architectures[0]`, because `model_type` is shared between families."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from surelock.errors import ConfigError, shown
from surelock.models.family import Family
from surelock.models.llada import LLADA
from surelock.models.schema import shown_as_json

FAMILIES: Final[tuple[Family, ...]] = (LLADA,)

_BY_ARCHITECTURE: Final = {architecture: family for family in FAMILIES for architecture in family.architectures}


def family_for(raw: Mapping[str, Any]) -> Family:
    """The family of a config.json.

    Raises:
        ConfigError: `architectures` is missing, malformed or names no supported family.
    """
    supported = f"surelock supports {', '.join(_BY_ARCHITECTURE)}"
    architectures = raw.get("architectures")
    if not (isinstance(architectures, list) and architectures and isinstance(architectures[0], str)):
        raise ConfigError(
            f"config.json: architectures is {shown_as_json(architectures)}; it must be a list that names the model "
            f"class: {supported}"
        )
    family = _BY_ARCHITECTURE.get(architectures[0])
    if family is None:
        raise ConfigError(f"config.json: architectures is [{shown(architectures[0])}], which is unknown; {supported}")
    return family
