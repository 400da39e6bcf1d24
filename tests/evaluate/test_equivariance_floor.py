import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from eqpool.data.cohort import Cohort, Scaling
from eqpool.evaluate.equivariance_floor import equivariance_floor_metrics, predict_covariate, stretched_error
from eqpool.geometry import so
from eqpool.geometry.planes import invariant_planes, rotations
from eqpool.losses.equivariance import equivariance_error


def readings(count: int, r_squared: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Covariates (count, 1) and predictions of them that a regression with this R^2 would make."""
    random = np.random.default_rng(seed)
    predicted = random.normal(scale=0.2 * np.sqrt(r_squared), size=(count, 1))
    return predicted + random.normal(scale=0.2 * np.sqrt(1 - r_squared), size=(count, 1)), predicted


@pytest.mark.parametrize("r_squared", [0.3, 0.6, 0.9])
def test_the_floor_of_small_rotations_is_one_minus_r_squared(r_squared):
    covariate, predicted = readings(20_000, r_squared)
    error = stretched_error(predicted, covariate, so.generator(4, rotation_range=(0.1,)))
    assert error == pytest.approx(1 - r_squared, abs=0.02)


def test_the_floor_is_the_least_error_of_rotations_by_stretched_predictions():
    covariate, predicted = readings(60, 0.6)
    generators = so.generator(6, rotation_range=(2.0,))
    planes = invariant_planes(generators)

    def error(factor: float) -> float:
        tau = rotations(planes, -factor * jnp.asarray(predicted, jnp.float32))
        return float(equivariance_error(tau, covariate, generator=generators))

    least = min(error(factor) for factor in np.linspace(0.2, 4, 300))
    assert stretched_error(predicted, covariate, generators) == pytest.approx(least, rel=1e-3)


def test_two_covariates_have_a_factor_each():
    random = np.random.default_rng(1)
    covariates = random.uniform(size=(80, 2))
    generators = so.generator(6, rotation_range=(2.0, 1.0))
    assert stretched_error(covariates / (2.0, 0.5), covariates, generators) < 1e-6


def test_predictions_that_do_not_vary_have_no_floor():
    covariate, predicted = readings(20, 0.5)
    assert np.isnan(stretched_error(np.zeros_like(predicted), covariate, so.generator(4, rotation_range=(1.0,))))


def test_trees_read_what_a_line_cannot():
    random = np.random.default_rng(0)
    features = random.normal(size=(400, 3))
    values = np.abs(features[:, 0])
    fitted, held_out = np.arange(300), np.arange(300, 400)
    predicted = predict_covariate(features[fitted], values[fitted], fitted.astype(str), features[held_out], False)
    line = LinearRegression().fit(features[fitted], values[fitted]).predict(features[held_out])
    errors = [np.mean(np.abs(one - values[held_out])) for one in (predicted, line)]
    assert errors[0] < 0.3 * errors[1]


def test_the_floor_of_a_table_follows_the_noise_of_its_columns():
    floors = []
    for noise in (0.1, 1.0):
        random = np.random.default_rng(0)
        age = random.uniform(60, 90, size=(300, 1))
        inputs = (age - 75) / 9 + noise * random.normal(size=(300, 4))
        cohort = Cohort(
            name="made_up", simulated=True, participant_id=np.arange(300).astype(str),
            inputs=inputs.astype(np.float32), site=np.arange(300) % 2, site_names=("a", "b"), covariates=age,
            covariate_names=("age",), target=np.zeros(300, np.int32), target_name="dx", target_classes=("AD", "CN"),
            split=np.where(np.arange(300) % 3 == 0, "test", "train"),
        )  # fmt: skip
        metrics = equivariance_floor_metrics(cohort, Scaling.fit(cohort), so.generator(4, rotation_range=(0.1,)), 0)
        assert metrics["equivariance_error_floor"] == pytest.approx(1 - metrics["age_r_squared_of_inputs"], abs=0.02)
        floors.append(metrics["equivariance_error_floor"])
    # Noise of four columns with deviation s leaves 1 - R^2 = (s^2 / 4) / (var + s^2 / 4) of the age's variance.
    variance = (30 / 9) ** 2 / 12
    np.testing.assert_allclose(floors, [s2 / (variance + s2) for s2 in (0.0025, 0.25)], rtol=0.35)
