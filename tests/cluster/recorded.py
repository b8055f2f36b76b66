"""Run in place of `sarwmix` by test_killed.py: it also notes the records of every step, each in a line of a file.

The first argument is that file; the others are those of `sarwmix`.
"""

import sys
from pathlib import Path

from jax._src import cache_key

from sarwmix_jax.cli.main import main
from sarwmix_jax.training.throughput import Throughput


def note_records(path):
    """Note the records of the steps that this process starts from now on."""
    add, file = Throughput.add, path.open("a", buffering=1)

    def noted(self, step, metrics, records):
        file.write(f"{step} {','.join(map(str, records.tolist()))}\n")
        add(self, step, metrics, records)

    Throughput.add = noted


def load_what_the_first_compiled():
    """On CPUs, and there alone, JAX keeps programs by the process too, and only those of the first."""
    cache_key._hash_accelerator_config = lambda hash_obj, devices: None


if __name__ == "__main__":
    load_what_the_first_compiled()
    number = next(flag for flag in sys.argv if flag.startswith("--process=")).partition("=")[2]
    note_records(Path(f"{sys.argv.pop(1)}.{number}"))
    sys.exit(main())
