"""Data parallelism: one mesh axis over all devices, a replicated state and batches sharded along their rows.

There is no pmap here. Under `jax.jit` with sharded inputs a mean is the mean of the global batch, so losses that
couple a batch's rows (equivariance, MMD, batch norm) are the same on one device and on many.

Several processes, one a host, make the same calls in the same order (`join_processes`); each holds the rows of its own
devices of every batch, and the first alone writes.
"""

import os
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from eqpool.errors import InputError

DATA_AXIS = "data"


def join_processes() -> bool:
    """Makes this process one of those that train together; returns whether it is the first. Call it before any array.

    Cloud TPU, SLURM and Open MPI tell JAX which processes there are; elsewhere the environment does, by
    JAX_COORDINATOR_ADDRESS (host:port of the first), JAX_NUM_PROCESSES and JAX_PROCESS_ID.

    Raises:
      InputError: neither does, or they contradict each other.
    """
    try:
        count, number = (_number_from_environment(name) for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"))
        jax.distributed.initialize(num_processes=count, process_id=number)
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"--distributed: {' '.join(str(error).split()).rstrip('.')}; expected Cloud TPU, SLURM or Open MPI, or "
            "JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES and JAX_PROCESS_ID in the environment"
        ) from None
    return jax.process_index() == 0


def make_mesh(devices: int = 0) -> Mesh:
    """A one-axis mesh over the first `devices` devices; 0 takes all, of all processes.

    Raises:
      InputError: if there are fewer devices, or if some processes would have none of them.
    """
    # By process, so that each holds consecutive rows of a batch; JAX's own order may follow the chips' coordinates.
    available = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    if devices and devices != len(available) and jax.process_count() > 1:
        raise InputError(f"config.devices = {devices}: expected 0 or all {len(available)} where processes share them")
    if devices > len(available):
        raise InputError(f"config.devices = {devices}: expected at most {len(available)}, the devices JAX sees here")
    count = devices or len(available)
    # Auto: the losses compare all rows with all rows, which Explicit axes reject.
    return Mesh(np.array(available[:count]), (DATA_AXIS,), axis_types=(AxisType.Auto,))


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


def own_rows(size: int) -> slice:
    """Which rows of a batch of `size`, a multiple of the mesh's devices, this process holds."""
    share = size // jax.process_count()
    return slice(jax.process_index() * share, (jax.process_index() + 1) * share)


def to_host(tree: Any) -> Any:
    """A pytree of arrays as NumPy's, whole on every process: also of rows that other processes hold."""
    return jax.device_get(tree) if jax.process_count() == 1 else multihost_utils.process_allgather(tree, tiled=True)


def any_process(flag: bool) -> bool:
    """Whether `flag` is set on any process; all have to ask."""
    return flag if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(flag)).any())


def _number_from_environment(name: str) -> int | None:
    text = os.environ.get(name)
    return None if text is None else int(text)
