"""Measurements on a model: what is exact, what locking changes."""
