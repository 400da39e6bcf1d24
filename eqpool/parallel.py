"""Data parallelism: one mesh axis over all devices, a replicated state and batches sharded along their rows.

There is no pmap here. Under `jax.jit` with sharded inputs a mean is the mean of the global batch, so losses that
couple a batch's rows (equivariance, MMD, batch norm) are the same on one device and on many.
"""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from eqpool.errors import InputError

DATA_AXIS = "data"


def make_mesh(devices: int = 0) -> Mesh:
    """A one-axis mesh over the first `devices` devices; 0 takes all.

    Raises:
      InputError: if there are fewer devices.
    """
    available = jax.devices()
    if devices > len(available):
        raise InputError(f"config.devices = {devices}: expected at most {len(available)}, the devices JAX sees here")
    count = devices or len(available)
    # Auto: the losses compare all rows with all rows, which Explicit axes reject.
    return jax.make_mesh((count,), (DATA_AXIS,), axis_types=(AxisType.Auto,), devices=available[:count])


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of parameters, optimizer state and tables that fit each device."""
    return NamedSharding(mesh, PartitionSpec())


def by_row(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: its first axis over the devices."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def padded_size(rows: int, mesh: Mesh) -> int:
    """`rows` rounded up to a multiple of the mesh's devices; the rows added are masked."""
    return -(-rows // mesh.size) * mesh.size


def put_replicated(tree, mesh: Mesh):
    """A pytree of host arrays onto every device of the mesh."""
    return jax.device_put(tree, replicated(mesh))


def put_by_row(tree, mesh: Mesh):
    """A pytree of this process's batch rows onto the mesh, as one global batch."""
    sharding = by_row(mesh)
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, np.asarray(rows)), tree)
