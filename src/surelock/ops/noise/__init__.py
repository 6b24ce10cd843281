"""Counter-based random numbers: the SplitMix64 finaliser (Steele, Lea and Flood, OOPSLA 2014) over key and counter.

Contract: `mix(z) -> z` on int64 of any shape, wrapping; `uniform(key [n], num) -> float64 [n, num]` in the open
interval (0, 1); `gumbel(key [n], num) -> float64 [n, num]`, standard Gumbel. The same numbers come out on every device,
the logarithms of `gumbel` up to rounding. `triton.py` has them element by element, for use inside kernels.
"""

from surelock.ops.noise.reference import gumbel, mix, uniform

__all__ = ["gumbel", "mix", "uniform"]
