"""`python -m benchmarks`: one line for every mistake, exit code 2."""

import sys

from absl import flags

from benchmarks.command import define_bench, run_bench
from sarwmix_jax.config_flags import parse
from sarwmix_jax.errors import UserError
from sarwmix_jax.huge_pages import ask_for_huge_pages


def main(arguments: list[str]) -> int:
    """Run the command; gives its exit code."""
    values = flags.FlagValues()
    define_bench(values, arguments)
    try:
        parse(values, ["benchmarks", *arguments])
        return run_bench(values)
    except (UserError, flags.Error) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    ask_for_huge_pages()
    sys.exit(main(sys.argv[1:]))
