"""Checkpoints: writing and reading them, where a run starts from, and models out of them."""
