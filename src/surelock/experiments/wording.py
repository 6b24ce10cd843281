"""Numbers and comparisons in sentences, so that a sentence cannot say more than its number does."""

from __future__ import annotations

from collections.abc import Sequence


def number(value: float, digits: int = 3) -> str:
    """A ratio or a share, with so many decimals."""
    return f"{value:.{digits}f}"


def signed(value: float, digits: int = 3) -> str:
    """A difference, with its sign unless it is 0 to these digits."""
    text = f"{value:+.{digits}f}"
    return text if float(text) else text[1:]


def points(share: float) -> str:
    """A difference of two shares in percentage points, with its sign unless it is 0."""
    return signed(100 * share, 1)


def change(value: float, low: float, high: float) -> str:
    """A difference of two shares in points, with the ends of its interval."""
    return f"{points(value)} points ({points(low)} to {points(high)})"


def signed_span(values: Sequence[float], digits: int = 3) -> str:
    """The smallest and the largest of some differences, or the one there is."""
    low, high = signed(min(values), digits), signed(max(values), digits)
    return low if low == high else f"{low} to {high}"


def span(values: Sequence[float], digits: int = 3) -> str:
    """The smallest and the largest, or the one there is."""
    low, high = number(min(values), digits), number(max(values), digits)
    return low if low == high else f"{low} to {high}"


def threshold(value: float) -> str:
    """Epsilon, as 5e-4."""
    mantissa, exponent = f"{value:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def scientific(value: float, digits: int = 2) -> str:
    """A number of any size, as 6.46e-3; 0 without an exponent."""
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def against(value: float, reference: float, digits: int = 3) -> str:
    """Whether a value is above, below or, to these digits, equal to another one."""
    if number(value, digits) == number(reference, digits):
        return "equal to"
    return "above" if value > reference else "below"


def listed(parts: Sequence[str]) -> str:
    """a, b and c."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def exclusions(above: Sequence[str], below: Sequence[str]) -> str:
    """Where intervals of a ratio leave out 1, given the names of those that lie above and below it."""
    parts = [
        f"its interval lies {side} 1 at {listed(names)}"
        for side, names in (("above", above), ("below", below))
        if names
    ]
    return listed(parts) if parts else "no interval leaves out 1"
