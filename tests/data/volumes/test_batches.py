import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eqpool.data.volumes.batches import (
    FEWEST_ROWS,
    PADDING,
    batch_sizes,
    batch_slots,
    count_batches,
    epoch_layout,
    volume_batches,
)

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
    assert [batch["mask"].tolist() for batch in found] == [[1] * 8] * 2 + [[1] * 7 + [0]] * 2
    assert not found[-1]["inputs"][7:].any()


def test_the_order_is_a_function_of_seed_and_epoch():
    assert order(batches(threads=1)) == order(batches(threads=4))
    others = [order(batches()), order(batches(epoch=2)), order(batches(seed=4)), order(batches(epoch=3, seed=1))]
    assert len({tuple(other) for other in others}) == 4


def test_in_order_without_shuffling():
    assert order(batches(shuffle=False)) == ROWS.tolist()


# (rows, batch size) -> sizes. The first is ADCP's training rows, which ended every epoch with a step on one subject.
SPREAD = [
    (81, 16, (14, 14, 14, 13, 13, 13)),
    (17, 16, (9, 8)),
    (32, 16, (16, 16)),
    (8, 7, (4, 4)),
    (12, 6, (6, 6)),
    (81, 4, (5, *[4] * 19)),  # 21 batches would have three rows
    (5, 4, (5,)),
    (11, 5, (6, 5)),
    (5, 3, (5,)),  # three rows were asked for, so no batch has two
    (7, 2, (3, 2, 2)),
    (81, 128, (81,)),
    (3, 16, (3,)),
    (1, 2, (1,)),
    (3, 1, (1, 1, 1)),
    (0, 16, ()),
]


@pytest.mark.parametrize(("rows", "size", "expected"), SPREAD)
def test_the_remainder_is_spread(rows, size, expected):
    assert batch_sizes(rows, size) == expected


@settings(deadline=None, max_examples=400)
@given(st.integers(0, 3000), st.integers(1, 300))
def test_no_batch_is_small(rows, size):
    """The rule as the loops need it, for any numbers."""
    sizes = batch_sizes(rows, size)
    assert sum(sizes) == rows and sizes == batch_sizes(rows, size)
    if not rows:
        return
    assert min(sizes) >= min(FEWEST_ROWS, size, rows)
    assert max(sizes) - min(sizes) <= 1 and list(sizes) == sorted(sizes, reverse=True)
    full = -(-rows // size)
    if size >= 7 or rows % size == 0 or rows < size:
        # As many steps as a last batch of its own would make, so that schedules stay; and no more memory.
        assert len(sizes) == full and max(sizes) <= size
    else:
        assert full - max(1, full // 2) <= len(sizes) <= full
        # One row more than asked for, but for epochs of one or two batches.
        assert max(sizes) <= size + (1 if len(sizes) > 2 else 3)
    if rows % size == 0:
        assert set(sizes) == {size}


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 300), st.integers(1, 40), st.integers(0, 9))
def test_the_layout_is_the_order_cut_in_pieces(rows, size, spare):
    slots = batch_slots(rows, size) + spare
    layout = epoch_layout(rows, size, slots)
    assert layout.shape == (len(batch_sizes(rows, size)), slots) and layout.dtype == np.int32
    assert layout[layout != PADDING].tolist() == list(range(rows))
    for line, count in zip(layout, batch_sizes(rows, size), strict=True):
        assert (line[:count] != PADDING).all() and (line[count:] == PADDING).all()


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="batch_size 0"):
        batch_sizes(5, 0)
    with pytest.raises(ValueError, match="count is -1"):
        batch_sizes(-1, 4)
    with pytest.raises(ValueError, match="4 slots for batches of 5 rows"):
        epoch_layout(5, 4, 4)


@pytest.mark.parametrize(("size", "shape"), [(4, 5), (16, 16), (7, 7)])
def test_joined_rows_have_a_slot(size, shape):
    """29 rows in batches of 4 are seven batches, one of them of five rows; their shape is that of the largest."""
    found = list(volume_batches(INPUTS, ROWS[:29], batch_size=size, seed=3, epoch=1))
    assert {len(batch["mask"]) for batch in found} == {shape}
    assert sorted(order(found)) == ROWS[:29].tolist()
    assert tuple(int(batch["mask"].sum()) for batch in found) == batch_sizes(29, size)


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
