"""Conversion from released PyTorch checkpoints and back, without PyTorch and without running code from a file."""
