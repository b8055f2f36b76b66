r"""The command `sarwmix pretrain`.

    sarwmix pretrain --config=pretrain_bigearthnet_v2:base --config.data.records=records/bigearthnet_v2 \
        --workdir=runs/base
    sarwmix pretrain --config=own_data --config.data.records=records/own --workdir=runs/own \
        --config.batch.global_batch=64

The same command continues a run that was stopped: after Ctrl-C (exit code 130) and after another signal (75) the
run is saved.

Several processes do it together where mpirun or srun starts them, on one host or many (see launch/):

    mpirun -np 4 sarwmix pretrain --config=pretrain_bigearthnet_v2:base ...
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sarwmix_jax.cli.flags import OF_A_JOB, STUCK_SECONDS
from sarwmix_jax.errors import INTERRUPTED, STOPPED, UserError


def define(parser: argparse.ArgumentParser) -> None:
    """Flags of a run."""
    for name in ("--config", "--config.GROUP.NAME", "--workdir", "--compiled"):
        parser.add_argument(name)
    what = "continue although the settings differ from those of the checkpoint"
    parser.add_argument("--override", action="store_true", help=what)
    parser.add_argument(
        "--verify", action="store_true", help="first compare the files of the records with their SHA-256"
    )
    for name in (*OF_A_JOB, "--stuck-seconds"):
        parser.add_argument(name)


def run(options: argparse.Namespace) -> int:
    """Train, or continue a run.

    Raises:
        UserError: A setting is wrong, or the run fails.
    """
    from sarwmix_jax.settings.recipes import read_config

    config = read_config(options.config)
    if options.workdir is None:
        raise UserError("--workdir is not given; name a new folder, or that of the run to continue")
    settings = checked(config, options.compiled)
    if options.verify:
        verify_records(settings.data.records)
    from sarwmix_jax.progress import ended_when_stuck
    from sarwmix_jax.training.loop import train

    with ended_when_stuck(options.stuck_seconds or STUCK_SECONDS):
        progress = train(settings, options.workdir, override=options.override)
    if progress.interrupted:
        return INTERRUPTED if progress.interrupted == "SIGINT" else STOPPED
    return 0


def verify_records(folders: Sequence[str]) -> None:
    """Read all files of record sets and compare them with their SHA-256; prints a line for each set.

    Raises:
        UserError: A file differs.
    """
    from sarwmix_jax.preparation.inspection import UNCHECKED, verify
    from sarwmix_jax.progress import show

    for folder in folders:
        unchecked, failures = verify(Path(folder))
        if failures:
            more = f" ({len(failures)} such files)" if len(failures) > 1 else ""
            raise UserError(f"records {folder}: {failures[0]}{more}")
        show(f"records {folder}: {UNCHECKED if unchecked else 'all files agree with their SHA-256'}")


def checked(config: Any, compiled: str | None) -> Any:
    """Checked settings of a run; from now on compiled programs are kept.

    Raises:
        UserError: A setting is wrong, or the config is that of a study.
    """
    from sarwmix_jax.settings.config import resolve
    from sarwmix_jax.settings.recipes import kind_of
    from sarwmix_jax.settings.sections import TASKS
    from sarwmix_jax.training.logs import quiet_libraries
    from sarwmix_jax.training.resources import keep_compiled

    kind = kind_of(config)
    if kind == "study":
        raise UserError("the config is that of a study; run it with sarwmix study")
    quiet_libraries()
    keep_compiled(compiled)
    return resolve(config, TASKS[kind])
