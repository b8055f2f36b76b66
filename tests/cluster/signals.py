"""Run by test_jobs.py as `sarwmix` in each process: the second gets signals within a save or a reading, by Orbax.

That is when it first opens an array: in a new run to save it, in one that continues to restore it. After more than one
signal it would stay there for a minute.
"""

import os
import signal
import sys
import time

import tensorstore

from sarwmix_jax.cli.main import main

OPEN = tensorstore.open


def opened(*arguments, **options):
    tensorstore.open = OPEN
    for number in numbers:
        os.kill(os.getpid(), number)
    if len(numbers) > 1:
        time.sleep(60)
    return OPEN(*arguments, **options)


if __name__ == "__main__":
    numbers = [signal.Signals[name] for name in sys.argv[1].split(",")]
    if "--process=1" in sys.argv:
        tensorstore.open = opened
    sys.exit(main(sys.argv[2:]))
