"""The report on runs: tables and pictures, written all or not at all."""

from collections.abc import Sequence
from pathlib import Path

from sarwmix_jax.evaluation.results import write_files
from sarwmix_jax.reports.charts import PICTURES, pictures
from sarwmix_jax.reports.runs import read_runs
from sarwmix_jax.reports.table import table_csv, table_json, table_markdown, table_rows


def report(places: Sequence[str], out: Path | None, sort: str = "run") -> tuple[str, list[str]]:
    """The table of runs as Markdown, and the names of the files that were written.

    Args:
        places: Work folders or log files.
        out: Folder for `runs.md`, `runs.csv`, `runs.json` and pictures; None: only the table is returned.
        sort: Column by which the runs are sorted.

    Raises:
        UserError: A log cannot be read, a run is given twice, no run has the column, or the folder cannot be written.
    """
    runs = read_runs(places)
    rows = table_rows(runs, sort)
    table = table_markdown(rows, runs)
    if out is None:
        return table, []
    drawn = pictures(runs)
    shown = "".join(f"\n![{name.removesuffix('.png').replace('_', ' ')}]({name})\n" for name in drawn)
    files: dict[str, str | bytes] = {"runs.md": f"# Runs\n\n{table}{shown}"}
    files |= {"runs.csv": table_csv(rows), "runs.json": table_json(rows, runs), **drawn}
    write_files(out, files)
    for name in PICTURES.keys() - drawn.keys():  # of an earlier report of other runs
        (out / name).unlink(missing_ok=True)
    return table, list(files)
