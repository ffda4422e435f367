"""Supervised fine-tuning of a causal language model: `python -m trainer spec.json`.

`trainer.spec` and `trainer.progress` are plain Python and may be imported by any process; every
other module loads torch and belongs to the trainer's own process.
"""
