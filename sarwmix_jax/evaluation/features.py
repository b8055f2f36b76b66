"""Frozen features of every sample of a record set, for probes and as a table."""

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Array, Float

from sarwmix_jax.checkpoints.loading import Loaded
from sarwmix_jax.data.held_out import EvaluationInput
from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.bands import BandStatistics
from sarwmix_jax.models.state import Tree, merge_model
from sarwmix_jax.preprocessing import prepare
from sarwmix_jax.progress import progress, track
from sarwmix_jax.tasks.gradients import make_mesh, over_devices, replicate, shard_batch
from sarwmix_jax.tasks.labelled import local_rows
from sarwmix_jax.tasks.task import Batch

Features = Float[np.ndarray, "sample feature"]
Encode = Callable[[Any, str], Features]
"""(source, title of the progress) -> features of all its samples, in stored order, float32."""


def make_encode(
    graphdef: nnx.GraphDef, statistics: BandStatistics, side: int, batch: int, mesh: Mesh
) -> Callable[..., Features]:
    """Makes a function that encodes sources with a model: mean over the cells of the encoder's output.

    Args:
        graphdef: The model, with any head.
        statistics: Band statistics that standardise the images.
        side: Height and width in pixels to which images are resized, as in training.
        batch: Samples per device at a time.
        mesh: The devices.

    Returns:
        A function (params, fixed, source, title) -> features of all its samples, in stored order, float32; its progress
        is shown under `title`.
    """

    def share(params: Tree, fixed: Tree, batch: Batch) -> Float[Array, "batch features"]:
        model = merge_model(graphdef, params, fixed)
        features: Array = model.features(prepare(batch, statistics, side=side).standardised)
        return features

    forward = jax.jit(over_devices(share, mesh, False, False, True))

    own = {"process_index": jax.process_index(), "process_count": jax.process_count()}

    def encode(params: Tree, fixed: Tree, source: Any, title: str) -> Features:
        parts = []
        with jax.default_matmul_precision("highest"), progress(title, len(source)) as advance:
            for host in EvaluationInput(source, batch * mesh.size, columns=("image",), **own):
                found = local_rows(forward(params, fixed, shard_batch({"image": host["image"]}, mesh)))
                rows, valid = multihost_utils.process_allgather((found, host["valid"]), tiled=True)
                parts.append(np.asarray(rows)[np.asarray(valid)])
                advance(len(parts[-1]))
        return np.concatenate(parts)

    return encode


def encode_with(loaded: Loaded, batch: int = 32) -> Encode:
    """A function that encodes sources with a checkpoint."""
    mesh = make_mesh()
    params, fixed = replicate((loaded.params, loaded.fixed), mesh)
    make = make_encode(loaded.structure, loaded.statistics, loaded.settings.image_size, batch, mesh)

    return lambda source, title: make(params, fixed, source, title)


def write_embeddings(path: Path, loaded: Loaded, sources: dict[str, Any], batch: int = 32) -> int:
    """Write features with names, splits, labels and georeference as Parquet; on failure no file is left.

    Columns: `patch_id`, `s1_name`, `split`, `country`, `labels` (names), `crs` and `transform` where the records are
    georeferenced, and `features` (list of float32). The checkpoint's description is in the file's metadata.

    Args:
        path: File to write.
        loaded: The checkpoint.
        sources: Records by split.
        batch: Samples per device at a time.

    Returns:
        The number of rows.

    Raises:
        UserError: The file exists or cannot be written.
    """
    if path.exists():
        raise UserError(f"{path} exists; name another file")
    known = {b"sarwmix_jax": json.dumps({"step": loaded.step, "description": loaded.description}).encode()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing_") as place:  # before anything takes time
            encode = encode_with(loaded, batch)
            table = pa.concat_tables([_table(s, encode(s, f"encoding {split}")) for split, s in sources.items()])
            pyarrow.parquet.write_table(table.replace_schema_metadata(known), Path(place) / path.name)
            (Path(place) / path.name).replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error}); free space or choose another --out") from error
    return int(table.num_rows)


def _table(source: Any, features: Float[np.ndarray, "sample feature"]) -> pa.Table:
    pixels = ("image", "valid_pixels")  # those of all records of a large set would fill the memory
    records = []
    for number in track(range(len(source)), f"reading names of {source.split}"):
        records.append({k: v for k, v in source[number].items() if k not in pixels})
    classes = source.contract.classes
    columns: dict[str, Any] = {
        name: [record[name] for record in records] for name in ("patch_id", "s1_name", "split", "country")
    }
    columns["labels"] = [[n for n, has in zip(classes, r.get("labels", ()), strict=False) if has] for r in records]
    if source.contract.georeferenced:
        columns |= {"crs": [r["crs"] for r in records], "transform": [r["transform"].tolist() for r in records]}
    types = {"labels": pa.list_(pa.string()), "transform": pa.list_(pa.float64())}
    arrays = {name: pa.array(values, types.get(name)) for name, values in columns.items()}
    flat = pa.array(np.ascontiguousarray(features, np.float32).reshape(-1))
    return pa.table(arrays | {"features": pa.FixedSizeListArray.from_arrays(flat, features.shape[1])})


def labels_of(source: Any, task: str, chunk: Sequence[int] | None = None) -> np.ndarray:
    """Labels of all samples for probes: targets, or class numbers where classes exclude each other.

    Raises:
        UserError: The records carry no labels, or (single_label) a sample has not exactly one.
    """
    from sarwmix_jax.tasks.multilabel import class_numbers

    if not source.contract.classes:
        raise UserError(f"the records in {source.folder} carry no labels; probe on records with labels")
    labels = source.read_batch(np.arange(len(source)) if chunk is None else chunk, ("labels",))["labels"]
    return class_numbers(labels) if task == "single_label" else labels
