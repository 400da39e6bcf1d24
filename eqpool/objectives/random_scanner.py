"""Shows images as another scanner might: random contrast, coil field, blur and noise, drawn anew for each image."""

import jax
import jax.numpy as jnp

# Mean over deviation of a T1 volume's tissue, about which a coil's field scales intensities that are z-scores.
_MEAN_TISSUE = 3.0
_FIELD, _CONTRAST, _SHARPEST, _MOST_BLUR, _NOISE = 0.08, 0.25, -0.3, 0.9, 0.1
_FIELD_SIDE = 3  # control points of the field along an axis
_EDGE = 1 - 1e-6  # arctanh of a float32 is finite up to here


def random_scanner(key: jax.Array, images: jax.Array, *, squashed: bool) -> jax.Array:
    """Changes each image by a random scanner, without a change of shape (domain randomisation).

    Of z-scores x, a scanner makes x + b (x + 3) with a smooth field b, adds c (x^2 - 1) / 2, which bends the contrast
    as a gamma does, mixes the result with its local mean, and adds white noise. The tissue is z-scored again. All
    amounts are drawn from ranges of our choice, wider than what the simulated scanners differ by.

    Args:
      key: random key.
      images: (N, *shape, 1) float32 in [-1, 1].
      squashed: whether images are tanh of z-scores with background 0. If not, they are intensities with background
        -1.

    Returns:
      (N, *shape, 1) float32 in [-1, 1], with the background as it was.
    """
    of_field, of_contrast, of_blur, of_noise = jax.random.split(key, 4)
    rows, axes = len(images), tuple(range(1, images.ndim))
    each = (rows,) + (1,) * (images.ndim - 1)
    tissue = (images != (0.0 if squashed else -1.0)).astype(images.dtype)
    x = jnp.arctanh(jnp.clip(images, -_EDGE, _EDGE)) if squashed else images

    coarse = jax.random.normal(of_field, (rows, *(_FIELD_SIDE,) * (images.ndim - 2), 1))
    x = x + _FIELD * jax.image.resize(coarse, images.shape, "linear") * (x + (_MEAN_TISSUE if squashed else 1.0))
    x = x + jax.random.uniform(of_contrast, each, minval=-_CONTRAST, maxval=_CONTRAST) * (jnp.square(x) - 1) / 2
    share = jax.random.uniform(of_blur, each, minval=_SHARPEST, maxval=_MOST_BLUR)
    x = x + share * (_local_mean(x, tissue) - x)
    x = x + jax.random.uniform(of_noise, each, maxval=_NOISE) * jax.random.normal(
        jax.random.fold_in(of_noise, 1), x.shape
    )
    if not squashed:
        return jnp.where(tissue > 0, jnp.clip(x, -1, 1), images)
    count = jnp.maximum(jnp.sum(tissue, axes, keepdims=True), 1)
    mean = jnp.sum(x * tissue, axes, keepdims=True) / count
    deviation = jnp.sqrt(jnp.sum(jnp.square(x - mean) * tissue, axes, keepdims=True) / count)
    return jnp.where(tissue > 0, jnp.tanh((x - mean) / jnp.maximum(deviation, _EDGE / 1e6)), images)


def _local_mean(x: jax.Array, tissue: jax.Array) -> jax.Array:
    """Returns the mean of the tissue among the three voxels along each axis in turn."""
    total, weight = x * tissue, tissue
    for axis in range(1, x.ndim - 1):
        total, weight = (_sum_of_three(values, axis) for values in (total, weight))
    return total / jnp.maximum(weight, 1)


def _sum_of_three(values: jax.Array, axis: int) -> jax.Array:
    padding = [(0, 0)] * values.ndim
    padding[axis] = (1, 1)
    padded, size = jnp.pad(values, padding), values.shape[axis]
    return sum(jax.lax.slice_in_dim(padded, start, start + size, axis=axis) for start in range(3))  # type: ignore
