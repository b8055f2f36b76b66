"""`python data_prep/band_stats.py` is `sarwmix prepare statistics`: see `--help`."""

import sys
from functools import partial

from sarwmix_jax.cli.commands import DATA_SETS
from sarwmix_jax.cli.main import door

main = partial(door, DATA_SETS["statistics"])

if __name__ == "__main__":
    sys.exit(main())
