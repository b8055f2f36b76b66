"""Training: set-up, input, optimiser and schedule, the loop, logs."""
