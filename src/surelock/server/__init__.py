"""The HTTP server: OpenAI's interface over `AsyncEngine`. Needs the extra `serve`."""
