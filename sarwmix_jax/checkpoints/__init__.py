"""Checkpoints: how they are written and read, where a run starts from, and how a checkpoint becomes a model."""
