import dataclasses

import jax
import numpy as np
import pytest

from eqpool.config import EvaluateConfig
from eqpool.data.cohort import Cohort
from eqpool.evaluate import metrics
from eqpool.evaluate.distances import site_distance_metrics
from eqpool.evaluate.outputs import Embeddings


def held_out(site: np.ndarray, participant_id: np.ndarray) -> Cohort:
    count = len(site)
    return Cohort(
        name="made_up", simulated=True, participant_id=participant_id, inputs=np.zeros((count, 1), np.float32),
        site=site.astype(np.int32), site_names=("GE", "Siemens"), covariates=np.full((count, 1), 60.0),
        covariate_names=("age",), target=np.zeros(count, np.int32), target_name="dx", target_classes=("AD", "CN"),
        split=np.full(count, "test"),
    )  # fmt: skip


def test_ages_that_differ_are_seen_in_phi_and_not_without_the_covariate():
    random = np.random.default_rng(0)
    site = np.arange(60) % 2
    free = random.normal(size=(60, 4)).astype(np.float32)
    turned = np.concatenate([free[:, :2] + 3.0 * site[:, None].astype(np.float32), free[:, 2:]], axis=1)
    embeddings = Embeddings(free, None, turned, free, np.zeros((60, 1), np.float32))
    cohort = held_out(site, np.arange(60).astype(str))
    told = site_distance_metrics(cohort, embeddings, EvaluateConfig(permutations=99), 0)
    assert told["mmd_p_value"] < 0.011 and told["mmd"] > 10 * abs(told["mmd_covariate_free"])
    assert told["mmd_covariate_free_p_value"] > 0.05
    baseline = dataclasses.replace(embeddings, covariate_free=None)
    assert "mmd_covariate_free" not in site_distance_metrics(cohort, baseline, EvaluateConfig(permutations=9), 0)


@pytest.mark.parametrize("site", [np.zeros(6), np.full(6, -1)])
def test_held_out_rows_of_one_site_or_none_have_no_distance(site):
    blank = np.zeros((6, 4), np.float32)
    cohort = held_out(site, np.arange(6).astype(str))
    assert site_distance_metrics(cohort, Embeddings(blank, None, blank, blank, blank), EvaluateConfig(), 0) == {}


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
        ours = site_distance_metrics(cohort, embeddings, EvaluateConfig(permutations=99), seed)["mmd_p_value"]
        key = jax.random.key(seed)
        naive = metrics.mmd_permutation_test(key, phi, site, num_sites=2, num_permutations=99, estimator="unbiased")
        return ours, float(naive.p_value)

    ours, naive = np.array([p_values(seed) for seed in range(40)]).T
    assert np.max(np.abs(np.sort(ours) - (np.arange(40) + 0.5) / 40)) < 1.63 / np.sqrt(40)
    assert np.mean(naive <= 0.05) > 0.5  # rows that were not independent
