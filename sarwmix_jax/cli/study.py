r"""The command `sarwmix study`.

    sarwmix study --config=study_labels:short --workdir=study_output/labels
    sarwmix study --config=study_labels --workdir=runs/labels --list
    sarwmix study --config=study_labels --workdir=runs/labels --only pretrain/per_channel/seed0
    sarwmix study --config=study_labels --workdir=runs/labels --collect
    sarwmix study --config=study_bigearthnet --workdir=runs/study --config.records=records/bigearthnet_v2

A study is a grid of pretraining and finetuning runs, given as data. The same command goes on where it was stopped; a
step that is done is not repeated, and entries can be added to an axis later. Started several times on the same folder,
the processes share the steps. Exit code 1 if a step failed; the others are run all the same.
"""

import argparse

from sarwmix_jax.errors import STOPPED


def define(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    for name in ("--config", "--config.GROUP.NAME", "--compiled"):
        parser.add_argument(name)
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--list", action="store_true", help="print all steps with their state, and do nothing")
    parser.add_argument(
        "--only", nargs="+", action="extend", default=[], metavar="STEP", help="run these steps, or all below a name"
    )
    parser.add_argument(
        "--collect", action="store_true", help="draw tables and figures from what is there, and run nothing"
    )


def run(options: argparse.Namespace) -> int:
    """Run the steps, or list or collect them.

    Raises:
        UserError: The study's settings are wrong, or its folder holds another study.
    """
    from sarwmix_jax.settings.recipes import read_config
    from sarwmix_jax.settings.study import resolve_study

    study = resolve_study(read_config(options.config))
    from sarwmix_jax.cli.demonstration import use_two_devices
    from sarwmix_jax.studies.folder import open_folder
    from sarwmix_jax.studies.listing import listing
    from sarwmix_jax.studies.report import report
    from sarwmix_jax.studies.run import chosen_steps, run_steps
    from sarwmix_jax.training.logs import quiet_libraries
    from sarwmix_jax.training.resources import keep_compiled

    folder = open_folder(study, options.workdir, write=not (options.list or options.collect))
    steps = chosen_steps(folder, options.only)
    if options.list:
        print(listing(folder, steps))
        return 0
    quiet_libraries()
    code = 0
    if not options.collect:
        use_two_devices()
        keep_compiled(options.compiled)
        code = run_steps(folder, steps)
    if options.collect or not (options.only or code == STOPPED):
        tables, files = report(folder)
        print(tables)
        print("\n".join(map(str, files)))
    return code
