"""Trackers beside the JSON lines: TensorBoard and Weights & Biases, asked for by `log.trackers`.

A run that is resumed from an earlier step does steps again, with the same numbers. TensorBoard is given the step of
the restart, and shows nothing older beyond it. Weights & Biases cannot remove points: what it already has of this run
is not given again. It has an axis of its own for the step, as its own counter of rows may not go back.
"""

import importlib.util
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from sarwmix_jax.checkpoints.restore import FREE
from sarwmix_jax.errors import UserError, one_line
from sarwmix_jax.preparation.writer import write_file
from sarwmix_jax.settings.config import as_json, differences
from sarwmix_jax.settings.sections import RunSettings

Picture = UInt8[np.ndarray, "height width 4"]

MODULES = {"tensorboard": "tensorboardX", "wandb": "wandb"}
"""What each tracker imports; the extra of the package has the tracker's name."""

PROJECT = "sarwmix_jax"
WANDB_STATE = "wandb.json"


@runtime_checkable
class Tracker(Protocol):
    """Where numbers and pictures of a run are also written."""

    def scalars(self, event: str, step: int, values: Mapping[str, float]) -> None:
        """Numbers of an event, such as `train`, at a step."""

    def picture(self, name: str, step: int, image: Picture) -> None:
        """A picture, red, green, blue and opacity of every pixel."""

    def close(self, *, failed: bool) -> None:
        """Write what is left; `failed`: an error ends the run."""


def check_installed(names: tuple[str, ...]) -> None:
    """Refuse trackers that are not installed.

    Raises:
        UserError: One is not; the line names the extra.
    """
    for name in names:
        if importlib.util.find_spec(MODULES[name]) is None:
            raise UserError(
                f"--config.log.trackers has {name}, but {MODULES[name]} is not installed; "
                f"pip install 'sarwmix_jax[{name}]', or leave it out"
            )


def open_trackers(settings: RunSettings, workdir: Path, step: int) -> list[Tracker]:
    """The trackers of a start at `step`.

    Raises:
        UserError: Weights & Biases cannot start.
    """
    kinds: dict[str, Any] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}
    return [kinds[name](settings, workdir, step) for name in settings.log.trackers]


class TensorBoard:
    """Event files in `tensorboard/` of the work directory, one for every start."""

    def __init__(self, settings: RunSettings, workdir: Path, step: int) -> None:
        """Open the file of this start; points of earlier starts after `step` are no longer shown."""
        from tensorboardX import SummaryWriter

        folder = workdir / "tensorboard"
        # Names have seconds alone, and readers take the files in the order of their names.
        number = len(list(folder.glob("events*")))
        self._writer = SummaryWriter(str(folder), purge_step=step + 1, filename_suffix=f".{number:04d}")

    def scalars(self, event: str, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        for name, value in values.items():
            self._writer.add_scalar(f"{event}/{name}", value, step)

    def picture(self, name: str, step: int, image: Picture) -> None:
        """See `Tracker`."""
        self._writer.add_image(name, image[..., :3], step, dataformats="HWC")

    def close(self, *, failed: bool) -> None:
        """See `Tracker`."""
        self._writer.close()


class WeightsAndBiases:
    """One run of Weights & Biases over all starts; `WANDB_MODE=offline` keeps it in the work directory."""

    def __init__(self, settings: RunSettings, workdir: Path, step: int) -> None:
        """Start or resume the run whose id the work directory has; changed settings begin a run of their own.

        Raises:
            UserError: It cannot start, as without a login or a network.
        """
        import wandb

        del step  # known by what was given
        self._path, values = workdir / WANDB_STATE, as_json(settings)
        self._state = _stored(self._path, values) or {
            "id": secrets.token_hex(4),
            "settings": values,
            "rows": 0,
            "given": {},
        }
        self._save()
        try:
            # Its own lines and its copy of the terminal would break the progress bar.
            quiet = wandb.Settings(silent=True, console="off")
            self._run = wandb.init(
                project=PROJECT,
                id=self._state["id"],
                name=workdir.resolve().name,
                dir=str(workdir),
                config=values,
                resume="allow",
                settings=quiet,
            )
        except Exception as error:  # usage, network and authentication have classes without a common base
            raise UserError(
                f"Weights & Biases cannot start ({one_line(error)}); wandb login, or set WANDB_MODE=offline, or leave "
                "wandb out of --config.log.trackers"
            ) from error
        self._image = wandb.Image
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def scalars(self, event: str, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._give(event, step, {f"{event}/{name}": value for name, value in values.items()})

    def picture(self, name: str, step: int, image: Picture) -> None:
        """See `Tracker`."""
        self._give(name, step, {name: self._image(image[..., :3])})

    def close(self, *, failed: bool) -> None:
        """See `Tracker`."""
        self._run.finish(exit_code=int(failed))

    def _give(self, kind: str, step: int, values: dict[str, Any]) -> None:
        if step <= self._state["given"].get(kind, -1):
            return
        row = self._state["rows"]
        self._state["rows"], self._state["given"][kind] = row + 1, step
        self._save()
        self._run.log(values | {"step": step}, step=row)

    def _save(self) -> None:
        write_file(self._path, json.dumps(self._state, indent=2) + "\n")


def _stored(path: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """State of the run of earlier starts; None where there is none, or settings of the computation differ.

    Raises:
        UserError: The file is damaged.
    """
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = json.loads(path.read_text())
        changed = [line for line in differences(state["settings"], settings) if not line.startswith(FREE)]
        _ = state["id"], state["rows"], state["given"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({one_line(error)}); delete it to begin a new run of wandb") from error
    return None if changed else state
