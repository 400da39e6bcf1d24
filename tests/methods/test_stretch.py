"""The stretch of tau, fitted on readings of age with known noise, and kept with a run."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqpool.config import default_config
from eqpool.config.check import from_config_dict
from eqpool.data.cohort import Scaling
from eqpool.data.shape import DataShape
from eqpool.engine.compilation import standard_promotion
from eqpool.engine.selected import selected_variables
from eqpool.engine.session import Session, TrainingData
from eqpool.errors import InputError
from eqpool.geometry import so
from eqpool.geometry.planes import invariant_planes, rotations
from eqpool.geometry.stretch import read_angles, stretch_rotations
from eqpool.losses.equivariance import equivariance_error
from eqpool.methods.networks import PoolingNetworks, pooling_stages, train_networks
from eqpool.methods.stretch import fit_stretch
from eqpool.objectives.stage_one import covariate_generators
from eqpool.storage.run_folder import RunFolder
from tests.engine.train_tiny import tiny_cohort, tiny_config

SPEED = 0.5  # radians over the range of ages: small rotations, for which the shares of variance are exact
GENERATORS = so.generator(6, rotation_range=(SPEED,))


def turned_by(reading: np.ndarray) -> np.ndarray:
    return np.asarray(rotations(invariant_planes(GENERATORS), np.float32(-reading[:, None])))


def overfitted_reading(r_squared: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Ages, readings (exact on training rows, regressed to the mean by R^2 on others), and both sets of rows."""
    random = np.random.default_rng(0)
    age = random.uniform(size=3000)
    measured = age + random.normal(size=3000) * np.sqrt((1 - r_squared) / r_squared / 12)
    train, held_out = np.arange(1500), np.arange(1500, 3000)
    reading = np.where(np.arange(3000) < 1500, age, 0.5 + r_squared * (measured - 0.5))
    return age, reading, train, held_out


@pytest.mark.parametrize("r_squared", [0.4, 0.7])
def test_held_out_ages_are_unbiased_with_about_the_least_error(r_squared):
    age, reading, train, held_out = overfitted_reading(r_squared)
    tau = turned_by(reading)
    stretch = fit_stretch(tau, age[:, None], train, held_out, GENERATORS)
    stretched = stretch_rotations(tau, *stretch, generator=GENERATORS)
    angle = np.asarray(read_angles(stretched, stretch.frame, generator=GENERATORS))[held_out, 0] / SPEED
    before = np.polyfit(age[held_out], reading[held_out], 1)[0]
    after = np.polyfit(age[held_out], angle, 1)[0]
    assert before == pytest.approx(r_squared, abs=0.03)
    assert after == pytest.approx(1, abs=0.05)
    errors = [
        float(equivariance_error(rows[held_out], np.float32(age[held_out, None]), generator=GENERATORS))
        for rows in (jnp.asarray(tau), stretched)
    ]
    gap, spread = np.var((age - reading)[held_out]), np.var(reading[held_out])
    assert errors[0] == pytest.approx(gap / spread, rel=0.02)
    explained = np.corrcoef(age[held_out], reading[held_out])[0, 1] ** 2
    assert errors[1] == pytest.approx(1 - explained, rel=0.02)


def test_ages_beyond_the_training_range_extrapolate():
    age, reading, train, held_out = overfitted_reading(0.5)
    stretch = fit_stretch(turned_by(reading), age[:, None], train, held_out, GENERATORS)
    beyond = np.array([1.0, 1.3, 1.6, 1.9])  # up to 0.9 of the range beyond the oldest, read as 0.5 + 0.5 (c - 0.5)
    tau = turned_by(0.5 + 0.5 * (beyond - 0.5))
    angle = np.asarray(
        read_angles(stretch_rotations(tau, *stretch, generator=GENERATORS), stretch.frame, generator=GENERATORS)
    )
    steps = np.diff(angle[:, 0]) / SPEED
    np.testing.assert_allclose(steps, 0.5 * stretch.factor[0] * 0.3, rtol=0.01)


def test_an_exact_reading_and_few_held_out_rows_are_not_stretched():
    age, reading, train, held_out = overfitted_reading(0.5)
    exact = fit_stretch(turned_by(age), age[:, None], train, held_out, GENERATORS)
    np.testing.assert_allclose(exact.factor, 1, atol=1e-3)
    few = fit_stretch(turned_by(reading), age[:, None], train, held_out[:9], GENERATORS)
    np.testing.assert_array_equal(few.factor, 1)


def stretching():
    config = tiny_config(1)
    first = dataclasses.replace(config.stage_one, epochs=40, learning_rate=1e-2)
    second = dataclasses.replace(config.stage_two, stretch_tau="validation")
    return dataclasses.replace(config, devices=1, stage_one=first, stage_two=second)


def trained(folder: RunFolder | None = None):
    cohort = tiny_cohort("table")
    age = Scaling.fit(cohort).covariates.apply(cohort.covariates)
    noisy = age + 0.3 * np.random.default_rng(0).normal(size=age.shape)
    cohort = dataclasses.replace(cohort, inputs=np.repeat(noisy, 7, axis=1).astype(np.float32))
    split = np.where(np.arange(len(cohort.split)) % 2, "validation", "train")
    data = TrainingData.of(cohort, Scaling.fit(cohort).columns(cohort))
    data = dataclasses.replace(
        data, train=np.flatnonzero(split == "train"), validation=np.flatnonzero(split != "train")
    )
    with standard_promotion():
        networks, embeddings = train_networks(Session.start(stretching(), folder), DataShape.of(cohort), data)
    return networks.on_host(), embeddings, cohort, data


def test_a_run_pools_with_its_stretched_tau_and_loads_it(tmp_path):
    folder = RunFolder(tmp_path)
    networks, embeddings, cohort, data = trained(folder)
    config, shape = stretching(), DataShape.of(cohort)
    stages = pooling_stages(config, shape)
    with standard_promotion():
        raw = np.asarray(stages[0].forward(networks.stage_one, {"inputs": jnp.asarray(cohort.inputs)})["tau"])
    generators = covariate_generators(config.model, 1)
    stretch = fit_stretch(raw, data.columns["covariate"], data.train, data.validation, generators)
    kept = networks.stage_two["constants"]["stretch"]
    assert 1.05 < stretch.factor[0] <= 5
    np.testing.assert_allclose(kept["factor"], stretch.factor, rtol=1e-3)
    np.testing.assert_allclose(embeddings.tau, stretch_rotations(raw, *stretch, generator=generators), atol=1e-3)
    phi = np.einsum("nij,nj->ni", embeddings.tau, embeddings.covariate_free)
    np.testing.assert_allclose(embeddings.phi, phi, atol=1e-5)
    np.testing.assert_allclose(networks.apply(cohort.inputs)["phi"], embeddings.phi, atol=1e-4)
    loaded = PoolingNetworks(config, shape, *(selected_variables(stage, folder.checkpoints) for stage in stages))
    for one, other in zip(jax.tree.leaves(networks.stage_two), jax.tree.leaves(loaded.stage_two), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_paper_spectrum_has_no_one_angle_to_stretch():
    config = default_config()
    config.data.dataset = "german"
    config.model.spectrum = "paper"
    config.stage_two.stretch_tau = "validation"
    with pytest.raises(InputError, match=r"config.stage_two.stretch_tau = .*expected .none. unless"):
        from_config_dict(config)
