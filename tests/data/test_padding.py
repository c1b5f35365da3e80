"""Batches of one shape: every row once and in order, padding from the data alone, no rows at all."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from topojax.data.padding import in_batches, padded_batches, served


@given(n=st.integers(1, 12), size=st.integers(1, 8))
def test_every_row_comes_back_once_and_padding_is_of_the_data(n, size):
    rows = (np.arange(n, dtype=np.float32), np.arange(2 * n).reshape(n, 2))
    given_ = []

    def spy(batch):
        given_.append(batch)
        return {"first": batch[0] + 1, "second": batch[1]}

    out = in_batches(spy, rows, size)
    np.testing.assert_array_equal(out["first"], rows[0] + 1)
    np.testing.assert_array_equal(out["second"], rows[1])
    for first, second in given_:
        assert (len(first), len(second)) == (size, size)
        assert set(first.tolist()) <= set(range(n))


def test_padding_have_no_more_rows_than_asked_for():
    parts = list(padded_batches(lambda x: x, np.arange(7), 3))
    assert [part.tolist() for part in parts] == [[0, 1, 2], [3, 4, 5], [6]]


def test_no_rows_give_the_shapes_of_none():
    out = in_batches(lambda x: (x @ np.ones((3, 2)), x[:, 0]), np.zeros((0, 3), np.float32), 4)
    assert [part.shape for part in out] == [(0, 2), (0,)]


@given(n=st.integers(0, 1200))
def test_what_is_served_waits_for_no_more_rows_than_it_must(n):
    sizes = []

    def spy(batch):
        sizes.append(len(batch))
        return batch + 1

    rows = np.arange(n, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(served(spy, rows), rows + 1)
    size = next((size for size in (1, 32, 512) if n <= size), 512)
    assert set(sizes) == {size}
    assert len(sizes) == max(1, -(-n // size))
