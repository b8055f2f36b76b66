"""Devices as one mesh with a single axis, and arrays laid out over it."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from sarwmix_jax.errors import UserError

DATA_AXIS = "data"


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over all devices (of all processes), one axis: data."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (DATA_AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Puts every array of the tree on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def shard_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Splits host arrays on their leading axis over the devices; each process gives its own contiguous block.

    Raises:
        UserError: If the rows do not divide by the devices of this process.
    """
    sharding = NamedSharding(mesh, PartitionSpec(DATA_AXIS))
    local = len(mesh.local_devices)
    for name, array in batch.items():
        if len(array) % local:
            raise UserError(f"{len(array)} rows of {name!r} do not divide by {local} devices; change the batch")
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}
