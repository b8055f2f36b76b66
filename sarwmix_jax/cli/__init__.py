"""Commands: they read the command line, call the package, and report mistakes in one line."""
