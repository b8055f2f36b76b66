"""From a checkpoint to a model."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from sarwmix_jax.checkpoints.integrity import FOLDER, complete_steps
from sarwmix_jax.checkpoints.reading import Reader
from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.bands import BandStatistics
from sarwmix_jax.models.classifier import Classifier
from sarwmix_jax.models.mixmae import MixMAE
from sarwmix_jax.models.state import Tree, abstract_model, flatten_names, split_model, unflatten_names
from sarwmix_jax.settings.model import ModelSettings, described_model

ON_CPUS = "compute on CPUs, with JAX_PLATFORMS=cpu"
PYTORCH_SUFFIXES = (".pth", ".pt", ".ckpt")


@dataclass(frozen=True)
class Loaded:
    """Parameters of a checkpoint, as nested dicts of host arrays, and its description."""

    params: Tree
    fixed: Tree
    description: dict[str, Any]
    step: int

    @property
    def kind(self) -> str:
        """`pretraining`, `classifier` or `flood`."""
        return str(self.description["kind"])

    @property
    def statistics(self) -> BandStatistics:
        """Band statistics that standardise the input."""
        own = self.description["statistics"]
        return BandStatistics(tuple(own["mean_db"]), tuple(own["std_db"]))

    @cached_property
    def settings(self) -> ModelSettings:
        """Settings of the model, for inference.

        Raises:
            UserError: The checkpoint was written by a newer version of the package.
        """
        return described_model(self.description["model"])

    @cached_property
    def structure(self) -> nnx.GraphDef:
        """The model without its arrays, after a check that the checkpoint holds exactly those arrays.

        Raises:
            UserError: Arrays are missing, unknown or of another shape, or the kind of model is unknown.
        """
        graphdef, *wanted = abstract_model(*model_of(self.kind, self.settings, self.description.get("classes")))
        for expected, given in zip(wanted, (self.params, self.fixed), strict=True):
            both = map(flatten_names, (expected, given))
            shapes, found = ({name: leaf.shape for name, leaf in tree.items()} for tree in both)
            if wrong := sorted(name for name in shapes | found if shapes.get(name) != found.get(name)):
                raise UserError(
                    f"the checkpoint does not fit its own description: {wrong[0]} is "
                    f"{found.get(wrong[0], 'missing')}, {shapes.get(wrong[0], 'nothing')} is needed "
                    f"({len(wrong)} such tensors)"
                )
        return graphdef

    @cached_property
    def computed(self) -> nnx.GraphDef:
        """`structure`, for those who compute with it on this machine's devices.

        Raises:
            UserError: As for `structure`, or the devices have no arithmetic for the model's type.
        """
        device = jax.devices()[0]
        self.settings.check_device(device.device_kind, getattr(device, "compute_capability", None), ON_CPUS)
        return self.structure


def model_of(kind: str, settings: ModelSettings, classes: int | None) -> tuple[Any, ...]:
    """The class of the model of a checkpoint's kind, and its arguments.

    Raises:
        UserError: The kind is unknown, or a classifier has no number of classes.
    """
    if kind == "pretraining":
        return MixMAE, settings
    if kind not in ("classifier", "flood") or not classes:
        raise UserError(f"a checkpoint of kind {kind!r} with {classes} classes cannot be used here")
    return Classifier, settings, classes


def drawn_tensors(kind: str, settings: ModelSettings, classes: int | None) -> dict[str, np.ndarray]:
    """Newly initialised arrays of a model by flat name, from seed 0."""
    make, *arguments = model_of(kind, settings, classes)
    params, fixed = jax.jit(lambda: split_model(make(*arguments, rngs=nnx.Rngs(0)))[1:])()
    return {name: np.asarray(array) for name, array in (flatten_names(params) | flatten_names(fixed)).items()}


def load_parameters(path: str | Path, step: int | None = None) -> Loaded:
    """Parameters and description of a checkpoint, for evaluation, inference or a new run.

    Args:
        path: A work directory, its `checkpoints` folder, or one checkpoint's folder.
        step: Step of the checkpoint; by default the newest one.

    Raises:
        UserError: There is no such checkpoint, or it cannot be read.
    """
    directory, step = locate(Path(path), step)
    checkpoints = Reader(directory)
    try:
        arrays, description = checkpoints.parameters(step), checkpoints.description(step)
    except ValueError as error:
        raise UserError(f"checkpoint {directory / str(step)} cannot be read: {error}; use another") from None
    return Loaded(unflatten_names(arrays["params"]), unflatten_names(arrays["fixed"]), description, step)


@dataclass(frozen=True)
class Verified:
    """Result of the verification of one checkpoint.

    Attributes:
        place: Its folder.
        arrays: How many arrays agree with their checksums; None where it has none, or is damaged.
        damage: The first difference, or why it cannot be read.
    """

    place: Path
    arrays: int | None
    damage: str | None = None

    @property
    def text(self) -> str:
        """The result in one line."""
        if self.damage is not None:
            return f"{self.place}: damaged: {self.damage}"
        if self.arrays is None:
            return f"{self.place}: unchecked: can be read, but an earlier version wrote it without checksums"
        return f"{self.place}: {self.arrays} arrays and the description agree with their checksums"


def verify(path: Path, step: int | None = None) -> Iterator[Verified]:
    """Read the checkpoints at `path` (see `locate`), one or all, and compare them with their checksums.

    Raises:
        UserError: There is no such checkpoint.
    """
    directory, newest = locate(path, step)
    one = step is not None or directory not in (path, path / FOLDER)
    checkpoints = Reader(directory)
    for number in [newest] if one else complete_steps(directory):
        try:
            yield Verified(directory / str(number), checkpoints.verify(number))
        except ValueError as error:
            yield Verified(directory / str(number), None, str(error))


def locate(path: Path, step: int | None = None) -> tuple[Path, int]:
    """Folder of checkpoints and step that `path` and `step` refer to.

    Raises:
        UserError: There is no such checkpoint.
    """
    if path.suffix in PYTORCH_SUFFIXES and not path.is_dir():
        raise UserError(
            f"{path} is a PyTorch file, not a checkpoint folder; convert it first "
            f"(sarwmix convert {path} FOLDER --verify) and give the folder"
        )
    directory = _folder_of_steps(path)
    if not (steps := complete_steps(directory)):
        a_step = path.name.isdigit() and (not path.exists() or (path / "params").is_dir())
        if step is None and a_step and complete_steps(_folder_of_steps(path.parent)):
            return locate(path.parent, int(path.name))
        raise UserError(f"no checkpoint in {path}; give a work directory or a checkpoint folder")
    if step is not None and step not in steps:
        raise UserError(f"no checkpoint at step {step} in {directory}; there are {', '.join(map(str, steps))}")
    return directory, steps[-1] if step is None else step


def _folder_of_steps(path: Path) -> Path:
    return path / FOLDER if (path / FOLDER).is_dir() else path
