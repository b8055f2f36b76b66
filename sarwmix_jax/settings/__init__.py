"""Settings, each declared once in `sections`, read and checked in `config`."""
