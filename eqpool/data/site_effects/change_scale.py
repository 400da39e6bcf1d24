"""Chooses how much of the networks' change is applied to the data, so that the change does not make them worse.

The change of the networks is scaled by a number in [0, 1], found in closed form on held-out rows (docs/method.md,
section 4).
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

MOST_FEATURES = 4096  # voxels of a volume that are measured; they are correlated, so that more add little
_GROUPS = 20  # of rows, for the standard error


@dataclasses.dataclass(frozen=True)
class ChangeScale:
    """The scale of the networks' change, and the mean squares that it was chosen by, in squared z-scores.

    Attributes:
      scale: factor on the change, in [0, 1].
      rows: number of rows that it was chosen on; 0 if it was given.
      site_before: what the site explains of the data before the change, beyond covariates and target.
      site_after: the same after the whole change.
      alteration: what the change does within sites, to the effects of covariates and target and to the rest.
      note: the choice in one sentence, for the log.
    """

    scale: float
    rows: int = 0
    site_before: float = 0.0
    site_after: float = 0.0
    alteration: float = 0.0
    note: str = ""


class _Energies(NamedTuple):
    """Mean squares, in squared z-scores: J(a) = site + 2 a shared + a^2 change."""

    site: float
    shared: float
    change_of_site: float
    alteration: float

    @property
    def site_after(self) -> float:
        """Returns the site's mean square after the whole change."""
        return self.site + 2 * self.shared + self.change_of_site

    def gain(self, scale: float) -> float:
        """Returns J(0) - J(scale)."""
        return -2 * scale * self.shared - scale**2 * (self.change_of_site + self.alteration)

    @property
    def best(self) -> float:
        """Returns the scale in [0, 1] at which J is smallest."""
        total = self.change_of_site + self.alteration
        return float(np.clip(-self.shared / total, 0, 1)) if total > 0 else 0.0


def given_change_scale(scale: float, reason: str = "output.change_scale") -> ChangeScale:
    """Returns a scale that was not measured."""
    return ChangeScale(scale, note=f"The networks' change is scaled to {scale:g}: {reason}")


def choose_change_scale(
    inputs: np.ndarray, change: np.ndarray, site: np.ndarray, kept: np.ndarray, split: str = "validation"
) -> ChangeScale:
    """Chooses the scale a that minimises the site's mean square in inputs + a change plus that of its alteration.

    A site's offset in the data, given covariates and target, is an error. So is any change that is not a constant of
    its site, because within a site it cannot be distinguished from a change of anatomy. Both are mean squares in one
    unit, and their sum is a parabola in a. The estimates are free of the bias that finite sites cause. The scale is 0
    unless the improvement at its minimum exceeds its standard error, by a jackknife over groups of rows.

    Args:
      inputs: (N, F) z-scores of held-out rows before the networks' change, such as calibrated features.
      change: (N, F) change by the networks, D(Psi(Phi)) - D(l).
      site: (N,) site numbers. Rows of unknown site, -1, are left out.
      kept: (N, P) columns of covariates and target by `eqpool.data.site_effects.kept`.
      split: split of the rows, for the note.

    Raises:
      ValueError: `is_measurable` is false for these rows.
    """
    rows = np.flatnonzero(site >= 0)
    inputs, change, site, kept = (values[rows] for values in (inputs, change, site, kept))
    if not is_measurable(site, kept):
        raise ValueError("fewer than two sites, or no degree of freedom is left, beside covariates and target")
    whole = _energies(inputs, change, site, kept)
    scale = whole.best
    noise = _standard_error(inputs, change, site, kept, scale)
    chosen = scale if whole.gain(scale) > noise else 0.0
    note = _note(chosen, whole, f"{len(rows)} {split}")
    return ChangeScale(chosen, len(rows), whole.site, whole.site_after, whole.alteration, note)


def is_measurable(site: np.ndarray, kept: np.ndarray) -> bool:
    """Returns whether the rows allow an estimate of the sites' offsets beside the (N, P) columns `kept`."""
    known = site >= 0
    if not known.any():
        return False
    design, sites = _design(site[known], kept[known])
    rank = np.linalg.matrix_rank(design)
    return sites > 1 and len(design) > rank and rank == sites + np.linalg.matrix_rank(_centred(kept[known]))


def measured_features(count: int) -> np.ndarray:
    """Returns at most `MOST_FEATURES` evenly spaced indices of `count` features."""
    return np.unique(np.linspace(0, count - 1, min(count, MOST_FEATURES)).round().astype(int))


def _energies(inputs: np.ndarray, change: np.ndarray, site: np.ndarray, kept: np.ndarray) -> _Energies:
    """Fits intercept, kept columns and sites jointly, and returns unbiased mean squares over rows and features."""
    design, sites = _design(site, kept)
    inverse = np.linalg.pinv(design)
    of_sites = _centred(design[:, :sites])
    freedom = len(design) - np.linalg.matrix_rank(design)
    offsets = [of_sites @ (inverse[:sites] @ values) for values in (inputs, change)]
    left = [values - design @ (inverse @ values) for values in (inputs, change)]
    # What the offsets of no site effect at all would have, for each unit of the residuals' mean product.
    chance = float(np.sum((of_sites @ inverse[:sites]) ** 2)) / freedom

    def shared(one: int, other: int) -> float:
        products = np.sum(offsets[one] * offsets[other]) - chance * np.sum(left[one] * left[other])
        return float(products / inputs.size)

    within = _centred(change - offsets[1])
    return _Energies(shared(0, 0), shared(0, 1), shared(1, 1), float(np.sum(within**2) / inputs.size))


def _standard_error(inputs: np.ndarray, change: np.ndarray, site: np.ndarray, kept: np.ndarray, scale: float) -> float:
    """Returns the jackknife standard error of the improvement at `scale`."""
    gains = []
    for rows in _without_groups(site):
        if not is_measurable(site[rows], kept[rows]):
            continue
        gains.append(_energies(inputs[rows], change[rows], site[rows], kept[rows]).gain(scale))
    count = len(gains)
    return float(np.sqrt((count - 1) / count * np.sum((np.array(gains) - np.mean(gains)) ** 2))) if count else np.inf


def _without_groups(site: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the rows without each of some groups, which have equally many rows of each site."""
    groups = min(_GROUPS, len(site))
    group = np.empty(len(site), int)
    group[np.argsort(site, kind="stable")] = np.arange(len(site)) % groups
    return (np.flatnonzero(group != number) for number in range(groups))


def _design(site: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, int]:
    """Returns the columns of the sites, which hold the intercept, then the kept ones; and the number of sites."""
    names = np.unique(site)
    return np.column_stack([site[:, None] == names, _centred(kept)]).astype(np.float64), len(names)


def _centred(values: np.ndarray) -> np.ndarray:
    return values - values.mean(axis=0)


def _note(scale: float, energies: _Energies, rows: str) -> str:
    measured = (
        f"site {energies.site:.4f} before and {energies.site_after:.4f} after the whole change, which alters "
        f"{energies.alteration:.4f} within sites (mean squares of z-scores on {rows} rows)"
    )
    if scale == 1:
        return f"The networks' change is applied in full: {measured}"
    if scale == 0:
        return f"The networks' change is not applied, because it would make the data worse: {measured}"
    return f"The networks' change is scaled to {scale:.2f}: {measured}"
