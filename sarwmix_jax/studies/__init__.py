"""Studies: grids of runs as named, resumable steps, and their tables and figures."""
