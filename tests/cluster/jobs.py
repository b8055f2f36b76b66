"""Jobs of several processes on this machine, with two devices each, for tests."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

from tests.conftest import QUICK
from tests.training.conftest import TINY_RUN

ROOT = Path(__file__).parents[2]
STARTED: list[subprocess.Popen] = []
"""Processes of the current test."""

SARWMIX = (sys.executable, "-m", "sarwmix_jax.cli.main")


def environment(devices=2, **more):
    """Environment of a process with so many devices, without traces of a scheduler."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "OMPI", "PMIX"))}
    return own | {
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiles faster
        "XLA_FLAGS": f"{QUICK} --xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": str(ROOT),
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=0",
        **more,
    }


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def start(command, processes, *, devices=2, program=SARWMIX, **more):
    """Start the processes of a job by flags; each prints to a pipe."""
    port = free_port()
    started = [
        subprocess.Popen(
            [
                *(*program, *map(str, command)),
                f"--coordinator=127.0.0.1:{port}",
                f"--processes={processes}",
                f"--process={number}",
            ],
            cwd=ROOT,
            env=environment(devices, **more),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(processes)
    ]
    STARTED.extend(started)
    return started


def outcome(process, seconds=300):
    """Exit code and output of a process."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out, err


def run(command, processes, *, devices=2, code=0):
    """Outputs of a job that ends with this exit code in each process; alone where there is one."""
    if processes == 1:
        alone = [*SARWMIX, *map(str, command)]
        done = subprocess.run(
            alone, cwd=ROOT, env=environment(devices), capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == code, done.stderr
        return [(done.stdout, done.stderr)]
    found = [outcome(process) for process in start(command, processes, devices=devices)]
    assert [each[0] for each in found] == [code] * processes, "\n".join(each[2] for each in found)
    return [each[1:] for each in found]


def changes(**more):
    """Flags of a tiny run, with changes."""
    settings = TINY_RUN | {name.replace("__", "."): value for name, value in more.items()}
    flags = []
    for name, value in settings.items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else "" if value is None else str(value)
        flags.append(f"--config.{name}={text}")
    return flags


def printed(outputs):
    """What these processes printed themselves; Gloo's threads print from C++, into each other's lines."""
    lines = [line for pair in outputs for text in pair for line in text.splitlines()]
    return [line for line in lines if line and not re.search(r"\[Gloo\]|connected peer ranks is", line)]
