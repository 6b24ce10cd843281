"""What happens to a canvas. Plain tensors; knows neither architectures nor requests."""
