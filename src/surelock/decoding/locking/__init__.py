"""When a position stops being computed: one file per rule."""

from surelock.decoding.locking.kl import KLRule

__all__ = ["KLRule"]
