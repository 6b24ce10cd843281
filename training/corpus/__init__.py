"""The text the shipped weights are trained on, from public packages: `python -m training.corpus.build`."""
