"""Provides the pooling of a table as a scikit-learn transformer. It can harmonise features in their own units.

pooling = EquivariantPooling().fit(X, y, site=site, covariates=age)
phi = pooling.transform(new_X)                  # needs neither site nor age nor target
harmonised = pooling.harmonise(new_X, site=new_site)
"""

import pathlib
import warnings
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted, validate_data

from eqpool.config import RunConfig
from eqpool.config.check import plain
from eqpool.data.cohort import CovariateScaling
from eqpool.data.shape import DataShape
from eqpool.data.splits import assign_splits
from eqpool.data.tables.arrays import CovariateCoding, LabelWarning, as_features, as_names, as_nuisances, reordered
from eqpool.data.tables.calibration import SiteCalibration
from eqpool.data.tables.coding import LARGEST_NUMBER, UNKNOWN, code_labels
from eqpool.data.tables.scaling import ColumnScaling, pooled_change
from eqpool.data.tables.targets import TargetCoding
from eqpool.engine.compilation import standard_promotion
from eqpool.engine.session import Session, TrainingData
from eqpool.errors import InputError
from eqpool.estimator.archive import read_estimator, write_estimator
from eqpool.estimator.design import DesignWarning, examine_fit
from eqpool.estimator.parameters import Parameters
from eqpool.methods.networks import train_networks

__all__ = ["DesignWarning", "EquivariantPooling", "LabelWarning", "UnseenSiteWarning"]


class UnseenSiteWarning(UserWarning):
    """Warning that rows come from a site that was not calibrated."""


class EquivariantPooling(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """A transformer that pools features of several sites into a latent that is invariant to the site.

    The latent rotates with the covariates. Fitting has three steps, which all use the rows given to `fit`. The site
    calibration maps every site's features onto those of the average scanner: their mean and, if `prior_rows` is
    finite, their covariance (`eqpool.data.tables.calibration`). Stage one learns the equivariant latent, and stage two
    learns the invariant Phi (Lokhande et al. 2022). `transform` returns Phi, (N, latent_dim) on the unit sphere.

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
      calibrate_sites: whether to calibrate the sites. False leaves every site's features unchanged.
      prior_rows: number of rows without a scanner effect that each site's covariance is averaged with. Infinity
        corrects means alone. None means 1.2 per feature.
      target_type: "auto", "classes" or "number".
      class_weights: "equal", or "balanced", which gives every class the same total weight.
      validation_fraction: fraction of the subjects (rows) that is held out to choose each stage's epoch.
      random_state: seed of the initial weights, the order of the rows and the validation rows.
      keep_sign: whether to set negative harmonised values to 0 in features without a negative value in `fit`. If False,
        positive features with a skewed distribution may become negative.

    Every parameter may be given as a number, a string or an array of NumPy.

    Attributes:
      sites_: sorted names of the sites in `fit`.
      covariate_names_: names of the covariates, categories as `sex=M`. Empty without covariates.
      nuisance_names_: names of the nuisances. Empty without nuisances.
      n_features_in_, feature_names_in_: number and names of the features of X. Names exist only if X was a frame.
      unseen_sites_: names of the unknown sites in the last call that was given new rows, such as `transform`.
      findings_: findings of the design check in `fit`, as dicts in the format of `eqpool.preflight`.
      clipped_: (F,) counts of the values that the last `harmonise` or `inverse_transform` set to 0.
    """

    calibration_: SiteCalibration | None
    _columns: tuple[str, ...] | None

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
        calibrate_sites: bool = True,
        prior_rows: float | None = None,
        target_type: str = "auto",
        class_weights: str = "equal",
        validation_fraction: float = 0.1,
        random_state: Any = 0,
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
        self.target_type = target_type
        self.class_weights = class_weights
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.keep_sign = keep_sign

    def fit(
        self, X: Any, y: Any = None, *, site: Any = None, covariates: Any = None, nuisances: Any = None
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

        Raises:
          InputError: an argument is invalid. The one-line message names the argument, row or column, the value found
            and the value expected. The design check of `eqpool.preflight` raises it too, for example if the site
            determines a covariate.

        Warns:
          DesignWarning: for each warning of the design check.
        """
        parameters = Parameters.check(self.get_params(deep=False))
        X = self._features(X, reset=True)
        count = len(X)
        names = np.full(count, UNKNOWN) if site is None else as_names(site, count, "site")
        covariates = np.zeros((count, 0)) if covariates is None else covariates
        self.covariates_ = CovariateCoding.fit(covariates, count)
        values = self.covariates_.apply(covariates, count)
        parameters.check_covariates(max(values.shape[1], 1))
        self.target_ = TargetCoding.fit(y, parameters.target_type)
        target, known = self.target_.encode(y, count)
        nuisance, self.nuisance_names_, levels = as_nuisances(nuisances, count)
        self.findings_ = examine_fit(
            self._labelled(X), None if site is None else names, values, self.covariates_.names, self.target_, y,
            nuisance, self.nuisance_names_,
        )  # fmt: skip
        inputs = self._fit_scaling(X)
        self._fit_calibration(parameters, inputs, names, values, self.target_.columns(target, known))
        # tau needs a covariate. A constant one makes it the same rotation for all rows.
        values = values if values.shape[1] else np.zeros((count, 1))
        self.covariate_scaling_ = CovariateScaling.fit(values)
        columns = {
            "site": code_labels(names, self.sites_)[0],
            "covariate": self.covariate_scaling_.apply(values),
            "target": target,
            "target_known": known,
        } | ({} if nuisance is None else {"nuisance": nuisance})
        train, validation = self._split(parameters, names, target)
        shape = DataShape(
            X.shape[1:], values.shape[1], max(len(self.sites_), 1), self.target_.num_classes, tuple(map(len, levels))
        )
        data = TrainingData(self._calibrated(inputs, names), columns, train, validation)
        with standard_promotion():
            networks, _ = train_networks(Session.start(parameters.to_config()), shape, data)
        self.pooling_ = networks.on_host()
        self.parameters_ = parameters
        self._n_features_out = parameters.latent_dim
        self.unseen_sites_: tuple[str, ...] = ()
        return self

    @property
    def covariate_names_(self) -> tuple[str, ...]:
        """Returns the names of the covariates, categories as `sex=M`."""
        return self.covariates_.names

    def fit_transform(
        self, X: Any, y: Any = None, *, site: Any = None, covariates: Any = None, nuisances: Any = None
    ) -> np.ndarray:
        """Fits the estimator and returns Phi of the same rows, by `transform` with the same sites."""
        return self.fit(X, y, site=site, covariates=covariates, nuisances=nuisances).transform(X, site)

    def transform(self, X: Any, site: Any = None) -> np.ndarray:
        """Returns Phi, (N, latent_dim) float32.

        Args:
          X: (N, F) features, or a frame with the columns of `fit` in any order.
          site: (N,) names. Rows without a site, or of a site that was not calibrated, are treated as rows of the most
            similar site. A warning names the sites that were not calibrated.
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

        If `fit` had no target, the values come from an untrained head and have no meaning.
        """
        check_is_fitted(self)
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

    def harmonise(self, X: Any, site: Any = None) -> Any:
        """Returns (N, F) harmonised features in their own units, as expected from the average scanner.

        A harmonised feature is the feature plus the change that calibration and pooling make to it
        (`eqpool.data.tables.scaling.pooled_change`). `python -m eqpool.transform` computes the same. A missing value
        becomes the mean, and constant features do not change. A frame is returned for a frame.
        """
        check_is_fitted(self)
        features, inputs = self._prepared(X, site)
        outputs = self.pooling_.apply(inputs)
        decoded, pooled = (self.pooling_.decode(outputs[name]) for name in ("latent", "pooled_latent"))
        change = pooled_change(self.scaling_.apply(features), inputs, decoded, pooled)
        known = np.where(np.isfinite(features), features, self.scaling_.mean)
        return self._as_given(self.scaling_.with_change(known, change), X)

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Decodes (N, latent_dim) Phi alone to (N, F) features in their own units, D(Psi(Phi)).

        `harmonise` starts from the features themselves and therefore preserves variation that Phi cannot represent.
        """
        check_is_fitted(self)
        phi = check_array(X)
        if phi.shape[1] != self._n_features_out:
            raise InputError(f"X has {phi.shape[1]} columns, expected the {self._n_features_out} of Phi")
        return self._as_given(self.scaling_.mean + self.scaling_.deviation * self.pooling_.decode_phi(phi), None)

    def calibrate(self, X: Any, site: Any, covariates: Any = None, y: Any = None) -> "EquivariantPooling":
        """Learns the scanner effect of one new site from a few of its rows. The networks do not change.

        Args:
          X: (N, F) features of the site's controls, preferably ten or more. One row is enough.
          site: name of the site, or (N,) copies of it.
          covariates: covariates in the form that `fit` accepts, required if `fit` had them. Without them, a difference
            in age would be mistaken for a scanner effect.
          y: (N,) targets of these rows. Without it, every row is given the mean target of the training rows.
        """
        check_is_fitted(self)
        X = self._features(X, reset=False)
        names = as_names([site] * len(X) if np.ndim(site) == 0 else site, len(X), "site")
        _, found = code_labels(names)
        if len(found) != 1 or (names == UNKNOWN).any():
            raise InputError(
                f"site: {', '.join(found) or 'unknown'}, expected the one name of the new site in each row"
            )
        if self.calibration_ is None:
            raise InputError("calibrate: fit learnt no scanner effects, expected calibrate_sites=True and known sites")
        if covariates is None and self.covariate_names_:
            raise InputError(f"covariates: None, expected {', '.join(self.covariate_names_)} as in fit")
        values = self.covariates_.apply(np.zeros((len(X), 0)) if covariates is None else covariates, len(X))
        target = None if y is None else self.target_.columns(*self.target_.encode(y, len(X)))
        self.calibration_ = self.calibration_.with_site(found[0], self.scaling_.apply(X), values, target)
        return self

    def save(self, path: str | pathlib.Path) -> None:
        """Writes the fitted estimator to one .npz file of plain arrays and JSON, without pickle."""
        check_is_fitted(self)
        write_estimator(self, pathlib.Path(path))

    @classmethod
    def load(cls, path: str | pathlib.Path) -> "EquivariantPooling":
        """Returns the estimator that `save` wrote.

        Raises:
          InputError: the file does not exist, or `save` did not write it.
        """
        parameters, attributes = read_estimator(pathlib.Path(path))
        self = cls(**parameters)
        for name, value in attributes.items():
            setattr(self, name, value)
        return self

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = []  # all network outputs, including Phi, are float32
        return tags

    @property
    def feature_mean_(self) -> np.ndarray:
        """Returns the (F,) float64 means over the rows of `fit`."""
        return self.scaling_.mean

    @property
    def feature_scale_(self) -> np.ndarray:
        """Returns the (F,) float64 standard deviations over the rows of `fit`, 1 for a constant feature."""
        return self.scaling_.deviation

    def _features(self, X: Any, reset: bool) -> np.ndarray:
        X = as_features(X, None if reset else self._columns)
        if reset:
            self._columns = tuple(map(str, X.columns)) if isinstance(X, pd.DataFrame) else None
        if isinstance(X, pd.DataFrame) and not all(isinstance(name, str) for name in X.columns):
            # scikit-learn supports only names that are text, and silently ignores names that are numbers.
            named = not reset and hasattr(self, "feature_names_in_")
            X = X.set_axis(list(map(str, X.columns)), axis=1) if named else X.to_numpy()
        X = validate_data(
            self, X, reset=reset, dtype=np.float64, ensure_all_finite="allow-nan", ensure_min_samples=2 if reset else 1
        )
        for place in np.flatnonzero((np.abs(np.nan_to_num(X)) > LARGEST_NUMBER).any(axis=0))[:1]:
            raise InputError(
                f"X, column {self._names(X)[place]}: a value above {LARGEST_NUMBER:g} in size, expected less"
            )
        return X

    def _config(self) -> RunConfig:
        """Returns the configuration of a run that trains the same networks."""
        return Parameters.check(self.get_params(deep=False)).to_config()

    def _names(self, X: np.ndarray) -> tuple[str, ...]:
        """Returns the column names of `fit`, or column numbers if `fit` was given an array."""
        return self._columns or tuple(map(str, range(X.shape[1])))

    def _labelled(self, X: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame(X, columns=list(self._names(X)))

    def _fit_scaling(self, X: np.ndarray) -> np.ndarray:
        self.scaling_ = ColumnScaling.fit(X)
        return self.scaling_.apply(X)

    def _fit_calibration(
        self,
        parameters: Parameters,
        inputs: np.ndarray,
        names: np.ndarray,
        covariates: np.ndarray,
        target: np.ndarray | None,
    ) -> None:
        codes, found = code_labels(names)
        self.sites_ = np.array(found, np.str_)
        self.calibration_ = None
        if parameters.calibrate_sites and found:
            self.calibration_ = SiteCalibration.fit(inputs, names, covariates, target, prior_rows=parameters.prior_rows)
        lone = [name for index, name in enumerate(found) if np.sum(codes == index) == 1]
        if lone:
            warnings.warn(
                f"site {', '.join(lone)}: a single row, which is kept; its scanner effect is hardly known",
                UserWarning,
                stacklevel=3,
            )

    def _calibrated(self, inputs: np.ndarray, names: np.ndarray) -> np.ndarray:
        if self.calibration_ is None:
            return inputs.astype(np.float32)
        return self.calibration_.apply(inputs, names)

    def _prepared(self, X: Any, site: Any) -> tuple[np.ndarray, np.ndarray]:
        """Returns new rows in their own units and as calibrated z-scores, and warns of unseen sites."""
        features = self._features(X, reset=False)
        names = np.full(len(features), UNKNOWN) if site is None else as_names(site, len(features), "site")
        seen = {*self.sites_, *(self.calibration_.sites if self.calibration_ else ())}
        self.unseen_sites_ = tuple(sorted({str(name) for name in names} - seen - {UNKNOWN}))
        if self.unseen_sites_:
            warnings.warn(
                f"site {', '.join(self.unseen_sites_)}: not seen in fit; its rows are treated as those of the site "
                "that they look most like. Calibrate it on a few of its controls: calibrate(X, site, covariates)",
                UnseenSiteWarning,
                stacklevel=3,
            )
        return features, self._calibrated(self.scaling_.apply(features), names)

    def _as_given(self, values: np.ndarray, like: Any) -> Any:
        """Clips values if `keep_sign` is set, and returns them as a frame if `like` is a frame."""
        self.clipped_ = np.zeros(values.shape[1], np.int64)
        if plain(self.keep_sign):
            values, self.clipped_ = self.scaling_.clipped(values)
        if isinstance(like, pd.DataFrame):
            columns = like.columns if self._columns is None else reordered(like, self._columns).columns
            return pd.DataFrame(values, index=like.index, columns=columns)
        return values

    def _split(self, parameters: Parameters, names: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = np.arange(len(names))
        levels = target.astype(int) if self.target_.num_classes else np.zeros(len(names), int)
        split = assign_splits(
            rows.astype(str),
            list(zip(names.tolist(), levels.tolist(), strict=True)),
            validation_fraction=parameters.validation_fraction,
            test_fraction=0.0,
            seed=parameters.random_state,
        )
        train, validation = (np.flatnonzero(split == name) for name in ("train", "validation"))
        return train, validation if validation.size else train
