"""Which premature lock did what: runs with and without locks side by side, and what each flip goes back to."""

from surelock.measure.explain.case import Case, Damage, Guilty, Position, read_cases
from surelock.measure.explain.page import page
from surelock.measure.explain.trace import explain

__all__ = ["Case", "Damage", "Guilty", "Position", "explain", "page", "read_cases"]
