import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jax.test_util import check_grads

from eqpool.geometry import so
from eqpool.geometry.planes import assemble, invariant_planes

DIMENSIONS = (2, 3, 17, 64)


def skew_matrices(seed: int, n: int, *, norm: float = 1.0, batch: tuple[int, ...] = ()) -> np.ndarray:
    """Float32 skew matrices of the given spectral norm."""
    entries = np.random.default_rng(seed).normal(size=(*batch, n, n))
    entries = entries - np.swapaxes(entries, -1, -2)
    return (norm * entries / np.linalg.norm(entries, 2, axis=(-2, -1), keepdims=True)).astype(np.float32)


def cayley_float64(A: np.ndarray) -> np.ndarray:
    A = A.astype(np.float64)
    return np.linalg.solve(np.eye(A.shape[-1]) - A / 2, np.eye(A.shape[-1]) + A / 2)


def expm_float64(A: np.ndarray) -> np.ndarray:
    return scipy.linalg.expm(A.astype(np.float64))


MAPS = pytest.mark.parametrize(
    ("group_map", "oracle"), [(so.expm, expm_float64), (so.cayley, cayley_float64)], ids=["expm", "cayley"]
)


def test_skew_fills_the_upper_triangle_row_by_row():
    expected = [[0, 1, 2, 3], [-1, 0, 4, 5], [-2, -4, 0, 6], [-3, -5, -6, 0]]
    np.testing.assert_array_equal(so.skew(jnp.arange(1.0, 7.0)), np.array(expected))


@pytest.mark.parametrize("n", [2, 17])
def test_coordinates_invert_skew(n):
    v = jax.random.normal(jax.random.key(n), (2, 3, n * (n - 1) // 2))
    A = so.skew(v)
    assert A.shape == (2, 3, n, n)
    np.testing.assert_array_equal(A, -np.swapaxes(A, -1, -2))
    np.testing.assert_array_equal(so.coordinates(A), v)


@MAPS
@pytest.mark.parametrize("n", DIMENSIONS)
@pytest.mark.parametrize("norm", [1e-4, 3.1])
def test_maps_agree_with_float64(group_map, oracle, n, norm):
    A = skew_matrices(n, n, norm=norm)
    np.testing.assert_allclose(group_map(A), oracle(A), atol=4e-6)


@MAPS
@pytest.mark.parametrize("n", DIMENSIONS)
def test_images_are_rotations(group_map, oracle, n):
    R = np.asarray(group_map(skew_matrices(1, n, norm=3.0, batch=(5,))), dtype=np.float64)
    np.testing.assert_allclose(R @ np.swapaxes(R, 1, 2), np.broadcast_to(np.eye(n), R.shape), atol=4e-6)
    np.testing.assert_allclose(np.linalg.det(R), 1, atol=2e-5)


@pytest.mark.parametrize("norm", [6.0, 50.0, 300.0])
def test_expm_keeps_its_accuracy_at_large_angles(norm):
    A = skew_matrices(2, 3, norm=norm)
    np.testing.assert_allclose(so.expm(A), expm_float64(A), atol=1e-6 * norm)


def test_expm_of_a_matrix_that_is_not_skew():
    A = np.random.default_rng(0).normal(size=(2, 5, 5)).astype(np.float32)
    np.testing.assert_allclose(so.expm(A), expm_float64(A), rtol=1e-4, atol=1e-5)


def test_expm_beyond_its_range_is_nan_and_not_wrong():
    A = np.stack([skew_matrices(0, 4, norm=1e6), skew_matrices(0, 4)])
    R = np.asarray(so.expm(A))
    assert np.isnan(R[0]).all() and np.isfinite(R[1]).all()


@pytest.mark.parametrize("norm", [30.0, 1000.0])
def test_cayley_without_pivoting_stays_a_rotation_for_large_matrices(norm):
    A = skew_matrices(3, 30, norm=norm, batch=(8,))
    np.testing.assert_allclose(so.cayley(A), cayley_float64(A), atol=3e-7 * norm + 3e-6)


def test_every_tile_of_a_large_batch_is_computed():
    A = skew_matrices(4, 5, batch=(150,)).reshape(3, 50, 5, 5)
    np.testing.assert_allclose(so.cayley(A), cayley_float64(A), atol=2e-6)


def test_group_axioms():
    A, B, C = (so.expm(skew_matrices(seed, 6, norm=2.0)) for seed in range(3))
    identity = so.expm(jnp.zeros((6, 6)))
    np.testing.assert_array_equal(identity, np.eye(6))
    np.testing.assert_array_equal(so.cayley(jnp.zeros((6, 6))), np.eye(6))
    np.testing.assert_allclose(A @ identity, A, atol=1e-6)
    np.testing.assert_allclose((A @ B) @ C, A @ (B @ C), atol=2e-6)
    for group_map in (so.expm, so.cayley):
        np.testing.assert_allclose(group_map(-skew_matrices(0, 6)), group_map(skew_matrices(0, 6)).T, atol=1e-6)
    generator = so.generator(6, rotation_range=3.0).astype(np.float32)
    np.testing.assert_allclose(so.expm(0.3 * generator) @ so.expm(0.9 * generator), so.expm(1.2 * generator), atol=2e-6)


def test_the_printed_form_is_cayley_of_minus_two_a():
    A = skew_matrices(5, 12, norm=2.0)
    identity, A64 = np.eye(12), A.astype(np.float64)
    np.testing.assert_allclose(so.cayley(-2 * A), (identity - A64) @ np.linalg.inv(identity + A64), atol=3e-6)


def test_cayley_agrees_with_expm_to_second_order():
    A = skew_matrices(6, 8)
    gaps = [np.linalg.norm(expm_float64(t * A) - cayley_float64(t * A)) for t in (0.02, 0.01)]
    assert gaps[0] / gaps[1] == pytest.approx(8, rel=0.02)
    np.testing.assert_allclose(so.cayley(0.01 * A), so.expm(0.01 * A), atol=1e-6)
    turn = so.cayley(jnp.array([[0.0, -3.0], [3.0, 0.0]]))
    assert np.arctan2(turn[1, 0], turn[0, 0]) == pytest.approx(2 * np.arctan(1.5), abs=1e-6)


@MAPS
@pytest.mark.parametrize("angle", [0.0, 1e-6, np.pi - 1e-4, 2 * np.pi])
def test_gradients_are_right_everywhere_on_the_angle(group_map, oracle, angle, n=5):
    A = skew_matrices(7, n, norm=angle) if angle else np.zeros((n, n), np.float32)
    v = so.coordinates(A)
    target = np.random.default_rng(0).normal(size=(n, n)).astype(np.float32)

    def value(v):
        return jnp.sum(group_map(so.skew(v)) * target)

    gradient = np.asarray(jax.grad(value)(v), dtype=np.float64)
    step = 1e-5
    for index, entry in enumerate(gradient):
        shifted = np.zeros(len(v))
        shifted[index] = step
        shift = np.zeros((n, n))
        shift[np.triu_indices(n, 1)] = shifted
        shift = shift - shift.T
        expected = np.sum((oracle(A + shift) - oracle(A - shift)) * target) / (2 * step)
        assert entry == pytest.approx(expected, abs=5e-5)


@MAPS
def test_both_modes_agree(group_map, oracle):
    v = so.coordinates(skew_matrices(8, 3, norm=2.0))

    def rotation(v):
        return group_map(so.skew(v))

    np.testing.assert_allclose(jax.jit(jax.jacfwd(rotation))(v), jax.jit(jax.jacrev(rotation))(v), atol=2e-6)


def test_second_derivatives_of_cayley():
    v = so.coordinates(skew_matrices(8, 3, norm=2.0))
    check_grads(
        jax.jit(lambda v: so.cayley(so.skew(v))), (v,), order=2, modes=("fwd", "rev"), atol=2e-2, rtol=2e-2, eps=1e-2
    )


@MAPS
def test_the_gradient_treats_the_matrix_as_a_general_one(group_map, oracle):
    A = skew_matrices(9, 20, norm=2.0, batch=(3,))  # 20: through the Schur complements
    tangent = np.random.default_rng(1).normal(size=A.shape).astype(np.float32)
    _, pushed = jax.jvp(group_map, (jnp.asarray(A),), (jnp.asarray(tangent),))
    step = 1e-5
    ahead, behind = (oracle(A + sign * step * tangent.astype(np.float64)) for sign in (1, -1))
    np.testing.assert_allclose(pushed, (ahead - behind) / (2 * step), atol=2e-4)


@MAPS
def test_maps_under_jit_and_vmap(group_map, oracle):
    A = skew_matrices(10, 18, batch=(3, 2))
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.vmap(group_map)))(A), group_map(A), atol=2e-6)


def test_half_precision_is_computed_in_float32():
    A = jnp.asarray(skew_matrices(11, 6), jnp.bfloat16)
    for group_map in (so.expm, so.cayley):
        R = group_map(A)
        assert R.dtype == jnp.float32
        np.testing.assert_allclose(R @ R.T, np.eye(6), atol=2e-6)


@pytest.mark.parametrize("n", DIMENSIONS)
def test_uniform_generator_turns_every_plane_by_the_range(n):
    B = so.generator(n, rotation_range=2.5)
    assert B.shape == (n, n) and B.dtype == np.float64 and isinstance(B, np.ndarray)
    np.testing.assert_allclose(B, -B.T, atol=1e-14)
    speeds = np.sort(np.abs(np.linalg.eigvals(B)))
    np.testing.assert_allclose(speeds[n % 2 :], 2.5, atol=1e-9)
    np.testing.assert_allclose(speeds[: n % 2], 0, atol=1e-9)


@pytest.mark.parametrize("n", [4, 6, 30])
def test_uniform_generator_is_the_polar_factor_of_the_papers(n):
    paper = np.triu(np.ones((n, n)), 1) - np.tril(np.ones((n, n)), -1)
    expected = 3.0 * paper @ np.linalg.inv(scipy.linalg.sqrtm(-paper @ paper).real)
    np.testing.assert_allclose(so.generator(n, rotation_range=3.0), expected, atol=1e-9)


@pytest.mark.parametrize(("n", "norm"), [(30, 19.08), (64, 40.74), (5, 1 / np.tan(np.pi / 10))])
def test_paper_generator(n, norm):
    B = so.generator(n, rotation_range=3.0, spectrum="paper")
    np.testing.assert_allclose(B, np.asarray(so.skew(jnp.ones(n * (n - 1) // 2))), atol=1e-11)
    assert np.linalg.norm(B, 2) == pytest.approx(norm, abs=5e-3)


def test_generators_of_several_covariates_commute_and_share_the_planes_out():
    ranges = (3.0, 1.0, 0.5)
    matrices = so.generator(9, rotation_range=ranges)
    assert matrices.shape == (3, 9, 9)
    for matrix, speed, planes in zip(matrices, ranges, (2, 1, 1), strict=True):
        values = np.sort(np.abs(np.linalg.eigvals(matrix)))[::-1]
        np.testing.assert_allclose(values[: 2 * planes], speed, atol=1e-9)
        np.testing.assert_allclose(values[2 * planes :], 0, atol=1e-9)
        for other in matrices:
            np.testing.assert_allclose(matrix @ other, other @ matrix, atol=1e-12)
    np.testing.assert_allclose(
        so.generator(9, rotation_range=(1.0, 1.0), spectrum="paper").sum(0),
        so.generator(9, rotation_range=1.0, spectrum="paper"),
        atol=1e-12,
    )
    assert so.generator(4, rotation_range=(2.0,)).shape == (1, 4, 4)


@pytest.mark.parametrize("n", [2, 3, 8, 9])
def test_invariant_planes_rebuild_the_generators(n):
    for matrices in (
        so.generator(n, rotation_range=2.0)[None],
        so.generator(n, rotation_range=2.0, spectrum="paper")[None],
        so.generator(n, rotation_range=np.linspace(1, 2, n // 2)),
        np.zeros((1, n, n)),
    ):
        planes = invariant_planes(matrices)
        np.testing.assert_allclose(planes.basis.T @ planes.basis, np.eye(n), atol=1e-12)
        np.testing.assert_allclose(assemble(planes), matrices, atol=1e-9)


def test_planes_shared_by_generators_whose_turns_cancel():
    plane = np.zeros((4, 4))
    plane[1, 0], plane[0, 1] = 1, -1
    other = np.zeros((4, 4))
    other[3, 2], other[2, 3] = 1, -1
    matrices = np.stack([plane + other, plane - other])
    np.testing.assert_allclose(assemble(invariant_planes(matrices)), matrices, atol=1e-12)


@pytest.mark.parametrize("group_map", ["expm", "cayley"])
def test_relative_rotation(group_map):
    oracle = {"expm": expm_float64, "cayley": cayley_float64}[group_map]
    B = so.generator(5, rotation_range=3.0)
    i, j = np.array([0.1, 0.9], np.float32), np.array([0.4, 0.0], np.float32)
    G = so.relative_rotation(i, j, generator=B, group_map=group_map)
    np.testing.assert_allclose(G, oracle((i - j)[:, None, None] * B), atol=2e-6)
    two = so.generator(5, rotation_range=(3.0, 1.0))
    c, d = np.array([0.1, 0.9], np.float32), np.array([0.7, 0.2], np.float32)
    G = so.relative_rotation(c, d, generator=two, group_map=group_map)
    np.testing.assert_allclose(G, oracle(np.tensordot(c - d, two, 1)), atol=2e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: so.skew(jnp.ones(4)), r"v has shape \(4,\), expected"),
        (lambda: so.skew(jnp.ones(())), r"v has shape \(\)"),
        (lambda: so.coordinates(jnp.ones((2, 3))), r"A has shape \(2, 3\), expected"),
        (lambda: so.cayley(jnp.ones((1, 1))), r"A has shape \(1, 1\), expected"),
        (lambda: so.expm(jnp.ones(3)), r"A has shape \(3,\), expected"),
        (lambda: so.generator(1, rotation_range=1.0), "n is 1, expected"),
        (lambda: so.generator(4, rotation_range=0.0), "rotation_range is 0.0, expected"),
        (lambda: so.generator(4, rotation_range=(1.0, np.nan)), "rotation_range is"),
        (lambda: so.generator(5, rotation_range=(1.0, 1.0, 1.0)), "names 3 covariates, expected 1 to 2"),
        (lambda: so.generator(4, rotation_range=1.0, spectrum="flat"), "spectrum is 'flat', expected"),
        (lambda: so.relative_rotation(0.0, 1.0, generator=np.eye(3), group_map="log"), "group_map is 'log', expected"),
        (lambda: so.relative_rotation(0.0, 1.0, generator=np.zeros((2, 3, 3))), r"generator \(2, 3, 3\), expected"),
        (lambda: invariant_planes(np.eye(3)), "generator 0 is not skew"),
        (lambda: invariant_planes(skew_matrices(0, 4, batch=(2,))), "generators 0 and 1 do not commute"),
        (lambda: invariant_planes(np.full((2, 2), np.nan)), "not finite"),
        (lambda: invariant_planes(np.ones(3)), r"generator has shape \(3,\), expected"),
        (lambda: jax.jit(invariant_planes)(np.zeros((2, 2))), "expected a concrete array"),
    ],
)
def test_errors_name_the_argument_and_what_was_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()
