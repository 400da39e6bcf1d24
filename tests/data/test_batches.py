import numpy as np
import pytest

from eqpool.data.pipeline import count_batches, volume_batches

INPUTS = np.random.default_rng(0).standard_normal((40, 3, 4, 5)).astype(np.float32)
ROWS = np.array([i for i in range(40) if i % 4])  # 30 rows
COLUMNS = {"site": np.arange(40, dtype=np.int32) % 3, "covariate": np.random.default_rng(1).random((40, 2), np.float32)}


def batches(**changes):
    options = {"batch_size": 8, "seed": 3, "epoch": 1} | changes
    return list(volume_batches(INPUTS, ROWS, **options))


def order(found):
    return np.concatenate([b["index"][b["mask"] > 0] for b in found]).tolist()


def test_every_row_once_with_static_shapes():
    found = batches(columns=COLUMNS)
    assert len(found) == 4 == count_batches(ROWS, 8)
    assert sorted(order(found)) == ROWS.tolist()
    for batch in found:
        assert batch["inputs"].shape == (8, 3, 4, 5) and batch["inputs"].dtype == np.float32
        assert batch["index"].dtype == np.int32 and batch["mask"].dtype == np.float32
        valid = batch["mask"] > 0
        np.testing.assert_array_equal(batch["inputs"][valid], INPUTS[batch["index"][valid]])
        for name, values in COLUMNS.items():
            np.testing.assert_array_equal(batch[name][valid], values[batch["index"][valid]])
            assert batch[name].dtype == values.dtype
    assert found[-1]["mask"].tolist() == [1] * 6 + [0] * 2
    assert not found[-1]["inputs"][6:].any()


def test_the_order_is_a_function_of_seed_and_epoch():
    assert order(batches(threads=1)) == order(batches(threads=4))
    others = [order(batches()), order(batches(epoch=2)), order(batches(seed=4)), order(batches(epoch=3, seed=1))]
    assert len({tuple(other) for other in others}) == 4


def test_in_order_without_shuffling():
    assert order(batches(shuffle=False)) == ROWS.tolist()


@pytest.mark.parametrize("start", range(5))
def test_resuming_in_the_middle(start):
    rest, whole = batches(start=start), batches()
    assert len(rest) == 4 - start
    for first, second in zip(rest, whole[start:], strict=True):
        for name in first:
            np.testing.assert_array_equal(first[name], second[name])


def test_the_iterator_state_can_be_saved():
    iterator = volume_batches(INPUTS, ROWS, batch_size=8)
    next(iterator)
    state = iterator.get_state()
    expected = next(iterator)["index"]
    other = volume_batches(INPUTS, ROWS, batch_size=8)
    other.set_state(state)
    np.testing.assert_array_equal(next(other)["index"], expected)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_parts_of_hosts_are_disjoint_and_make_the_whole(processes):
    whole = batches(columns=COLUMNS, padded_size=12)
    share = 12 // processes
    parts = [
        batches(columns=COLUMNS, padded_size=12, part=slice(number * share, (number + 1) * share))
        for number in range(processes)
    ]
    for number, batch in enumerate(whole):
        assert batch["inputs"].shape == (12, 3, 4, 5) and not batch["mask"][8:].any()
        for name, values in batch.items():
            np.testing.assert_array_equal(np.concatenate([part[number][name] for part in parts]), values)
    assert sorted(sum((order(part) for part in parts), [])) == ROWS.tolist()


def test_a_host_reads_its_own_rows_only():
    class Counted(np.ndarray):
        read: list[int] = []

        def __getitem__(self, row):
            Counted.read.append(row)
            return np.asarray(self)[row]

    mine = list(volume_batches(INPUTS.view(Counted), ROWS, batch_size=8, part=slice(0, 4), shuffle=False))
    assert sorted(Counted.read) == order(mine) and len(Counted.read) == 16
