"""Adapters that time other engines beside surelock; their code is never part of this repository.

`surelock bench latency --baseline NAME DIR` loads `NAME.load(DIR, ...)` of this package, once surelock is installed from
this checkout.
"""
