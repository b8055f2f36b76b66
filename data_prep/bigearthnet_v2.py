"""`python data_prep/bigearthnet_v2.py` is `sarwmix prepare bigearthnet-v2`: see `--help`."""

import sys
from functools import partial

from sarwmix_jax.cli.commands import DATA_SETS
from sarwmix_jax.cli.main import door

main = partial(door, DATA_SETS["bigearthnet-v2"])

if __name__ == "__main__":
    sys.exit(main())
