"""The command `sarwmix embed`: features of a record set as Parquet."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from sarwmix_jax.cli.main import needed


def define(values: flags.FlagValues, _: Sequence[str]) -> None:
    """Its flags."""
    flags.DEFINE_string("checkpoint", None, "run, checkpoint or converted folder", flag_values=values)
    flags.DEFINE_string("records", None, "folder of a record set", flag_values=values)
    flags.DEFINE_list("split", None, "splits, separated by commas; all unless given", flag_values=values)
    flags.DEFINE_integer("batch", 32, "samples of one device at a time", lower_bound=1, flag_values=values)
    flags.DEFINE_string("out", None, "file to write", flag_values=values)


def run(values: flags.FlagValues, _: list[str]) -> int:
    """Encode and write."""
    checkpoint, records, out = needed(values, "checkpoint"), needed(values, "records"), Path(needed(values, "out"))
    from sarwmix_jax.checkpoints.loading import load_parameters
    from sarwmix_jax.data.records import read_contract
    from sarwmix_jax.data.sources import check_contract, open_records
    from sarwmix_jax.evaluation.features import write_embeddings
    from sarwmix_jax.training.logs import quiet_libraries
    from sarwmix_jax.training.resources import keep_compiled

    quiet_libraries()
    keep_compiled()
    splits: Any = values["split"].value or list(read_contract(Path(records)).records)
    sources = {split: open_records(records, split) for split in splits}
    for source in sources.values():
        check_contract(source)
    count = write_embeddings(out, load_parameters(checkpoint), sources, int(values["batch"].value or 1))
    print(f"wrote {out}: {count:,} rows")
    return 0
