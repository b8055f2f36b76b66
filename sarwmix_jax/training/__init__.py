"""Optimiser, compiled steps, the loop, checkpoints."""
