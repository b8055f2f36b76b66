"""Reports on one or many runs."""
