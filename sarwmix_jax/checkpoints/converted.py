"""Writing a converted checkpoint in the form that training, evaluation and inference read.

`store` writes the state of a run, fast and from the devices. Here the arrays are views of a memory-mapped file, and
little memory may be used: one file per array (no OCDBT), which needs less extra memory than the arrays' size.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

from sarwmix_jax.checkpoints import integrity
from sarwmix_jax.checkpoints.integrity import FOLDER, first_line
from sarwmix_jax.checkpoints.reading import quiet
from sarwmix_jax.errors import UserError

Items = Mapping[str, Mapping[str, np.ndarray]]


def write_checkpoint(directory: Path, step: int, items: Items, description: dict[str, Any]) -> None:
    """Write one checkpoint; `loading.load_parameters(directory)` reads it.

    Args:
        directory: New or empty folder (see `convert.check_free`).
        step: Optimiser steps done.
        items: `params`, `fixed` and, for a run that is to be continued, `optimizer`: arrays by flat name.
        description: See `store.describe`.

    Raises:
        UserError: Writing failed; no partial checkpoint is left.
    """
    handlers: dict[str, Any] = {name: ocp.PyTreeCheckpointHandler(use_ocdbt=False) for name in items}
    arguments: dict[str, Any] = {name: ocp.args.PyTreeSave(dict(arrays)) for name, arrays in items.items()}
    texts = {"description": description, integrity.CHECKSUMS: integrity.checksums(items, description)}
    handlers |= {name: ocp.JsonCheckpointHandler() for name in texts}
    arguments |= {name: ocp.args.JsonSave(text) for name, text in texts.items()}
    options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
    args = ocp.args.Composite(**arguments)
    try:
        place = (directory / FOLDER).absolute()
        with quiet(), ocp.CheckpointManager(place, options=options, item_handlers=handlers) as manager:
            manager.save(step, args=args, force=True)
    except Exception as error:  # Orbax and tensorstore raise many kinds
        shutil.rmtree(directory / FOLDER, ignore_errors=True)
        remedy = "free space or correct the permissions"
        raise UserError(f"cannot write {directory}: {first_line(error)}; {remedy}") from error
