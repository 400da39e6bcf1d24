"""Pooling a table as a scikit-learn transformer: fit, transform, harmonised features back in their own units.

pooling = EquivariantPooling().fit(X, y, site=site, covariates=age)
phi = pooling.transform(new_X)                  # needs neither site nor age nor target
harmonised = pooling.harmonise(new_X, site=new_site)
"""

import dataclasses
import json
import pathlib
import warnings
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from eqpool.checked_config import from_config_dict
from eqpool.config import RunConfig, default_config
from eqpool.data.arrays import UNKNOWN, TargetCoding, as_covariates, as_names, as_nuisances, check_numeric, reordered
from eqpool.data.calibration import SiteCalibration
from eqpool.data.cohort import CovariateScaling
from eqpool.data.splits import assign_splits
from eqpool.errors import InputError
from eqpool.files import read_arrays, write_arrays
from eqpool.train.table_pooling import TablePooling, TableShape, fit_table

_FORMAT = 1


class UnseenSiteWarning(UserWarning):
    """Rows come from a site that the calibration does not know."""


class EquivariantPooling(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Features of several sites to a latent that turns with the covariates and does not tell the site.

    Fitting has three steps, all on the rows given to `fit`: every site's features are moved, and with `prior_rows`
    finite turned, onto those of the average scanner (`eqpool.data.calibration`); stage one learns the equivariant
    latent; stage two the invariant Phi (paper A). What `transform` returns is Phi, (N, latent_dim) on the unit sphere.

    Args:
      latent_dim: n; a covariate needs two dimensions at least.
      hidden_units: of the networks' hidden layers.
      rotation_range: radians that tau turns by over a covariate's training range; a number, or one a covariate.
      tau: "covariate" carries the covariates alone, "free" is any rotation (see `config.ModelConfig`).
      epochs: of stage one; stage two has as many.
      batch_size: rows of a training step; stage two takes four times as many. A remainder is spread over the steps.
      learning_rate: of Adam.
      equivariance_weight, reconstruction_weight, prediction_weight, mmd_weight: of the losses.
      mmd_match: what stage two matches across sites: "covariate_free" tau^-1 Phi, "phi", or "conditional" Phi where
        covariates agree.
      calibrate_sites: False leaves every site's features as they are.
      prior_rows: how many rows without a scanner effect a site's covariance is averaged with; infinity corrects means
        alone, None takes 1.2 a feature.
      target_type: "auto", "classes" or "number".
      class_weights: "equal", or "balanced" for each class to weigh the same.
      validation_fraction: of the subjects (rows), by which each stage's epoch is chosen.
      random_state: of initial weights, order and validation rows.

    Attributes:
      sites_: names of the sites that are calibrated, sorted.
      covariate_names_: of the covariates, categories as `sex=M`; empty without any.
      nuisance_names_: of the nuisances; empty without any.
      n_features_in_, feature_names_in_: of X; names only where X was a frame.
      unseen_sites_: names that the last `transform` did not know.
    """

    calibration_: SiteCalibration | None

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

    def fit(
        self, X: Any, y: Any = None, *, site: Any = None, covariates: Any = None, nuisances: Any = None
    ) -> "EquivariantPooling":
        """Learns calibration and both stages.

        Args:
          X: (N, F) features, an array or a frame; NaN is missing and becomes the feature's mean.
          y: (N,) classes or numbers that Phi is to predict; None or NaN where unknown; or None without a target.
          site: (N,) names; None or NaN where unknown. Without it nothing is pooled: all rows count as one scanner's.
          covariates: (N, C) or (N,) numbers, or a frame whose text columns are categories; Phi turns with them.
          nuisances: (N,) labels or a frame of them, such as field strength, that Phi is not to tell either, as far as
            `mmd_match` goes; None or NaN where unknown. One that goes along with the target takes of it.

        Raises:
          InputError: one line naming the argument, row or column, what was found and what was expected.
        """
        X = self._features(X, reset=True)
        count = len(X)
        names = np.full(count, UNKNOWN) if site is None else as_names(site, count, "site")
        values, self.covariate_names_ = as_covariates(np.zeros((count, 0)) if covariates is None else covariates, count)
        self.target_ = TargetCoding.fit(y, self.target_type)
        target, known = self.target_.encode(y, count)
        inputs = self._fit_scaling(X)
        self._fit_calibration(inputs, names, values, self.target_.columns(target, known))
        # Without a covariate tau has none to carry: a constant one makes it turn nothing.
        values = values if values.shape[1] else np.zeros((count, 1))
        self.covariate_scaling_ = CovariateScaling.fit(values)
        columns = {
            "inputs": self._calibrated(inputs, names),
            "site": np.where(names == UNKNOWN, -1, np.searchsorted(self.sites_, names)).astype(np.int32),
            "covariate": self.covariate_scaling_.apply(values),
            "target": target,
            "target_known": known,
        }
        train, validation = self._split(names, target)
        levels: tuple[tuple[str, ...], ...] = ()
        self.nuisance_names_: tuple[str, ...] = ()
        if nuisances is not None:
            columns["nuisance"], self.nuisance_names_, levels = as_nuisances(nuisances, count)
        shape = TableShape(
            X.shape[1], values.shape[1], max(len(self.sites_), 1), self.target_.num_classes, tuple(map(len, levels))
        )
        self.pooling_ = fit_table(self._config(), shape, columns, train, validation)
        self._n_features_out = self.latent_dim
        self.unseen_sites_: tuple[str, ...] = ()
        return self

    def transform(self, X: Any, site: Any = None) -> np.ndarray:
        """Phi, (N, latent_dim) float32.

        Args:
          X: (N, F), or a frame with the columns of `fit` in any order.
          site: (N,) names. Rows without one, and rows of a site that was not calibrated (a warning says which), are
            treated as those of the site that they look most like.
        """
        check_is_fitted(self)
        return self.pooling_.apply(self._prepared(X, site))["phi"]

    def embed(self, X: Any, site: Any = None) -> dict[str, np.ndarray]:
        """`latent` l, `covariate_free` tau^-1 Phi and `phi`, (N, latent_dim) float32 each; arguments as `transform`."""
        check_is_fitted(self)
        outputs = self.pooling_.apply(self._prepared(X, site))
        return {name: outputs[name] for name in ("latent", "covariate_free", "phi")}

    def predict(self, X: Any, site: Any = None) -> np.ndarray:
        """(N,) the target told from Phi: class labels, or numbers in the target's units; NaN without a target."""
        check_is_fitted(self)
        prediction = self.pooling_.apply(self._prepared(X, site))["prediction"]
        return self.target_.decode(prediction)

    def score(self, X: Any, y: Any = None, site: Any = None) -> float:
        """With y: accuracy of the target told from Phi, or R^2 of a number. Without: R^2 of the decoded features."""
        check_is_fitted(self)
        if y is None:
            inputs = self._prepared(X, site)
            error = np.mean((self.pooling_.apply(inputs, decode=True)["pooled"] - inputs) ** 2)
            return float(1 - error / max(float(np.mean((inputs - inputs.mean(axis=0)) ** 2)), 1e-12))
        if self.target_.kind == "none":
            raise InputError("y: given to score, but fit had none; expected None")
        predicted = self.predict(X, site)
        _, known = self.target_.encode(y, len(predicted))
        truth, predicted = np.asarray(y)[known > 0], predicted[known > 0]
        if self.target_.kind == "classes":
            return float(np.mean(truth == predicted))
        truth = truth.astype(np.float64)
        return float(1 - np.sum((truth - predicted) ** 2) / np.sum((truth - truth.mean()) ** 2))

    def harmonise(self, X: Any, site: Any = None) -> Any:
        """(N, F) features in their own units, as the average scanner would have shown them, a frame for a frame.

        Each is the calibrated feature plus the change that pooling makes to what the decoder tells of it, D(Psi(Phi)) -
        D(l), so that what the latent has no room for is kept. A missing value becomes the mean.
        """
        check_is_fitted(self)
        inputs = self._prepared(X, site)
        outputs = self.pooling_.apply(inputs, decode=True)
        return self._in_units(inputs + outputs["pooled"] - outputs["decoded"], X)

    def inverse_transform(self, X: Any) -> np.ndarray:
        """(N, F) features in their own units, D(Psi(Phi)), from (N, latent_dim) Phi: what Phi alone tells of them.

        `harmonise` starts from the features themselves and keeps what Phi has no room for.
        """
        check_is_fitted(self)
        phi = check_array(X)
        if phi.shape[1] != self.latent_dim:
            raise InputError(f"X has {phi.shape[1]} columns, expected the {self.latent_dim} of Phi")
        return self._in_units(self.pooling_.decode(phi), None)

    def calibrate(self, X: Any, site: Any, covariates: Any = None, y: Any = None) -> "EquivariantPooling":
        """Learns the scanner effect of one new site from a few of its rows; the networks stay as they are.

        Args:
          X: (N, F) features of that site's controls, ten or more where possible; one is enough.
          site: its name, or (N,) times the same.
          covariates: as in `fit`, and required where `fit` had them: older controls are not a scanner effect.
          y: (N,) their target; without it they are taken to be as the training rows are on average.
        """
        check_is_fitted(self)
        X = self._features(X, reset=False)
        names = np.unique(as_names([site] * len(X) if np.ndim(site) == 0 else site, len(X), "site"))
        if len(names) != 1 or names[0] == UNKNOWN:
            raise InputError(f"site: {', '.join(names) or 'unknown'}, expected the one name of the new site")
        if not self.calibrate_sites or self.calibration_ is None:
            raise InputError("calibrate: fit learnt no scanner effects, expected calibrate_sites=True and known sites")
        if covariates is None and self.covariate_names_:
            raise InputError(f"covariates: None, expected {', '.join(self.covariate_names_)} as in fit")
        values, _ = as_covariates(
            np.zeros((len(X), 0)) if covariates is None else covariates, len(X), self.covariate_names_
        )
        target = None if y is None else self.target_.columns(*self.target_.encode(y, len(X)))
        self.calibration_ = self.calibration_.with_site(str(names[0]), self._scaled_inputs(X), values, target)
        return self

    def save(self, path: str | pathlib.Path) -> None:
        """Writes the fitted estimator to one .npz file of plain arrays and JSON; no pickle."""
        check_is_fitted(self)
        header = {
            "format": _FORMAT,
            "parameters": self.get_params() | {"random_state": self._seed()},
            "covariate_names": self.covariate_names_,
            "nuisance_names": self.nuisance_names_,
            "target": {"kind": self.target_.kind, "mean": self.target_.mean, "deviation": self.target_.deviation},
            "shape": dataclasses.asdict(self.pooling_.shape),
            "feature_names": list(getattr(self, "feature_names_in_", [])),
        }
        arrays = {
            "classes": self.target_.classes,
            "sites": self.sites_,
            "feature_mean": self.feature_mean_,
            "feature_scale": self.feature_scale_,
            "covariate_minimum": self.covariate_scaling_.minimum,
            "covariate_maximum": self.covariate_scaling_.maximum,
        }
        arrays |= {} if self.calibration_ is None else _prefixed("calibration", self.calibration_.to_arrays())
        arrays |= _prefixed("stage_one", _flat(self.pooling_.stage_one))
        arrays |= _prefixed("stage_two", _flat(self.pooling_.stage_two))
        write_arrays(pathlib.Path(path), arrays | {"header": np.array(json.dumps(header))})

    @classmethod
    def load(cls, path: str | pathlib.Path) -> "EquivariantPooling":
        """The estimator that `save` wrote.

        Raises:
          InputError: no such file, or one that `save` did not write.
        """
        arrays = read_arrays(pathlib.Path(path))
        try:
            header = json.loads(str(arrays.pop("header")))
        except (ValueError, KeyError) as error:
            raise InputError(f"{path}: expected a file that EquivariantPooling.save wrote ({error})") from None
        if header["format"] != _FORMAT:
            raise InputError(
                f"{path}: format {header['format']}, expected {_FORMAT}; another version of eqpool wrote it"
            )
        parameters = header["parameters"]
        if isinstance(parameters["rotation_range"], list):
            parameters["rotation_range"] = tuple(parameters["rotation_range"])
        self = cls(**parameters)
        self.covariate_names_ = tuple(header["covariate_names"])
        self.nuisance_names_ = tuple(header.get("nuisance_names", ()))
        self.target_ = TargetCoding(classes=arrays["classes"], **header["target"])
        self.sites_, self.unseen_sites_ = arrays["sites"], ()
        self.feature_mean_, self.feature_scale_ = arrays["feature_mean"], arrays["feature_scale"]
        self.covariate_scaling_ = CovariateScaling(arrays["covariate_minimum"], arrays["covariate_maximum"])
        calibration = _under("calibration", arrays)
        self.calibration_ = SiteCalibration.from_arrays(calibration) if calibration else None
        shape = TableShape(**header["shape"] | {"nuisances": tuple(header["shape"]["nuisances"])})
        first, second = (_nested(_under(stage, arrays)) for stage in ("stage_one", "stage_two"))
        self.pooling_ = TablePooling(self._config(), shape, first, second)
        self.n_features_in_, self._n_features_out = shape.features, self.latent_dim
        if header["feature_names"]:
            self.feature_names_in_ = np.array(header["feature_names"], object)
        return self

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = []  # Phi is float32, as all that the networks compute
        return tags

    def _features(self, X: Any, reset: bool) -> np.ndarray:
        if isinstance(X, pd.DataFrame):
            if not reset and hasattr(self, "feature_names_in_"):
                X = reordered(X, self.feature_names_in_)
            check_numeric(X)
            X = X.apply(pd.to_numeric, errors="coerce")  # what is left is a number, or text such as n/a
        return validate_data(
            self, X, reset=reset, dtype=np.float64, ensure_all_finite="allow-nan", ensure_min_samples=2 if reset else 1
        )

    def _fit_scaling(self, X: np.ndarray) -> np.ndarray:
        known = np.isfinite(X)
        empty = np.flatnonzero(~known.any(axis=0))
        if empty.size:
            name = self.feature_names_in_[empty[0]] if hasattr(self, "feature_names_in_") else empty[0]
            raise InputError(f"X, column {name}: every value is missing, expected some; leave the column out")
        mean = np.nanmean(X, axis=0)
        deviation = np.nanstd(X, axis=0)
        # Rounding alone gives a constant column of large numbers a tiny deviation: dividing by it would make noise.
        self.feature_mean_ = mean
        self.feature_scale_ = np.where(deviation > 1e-12 * np.maximum(1, np.abs(mean)), deviation, 1.0)
        return self._scaled_inputs(X)

    def _scaled_inputs(self, X: np.ndarray) -> np.ndarray:
        return np.nan_to_num((X - self.feature_mean_) / self.feature_scale_, nan=0.0)

    def _fit_calibration(
        self, inputs: np.ndarray, names: np.ndarray, covariates: np.ndarray, target: np.ndarray | None
    ) -> None:
        known = names[names != UNKNOWN]
        self.sites_, counts = np.unique(known, return_counts=True)
        self.calibration_ = None
        if self.calibrate_sites and len(self.sites_):
            self.calibration_ = SiteCalibration.fit(inputs, names, covariates, target, prior_rows=self.prior_rows)
        lone = [str(name) for name in self.sites_[counts == 1]]
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

    def _prepared(self, X: Any, site: Any) -> np.ndarray:
        """Calibrated, standardised inputs of new rows; says which sites were never seen."""
        inputs = self._scaled_inputs(self._features(X, reset=False))
        names = np.full(len(inputs), UNKNOWN) if site is None else as_names(site, len(inputs), "site")
        seen = {*self.sites_, *(self.calibration_.sites if self.calibration_ else ())}
        self.unseen_sites_ = tuple(sorted({str(name) for name in names} - seen - {UNKNOWN}))
        if self.unseen_sites_:
            warnings.warn(
                f"site {', '.join(self.unseen_sites_)}: not seen in fit; its rows are treated as those of the site "
                "that they look most like. Calibrate it on a few of its controls: calibrate(X, site, covariates)",
                UnseenSiteWarning,
                stacklevel=3,
            )
        return self._calibrated(inputs, names)

    def _in_units(self, scaled: np.ndarray, like: Any) -> Any:
        values = scaled.astype(np.float64) * self.feature_scale_ + self.feature_mean_
        if isinstance(like, pd.DataFrame):
            return pd.DataFrame(
                values, index=like.index, columns=list(getattr(self, "feature_names_in_", like.columns))
            )
        return values

    def _split(self, names: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = np.arange(len(names))
        levels = target.astype(int) if self.target_.num_classes else np.zeros(len(names), int)
        strata = list(zip(names.tolist(), levels.tolist(), strict=True))
        split = assign_splits(
            rows.astype(str),
            strata,
            validation_fraction=self.validation_fraction,
            test_fraction=0.0,
            seed=self._seed(),
        )
        train, validation = (np.flatnonzero(split == name) for name in ("train", "validation"))
        return train, validation if validation.size else train

    def _seed(self) -> int:
        if isinstance(self.random_state, int | np.integer):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _config(self) -> RunConfig:
        ranges = self.rotation_range if isinstance(self.rotation_range, tuple | list) else ()
        config = default_config()
        config.seed, config.devices, config.class_weights = self._seed(), 1, self.class_weights
        config.data.participants = "X"  # of a table in memory
        config.model.update(latent_dim=self.latent_dim, hidden_units=self.hidden_units, tau=self.tau)
        config.model.rotation_ranges = ",".join(map(str, ranges))
        if isinstance(self.rotation_range, int | float):
            config.model.rotation_range = float(self.rotation_range)
        config.stage_one.update(
            batch_size=self.batch_size,
            equivariance_weight=float(self.equivariance_weight),
            reconstruction_weight=float(self.reconstruction_weight),
        )
        config.stage_two.update(batch_size=4 * self.batch_size, reconstruction_weight=10.0 * self.reconstruction_weight)
        for stage in (config.stage_one, config.stage_two):
            stage.update(
                epochs=self.epochs,
                learning_rate=float(self.learning_rate),
                decay_every_epochs=max(1, self.epochs // 8),
                checkpoint_every_epochs=max(1, self.epochs),
                mmd_weight=float(self.mmd_weight),
                prediction_weight=float(self.prediction_weight),
                bandwidth="0.1,0.3,1.0",
            )
        return from_config_dict(config)


def _flat(tree: dict, prefix: str = "") -> dict[str, np.ndarray]:
    flat: dict[str, np.ndarray] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}/") if isinstance(value, dict) else {f"{prefix}{name}": np.asarray(value)}
    return flat


def _nested(flat: dict[str, np.ndarray]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *folders, name = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = value
    return tree


def _prefixed(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{prefix}/{name}": value for name, value in arrays.items()}


def _under(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    start = f"{prefix}/"
    return {name.removeprefix(start): value for name, value in arrays.items() if name.startswith(start)}
