"""A queue with the latents of the last batches, so that a small batch has rows to be compared with.

A batch of 16 volumes rarely holds two rows of two sites in one decile of age, and a site with few rows of a table is
missing from most batches. The site terms of the baselines therefore compare a batch with the latents of earlier ones.
Volumes and tables share this one way: encoding the whole cohort at every step would multiply the cost of a step, and a
kernel over all 30 000 rows of Adult does not fit into one.

The latents in the queue are constants and up to `length / batch size` steps old (the cross-batch memory of Wang et al.
2020). The queue travels in the variables of the stage, so a resumed run goes on with it.
"""

import jax
import jax.numpy as jnp

from eqpool.engine.state import Batch

LABELS = ("scan", "site", "decile", "match")  # columns of a batch that travel with its latents


def empty_queue(length: int, dimension: int) -> Batch:
    """Makes a queue without rows.

    Args:
      length: number of slots.
      dimension: n, dimension of a latent.

    Returns:
      `latent` (length, n) float32, the `LABELS` (length,) int32, and `mask` (length,) float32, 0 for an empty slot.
    """
    labels = {name: jnp.zeros(length, jnp.int32) for name in LABELS}
    return labels | {"latent": jnp.zeros((length, dimension)), "mask": jnp.zeros(length)}


def joined(queue: Batch, rows: Batch) -> Batch:
    """Joins a batch with the queue: the batch's B rows first, then the slots of the queue as constants.

    A row of the queue that is also in the batch is masked, because its older latent would count it twice.

    Args:
      queue: as `empty_queue` or `pushed` returns it.
      rows: `latent` (B, n), `mask` (B,) and the `LABELS`. `scan` (B,) int32 identifies a row of the cohort.

    Returns:
      The columns of `rows` that the queue has, with B + length rows.
    """
    older = jax.lax.stop_gradient(queue | {"mask": _without(queue, rows)})
    return {name: jnp.concatenate([rows[name], values]) for name, values in older.items()}


def pushed(queue: Batch, rows: Batch) -> Batch:
    """Appends a batch to the queue, whose oldest slots go. A row of the cohort is in it at most once, as last seen."""
    length, all_rows = len(queue["mask"]), jax.lax.stop_gradient(joined(queue, rows))
    batch = len(rows["mask"])
    return {name: jnp.concatenate([values[batch:], values[:batch]])[-length:] for name, values in all_rows.items()}


def whole_gradient(value: jax.Array, queue_and_batch: Batch, rows: Batch) -> jax.Array:
    """Returns `value` with its gradient scaled by the number of joined rows over that of the batch.

    Only the batch's latents have a gradient. Scaled, it estimates the gradient for all joined rows, so that the weight
    of a site term means the same with any length of the queue.
    """
    scale = jnp.sum(queue_and_batch["mask"]) / jnp.maximum(jnp.sum(rows["mask"]), 1)
    constant = jax.lax.stop_gradient(value)
    return constant + scale * (value - constant)


def _without(queue: Batch, rows: Batch) -> jax.Array:
    """Returns the mask of the queue without the rows of a batch."""
    same = (queue["scan"][:, None] == rows["scan"][None]) & (rows["mask"] > 0)[None]
    return jnp.where(jnp.any(same, axis=1), 0, queue["mask"])
