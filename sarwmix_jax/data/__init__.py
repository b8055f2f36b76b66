"""Records on disk, and the way from them to device batches. Knows nothing of models."""
