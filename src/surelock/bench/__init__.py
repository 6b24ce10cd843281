"""Measurements of the engine: latency, throughput, steps and ops, each with the limits of the machine beside it."""
