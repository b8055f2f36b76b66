"""Figures from arrays of predictions: scores, intervals, selection, calibration. No model, no files."""
