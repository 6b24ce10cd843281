"""Readers: one module for each kind of source, from the file of a package to its documents."""
