"""What the shipped weights are made with; beside the package and not installed with it."""
