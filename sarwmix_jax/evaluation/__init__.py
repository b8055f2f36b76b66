"""Baselines, held-out losses and pictures."""
