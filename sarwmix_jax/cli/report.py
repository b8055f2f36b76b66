"""The command `sarwmix report`.

    sarwmix report runs/base --out report
    sarwmix report runs/pretrained runs/finetuned_* published/log.txt --sort validation/ap_macro --out report

A run is a work folder, a log file, or a folder with the log.txt of the published system, whose test_* figures are
those of its validation split. Runs that are still running or were stopped may be among them.

Writes tables (Markdown, CSV, JSON) and pictures: losses, learning rates, scores by epochs of pretraining, throughput,
device hours. Without --out the table is printed alone.
"""

import argparse


def define(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="work folder of a run, or a log file")
    parser.add_argument(
        "--sort", metavar="NAME", default="run", help="column of the table that sorts it, such as validation/ap_macro"
    )
    parser.add_argument("--out", metavar="FOLDER", help="folder for tables and pictures")


def run(options: argparse.Namespace) -> None:
    """Write the report and print its table.

    Raises:
        UserError: A log cannot be read, or the folder cannot be written to.
    """
    from sarwmix_jax.reports.report import report
    from sarwmix_jax.training.logs import quiet_libraries

    quiet_libraries()
    table, files = report(options.runs, options.out, options.sort)
    print(table)
    if files:
        print(f"in {options.out}: {', '.join(files)}")
