"""Batch jobs that survive: rows of a file in, one record for each out, exactly once whatever happens in between."""
