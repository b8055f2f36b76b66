"""`python convert_torch_ckpt.py` is `sarwmix convert`: see `--help`."""

import sys
from functools import partial

from sarwmix_jax.cli.commands import COMMANDS
from sarwmix_jax.cli.main import door

main = partial(door, COMMANDS["convert"])

if __name__ == "__main__":
    sys.exit(main())
