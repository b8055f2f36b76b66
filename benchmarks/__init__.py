"""Benchmarks of speed: programs that are timed in turn, and independent PyTorch models for comparison."""
