"""Using a checkpoint: embeddings, classes, floods, reconstructions."""
