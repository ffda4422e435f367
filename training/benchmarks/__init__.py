"""Benchmark tasks as lm-eval has them: read strictly, run in a process of their own."""
