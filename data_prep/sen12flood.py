"""`python data_prep/sen12flood.py` is `sarwmix prepare sen12flood`: see `--help`."""

import sys
from functools import partial

from sarwmix_jax.cli.commands import DATA_SETS
from sarwmix_jax.cli.main import door

main = partial(door, DATA_SETS["sen12flood"])

if __name__ == "__main__":
    sys.exit(main())
