"""Commands: they read the command line, call the work, and report mistakes in one line."""
