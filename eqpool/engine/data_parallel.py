"""Data parallelism: one mesh axis over all devices, a replicated state and batches sharded along their rows.

There is no pmap here. Under `jax.jit` with sharded inputs a mean is the mean of the global batch, so losses that couple
a batch's rows (equivariance, MMD, batch norm) are the same on one device and on many.

With several processes, one for each host, all of them make the same calls in the same order (see `join_processes`).
Each process holds the rows of every batch that its own devices compute. Only the first process writes files.
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
    """Joins this process to the distributed run and returns whether it is the first process.

    Call this before creating any array. Cloud TPU, SLURM and Open MPI describe the processes to JAX. Elsewhere the
    environment describes them: JAX_COORDINATOR_ADDRESS (host:port of the first process), JAX_NUM_PROCESSES and
    JAX_PROCESS_ID.

    Raises:
      InputError: the processes are not described at all, or the two descriptions contradict each other.
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
    """Makes a one-axis mesh over the first `devices` devices, or over all devices of all processes if `devices` is 0.

    Raises:
      InputError: there are fewer devices, or some processes would have none of them.
    """
    # Sort by process, so that each process holds consecutive rows of a batch. JAX's own order may follow the chips'
    # coordinates.
    available = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    if devices and devices != len(available) and jax.process_count() > 1:
        raise InputError(f"config.devices = {devices}: expected 0 or all {len(available)} where processes share them")
    if devices > len(available):
        raise InputError(f"config.devices = {devices}: expected at most {len(available)}, the devices JAX sees here")
    count = devices or len(available)
    # The losses compare all rows with all rows, which Explicit axes reject.
    return Mesh(np.array(available[:count]), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of parameters, optimizer state and tables that fit in each device's memory."""
    return NamedSharding(mesh, PartitionSpec())


def by_row(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch, with its first axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def padded_size(rows: int, mesh: Mesh) -> int:
    """Rounds `rows` up to a multiple of the number of devices in the mesh. The added rows are masked."""
    return -(-rows // mesh.size) * mesh.size


def put_replicated(tree, mesh: Mesh):
    """Copies a pytree of host arrays to every device of the mesh."""
    return jax.device_put(tree, replicated(mesh))


def put_by_row(tree, mesh: Mesh):
    """Puts a pytree of this process's batch rows on the mesh, as part of one global batch."""
    sharding = by_row(mesh)
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, np.asarray(rows)), tree)


def own_rows(size: int) -> slice:
    """Returns the rows that this process holds of a batch of `size` rows, a multiple of the number of devices."""
    share = size // jax.process_count()
    return slice(jax.process_index() * share, (jax.process_index() + 1) * share)


def to_host(tree: Any) -> Any:
    """Returns a pytree of arrays as complete NumPy arrays on every process, including rows of other processes."""
    return jax.device_get(tree) if jax.process_count() == 1 else multihost_utils.process_allgather(tree, tiled=True)


def any_process(flag: bool) -> bool:
    """Returns whether `flag` is set on any process. All processes must make this call."""
    return flag if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(flag)).any())


def _number_from_environment(name: str) -> int | None:
    text = os.environ.get(name)
    return None if text is None else int(text)
