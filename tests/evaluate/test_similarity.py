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
