"""Runs with locks that repeat the decisions of a run without: what differs is due to frozen keys and values."""
