"""Inference with a checkpoint: embeddings, classes, floods, reconstructions."""
