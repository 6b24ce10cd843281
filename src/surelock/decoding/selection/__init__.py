"""Which active positions are computed in a step: one file per selector."""

from surelock.decoding.selection.active import AllActive

__all__ = ["AllActive"]
