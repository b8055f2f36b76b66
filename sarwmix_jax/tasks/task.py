"""The interface of a task, by which the training loop uses every task alike."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from sarwmix_jax.facts.bands import BandStatistics
from sarwmix_jax.models.state import Tree
from sarwmix_jax.settings.sections import RunSettings

Batch = dict[str, Array]
Metrics = dict[str, Array]


@runtime_checkable
class Task(Protocol):
    """A task: `pretraining`, `multilabel` or `flood`."""

    @property
    def kind(self) -> str:
        """Kind of its checkpoints."""

    @property
    def settings(self) -> RunSettings:
        """Settings of the run, with the micro-batch set."""

    @property
    def statistics(self) -> BandStatistics:
        """Band statistics that standardise the images."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a batch."""

    @property
    def group(self) -> int:
        """Consecutive samples of the global batch that mix with each other and stay together; 1 where none mix."""

    @property
    def rules(self) -> tuple[str, ...]:
        """Rules of `metrics.selection` that select checkpoints; patience counts by the first one."""

    @property
    def model(self) -> tuple[Any, ...]:
        """The class of the model, and its arguments without random numbers."""

    @property
    def description(self) -> dict[str, Any]:
        """What a checkpoint's description holds besides settings and statistics."""

    @property
    def open(self) -> Callable[..., Any]:
        """Opens a split of a record set: (folder, split)."""

    def loss(
        self, model: Any, batch: Batch, step: Int[Array, ""], first: Int[Array, ""]
    ) -> tuple[Float[Array, ""], Metrics]:
        """Mean loss of a micro-batch, and metrics to log.

        Args:
            model: The model.
            batch: Consecutive samples of the global batch.
            step: Optimiser steps done.
            first: Position of the first sample in the global batch.
        """

    def make_validation(
        self, graphdef: nnx.GraphDef, mesh: Mesh, sources: Sequence[Any]
    ) -> Callable[[Tree, Tree], dict[str, Any]]:
        """A function (params, fixed) -> scores over all samples of `sources`, `loss` among them."""
