"""Reports on runs: tables and pictures from their logs."""
