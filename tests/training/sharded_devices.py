"""Run by test_sharding.py in a process with four devices on the CPU; prints one JSON line."""

import json
import shutil
import sys
from pathlib import Path

import jax
import numpy as np

from sarwmix_jax.settings.config import pretraining_config, resolve
from sarwmix_jax.settings.sections import PretrainingSettings
from sarwmix_jax.tasks.gradients import make_mesh, placed
from sarwmix_jax.training import run
from sarwmix_jax.training.history import read_log
from sarwmix_jax.training.loop import train
from sarwmix_jax.training.resources import device_bytes, tree_bytes
from tests.support import collectives
from tests.training.conftest import TINY_RUN

ROWS = 16


def settings_of(folder: Path, last: int, divided: bool) -> PretrainingSettings:
    config = pretraining_config()
    config.update_from_flattened_dict(TINY_RUN)
    config.data.records, config.validation.split = (str(folder / "records"),), None
    config.model.decoder_dim = 64  # has large kernels
    config.batch.update({"global_batch": ROWS, "mix_group": 2})
    config.optimizer.update({"stop_after_steps": last, "stop_after_epochs": 8.0, "shard_state": divided})
    return resolve(config, PretrainingSettings)


def trained(folder: Path, name: str, last: int, devices: int, divided: bool) -> dict:
    """Losses so far of a run that goes on to a step, and bytes of the optimiser's state on a device and in all."""
    run.make_mesh = lambda: make_mesh(jax.devices()[:devices])
    state = train(settings_of(folder, last, divided), folder / name).state
    losses = [entry["loss"] for entry in read_log(folder / name) if entry["event"] == "train"]
    return {"losses": losses, "bytes": [device_bytes(state.opt_state), tree_bytes(state.opt_state)]}


def exchanged(folder: Path, divided: bool) -> dict:
    """Exchanges between two devices in a compiled step, its bytes on each, and what the run states of it."""
    run.make_mesh = lambda: make_mesh(jax.devices()[:2])
    made = run.set_up(settings_of(folder, 1, divided))
    image = jax.ShapeDtypeStruct((ROWS, 2, 64, 64), np.float16)
    batch = placed({"image": image}, made.mesh, split=True)
    compiled = made.train_step.lower(run.abstract_state(made), batch, np.float32(0)).compile()
    held = compiled.memory_analysis().argument_size_in_bytes
    return {"collectives": collectives(compiled), "bytes": held, "notes": made.notes}


def main(folder: Path) -> dict:
    jax.config.update("jax_disable_most_optimizations", True)
    found = {"whole": trained(folder, "whole", 2, 2, False)}
    shutil.copytree(folder / "whole", folder / "whole then divided")
    found["whole"] = trained(folder, "whole", 4, 2, False)
    found["whole then divided"] = trained(folder, "whole then divided", 4, 4, True)
    found["divided by 2"] = trained(folder, "divided", 2, 2, True)
    found["then by 4"] = trained(folder, "divided", 3, 4, True)
    found["then whole"] = trained(folder, "divided", 4, 2, False)
    return found | {"step": [exchanged(folder, divided) for divided in (False, True)]}


if __name__ == "__main__":
    json.dump(main(Path(sys.argv[1])), sys.stdout)
