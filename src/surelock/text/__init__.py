"""Text to token ids and back: tokenizers, chat templates and prompts. Text of users never becomes a special token."""
