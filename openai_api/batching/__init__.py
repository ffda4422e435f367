"""Bringing batches from what is wanted to what is: lines are checked, sent, and written to files.

A step may run late, twice, or be killed at any point. A line that was answered has its answer in its
row and is not sent again; one that was under way is, and the id of its usage event makes it count
once.
"""

from openai_api.batching.steps import step_batch

__all__ = ["step_batch"]
