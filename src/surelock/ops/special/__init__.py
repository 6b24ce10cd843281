"""Functions that Triton kernels need and Triton lacks; `triton.py` holds them."""
