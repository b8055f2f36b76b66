"""Starting again with huge pages."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a setting of Linux' C library")

PROGRAM = """
import json, os, sys
from sarwmix_jax.huge_pages import ask_for_huge_pages
print("started", file=sys.stderr, flush=True)
ask_for_huge_pages()
print(json.dumps([os.getpid(), os.environ["GLIBC_TUNABLES"], sys.argv[1:]]))
"""


def start(tmp_path, tunables):
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[1])} | ({"GLIBC_TUNABLES": tunables} if tunables else {})
    process = subprocess.Popen(
        [sys.executable, "-X", "utf8", str(script), "--a=b", "c d"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    out, err = process.communicate()
    assert process.returncode == 0, err
    pid, found, arguments = json.loads(out)
    assert pid == process.pid
    assert arguments == ["--a=b", "c d"]
    return found, err.count("started")


def test_the_process_starts_again_once_with_the_same_arguments(tmp_path):
    assert start(tmp_path, "") == ("glibc.malloc.hugetlb=1", 2)


def test_other_tunables_stay_and_the_users_own_choice_counts(tmp_path):
    assert start(tmp_path, "glibc.malloc.check=0") == ("glibc.malloc.check=0:glibc.malloc.hugetlb=1", 2)
    assert start(tmp_path, "glibc.malloc.hugetlb=0") == ("glibc.malloc.hugetlb=0", 1)
