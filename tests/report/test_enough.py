"""From how many rows on a picture is drawn, against what scikit-learn and SciPy make of fewer."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import gaussian_kde, pearsonr

from eqpool.report.enough import FEWEST_FOR_A_CURVE, FEWEST_TO_EMBED, LARGEST_SHARE, enough_for_maps, share_needed
from eqpool.report.workfolder import WorkFolder


def test_t_sne_has_the_least_perplexity_that_its_authors_recommend():
    assert (FEWEST_TO_EMBED - 1) // 4 == 5 and (FEWEST_TO_EMBED - 2) // 4 < 5  # as `eqpool.report.sites.embed` sets it


def test_a_density_of_fewer_rows_is_its_kernel():
    factor = {rows: gaussian_kde(np.random.default_rng(0).normal(size=rows)).factor for rows in (9, 10, 12)}
    assert factor[FEWEST_FOR_A_CURVE] == pytest.approx(FEWEST_FOR_A_CURVE**-0.2)
    assert factor[9] > 0.64 and factor[10] < 0.64


@pytest.mark.parametrize("rows", [8, 20, 60])
def test_the_share_that_a_voxel_needs_is_that_of_a_correlation_at_the_same_p(rows):
    """A correlation r of `rows` pairs has rows - 2 degrees of freedom; just at the share its p is 0.001."""
    needed = share_needed(rows - 2)
    first = np.random.default_rng(rows).normal(size=rows)
    first = (first - first.mean()) / first.std()
    noise = np.random.default_rng(rows + 1).normal(size=rows)
    noise -= noise.mean() + first * (first @ noise) / rows
    second = np.sqrt(needed) * first + np.sqrt(1 - needed) * noise / noise.std()
    assert pearsonr(first, second).pvalue == pytest.approx(1e-3, rel=1e-6)


def test_seventeen_degrees_of_freedom_are_the_fewest():
    assert share_needed(16) > LARGEST_SHARE > share_needed(17)
    assert share_needed(0) == 1 and share_needed(np.inf) == 0


@pytest.mark.parametrize(("degrees", "drawn"), [(3, False), (16, False), (17, True), (80, True), (None, True)])
def test_maps_of_too_few_people_are_left_out(degrees, drawn, trained_facts):
    forms = {"before": {"degrees_of_freedom": 200}, "after": {} if degrees is None else {"degrees_of_freedom": degrees}}
    said = enough_for_maps(dataclasses.replace(trained_facts, maps={"forms": forms}))
    assert (said == "") == drawn
    assert drawn or f"with {degrees} degrees of freedom" in said


@pytest.fixture
def trained_facts(tmp_path):
    return WorkFolder(tmp_path, {}, {}, {}, None, None, None, None)
