"""Writing a converted checkpoint in the form that training, evaluation and inference read.

`store` writes states of a run, quickly and from the devices. Here the arrays are views of a mapped
file, and memory counts: one file per array (no OCDBT), which needs less than the arrays' own size on top.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

from sarwmix_jax.checkpoints.loading import quiet
from sarwmix_jax.checkpoints.store import FOLDER, first_line
from sarwmix_jax.errors import UserError

Items = Mapping[str, Mapping[str, np.ndarray]]


def write_checkpoint(directory: Path, step: int, items: Items, description: dict[str, Any]) -> None:
    """Write one checkpoint; `loading.load_parameters(directory)` reads it.

    Args:
        directory: new or empty folder (see `convert.check_free`).
        step: optimiser steps done.
        items: `params`, `fixed` and, for a run that goes on, `optimizer`: arrays by flat name.
        description: see `store.describe`.

    Raises:
        UserError: writing failed; nothing is left then.
    """
    handlers: dict[str, Any] = {name: ocp.PyTreeCheckpointHandler(use_ocdbt=False) for name in items}
    arguments: dict[str, Any] = {name: ocp.args.PyTreeSave(dict(arrays)) for name, arrays in items.items()}
    handlers["description"] = ocp.JsonCheckpointHandler()
    options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
    args = ocp.args.Composite(description=ocp.args.JsonSave(description), **arguments)
    try:
        place = (directory / FOLDER).absolute()
        with quiet(), ocp.CheckpointManager(place, options=options, item_handlers=handlers) as manager:
            manager.save(step, args=args, force=True)
    except Exception as error:  # Orbax and tensorstore raise many kinds
        shutil.rmtree(directory / FOLDER, ignore_errors=True)
        raise UserError(f"cannot write {directory}: {first_line(error)}; free space or mend access") from error
