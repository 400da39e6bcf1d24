import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from eqpool.evaluate.similarity import peak_signal_to_noise, structural_similarity_inside

RANDOM = np.random.default_rng(0)
REFERENCE = RANDOM.normal(size=(12, 14, 12))
IMAGE = REFERENCE + 0.3 * RANDOM.normal(size=REFERENCE.shape)
EVERYWHERE = np.ones(REFERENCE.shape, bool)


def test_without_a_mask_both_are_scikit_images():
    span = REFERENCE.max() - REFERENCE.min()
    expected = peak_signal_noise_ratio(REFERENCE, IMAGE, data_range=span)
    assert peak_signal_to_noise(IMAGE, REFERENCE, EVERYWHERE) == pytest.approx(expected)
    _, each = structural_similarity(REFERENCE, IMAGE, data_range=span, full=True)
    assert structural_similarity_inside(IMAGE, REFERENCE, EVERYWHERE) == pytest.approx(each.mean())


def test_outside_the_mask_nothing_counts():
    mask = np.zeros(REFERENCE.shape, bool)
    mask[3:9, 3:11, 3:9] = True
    spoilt = np.where(mask, IMAGE, 1e3)
    for score in (peak_signal_to_noise, structural_similarity_inside):
        assert score(spoilt, REFERENCE, mask) == pytest.approx(score(IMAGE, REFERENCE, mask))


def test_the_same_image():
    assert peak_signal_to_noise(REFERENCE, REFERENCE, EVERYWHERE) == np.inf
    assert structural_similarity_inside(REFERENCE, REFERENCE, EVERYWHERE) == pytest.approx(1)


def test_what_is_not_defined_is_nan_and_what_is_no_volume_is_refused():
    flat = np.ones(REFERENCE.shape)
    assert np.isnan(peak_signal_to_noise(2 * flat, flat, EVERYWHERE))
    assert np.isnan(structural_similarity_inside(flat, flat, EVERYWHERE))
    for score in (peak_signal_to_noise, structural_similarity_inside):
        assert np.isnan(score(np.where(REFERENCE > 1, np.nan, IMAGE), REFERENCE, EVERYWHERE))
        assert score(1e30 * IMAGE, 1e30 * REFERENCE, EVERYWHERE) == pytest.approx(score(IMAGE, REFERENCE, EVERYWHERE))
        for arguments in ((IMAGE[1:], REFERENCE, EVERYWHERE), (IMAGE, REFERENCE, ~EVERYWHERE)):
            with pytest.raises(ValueError, match="expected one shape and at least one voxel"):
                score(*arguments)
    assert peak_signal_to_noise(1e200 * IMAGE, 1e200 * REFERENCE, EVERYWHERE) == pytest.approx(
        peak_signal_to_noise(IMAGE, REFERENCE, EVERYWHERE)
    )
