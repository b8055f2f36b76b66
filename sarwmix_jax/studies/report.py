"""Tables and figures of a study from the steps that are done."""

from pathlib import Path

from sarwmix_jax.errors import UserError
from sarwmix_jax.evaluation.results import write_files
from sarwmix_jax.studies.collect import collect, long_table
from sarwmix_jax.studies.figures import draw_all
from sarwmix_jax.studies.folder import StudyFolder
from sarwmix_jax.studies.tables import label_table, published_scores, reconstruction_table


def report(folder: StudyFolder) -> tuple[str, list[Path]]:
    """Write tables and figures of what is there; returns the tables as text, and the files.

    Raises:
        UserError: No step has a score yet, or a result is damaged.
    """
    found, published = collect(folder), published_scores(folder)
    if not found.rows:
        raise UserError(f"{folder.path} has no scores yet; run sarwmix study without --collect, or see --list")
    tables = {}
    if any(row["measured"] in ("finetuned", "probe", "baseline") for row in found.rows):
        tables["labels.md"] = label_table(found, published)
    if any(row["measured"] == "reconstruction" for row in found.rows):
        tables["reconstruction.md"] = reconstruction_table(found)
    texts = tables | long_table(found)
    write_files(folder.path, texts)
    return "\n".join(tables.values()), [
        *(folder.path / name for name in texts),
        *draw_all(folder.path, found, published),
    ]
