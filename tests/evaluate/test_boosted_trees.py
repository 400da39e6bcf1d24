"""The trees of the probes against scikit-learn's own, which bin their features themselves."""

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from eqpool.evaluate.boosted_trees import QuantileBins, boosted_trees


def own_trees(bins):
    return HistGradientBoostingClassifier(
        max_bins=bins, random_state=0, class_weight="balanced", early_stopping=False, max_iter=30
    )


def test_features_of_few_values_give_the_trees_of_scikit_learn():
    generator = np.random.default_rng(3)
    rows, new = generator.integers(0, 40, (2, 400, 6)).astype(float)
    label = (rows[:, 0] + generator.normal(0, 8, 400) > 20).astype(int) + (rows[:, 1] > 30)
    ours, plain = boosted_trees(255, max_iter=30).fit(rows, label), own_trees(255).fit(rows, label)
    np.testing.assert_allclose(ours.predict_proba(new), plain.predict_proba(new), rtol=1e-6)


@pytest.mark.parametrize("bins", [32, 255])
def test_a_class_is_predicted_as_well_as_by_the_trees_of_scikit_learn(bins):
    generator = np.random.default_rng(5)
    rows, new = generator.normal(size=(2, 600, 8)) ** 3
    label, truth = (values[:, :2].sum(axis=1) + generator.normal(0, 1, 600) > 1 for values in (rows, new))
    ours, plain = (
        roc_auc_score(truth, model.fit(rows, label).predict_proba(new)[:, 1])
        for model in (boosted_trees(bins, max_iter=30), own_trees(bins))
    )
    assert plain > 0.85 and ours > plain - 0.02


def test_bins_hold_equally_many_rows_or_one_value():
    generator = np.random.default_rng(8)
    rows = np.stack([generator.normal(size=500) ** 3, np.arange(500) < 490, np.arange(500) % 3], axis=1).astype(float)
    binned = QuantileBins(32).fit(rows).transform(rows)
    counts = np.bincount(binned[:, 0].astype(int))
    assert len(counts) == 32 and counts.min() >= 15 and counts.max() <= 17
    for column in (1, 2):
        assert len(np.unique(np.stack([binned[:, column], rows[:, column]]), axis=1).T) == len(
            np.unique(rows[:, column])
        )
    assert (np.diff(binned[np.argsort(rows[:, 0]), 0]) >= 0).all()
    assert QuantileBins(32).fit(rows).transform(rows + 100)[:, 0].max() == 31  # new rows fall in the outer bins
