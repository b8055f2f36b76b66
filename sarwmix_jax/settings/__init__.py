"""Every setting once: declared in sections, read and checked in config."""
