"""The optimiser's state divided over the devices: each holds, and updates by, its part of every large array.

The first stage of ZeRO (Rajbhandari et al. 2020, arXiv:1910.02054), by shardings alone: the compiler divides the update
in the same way, and exchanges the updated parameters.
"""

from typing import Any, TypeVar

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

DATA_AXIS = "data"
SMALL = 2**16
"""Values up to which an array is small: for a GPU, to start a kernel for it takes longer than the kernel itself."""

T = TypeVar("T")


def divided(opt_state: T, mesh: Mesh | AbstractMesh) -> T:
    """Shapes and dtypes of the optimiser's state with their place: large arrays are cut on the first axis that can be.

    Args:
        opt_state: Shapes and dtypes.
        mesh: The devices.
    """

    def place(leaf: Any) -> jax.ShapeDtypeStruct:
        axes = [number for number, size in enumerate(leaf.shape) if size % mesh.size == 0]
        cut = (*(None,) * axes[0], DATA_AXIS) if axes and leaf.size > SMALL else ()
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, PartitionSpec(*cut)))

    found: T = jax.tree.map(place, opt_state)
    return found


def stay(params: T, opt_state: Any, mesh: Mesh | AbstractMesh) -> tuple[T, Any]:
    """Results of an update, under tracing: parameters whole on every device, the optimiser's state divided."""
    places = jax.tree.map(lambda leaf: leaf.sharding, divided(opt_state, mesh))
    whole = jax.lax.with_sharding_constraint(params, NamedSharding(mesh, PartitionSpec()))
    return whole, jax.lax.with_sharding_constraint(opt_state, places)
