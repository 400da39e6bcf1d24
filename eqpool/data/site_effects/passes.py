"""Streams volumes for their mean image, their principal directions and the site of each."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from eqpool.data.site_effects.discriminant import SiteDiscriminant, orthonormal, random_mixtures
from eqpool.data.site_effects.moments import OpenStream, site_solver
from eqpool.data.site_effects.noise_contrasts import noise_weights
from eqpool.data.site_effects.shading import Shading


@dataclasses.dataclass(frozen=True)
class FirstPass:
    """The moments of the first pass.

    Attributes:
      mean, variance: (V,) mean and variance of the rows with a known site, or of the reference's.
      centre: (V,) mean of the rows with a known site.
      mixtures: (D, V) random mixtures of the rows about `centre`.
      effects: (P, V) least-squares effects of the terms, beside a constant for each site.
      noise: (S, K, V) contrasts of each site's rows, which vary as one row does about the fit (`noise_weights`).
    """

    mean: np.ndarray
    variance: np.ndarray
    centre: np.ndarray
    mixtures: np.ndarray
    effects: np.ndarray
    noise: np.ndarray

    @classmethod
    def of(cls, open_stream: OpenStream, terms: np.ndarray, site: np.ndarray, reference: int) -> "FirstPass":
        """Streams the rows once.

        Args:
          open_stream: opens the stream.
          terms: (N, P) terms of the rows.
          site: (N,) int, index of each row's site, below 0 for rows to ignore.
          reference: index of the reference site, below 0 for none.
        """
        used = np.flatnonzero(site >= 0)
        mixing = random_mixtures(len(used))
        num_sites = int(site.max()) + 1
        mixing_all = np.zeros((len(mixing), len(site)))
        mixing_all[:, used] = mixing - mixing.mean(axis=1, keepdims=True)
        solver, contrasts = site_solver(terms, site, num_sites)[num_sites:], noise_weights(terms, site, num_sites)
        weights = np.concatenate([mixing_all, solver, contrasts.reshape(-1, len(site))])
        total: Any = 0.0
        own: Any = 0.0
        squares: Any = 0.0
        weighted: Any = 0.0
        origin: Any = None
        for rows, values in open_stream():
            known = site[rows] >= 0
            rows, values = rows[known], np.asarray(values, np.float64)[known]
            if not len(rows):
                continue
            origin = values[0] if origin is None else origin
            shifted = values - origin  # about a row, so that the squares lose no digits
            chosen = shifted if reference < 0 else shifted[site[rows] == reference]
            total, own = total + shifted.sum(axis=0), own + chosen.sum(axis=0)
            squares = squares + (chosen**2).sum(axis=0)
            weighted = weighted + weights[:, rows] @ shifted
        count = len(used) if reference < 0 else int(np.sum(site == reference))
        variance = np.maximum(squares / count - (own / count) ** 2, 0)
        mixtures, effects, noise = np.split(weighted, np.cumsum([len(mixing), len(solver)]))
        noise = noise.reshape(*contrasts.shape[:2], -1)
        return cls(origin + own / count, variance, origin + total / len(used), mixtures, effects, noise)


class WatchedStream:
    """A stream of rows less their shading, which also notes the rows' scores along their principal directions.

    While the rows pass for the first time, the random directions are turned towards the principal ones by one step of
    subspace iteration (Halko et al. 2011, algorithm 4.4). The second time, the scores are noted.
    """

    def __init__(
        self,
        open_stream: OpenStream,
        site: np.ndarray,
        centre: np.ndarray,
        directions: np.ndarray,
        shading: Shading | None,
    ):
        """Prepares the stream; see the class."""
        self._open_stream, self._site, self._centre = open_stream, site, centre
        self._directions, self._shading = directions, shading
        self._scores = np.zeros((len(site), directions.shape[1]))
        self._passes = 0

    def open(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Opens the stream."""
        self._passes += 1
        turned: Any = 0.0
        for rows, given in self._open_stream():
            values = np.asarray(given, np.float64)
            known = self._site[rows] >= 0
            centred = values[known] - self._centre
            scores = centred @ self._directions
            self._scores[rows[known]] = scores
            if self._passes == 1:
                turned = turned + scores.T @ centred
            yield rows, values if self._shading is None else self._shading.remove(values)
        if self._passes == 1:
            self._directions = orthonormal(turned)

    def discriminant(self, num_sites: int) -> SiteDiscriminant:
        """Returns the discriminant of the sites, once both passes are over."""
        used = self._site >= 0
        return SiteDiscriminant.fit(self._scores[used], self._site[used], num_sites, self._centre, self._directions)
