"""Memory in huge pages: every training step on a CPU allocates gigabytes, and small pages cost a fifth of its time."""

import os
import sys

TUNABLE = "glibc.malloc.hugetlb"
"""Setting of the C library (2.35 and newer, Linux); others ignore it."""

CHOSEN = sys.platform != "linux" or TUNABLE in os.environ.get("GLIBC_TUNABLES", "")
"""Whether huge pages are not available, or the environment has set or unset them."""


def ask_for_huge_pages() -> None:
    """Starts this process again with huge pages requested from the C library, unless its environment sets them.

    The C library reads its settings at the start of a process alone. `GLIBC_TUNABLES=glibc.malloc.hugetlb=0` switches
    this off.
    """
    if CHOSEN:
        return
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, (tunables, f"{TUNABLE}=1")))
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
