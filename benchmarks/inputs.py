"""Arrays and initial weights that both sides of a comparison share, made with NumPy alone."""

import math
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# Widths from Robinson et al. 2020, Table 6, and those of the STN's trunk.
ENCODER, BOTTLENECK, DECODER, JUDGE = (8, 16, 32, 64), (64, 64), (32, 16, 8), (32, 64, 128, 256, 256)
STN_WIDTHS, SPACING = (8, 16, 32, 64, 64), 8


class Work(NamedTuple):
    """A computation to be timed.

    Attributes:
      run: function that runs it once, waits for it and returns a number (a loss or a sum) that is equal on both sides.
      steps: number of steps in one `run`.
    """

    run: Callable[[], float]
    steps: int = 1


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """Returns standard normal float32 numbers times `scale`."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32) * np.float32(scale)


def uniform(*shape: int, seed: int = 1) -> np.ndarray:
    """Returns float32 numbers in [0, 1)."""
    return np.random.default_rng(seed).random(shape, np.float32)


def whole(upper: int, *shape: int, seed: int = 2) -> np.ndarray:
    """Returns int32 numbers in [0, upper)."""
    return np.random.default_rng(seed).integers(0, upper, shape).astype(np.int32)


def skew_matrices(count: int, n: int) -> np.ndarray:
    """Returns skew-symmetric matrices (count, n, n) with spectral norms of 1 to 2."""
    upper = np.triu(normal(count, n, n, scale=0.7 / math.sqrt(n)), 1)
    return upper - upper.transpose(0, 2, 1)


def rotations(count: int, n: int) -> np.ndarray:
    """Returns orthogonal matrices (count, n, n)."""
    return np.linalg.qr(normal(count, n, n))[0].astype(np.float32)


def initial_weight(path: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the initial value of a parameter, given its path and shape in Flax's tree.

    Kernels (..., C, features) are normal with standard deviation 1 / sqrt(taps x C). Scales are 1, except for the
    scalar scale of tau, which is 0.1. Biases are 0.
    """
    name = path.rsplit("/", 1)[-1]
    if name == "kernel":
        return normal(*shape, seed=zlib.crc32(path.encode()), scale=1 / math.sqrt(math.prod(shape[:-1])))
    return np.full(shape, {"scale": 1.0 if shape else 0.1, "bias": 0.0}[name], np.float32)
