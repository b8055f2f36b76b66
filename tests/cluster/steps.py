"""Run by test_joining.py as one of several processes: steps that exchange a number, until a signal."""

import argparse
import sys
import time

from sarwmix_jax.cluster.joining import together
from sarwmix_jax.cluster.rules import Given
from sarwmix_jax.errors import STOPPED, UserError
from sarwmix_jax.processes import asked_to_stop, deferred_signals, noted_signals, raised_signals


def work() -> int:
    """Steps until a signal; as around every save, handlers are set and restored in each."""
    import numpy as np
    from jax.experimental import multihost_utils

    step = 0
    with noted_signals() as signals:
        while step < 2000:
            with deferred_signals():
                time.sleep(0.02)
            step += 1
            assert set(multihost_utils.process_allgather(np.int32(step)).flat) == {step}
            if step == 1:
                print("started", file=sys.stderr, flush=True)
            if stopped := asked_to_stop(signals):
                print(f"{stopped} {step}", file=sys.stderr, flush=True)
                return STOPPED
            if options.fault == options.process and step == 20:
                raise UserError("record 7 cannot be read")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--coordinator")
    for name in ("processes", "process", "fault", "silent"):
        parser.add_argument(f"--{name}", type=int)
    options = parser.parse_args()
    given = Given(options.coordinator, options.processes, options.process)
    with raised_signals():
        sys.exit(together(given, work, 30, options.silent or 10, saves=True))
