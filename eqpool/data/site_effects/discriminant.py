"""Predicts the site of a row without one: a shrunk linear discriminant on a few principal directions."""

import dataclasses

import numpy as np

MOST_DIRECTIONS = 32
_SEED = 0


@dataclasses.dataclass(frozen=True)
class SiteDiscriminant:
    """A linear discriminant of S sites.

    Attributes:
      centre: (V,) float64, mean of the training rows.
      directions: (V, D) float64, orthonormal directions.
      means: (S, D) float64, mean scores of each site.
      precision: (D, D) float64, inverse of the shrunk covariance within sites.
      rows: (S,) number of rows of each site, which set the prior probabilities.
    """

    centre: np.ndarray
    directions: np.ndarray
    means: np.ndarray
    precision: np.ndarray
    rows: np.ndarray

    @classmethod
    def fit(
        cls, scores: np.ndarray, site: np.ndarray, num_sites: int, centre: np.ndarray, directions: np.ndarray
    ) -> "SiteDiscriminant":
        """Learns the discriminant.

        Args:
          scores: (N, D) scores of the training rows along the directions.
          site: (N,) int, index of each row's site.
          num_sites: S.
          centre: (V,) mean of the training rows.
          directions: (V, D) orthonormal directions.
        """
        member = (site[:, None] == np.arange(num_sites)[None]).astype(np.float64)
        rows = member.sum(axis=0)
        means = (member.T @ scores) / rows[:, None]
        within = scores - means[site]
        count, width = scores.shape
        covariance = within.T @ within / max(count - num_sites, 1)
        share = width / (width + count)
        average = max(np.trace(covariance) / max(width, 1), 1e-12)
        shrunk = (1 - share) * covariance + share * average * np.eye(width)
        return cls(centre, directions, means, np.linalg.inv(shrunk), rows)

    def probabilities(self, values: np.ndarray) -> np.ndarray:
        """Returns the (N, S) probabilities of each site, given (N, V) rows."""
        difference = ((values - self.centre) @ self.directions)[:, None] - self.means[None]
        distance = np.einsum("nsd,de,nse->ns", difference, self.precision, difference)
        logits = np.log(self.rows) - distance / 2
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return odds / odds.sum(axis=1, keepdims=True)

    def with_site(self, index: int, values: np.ndarray) -> "SiteDiscriminant":
        """Returns a copy in which site `index`, a known one or the next, has the (n, V) rows `values`."""
        mean = ((values - self.centre) @ self.directions).mean(axis=0)
        means = np.concatenate([self.means[:index], mean[None], self.means[index + 1 :]])
        rows = np.concatenate([self.rows[:index], [len(values)], self.rows[index + 1 :]])
        return dataclasses.replace(self, means=means, rows=rows)


def random_mixtures(num_rows: int) -> np.ndarray:
    """Returns (D, N) random weights of the rows, whose weighted sums span most of the rows' principal directions."""
    width = max(1, min(MOST_DIRECTIONS, num_rows // 4))
    return np.random.default_rng(_SEED).standard_normal((width, num_rows)) / np.sqrt(num_rows)


def orthonormal(rows: np.ndarray) -> np.ndarray:
    """Returns an orthonormal basis (V, D) of the span of (D, V) rows."""
    return np.linalg.qr(rows.T)[0]
