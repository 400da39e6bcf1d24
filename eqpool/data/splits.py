"""Splits cohorts into train, validation and test by subject, balanced over strata and reproducible by seed."""

from collections.abc import Sequence

import numpy as np

from eqpool.data.cohort import SPLITS

_TARGET_LEVELS = 3  # a numeric target is stratified by thirds


def balanced_strata(site: np.ndarray, target: np.ndarray, classes: tuple[str, ...]) -> list[tuple[int, int]]:
    """Returns the strata that a split balances: each row's site, and its class or the third of its number."""
    return list(zip(site.tolist(), target_levels(target, classes).tolist(), strict=True))


def target_levels(target: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    """Returns each row's class or the third that its number falls in, (N,) integers, -1 if unknown."""
    if classes or not np.isfinite(target).any():
        return target.astype(np.int64) if classes else np.zeros(target.shape, np.int64)
    edges = np.nanquantile(target, np.arange(1, _TARGET_LEVELS) / _TARGET_LEVELS)
    return np.where(np.isfinite(target), np.searchsorted(edges, target), -1)


def assign_splits(
    participant_id: Sequence[str] | np.ndarray,
    strata: Sequence[Sequence[object]] | np.ndarray,
    *,
    validation_fraction: float,
    test_fraction: float,
    seed: int,
) -> np.ndarray:
    """Assigns a split to every scan.

    All scans of a participant share one split, so that no subject is both trained and tested on. Each stratum is
    divided as near to the fractions as whole subjects allow. The remainder of rounding is carried to the next stratum,
    so that the totals hold too. A stratum always keeps a subject for training, so that every site x class cell has
    training rows.

    Args:
      participant_id: (N,) names. Rows with the same name are the same subject.
      strata: (N,) hashable values to balance, such as (site, class). A subject with scans in several strata counts
        once.
      validation_fraction, test_fraction: shares of all subjects.
      seed: seed of the shuffle. The result depends on the set of subjects and not on the order of rows.

    Returns:
      (N,) str, each one of `SPLITS`.
    """
    members = _members(participant_id, strata)
    random = np.random.default_rng(seed)
    shuffled = [random.permutation(np.array(members[key], dtype=object)).tolist() for key in sorted(members)]
    split_of = _divide(shuffled, validation_fraction, test_fraction)
    return np.array([split_of[str(name)] for name in participant_id], dtype="<U10")


def assign_folds(
    participant_id: Sequence[str] | np.ndarray,
    strata: Sequence[Sequence[object]] | np.ndarray,
    *,
    folds: int,
    seed: int,
) -> np.ndarray:
    """Assigns one of `folds` folds to every scan, (N,) int64, by subject and stratum as in `assign_splits`.

    Folds differ by at most one subject, within each stratum and in total.
    """
    members = _members(participant_id, strata)
    random = np.random.default_rng(seed)
    fold_of: dict[str, int] = {}
    dealt = 0
    for key in sorted(members):
        for name in random.permutation(np.array(members[key], dtype=object)).tolist():
            fold_of[name] = dealt % folds
            dealt += 1  # the next stratum continues at the next fold
    return np.array([fold_of[str(name)] for name in participant_id], np.int64)


def _members(
    participant_id: Sequence[str] | np.ndarray, strata: Sequence[Sequence[object]] | np.ndarray
) -> dict[str, list[str]]:
    """Returns the subjects of each stratum, sorted. A subject with scans in several strata counts once."""
    stratum_of: dict[str, str] = {}
    for name, stratum in zip(participant_id, strata, strict=True):
        key = repr(stratum)
        stratum_of[str(name)] = min(stratum_of.get(str(name), key), key)
    members: dict[str, list[str]] = {}
    for name in sorted(stratum_of):
        members.setdefault(stratum_of[name], []).append(name)
    return members


def _divide(strata: list[list[str]], validation_fraction: float, test_fraction: float) -> dict[str, str]:
    train, validation, test = SPLITS
    split_of: dict[str, str] = {}
    owed_test = owed_validation = 0.0
    for subjects in sorted(strata, key=len):  # small strata first, so that large ones settle the totals
        owed_test += test_fraction * len(subjects)
        owed_validation += validation_fraction * len(subjects)
        available = len(subjects) - 1
        test_count = _share(owed_test, test_fraction, len(subjects), available)
        validation_count = _share(owed_validation, validation_fraction, len(subjects), available - test_count)
        owed_test -= test_count
        owed_validation -= validation_count
        for index, name in enumerate(subjects):
            if index < test_count:
                split_of[name] = test
            elif index < test_count + validation_count:
                split_of[name] = validation
            else:
                split_of[name] = train
    return split_of


def _share(owed: float, fraction: float, size: int, available: int) -> int:
    """Rounds the owed number, within one of this stratum's own quota and never above `available`."""
    quota = fraction * size
    nearest = int(np.floor(owed + 0.5))
    return int(np.clip(nearest, int(np.floor(quota)), max(0, min(int(np.ceil(quota)), available))))
