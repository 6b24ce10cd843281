"""What a layer needs to compute R rows, and how checkpoints become it. A family is data: a key map and flags."""
