"""A locked run beside its own canvas with nothing frozen, and which locks changed a decision."""
