"""Random permutations of rows and of whole subjects, for tests that exchange the sites."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike


def permute_rows(key: Array, counts: Array, stratum: ArrayLike | None = None) -> Array:
    """Returns (N,) indices that permute the rows with `counts` at random and leave the other rows in place.

    Args:
      key: random key of the permutation.
      counts: (N,) booleans.
      stratum: (N,) integers. Rows are permuted only within a stratum. `None` permutes among all rows.
    """
    # With 31 random bits ties are rare. Tied rows keep their order.
    draw = (jax.random.bits(key, counts.shape) >> 1).astype(jnp.int32)
    draw = jnp.where(counts, draw, jnp.iinfo(jnp.int32).max)
    strata = () if stratum is None else (jnp.asarray(stratum),)
    in_order, shuffled = (jnp.lexsort((by, *strata)) for by in (~counts, draw))
    return jnp.zeros_like(shuffled).at[in_order].set(shuffled, unique_indices=True)


def permute_subjects(key: Array, subject: Array, counts: Array, stratum: ArrayLike | None = None) -> Array:
    """Returns (N,) indices that exchange whole subjects at random among those with as many rows with `counts`.

    The rows of each subject are permuted as well. Under the null hypothesis, the scans of a subject who was scanned at
    two sites are exchangeable. If every subject was scanned at both sites, no other permutation changes the sites.

    Args:
      key: random key of the permutation.
      subject: (N,) integers that identify subjects.
      counts: (N,) booleans. The other rows stay in place.
      stratum: (N,) integers. Subjects are exchanged only if the largest stratum among their counted rows is the same.
    """
    row = jnp.arange(subject.size)
    _, of_row = jnp.unique(subject, return_inverse=True, size=subject.size)
    size = jnp.where(counts, jnp.zeros_like(row).at[of_row].add(counts)[of_row], 0)
    place = jnp.where(counts, jax.random.permutation(key, row)[of_row], 0)
    alike = [size]
    if stratum is not None:
        stratum = jnp.asarray(stratum)
        lowest = jnp.iinfo(stratum.dtype).min
        largest = jnp.full_like(stratum, lowest).at[of_row].max(jnp.where(counts, stratum, lowest))
        alike.append(jnp.where(counts, largest[of_row], lowest))
    within = jnp.where(counts, jax.random.permutation(jax.random.fold_in(key, 1), row), row)
    in_order = jnp.lexsort((row, jnp.where(counts, of_row, 0), *alike))
    shuffled = jnp.lexsort((within, place, *alike))
    return jnp.zeros_like(row).at[in_order].set(shuffled, unique_indices=True)
