"""Which active positions are computed in a step: one file per selector."""

from surelock.decoding.selection.active import AllActive
from surelock.decoding.selection.share import ActiveShare

__all__ = ["ActiveShare", "AllActive"]
