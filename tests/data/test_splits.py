import numpy as np
import pytest

from eqpool.data.splits import assign_folds, assign_splits


def assign(names, strata, seed=0, validation=0.1, test=0.2):
    return assign_splits(names, strata, validation_fraction=validation, test_fraction=test, seed=seed)


def cohort(seed, count=300):
    random = np.random.default_rng(seed)
    subjects = random.integers(0, count * 2 // 3, count)
    site_of, class_of = random.integers(0, 6, count), random.integers(0, 2, count)
    strata = [(int(site_of[s]), int(class_of[s])) for s in subjects]
    return np.array([f"sub-{s}" for s in subjects]), strata


@pytest.mark.parametrize("seed", range(5))
def test_subjects_are_never_divided_and_fractions_hold(seed):
    names, strata = cohort(seed)
    split = assign(names, strata, seed)
    for name in set(names):
        assert len(set(split[names == name])) == 1
    subjects = {name: part for name, part in zip(names, split, strict=True)}
    counts = [sum(part == wanted for part in subjects.values()) for wanted in ("validation", "test")]
    np.testing.assert_allclose(counts, np.array([0.1, 0.2]) * len(subjects), atol=1.5)


@pytest.mark.parametrize("seed", range(5))
def test_each_stratum_is_divided_within_one_subject(seed):
    names, strata = cohort(seed)
    split = assign(names, strata, seed)
    for stratum in set(strata):
        subjects = {n: p for n, p, s in zip(names, split, strata, strict=True) if s == stratum}
        for wanted, fraction in (("validation", 0.1), ("test", 0.2)):
            assert abs(sum(p == wanted for p in subjects.values()) - fraction * len(subjects)) <= 1


def test_rare_strata_keep_training_rows():
    names = [f"sub-{i}" for i in range(40)]
    strata = [("big", 0)] * 36 + [("one", 0), ("two", 0), ("two", 1), ("two", 1)]
    for seed in range(20):
        split = assign(names, strata, seed, validation=0.3, test=0.4)
        for stratum in set(strata):
            assert any(p == "train" for p, s in zip(split, strata, strict=True) if s == stratum)


def test_deterministic_and_independent_of_row_order():
    names, strata = cohort(3)
    first = assign(names, strata, 7)
    assert (first == assign(names, strata, 7)).all()
    assert (first != assign(names, strata, 8)).any()
    order = np.random.default_rng(0).permutation(len(names))
    again = assign(names[order], [strata[i] for i in order], 7)
    assert (again == first[order]).all()


def test_a_subject_of_two_strata_counts_the_same_in_any_order():
    names = np.array([f"sub-{i}" for i in range(40) for _ in range(2)])
    strata = [(i % 3 if scan else i % 4, 0) for i in range(40) for scan in range(2)]
    first = assign(names, strata, 1)
    assert (assign(names[::-1], strata[::-1], 1) == first[::-1]).all()


def test_zero_fractions():
    names, strata = cohort(1)
    assert (assign(names, strata, validation=0.0, test=0.0) == "train").all()


@pytest.mark.parametrize("seed", range(3))
def test_folds_are_of_whole_subjects_and_balanced(seed):
    names, strata = cohort(seed)
    fold = assign_folds(names, strata, folds=4, seed=seed)
    subjects = {}
    for name, own, stratum in zip(names, fold, strata, strict=True):
        assert subjects.setdefault(name, (own, stratum)) == (own, stratum)
    assert np.ptp(np.bincount([own for own, _ in subjects.values()], minlength=4)) <= 1
    for wanted in set(strata):
        counts = np.bincount([own for own, stratum in subjects.values() if stratum == wanted], minlength=4)
        assert np.ptp(counts) <= 1
    order = np.random.default_rng(0).permutation(len(names))
    again = assign_folds(names[order], [strata[row] for row in order], folds=4, seed=seed)
    np.testing.assert_array_equal(again, fold[order])
