"""The command `sarwmix demo`.

    sarwmix demo
    sarwmix demo --scenes=256 --config.optimizer.stop_after_epochs=2

Some minutes on a CPU; a shorter one has fewer scenes and epochs, and will not learn enough. A demo that was stopped is
resumed, one that is finished is replaced by a new one. Exit code 1 if the model did not learn enough.
"""

import argparse
import sys
from pathlib import Path

from sarwmix_jax.cli.flags import positive
from sarwmix_jax.errors import FAILED


def define(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    for name in ("--config", "--config.GROUP.NAME", "--compiled"):
        parser.add_argument(name)
    parser.add_argument("--workdir", default=Path("demo_output"))
    held_out = "1 for validation and 2 to score labels are added for every 24"
    parser.add_argument("--scenes", type=positive, default=3072, help=f"training scenes; {held_out}")


def run(options: argparse.Namespace) -> int:
    """Train, evaluate, draw; fails where the model did not learn enough.

    Raises:
        UserError: A setting is wrong, or the work folder cannot be used.
    """
    from sarwmix_jax.settings.recipes import read_config

    config = read_config(options.config, default="demo")
    from sarwmix_jax.cli.demonstration import demo, report, scenes_of, use_two_devices
    from sarwmix_jax.training.logs import quiet_libraries
    from sarwmix_jax.training.resources import keep_compiled

    quiet_libraries()
    use_two_devices()
    keep_compiled(options.compiled)
    result = demo(options.workdir, config, scenes_of(options.scenes))
    print(report(result))
    for failure in result.failures:
        print(f"error: {failure}: the model did not learn enough", file=sys.stderr)
    return FAILED if result.failures else 0
