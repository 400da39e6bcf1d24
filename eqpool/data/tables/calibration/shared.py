"""What all sites share in the estimate of their effects, and what a new site's effect is estimated with."""

import dataclasses

import numpy as np

from eqpool.data.tables.calibration.covariance import CovarianceChoice, Whitening
from eqpool.data.tables.calibration.effect import SiteEffect
from eqpool.data.tables.calibration.shrinkage import ShiftPrior, VariancePrior


@dataclasses.dataclass(frozen=True)
class SharedEstimates:
    """The distribution of rows within a site and the distribution that the sites' effects are draws from.

    Attributes:
      whitening: pooled covariance of rows within their sites.
      shift_prior: distribution of sites' shifts.
      scale_prior: distribution of sites' log variances of features.
      direction_prior: distribution of sites' log variances along the principal directions, after the scale.
      choice: how far sites have covariances of their own.
    """

    whitening: Whitening
    shift_prior: ShiftPrior
    scale_prior: VariancePrior
    direction_prior: VariancePrior
    choice: CovarianceChoice

    def effect(
        self,
        count: int,
        independent: float,
        error: np.ndarray,
        shift: np.ndarray,
        target: np.ndarray,
        scale: np.ndarray,
        residuals: np.ndarray,
        logs: np.ndarray,
        failed: np.ndarray,
        *,
        known: bool,
    ) -> SiteEffect:
        """Returns the effect of a site. Failed features have no effect of their own and none on the others.

        Args:
          count: number of the site's rows.
          independent: number of independent rows among them.
          error: (F,) sampling variances of the shift, in units of the rows' variances.
          shift: (F,) estimated shift, which is shrunk here.
          target: (F,) mean that the average scanner would have given these rows.
          scale: (F,) deviations over the average scanner's, already shrunk.
          residuals: (count, F) residuals divided by the scale, with mean 0.
          logs: (F,) estimated log variances along the principal directions, which are shrunk here.
          failed: (F,) bool.
          known: whether the priors were estimated from this site too.
        """
        scale = np.where(failed, 1.0, scale)
        noise = np.sqrt(np.outer(error, error)) * self.whitening.covariance * np.outer(scale, scale)
        shrink = self.shift_prior.shrink if known else self.shift_prior.shrink_jointly
        shift = np.where(failed, 0.0, shrink(np.where(failed, 0.0, shift), noise))
        turn = np.eye(len(shift))
        if self.choice.any and independent >= 2 and not failed.all():
            turn[np.ix_(~failed, ~failed)] = self._turn(independent, residuals, logs, failed)
        return SiteEffect(count, target + shift, target, scale, turn / scale[:, None], failed)

    def _turn(self, independent: float, residuals: np.ndarray, logs: np.ndarray, failed: np.ndarray) -> np.ndarray:
        """Returns the correction of the covariance of the features that did not fail."""
        if failed.any():  # the principal directions of the others are not those of the prior
            logs = np.zeros(int((~failed).sum()))
        elif self.choice.directions:
            logs = self.direction_prior.shrink(logs, independent)
        else:
            logs = np.zeros_like(logs)
        whitening = self.whitening.take(~failed)
        return whitening.transport(residuals[:, ~failed], independent, self.choice.prior_rows, logs)
