"""`python -m sarwmix_jax` is the command `sarwmix`."""

import sys

from sarwmix_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
