"""Speed: programs timed in turn, and independent PyTorch models to compare with."""
