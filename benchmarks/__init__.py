"""The benchmark: contenders as child processes, timed in turn, and the report of what they did."""
