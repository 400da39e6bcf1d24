"""Provides the pooling of a table as a scikit-learn transformer. It can harmonise features in their own units."""

from typing import Any

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted

from eqpool.data.tables.scaling import pooled_change
from eqpool.errors import InputError
from eqpool.estimator.archive import Archive, read_estimator, write_estimator
from eqpool.estimator.design import examine_fit
from eqpool.estimator.fit_rows import FitRows
from eqpool.estimator.parameters import Parameters, method_of
from eqpool.estimator.site_table import SiteTable
from eqpool.estimator.training import decode_twice, train_on_rows


class EquivariantPooling(ClassNamePrefixFeaturesOutMixin, TransformerMixin, SiteTable):
    """A transformer that pools features of several sites into a latent that is invariant to the site.

    The latent rotates with the covariates. Fitting has three steps, which all use the rows given to `fit`. The site
    calibration maps every site's features onto those of the average scanner: their location, their scale and, as far as
    held-out rows support it, their covariance (`eqpool.data.tables.calibration`). Stage one learns the equivariant
    latent, and stage two learns the invariant Phi (Lokhande et al. 2022). `transform` returns Phi, (N, latent_dim) on
    the unit sphere. `SiteCalibrator` is the calibration alone.

    Labels and numbers are read by the rules of `eqpool.data.tables.coding`, which also apply to tables: 1, 1.0 and "1"
    are one site, and text such as "61.5" is a number. A categorical column of pandas always holds categories.

    Args:
      latent_dim: dimension n of the latent. Each covariate needs at least two dimensions.
      hidden_units: width of the networks' hidden layers.
      rotation_range: angle in radians by which tau rotates over a covariate's training range, a number or one number
        per covariate.
      tau: "covariate", which depends on the covariates alone, or "free", which is any rotation (see
        `config.ModelConfig`).
      epochs: number of epochs of each stage.
      batch_size: rows of a training step. Stage two uses four times as many. A remainder is spread over the steps.
      learning_rate: learning rate of Adam.
      equivariance_weight, reconstruction_weight, prediction_weight, mmd_weight: weights of the losses.
      mmd_match: distribution that stage two matches across sites: "covariate_free" for tau^-1 Phi, "phi" for Phi, or
        "conditional" for Phi at similar covariates.
      calibrate_sites: "location"; "location_scale"; "covariance", which adds the sites' covariances with `prior_rows`;
        or "auto", which adds them as far as held-out rows support it. True means "auto". "none" or False leaves every
        site's features unchanged.
      prior_rows: number of rows without a scanner effect that each site's covariance is averaged with. Infinity leaves
        the covariance alone. None chooses it ("auto") or means 1.2 per feature ("covariance").
      reference: site whose rows `harmonise` returns unchanged, and whose look the other sites take. None for the
        average scanner.
      target_type: "auto", "classes" or "number".
      class_weights: "equal", or "balanced", which gives every class the same total weight.
      validation_fraction: fraction of the subjects (rows) that is held out to choose each stage's epoch.
      random_state: seed of the initial weights, the order of the rows and the validation rows.
      erase_site: whether the linear effect of the site on tau^-1 l, given covariates and target, is erased in closed
        form before stage two learns Phi. Each site but one takes a dimension of the latent.
      change_scale: factor from 0 to 1 on the change that the networks make to harmonised features, beside the site
        calibration. "auto" chooses it on held-out rows, so that a change that does not pay is scaled down, to 0 if
        need be.
      keep_sign: whether to set negative harmonised values to 0 in features without a negative value in `fit`. If False,
        positive features with a skewed distribution may become negative.

    Every parameter may be given as a number, a string or an array of NumPy.

    Attributes:
      sites_, covariate_names_, n_features_in_, feature_names_in_, calibration_, unseen_sites_, clipped_: as in
        `SiteTable`.
      nuisance_names_: names of the nuisances. Empty without nuisances.
      findings_: findings of the design check in `fit`, as dicts in the format of `eqpool.preflight`.
      change_scale_: the factor on the networks' change.
    """

    _archive = Archive(write_estimator, read_estimator)

    def __init__(
        self,
        latent_dim: int = 30,
        *,
        hidden_units: int = 64,
        rotation_range: float | tuple[float, ...] = 3.0,
        tau: str = "covariate",
        epochs: int = 150,
        batch_size: int = 128,
        learning_rate: float = 2e-3,
        equivariance_weight: float = 0.1,
        reconstruction_weight: float = 1.0,
        prediction_weight: float = 0.3,
        mmd_weight: float = 0.5,
        mmd_match: str = "covariate_free",
        calibrate_sites: bool | str = "auto",
        prior_rows: float | None = None,
        reference: str | None = None,
        target_type: str = "auto",
        class_weights: str = "equal",
        validation_fraction: float = 0.1,
        random_state: Any = 0,
        erase_site: bool = False,
        change_scale: float | str = "auto",
        keep_sign: bool = False,
    ):
        self.latent_dim = latent_dim
        self.hidden_units = hidden_units
        self.rotation_range = rotation_range
        self.tau = tau
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.equivariance_weight = equivariance_weight
        self.reconstruction_weight = reconstruction_weight
        self.prediction_weight = prediction_weight
        self.mmd_weight = mmd_weight
        self.mmd_match = mmd_match
        self.calibrate_sites = calibrate_sites
        self.prior_rows = prior_rows
        self.reference = reference
        self.target_type = target_type
        self.class_weights = class_weights
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.erase_site = erase_site
        self.change_scale = change_scale
        self.keep_sign = keep_sign

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        site: Any = None,
        covariates: Any = None,
        nuisances: Any = None,
        fit_on: Any = None,
        subject: Any = None,
    ) -> "EquivariantPooling":
        """Fits the site calibration and trains both stages.

        Args:
          X: (N, F) features, an array or a frame. A missing value becomes the feature's mean.
          y: (N,) classes or numbers for Phi to predict, missing where unknown, or None without a target.
          site: (N,) names, missing where unknown. Without it, nothing is pooled, and all rows count as one scanner's.
          covariates: (N, C) or (N,) numbers or text, or a frame. Columns of text are categories. Phi rotates with the
            covariates.
          nuisances: (N,) labels or a frame of them, such as field strength, missing where unknown. Phi is trained to be
            invariant to them as well, as far as `mmd_match` goes. Invariance to a nuisance that is associated with the
            target removes part of the target.
          fit_on: (N,) True for the rows that the site calibration learns from, such as controls. It is applied to all.
            Sites without such a row are treated as unknown. None for all rows.
          subject: (N,) labels of persons, if some have several rows. Their rows share a random effect in each feature,
            so that people scanned at two sites sharpen the calibration and repeated rows do not count as independent. A
            person is either trained or validated on. New rows of a known person need no label.

        Raises:
          InputError: an argument is invalid. The one-line message names the argument, row or column, the value found
            and the value expected. The design check of `eqpool.preflight` raises it too, for example if the site
            determines a covariate.

        Warns:
          DesignWarning: for each warning of the design check.
        """
        parameters = Parameters.check(self.get_params(deep=False))
        X = self._features(X, reset=True)
        rows = FitRows.read(
            len(X), y, site, covariates, target_type=parameters.target_type, nuisances=nuisances, subject=subject,
            fit_on=fit_on,
        )  # fmt: skip
        parameters.check_covariates(max(rows.covariates.shape[1], 1))
        self.nuisance_names_, self.findings_ = rows.nuisance_names, examine_fit(self._labelled(X), rows)
        before = self._fit_table(
            X, rows, method_of(parameters.calibrate_sites), parameters.prior_rows, parameters.reference
        )
        inputs, calibration = self._calibrated(before, rows.site), self.calibration_
        unchanged = calibration.unchanged(rows.site) if calibration else np.zeros(inputs.shape, bool)
        trained = train_on_rows(parameters, rows, inputs, unchanged)
        self.pooling_, self.covariate_scaling_, self.change_scale_ = trained
        self.parameters_ = parameters
        self._n_features_out = parameters.latent_dim
        return self

    def fit_transform(self, X: Any, y: Any = None, *, site: Any = None, **options: Any) -> np.ndarray:
        """Fits the estimator and returns Phi of the same rows, by `transform` with the same sites.

        The options are those of `fit`.
        """
        return self.fit(X, y, site=site, **options).transform(X, site)

    def transform(self, X: Any, site: Any = None) -> np.ndarray:
        """Returns Phi, (N, latent_dim) float32.

        Args:
          X: (N, F) features, or a frame with the columns of `fit` in any order.
          site: (N,) names. Rows without a site, or of a site that was not calibrated, are corrected as far as they look
            like a known site. A warning names the sites that were not calibrated.
        """
        check_is_fitted(self)
        return self.pooling_.apply(self._prepared(X, site)[1])["phi"]

    def embed(self, X: Any, site: Any = None) -> dict[str, np.ndarray]:
        """Returns `latent` l, `covariate_free` tau^-1 Phi and `phi`, (N, latent_dim) float32 each.

        The arguments are those of `transform`.
        """
        check_is_fitted(self)
        outputs = self.pooling_.apply(self._prepared(X, site)[1])
        return {name: outputs[name] for name in ("latent", "covariate_free", "phi")}

    def predict(self, X: Any, site: Any = None) -> np.ndarray:
        """Returns the (N,) targets predicted from Phi: class labels, or numbers in the target's units.

        Raises:
          InputError: `fit` had no target.
        """
        check_is_fitted(self)
        if self.target_.kind == "none":
            raise InputError("predict: fit had no target, expected fit(X, y, ...)")
        prediction = self.pooling_.apply(self._prepared(X, site)[1])["prediction"]
        return self.target_.decode(prediction)

    def score(self, X: Any, y: Any = None, site: Any = None) -> float:
        """Returns the accuracy of predicted classes or the R^2 of predicted numbers.

        Without y, the score is the R^2 of the decoded features.
        """
        check_is_fitted(self)
        if y is None:
            inputs = self._prepared(X, site)[1]
            decoded = self.pooling_.decode(self.pooling_.apply(inputs)["pooled_latent"])
            error = np.mean((decoded - inputs) ** 2)
            return float(1 - error / max(float(np.mean((inputs - inputs.mean(axis=0)) ** 2)), 1e-12))
        if self.target_.kind == "none":
            raise InputError("y: given to score, but fit had none; expected None")
        return self.target_.score(y, self.predict(X, site))

    def harmonise(self, X: Any, site: Any = None, covariates: Any = None) -> Any:
        """Returns (N, F) harmonised features in their own units, as expected from the average or the reference scanner.

        A harmonised feature is the feature plus the change that calibration and pooling make to it
        (`eqpool.data.tables.scaling.pooled_change`). `python -m eqpool.transform` computes the same. A missing value
        becomes the mean. Constant and failed values, and rows of the reference, do not change. A frame is returned for
        a frame.

        Args:
          X, site: as in `transform`.
          covariates: covariates in the form that `fit` accepts, which show more clearly of which site a row without a
            site may be. Leave them out where harmonised features are to predict them. None if unknown.

        Warns:
          FailedColumnWarning: a column has failed values.
        """
        check_is_fitted(self)
        features, names = self._new_rows(X, site)
        values = self._encoded(covariates, len(features))
        before = self.scaling_.apply(features).astype(np.float32)  # as the encoded features of a run
        inputs = self._calibrated(before, names, values)
        change = pooled_change(before, inputs, *decode_twice(self.pooling_, inputs), self.change_scale_)
        return self._with_change(features, names, change, X)

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Decodes (N, latent_dim) Phi alone to (N, F) features in their own units, D(Psi(Phi)).

        `harmonise` starts from the features themselves and therefore preserves variation that Phi cannot represent.
        """
        check_is_fitted(self)
        phi = check_array(X)
        if phi.shape[1] != self._n_features_out:
            raise InputError(f"X has {phi.shape[1]} columns, expected the {self._n_features_out} of Phi")
        return self._as_given(self.scaling_.mean + self.scaling_.deviation * self.pooling_.decode_phi(phi), None)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # all network outputs, including Phi, are float32
        return tags

    def _prepared(self, X: Any, site: Any) -> tuple[np.ndarray, np.ndarray]:
        """Returns new rows in their own units and as calibrated z-scores."""
        features, names = self._new_rows(X, site)
        return features, self._calibrated(self.scaling_.apply(features).astype(np.float32), names)
