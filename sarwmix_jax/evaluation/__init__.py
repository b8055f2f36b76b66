"""Evaluation: scores, baselines, probes, held-out losses and pictures."""
