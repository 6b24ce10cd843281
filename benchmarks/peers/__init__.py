"""Adapters that time other engines beside surelock; their code is never part of this repository.

`surelock bench latency --baseline NAME DIR` calls `load(DIR, ...)` of the adapter NAME, once surelock is installed from
this checkout.
"""
