import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqpool.config import EvaluateConfig
from eqpool.data.cohort import Cohort, CovariateScaling, Scaling
from eqpool.evaluate.distances import covariate_strata, site_distance_metrics
from eqpool.evaluate.outputs import Embeddings, Metrics
from eqpool.evaluate.two_sample import mmd_permutation_test
from eqpool.geometry import so
from eqpool.geometry.planes import invariant_planes, rotations


def held_out(site: np.ndarray, participant_id: np.ndarray) -> Cohort:
    count = len(site)
    return Cohort(
        name="made_up", simulated=True, participant_id=participant_id, inputs=np.zeros((count, 1), np.float32),
        site=site.astype(np.int32), site_names=("GE", "Siemens"), covariates=np.full((count, 1), 60.0),
        covariate_names=("age",), target=np.zeros(count, np.int32), target_name="dx", target_classes=("AD", "CN"),
        split=np.full(count, "test"),
    )  # fmt: skip


def distances(cohort: Cohort, embeddings: Embeddings, permutations: int, seed: int = 0) -> Metrics:
    scaling = Scaling(CovariateScaling.fit(np.array([[50.0], [90.0]])), 0.0, 1.0)
    config = EvaluateConfig(permutations=permutations)
    generators = so.generator(4, rotation_range=(3.0,))
    return site_distance_metrics(cohort, scaling, embeddings, generators, config, seed)


def test_ages_that_differ_are_seen_in_phi_and_not_without_the_covariate():
    random = np.random.default_rng(0)
    site = np.arange(60) % 2
    free = random.normal(size=(60, 4)).astype(np.float32)
    turned = np.concatenate([free[:, :2] + 3.0 * site[:, None].astype(np.float32), free[:, 2:]], axis=1)
    embeddings = Embeddings(free, None, turned, free, np.zeros((60, 1), np.float32))
    cohort = held_out(site, np.arange(60).astype(str))
    told = distances(cohort, embeddings, 99)
    assert told["mmd_p_value"] < 0.011 and told["mmd"] > 10 * abs(told["mmd_covariate_free"])
    assert told["mmd_covariate_free_p_value"] > 0.05
    baseline = dataclasses.replace(embeddings, covariate_free=None)
    assert "mmd_covariate_free" not in distances(cohort, baseline, 9)


@pytest.mark.parametrize("site", [np.zeros(6), np.full(6, -1)])
def test_held_out_rows_of_one_site_or_none_have_no_distance(site):
    blank = np.zeros((6, 4), np.float32)
    cohort = held_out(site, np.arange(6).astype(str))
    assert distances(cohort, Embeddings(blank, None, blank, blank, blank), 9) == {}


def sessions(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three visits of 20 people each, who differ from each other and not by site."""
    random = np.random.default_rng(seed)
    person = np.repeat(np.arange(20), 3)
    phi = random.normal(size=(20, 4))[person] + 0.2 * random.normal(size=(60, 4))
    return phi.astype(np.float32), random.permutation(np.arange(20) % 2)[person], person


def test_visits_of_one_person_are_not_taken_for_several_people():
    def p_values(seed):
        phi, site, person = sessions(seed)
        embeddings = Embeddings(phi, None, phi, None, phi)
        cohort = held_out(site, np.array([f"sub-{one}" for one in person]))
        ours = distances(cohort, embeddings, 99, seed)["mmd_p_value"]
        key = jax.random.key(seed)
        naive = mmd_permutation_test(key, phi, site, num_sites=2, num_permutations=99, estimator="unbiased")
        return ours, float(naive.p_value)

    ours, naive = np.array([p_values(seed) for seed in range(40)]).T
    assert np.max(np.abs(np.sort(ours) - (np.arange(40) + 0.5) / 40)) < 1.63 / np.sqrt(40)
    assert np.mean(naive <= 0.05) > 0.5  # rows that were not independent


def aged(seed: int, shift: float) -> tuple[Cohort, Embeddings]:
    """A Phi that age alone turns, and a shift of one site, for sites of which one is ten years older."""
    random = np.random.default_rng(seed)
    site = np.arange(120) % 2
    age = np.clip(random.normal(65 + 10 * site, 8), 50, 90)
    cohort = dataclasses.replace(held_out(site, np.arange(120).astype(str)), covariates=age[:, None])
    planes = invariant_planes(so.generator(4, rotation_range=(3.0,)))
    turned = rotations(planes, -jnp.asarray((age[:, None] - 50) / 40, jnp.float32))
    phi = np.array(turned @ np.array([0.1, 0.7, -0.5, 0.5], np.float32))
    phi += 0.1 * random.normal(size=phi.shape).astype(np.float32)
    phi[:, 0] += shift * site
    return cohort, Embeddings(phi, None, phi, None, np.zeros((120, 1), np.float32))


def test_a_phi_that_age_alone_turns_has_the_floor_and_nothing_at_equal_ages():
    cohort, embeddings = aged(0, 0.0)
    told = distances(cohort, embeddings, 99)
    assert told["mmd_p_value"] < 0.05 < told["mmd_conditional_p_value"]
    assert abs(told["mmd_conditional"] - told["mmd_conditional_by_chance"]) < 0.1 * told["mmd"]
    assert told["mmd_floor"] == pytest.approx(told["mmd"], rel=0.5)  # one latent, and the mean over eight
    assert told["mmd_floor_published"] == pytest.approx(told["mmd_published"], rel=0.5)
    shifted = distances(*aged(0, 0.5), 99)
    assert shifted["mmd_conditional_p_value"] < 0.05 and shifted["mmd_conditional"] > 3 * told["mmd_conditional"]


def test_strata_hold_like_covariates_of_one_level():
    random = np.random.default_rng(0)
    age, level = random.uniform(size=(200, 1)), np.arange(200) % 2
    strata = covariate_strata(age, level)
    assert len(np.unique(strata)) == 20
    for stratum in np.unique(strata):
        rows = strata == stratum
        assert len(np.unique(level[rows])) == 1 and np.ptp(age[rows]) < 0.15
    assert len(np.unique(covariate_strata(age[:9], level[:9]))) == 2
