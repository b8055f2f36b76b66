"""`python data_prep/geotiff.py` is `sarwmix prepare geotiff`: see `--help`."""

import sys
from functools import partial

from sarwmix_jax.cli.commands import DATA_SETS
from sarwmix_jax.cli.main import door

main = partial(door, DATA_SETS["geotiff"])

if __name__ == "__main__":
    sys.exit(main())
