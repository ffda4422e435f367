"""The demo: data, a tiny base model and the main job on them."""
