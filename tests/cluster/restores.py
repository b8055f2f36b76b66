"""Run by test_restoring.py as one of two processes: restores a run, whose newest step the second cannot read once.

The optimiser's state is divided over the processes; then all is saved again.
"""

import logging
import sys
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from sarwmix_jax.checkpoints.integrity import ITEMS, named, of_arrays
from sarwmix_jax.checkpoints.reading import Reader
from sarwmix_jax.checkpoints.restore import previous_run, restore_latest
from sarwmix_jax.checkpoints.store import Checkpoints
from sarwmix_jax.cluster.joining import together
from sarwmix_jax.cluster.rules import Given
from sarwmix_jax.processes import raised_signals
from sarwmix_jax.tasks.gradients import make_mesh, placed


def fail_once(step):
    """Let the next reading of a step fail in this process, as a disk over the network may."""
    read = ocp.CheckpointManager.restore

    def failing(self, asked, **more):
        if asked == step:
            ocp.CheckpointManager.restore = read
            raise OSError(5, "Input/output error")
        return read(self, asked, **more)

    ocp.CheckpointManager.restore = failing


def work() -> int:
    """Print which steps are used."""
    from tests.checkpoints.test_integrity import description_of, state_of  # which may start JAX

    folder, last = Path(sys.argv[1]), jax.process_index() == 1
    shapes, mesh = jax.eval_shape(lambda: state_of(1)), make_mesh()
    target = placed(shapes, mesh)
    target["opt_state"]["mu"] = placed(shapes["opt_state"]["mu"], mesh, split=True)
    for read in (lambda: previous_run(folder), lambda: restore_latest(Reader(folder), target)):
        if last:
            fail_once(2)
        found = read()
        print(f"step {found.step}", file=sys.stderr, flush=True)
    held = [array.addressable_data(0).shape for array in found.state["opt_state"]["mu"].values()]
    checkpoints = Checkpoints(folder)
    checkpoints.save(3, found.state, description_of(3))
    checkpoints.close()
    saved = {item: of_arrays(named(state_of(1)[key])) for item, key in ITEMS.items()}
    print(f"state {held} {checkpoints.contents(3) == saved}", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    coordinator, processes, process = (flag.partition("=")[2] for flag in sys.argv[2:])
    with raised_signals():
        sys.exit(together(Given(coordinator, int(processes), int(process)), work, 60, 30, saves=False))
