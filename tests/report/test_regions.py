"""Charts as regions: hulls of points, their area, and what has none."""

import numpy as np
import pytest

from topojax.report.regions import _area, outline


def test_the_region_of_a_square_is_the_square_without_its_outlier():
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.uniform(-1, 1, size=(2000, 2)), [[50.0, 50.0]]])
    corners = outline(points)
    np.testing.assert_array_equal(corners[0], corners[-1])  # closed
    assert np.abs(corners).max() <= 1.0
    assert _area(corners) == pytest.approx(4.0, rel=0.1)


@pytest.mark.parametrize("points", [np.zeros((0, 2)), np.eye(2), np.stack([np.arange(9.0)] * 2, axis=1)])
def test_points_without_an_inside_have_no_area(points):
    assert _area(outline(points)) == 0.0
