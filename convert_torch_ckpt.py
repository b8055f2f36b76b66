"""Released PyTorch checkpoints to ours and back; see `python convert_torch_ckpt.py --help`.

The table of names and layouts is `sarwmix_jax/conversion/table.py`.
"""

import sys

from sarwmix_jax.conversion.command import main

if __name__ == "__main__":
    sys.exit(main())
