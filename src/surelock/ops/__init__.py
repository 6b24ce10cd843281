"""The hot operations, one folder each: the contract in `__init__.py`, plain PyTorch in `reference.py`."""
