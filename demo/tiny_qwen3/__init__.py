"""A tiny Qwen3 of our own: it reads English sentences and copies from them, and little else."""
