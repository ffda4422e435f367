"""An adapter added to its base's weights, tensor after tensor: `python -m trainer.merge`."""
