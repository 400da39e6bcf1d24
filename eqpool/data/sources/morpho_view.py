"""Draws the digits of a Morpho-MNIST cohort as they look in any domain."""

import pathlib

import numpy as np

from eqpool.data.sources.morpho_digits import DOMAINS, random_digits
from eqpool.data.sources.morpho_mnist import read_mnist, scaled


def view_digits(
    raw_dir: str, cache_dir: pathlib.Path, participant_id: np.ndarray, domain: str, seed: int
) -> np.ndarray:
    """Draws digits of a cohort as they look in one domain, each with its own disease.

    Args:
      raw_dir, cache_dir, seed: as for `eqpool.data.sources.morpho_mnist.load_morpho_mnist`.
      participant_id: (N,) names of digits of the cohort.
      domain: one of `DOMAINS`.

    Returns:
      (N, 28, 28) float32 in [-1, 1]. A digit that the cohort has in this domain is drawn as it is there.
    """
    images = read_mnist(raw_dir, cache_dir)
    drawn = np.empty((len(participant_id), *images["test"].shape[1:]), np.float32)
    origin, _, number = np.char.partition(participant_id.astype(np.str_), "-").T
    for split in np.unique(origin):
        here, indices = np.flatnonzero(origin == split), number[origin == split].astype(np.int64)
        pixels, _ = random_digits(images[split][indices], indices, str(split), DOMAINS[domain], seed)
        drawn[here] = scaled(pixels)
    return drawn
