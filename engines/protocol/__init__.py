"""The OpenAI-compatible wire: what clients send, what they get back, and how it is refused."""
