"""Metrics computed from arrays of predictions: scores, intervals, selection, calibration. No models, no files."""
