"""Many locking rules over the same prompts, in one batch of the dense decoder."""
