from __future__ import annotations

import numpy as np
import pytest

from robostig.overlay import UNSEEN, highlight, place_mask
from robostig.preprocessing import InputSpec

SPEC = InputSpec(66, 200, crop_top=60 / 160, crop_bottom=25 / 160)


def make_mask():
    """Return a mask that counts in one place: a third from the left, in the middle of the height."""
    rows, columns = np.mgrid[:66, :200]
    return np.exp(-(((rows - 33) / 20) ** 2) - ((columns - 67) / 40) ** 2).astype(np.float32)


@pytest.mark.parametrize("size", [(160, 320), (120, 160), (480, 640)])
def test_a_mask_is_placed_where_the_network_looked(size):
    placed = place_mask(make_mask(), SPEC, size)
    top, bottom = SPEC.choose_rows(size[0])
    assert placed.shape == size and placed.dtype == np.float32
    assert not placed[:top].any() and not placed[bottom:].any()
    row, column = np.unravel_index(placed.argmax(), size)
    assert row == pytest.approx((top + bottom) / 2, abs=0.02 * size[0])
    assert column == pytest.approx(size[1] / 3, abs=0.02 * size[1])


@pytest.mark.parametrize("size", [(160, 320), (120, 160)])
def test_what_counts_is_pink_and_what_is_cut_away_is_dark(size):
    frame = np.full((*size, 3), 120, np.uint8)
    picture = highlight(frame, make_mask(), SPEC)
    top, bottom = SPEC.choose_rows(size[0])
    assert picture.shape == frame.shape and picture.dtype == np.uint8
    dark = np.concatenate([picture[:top], picture[bottom:]])
    assert (dark == round(UNSEEN * 120)).all()
    red, green, blue = picture[(top + bottom) // 2, size[1] // 3].astype(int)
    assert red > blue + 60 > green + 120
    colored = np.ptp(picture[top:bottom].astype(int), axis=2) > 0
    assert 0.17 < colored.mean() < 0.21, "a fifth, whatever the values of the mask"
    assert (picture[top:bottom][~colored] >= 115).all()
    assert (frame == 120).all(), "the frame itself is left alone"


def test_a_mask_of_zeros_colours_nothing():
    frame = np.random.default_rng(0).integers(0, 256, (160, 320, 1), dtype=np.uint8).repeat(3, axis=2)
    picture = highlight(frame, np.zeros((66, 200), np.float32), SPEC)
    assert (picture[60:135] == frame[60:135]).all()
