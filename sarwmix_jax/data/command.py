"""The frame of the preparation commands: mistakes in one line, exit code 2."""

import sys
from collections.abc import Callable

from sarwmix_jax.errors import UserError


def run_command(main: Callable[[], None]) -> None:
    """Run `main`; print a user's mistake as `error: ...` and exit with code 2."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        sys.exit(130)
