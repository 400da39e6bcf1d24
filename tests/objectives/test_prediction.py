import numpy as np
import pytest
from sklearn.metrics import log_loss

from eqpool.config import RunConfig
from eqpool.objectives.prediction import prediction_loss


@pytest.fixture
def batch():
    generator = np.random.default_rng(0)
    target = np.array([0] * 9 + [1] * 3 + [0, 1], np.int32)
    known = np.ones(14, np.float32)
    known[-2:] = 0
    return {"target": target, "target_known": known}, generator.normal(size=(14, 2)).astype(np.float32)


def by_class(logits, rows, used):
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return [
        log_loss(rows["target"][h], probability[h], labels=[0, 1])
        for h in (used & (rows["target"] == k) for k in (0, 1))
    ]


def test_balanced_classes_weigh_the_same(batch):
    rows, logits = batch
    used = rows["target_known"] > 0
    value = prediction_loss(RunConfig(class_weights="balanced"), logits, rows, 2)
    assert float(value) == pytest.approx(np.mean(by_class(logits, rows, used)), rel=1e-5)
    equal = prediction_loss(RunConfig(), logits, rows, 2)
    assert float(equal) == pytest.approx(np.average(by_class(logits, rows, used), weights=[9, 3]), rel=1e-5)


def test_a_mask_drops_further_rows_and_an_absent_class_is_no_nan(batch):
    rows, logits = batch
    mask = (rows["target"] == 0).astype(np.float32)
    value = prediction_loss(RunConfig(class_weights="balanced"), logits, rows, 2, mask)
    assert float(value) == pytest.approx(by_class(logits, rows, rows["target_known"] > 0)[0], rel=1e-5)
    assert float(prediction_loss(RunConfig(class_weights="balanced"), logits, rows, 2, 0 * mask)) == 0
