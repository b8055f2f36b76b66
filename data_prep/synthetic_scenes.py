"""`python data_prep/synthetic_scenes.py` is `sarwmix prepare synthetic`: see `--help`."""

import sys
from functools import partial

from sarwmix_jax.cli.commands import DATA_SETS
from sarwmix_jax.cli.main import door

main = partial(door, DATA_SETS["synthetic"])

if __name__ == "__main__":
    sys.exit(main())
