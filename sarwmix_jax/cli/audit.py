"""The command `sarwmix audit`.

    sarwmix audit runs/base
    sarwmix audit runs/base --step 12000 --count 40

Repeats steps from the newest checkpoint at or before --step with the run's own settings, seeds and records, up to the
next checkpoint that is kept or as many as --count; with --step 0 from the initial parameters. Compared are the logged
losses and other values of these steps, and all arrays of the checkpoint that they lead to: parameters and moments. They
must be equal bit for bit. Nothing of the run is changed.

Exit code 1 at a difference: the log, a checkpoint or the computation was wrong, then or now. On other devices or with
another version of JAX, which is stated first, bits may differ without any damage.
"""

import argparse
import sys
from pathlib import Path

from sarwmix_jax.cli.flags import positive
from sarwmix_jax.errors import FAILED

_SHOWN = 10


def define(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("run", type=Path, metavar="RUN", help="work directory of a run")
    first = "begin with the newest checkpoint at or before this step; by default with the last but one"
    parser.add_argument("--step", type=int, help=first)
    parser.add_argument("--count", type=positive, help="steps to repeat; by default those up to the next checkpoint")
    parser.add_argument("--compiled")


def run(options: argparse.Namespace) -> int:
    """Repeat and compare; returns the exit code.

    Raises:
        UserError: There is nothing to repeat, or settings, records or the checkpoint cannot be used.
    """
    from sarwmix_jax.training.audit import plan_audit, repeat
    from sarwmix_jax.training.logs import quiet_libraries
    from sarwmix_jax.training.resources import keep_compiled

    quiet_libraries()
    keep_compiled(options.compiled)
    audit = plan_audit(options.run, options.step, options.count)
    origin = f"its checkpoint at step {audit.begin}" if audit.begin else "its initial parameters"
    for line in (*audit.notes, f"repeating steps {audit.begin + 1} to {audit.end} of {options.run} from {origin}"):
        print(line, flush=True)
    outcome = repeat(audit)
    print(f"compared: {outcome.text}")
    if not outcome.differences:
        print("equal, bit for bit")
        return 0
    print("\n".join(outcome.differences[:_SHOWN]))
    rest = f" ({len(outcome.differences)} differences)" if len(outcome.differences) > 1 else ""
    print(f"error: {options.run} differs from its repetition: {outcome.differences[0]}{rest}", file=sys.stderr)
    return FAILED
