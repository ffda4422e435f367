"""Two datasets of support messages, made by seeded generators from many phrasings."""

from demo.data.write import DATASETS, write_dataset

__all__ = ["DATASETS", "write_dataset"]
