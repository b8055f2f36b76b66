"""Memory in huge pages: a training step on a CPU takes gigabytes anew each time, and small pages cost a fifth of it."""

import os
import sys

TUNABLE = "glibc.malloc.hugetlb"
"""Setting of the C library (2.35 and newer, Linux); others pass over it."""

CHOSEN = sys.platform != "linux" or TUNABLE in os.environ.get("GLIBC_TUNABLES", "")
"""Whether there is no choice, or the environment has made it."""


def ask_for_huge_pages() -> None:
    """Starts this process again with the C library asking for huge pages, unless its environment says what to do.

    The C library reads its settings at the start of a process alone. `GLIBC_TUNABLES=glibc.malloc.hugetlb=0` switches
    this off.
    """
    if CHOSEN:
        return
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, (tunables, f"{TUNABLE}=1")))
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
