"""Released PyTorch checkpoints to ours and back; see `python convert_torch_ckpt.py --help`.

The table of names and layouts is `sarwmix_jax/conversion/table.py`.
"""

import sys
from collections.abc import Sequence

from sarwmix_jax.cli.main import guarded


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, whose imports take seconds, so that Ctrl-C ends it in one line at any moment."""

    def work() -> None:
        from sarwmix_jax.conversion import command

        command.main(argv)

    return guarded(work)


if __name__ == "__main__":
    sys.exit(main())
