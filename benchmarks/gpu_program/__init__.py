"""What a compiled step will ask of a named GPU, found without one."""
