"""Released PyTorch checkpoints in, and ours out again; without PyTorch and without running what a file says."""
