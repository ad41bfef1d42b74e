from __future__ import annotations

import math

import numpy as np
import pytest

from robostig import camera

FIRST = math.ceil(camera.HORIZON * camera.HEIGHT + 0.5)  # row that is wholly below the horizon
ROWS, COLUMNS = np.mgrid[FIRST : camera.HEIGHT, 0 : camera.WIDTH]


def test_what_a_pixel_shows_is_projected_onto_that_pixel():
    ahead, aside = camera.view_ground(ROWS, COLUMNS)
    columns, rows, depth = camera.project(ahead, aside)
    np.testing.assert_allclose(columns, COLUMNS + 0.5, atol=1e-9)
    np.testing.assert_allclose(rows, ROWS + 0.5, atol=1e-9)
    assert (depth > 0.0).all()


def test_a_point_of_the_ground_is_seen_where_it_is():
    generator = np.random.default_rng(0)
    ahead, aside = generator.uniform(2.0, 80.0, 500), generator.uniform(-20.0, 20.0, 500)
    columns, rows, _ = camera.project(ahead, aside)
    there = camera.view_ground(rows - 0.5, columns - 0.5)
    np.testing.assert_allclose(there, (ahead, aside), rtol=1e-9)


def test_ground_comes_nearer_from_the_horizon_down_and_further_right_from_left_to_right():
    ahead, aside = camera.view_ground(ROWS, COLUMNS)
    assert (np.diff(ahead, axis=0) < 0.0).all() and (ahead > 0.0).all()
    assert (np.diff(aside, axis=1) > 0.0).all()
    np.testing.assert_allclose(aside, -aside[:, ::-1])
    np.testing.assert_allclose(ahead, np.broadcast_to(ahead[:, :1], ahead.shape))


def test_the_horizon_is_where_it_was_measured():
    _, rows, _ = camera.project(np.array([1e3, 1e6, 1e12]), np.zeros(3))
    assert rows[-1] == pytest.approx(camera.HORIZON * camera.HEIGHT, abs=1e-6) and (np.diff(rows) < 0.0).all()
    for height in (0.5, camera.HEIGHT_M, 5.0):  # things as high as the camera end at the horizon, wherever they stand
        _, rows, _ = camera.project(np.array([5.0, 50.0]), np.zeros(2), height)
        assert (np.sign(rows - camera.HORIZON * camera.HEIGHT) == np.sign(camera.HEIGHT_M - height)).all() or (
            height == camera.HEIGHT_M and np.ptp(rows) < 1e-9
        )


def test_the_picture_is_sixty_degrees_tall():
    top, bottom = (math.atan((row - camera.HEIGHT / 2) / camera.FOCAL) for row in (0, camera.HEIGHT))
    assert math.degrees(bottom - top) == pytest.approx(60.0)
    assert math.degrees(camera.PITCH) == pytest.approx(6.6, abs=0.05)  # as its source says


def test_points_behind_the_camera_have_no_place_and_are_no_error():
    with np.errstate(all="raise"):
        columns, rows, depth = camera.project(np.array([-10.0, -1e-12]), np.array([3.0, 3.0]))
    assert depth[0] < 0.0 and np.isfinite([columns, rows]).all()


def test_points_to_the_right_are_seen_on_the_right_and_higher_ones_above():
    (left, middle, right), rows, _ = camera.project(np.full(3, 10.0), np.array([-1.0, 0.0, 1.0]))
    assert left < middle == camera.WIDTH / 2 < right and left + right == camera.WIDTH and np.ptp(rows) == 0.0
    assert camera.project(10.0, 0.0, 1.0)[1] < camera.project(10.0, 0.0)[1]


def test_side_cameras_are_as_far_left_as_right():
    assert camera.ASIDE_M["left"] == -camera.ASIDE_M["right"] < 0.0 == camera.ASIDE_M["center"]
