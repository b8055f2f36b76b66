"""Released PyTorch checkpoints to ours and back; see `python convert_torch_ckpt.py --help`.

The table of names and layouts is `sarwmix_jax/conversion/table.py`.
"""

import sys
from collections.abc import Sequence

from sarwmix_jax.cli.main import guarded
from sarwmix_jax.conversion import command


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives its exit code."""
    return guarded(lambda: command.main(argv))


if __name__ == "__main__":
    sys.exit(main())
