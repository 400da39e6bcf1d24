import jax
import numpy as np
import scipy.stats

from eqpool.evaluate import permutations


def test_subjects_change_places_whole_and_every_order_is_as_likely():
    subject = np.array([7, 3, 7, 9, 3, 9, 5, 4, 4, 9])
    counts = np.array([1, 1, 1, 1, 1, 1, 1, 1, 1, 0], bool)  # 7, 3, 9 and 4 have two rows that count, 5 has one
    keys = jax.random.split(jax.random.key(0), 2400)
    orders = np.asarray(jax.vmap(lambda key: permutations.permute_subjects(key, subject, counts))(keys))
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(10), (2400, 1)))
    assert (orders[:, 6] == 6).all() and (orders[:, 9] == 9).all()
    for rows in ([0, 2], [1, 4], [3, 5], [7, 8]):
        given = orders[:, rows]
        np.testing.assert_array_equal(subject[given[:, 0]], subject[given[:, 1]])
        assert 0.45 < (given[:, 0] < given[:, 1]).mean() < 0.55  # their own rows in either order
    _, seen = np.unique(subject[orders[:, [0, 1, 3, 7]]], axis=0, return_counts=True)
    assert len(seen) == 24 and scipy.stats.chisquare(seen).pvalue > 0.001


def test_within_strata_every_order_is_as_likely_and_no_row_leaves():
    stratum = np.array([1, 0, 1, 0, 1, 1, 0])
    counts = np.array([1, 1, 1, 1, 0, 1, 1], bool)
    keys = jax.random.split(jax.random.key(0), 3600)
    rows = np.asarray(jax.vmap(lambda key: permutations.permute_rows(key, counts, stratum))(keys))
    people = np.asarray(jax.vmap(lambda key: permutations.permute_subjects(key, np.arange(7), counts, stratum))(keys))
    for orders in (rows, people):
        np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(7), (3600, 1)))
        np.testing.assert_array_equal(stratum[orders], np.tile(stratum, (3600, 1)))
        assert (orders[:, 4] == 4).all()
        _, seen = np.unique(orders, axis=0, return_counts=True)
        assert len(seen) == 36 and scipy.stats.chisquare(seen).pvalue > 0.001


def test_people_of_several_rows_stay_within_their_stratum():
    subject = np.repeat(np.arange(6), 2)
    stratum = np.array([0, 0, 0, 1, 1, 1, 0, 0, 1, 0, 1, 1])  # 0 and 3 are of stratum 0; the others' largest is 1
    keys = jax.random.split(jax.random.key(0), 200)
    orders = jax.vmap(lambda key: permutations.permute_subjects(key, subject, np.ones(12, bool), stratum))(keys)
    given = subject[np.asarray(orders)]
    np.testing.assert_array_equal(given[:, ::2], given[:, 1::2])
    of_low = given[:, [0, 6]]
    assert set(of_low.ravel()) == {0, 3} and set(np.delete(given, [0, 1, 6, 7], axis=1).ravel()) == {1, 2, 4, 5}
