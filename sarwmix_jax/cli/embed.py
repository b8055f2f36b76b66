"""The command `sarwmix embed`.

    sarwmix embed --checkpoint runs/base --records records/bigearthnet_v2 --split test --out features.parquet

One row per sample: features, names, labels, and the location where the records have one. Several processes share the
encoding where mpirun or srun starts them.
"""

import argparse
from pathlib import Path

from sarwmix_jax.cli.flags import OF_A_JOB, names
from sarwmix_jax.errors import UserError


def define(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("--checkpoint")
    parser.add_argument("--records")
    parser.add_argument("--split", type=names, help="splits, separated by commas; by default all")
    parser.add_argument("--batch")
    parser.add_argument("--out", required=True, metavar="FILE", help="Parquet file to write")
    for name in OF_A_JOB:
        parser.add_argument(name)


def run(options: argparse.Namespace) -> None:
    """Encode and write.

    Raises:
        UserError: Several checkpoints are given, or the checkpoint, the records or a split cannot be used.
    """
    if len(options.checkpoint) > 1:
        raise UserError(
            f"sarwmix embed takes one checkpoint, {len(options.checkpoint)} are given; embed them separately"
        )
    from sarwmix_jax.checkpoints.loading import load_parameters
    from sarwmix_jax.cluster.joining import written_once
    from sarwmix_jax.data.records import read_contract
    from sarwmix_jax.data.sources import check_contract, open_records
    from sarwmix_jax.evaluation.features import write_embeddings
    from sarwmix_jax.training.logs import quiet_libraries
    from sarwmix_jax.training.resources import keep_compiled

    quiet_libraries()
    keep_compiled()
    splits = options.split or list(read_contract(Path(options.records)).records)
    sources = {split: open_records(options.records, split) for split in splits}
    for source in sources.values():
        check_contract(source)
    with written_once(options.out) as out:
        count = write_embeddings(out, load_parameters(options.checkpoint[0]), sources, options.batch)
    print(f"wrote {options.out}: {count:,} rows")
