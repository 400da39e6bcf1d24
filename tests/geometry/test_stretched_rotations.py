"""Angles are read and stretched as scipy's matrix exponentials say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from eqpool.geometry import so
from eqpool.geometry.stretch import mean_frame, read_angles, stretch_rotations

RANGES = (3.0, 2.0)


def frame_of(n: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(n).normal(size=(n, n)))[0]


def turned(covariate: np.ndarray, generators: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """tau_i = expm(-sum_c c_ic B_c) frame."""
    return np.stack([scipy.linalg.expm(-np.tensordot(row, generators, axes=1)) @ frame for row in covariate])


@pytest.mark.parametrize("n", [4, 7, 8])
def test_angles_are_read_to_half_a_turn_on_either_side_of_the_frame(n):
    generators = so.generator(n, rotation_range=RANGES)
    covariate = np.random.default_rng(0).uniform(-1, 1, size=(20, 2))  # up to 3 of pi radians
    tau = turned(covariate, generators, frame_of(n))
    angles = read_angles(jnp.float32(tau), jnp.float32(frame_of(n)), generator=generators)
    np.testing.assert_allclose(angles, covariate * RANGES, atol=1e-4)


@pytest.mark.parametrize("n", [4, 7, 8])
def test_a_stretched_tau_has_the_factor_times_the_angles(n):
    generators = so.generator(n, rotation_range=RANGES)
    covariate = np.random.default_rng(1).uniform(-1, 1, size=(20, 2))
    tau, factor = turned(covariate, generators, frame_of(n)), np.array([2.5, 1.5])
    stretched = jax.jit(lambda tau, frame: stretch_rotations(tau, frame, jnp.float32(factor), generator=generators))
    expected = turned(covariate * factor, generators, frame_of(n))
    np.testing.assert_allclose(stretched(jnp.float32(tau), jnp.float32(frame_of(n))), expected, atol=1e-4)


def test_a_factor_of_one_changes_nothing_and_any_stretch_is_a_rotation():
    generators = so.generator(6, rotation_range=RANGES)
    random = np.random.default_rng(2).normal(size=(9, 6, 6))
    tau = so.expm(jnp.float32(random - np.swapaxes(random, 1, 2)))
    same = stretch_rotations(tau, jnp.eye(6), jnp.ones(2), generator=generators)
    np.testing.assert_allclose(same, tau, atol=1e-6)
    stretched = np.asarray(stretch_rotations(tau, jnp.eye(6), jnp.array([3.0, 0.5]), generator=generators))
    np.testing.assert_allclose(
        stretched @ np.swapaxes(stretched, 1, 2), np.broadcast_to(np.eye(6), (9, 6, 6)), atol=1e-5
    )


@pytest.mark.parametrize("n", [5, 6])
def test_the_mean_frame_is_the_rotation_at_the_centre(n):
    generators = so.generator(n, rotation_range=RANGES)
    covariate = np.random.default_rng(3).uniform(size=(30, 2))
    centre = np.array([0.4, 0.7])
    frame = mean_frame(turned(covariate, generators, frame_of(n)), covariate, centre, generator=generators)
    np.testing.assert_allclose(frame, turned(centre[None], generators, frame_of(n))[0], atol=1e-10)


def test_planes_of_different_speeds_are_refused():
    paper = so.generator(6, rotation_range=(1.0,), spectrum="paper")
    with pytest.raises(ValueError, match="different speeds, expected one speed"):
        read_angles(jnp.eye(6)[None], jnp.eye(6), generator=paper)
    with pytest.raises(ValueError, match=r"generator has shape \(6, 6\), expected"):
        read_angles(jnp.eye(6)[None], jnp.eye(6), generator=paper[0])
