"""Requests and slots. Knows neither text nor HTTP nor architectures."""
