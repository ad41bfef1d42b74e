from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from robostig import preprocessing
from robostig.models import get_spec, list_models
from robostig.preprocessing import InputSpec, PixelLayout, move_channels_first, preprocess

RGB = InputSpec(160, 320)
SIZES = st.integers(1, 90)


def make_noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def preprocess_without_opencv(frame: np.ndarray, spec: InputSpec) -> np.ndarray:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preprocessing, "cv2", None)  # as in SageMaker's inference image
        return preprocess(frame, spec)


def test_crop_resize_and_colour_are_opencvs():
    frame = make_noise(160, 320)
    spec = InputSpec(66, 200, crop_top=60 / 160, crop_bottom=25 / 160, color_space="yuv")
    expected = cv2.cvtColor(cv2.resize(frame[60:135], (200, 66), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2YUV)
    np.testing.assert_array_equal(preprocess(frame, spec), expected)


@pytest.mark.parametrize("rows", [80, 120, 160, 480])
def test_the_same_share_is_cut_from_a_frame_of_any_height(rows):
    frame = make_noise(rows, 20)
    top, bottom = rows * 60 // 160, round(rows * 25 / 160)
    spec = InputSpec(rows - top - bottom, 20, crop_top=60 / 160, crop_bottom=25 / 160)
    np.testing.assert_array_equal(preprocess(frame, spec), frame[top : rows - bottom])


def test_a_red_picture_stays_red():
    red = np.zeros((160, 320, 3), np.uint8)
    red[..., 0] = 255
    assert preprocess(red, RGB)[0, 0].tolist() == [255, 0, 0]
    luma, blueness, redness = preprocess(red, InputSpec(66, 200, color_space="yuv"))[0, 0]
    assert luma == 76 and redness == 255 and blueness < 128  # blue, which BGR would make of it: 29, 107, 255


@pytest.mark.parametrize(
    "spec", [RGB, InputSpec(80, 320, crop_top=0.5), InputSpec(160, 320, color_space="yuv"), InputSpec(66, 200)]
)
def test_without_a_copy_the_answer_is_the_same_and_the_frame_is_left_alone(spec):
    frame = make_noise(160, 320)
    before = frame.copy()
    answer = preprocess(frame, spec, copy=False)
    np.testing.assert_array_equal(answer, preprocess(frame, spec))
    np.testing.assert_array_equal(frame, before)
    untouched = spec.color_space == "rgb" and spec.width == 320
    assert np.shares_memory(answer, frame) == untouched


@pytest.mark.parametrize("without_opencv", [False, True])
@pytest.mark.parametrize("spec", [RGB, InputSpec(160, 320, color_space="yuv")])
def test_the_answer_is_a_new_array_and_the_frame_is_left_alone(spec, without_opencv):
    frame = make_noise(160, 320)
    before = frame.copy()
    answer = (preprocess_without_opencv if without_opencv else preprocess)(frame, spec)
    answer[:] = 0
    np.testing.assert_array_equal(frame, before)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", list_models())
def test_numpy_equals_opencv_to_the_bit_on_the_simulators_frames(name, seed):
    frame, spec = make_noise(160, 320, seed), get_spec(name).input
    np.testing.assert_array_equal(preprocess_without_opencv(frame, spec), preprocess(frame, spec))


def test_numpy_equals_opencv_for_every_colour():
    grid = np.stack(np.meshgrid(*[np.arange(0, 256, 3)] * 3), -1).astype(np.uint8).reshape(-1, 86, 3)
    spec = InputSpec(*grid.shape[:2], color_space="yuv")
    np.testing.assert_array_equal(preprocess_without_opencv(grid, spec), preprocess(grid, spec))


@settings(deadline=None, max_examples=150)
@example(6, 1, 34, 1, "rgb", 0)  # where a pixel falls on an edge but for rounding
@example(22, 1, 50, 1, "rgb", 0)
@example(1, 14, 1, 58, "rgb", 0)
@given(SIZES, SIZES, SIZES, SIZES, st.sampled_from(preprocessing.COLOR_SPACES), st.integers(0, 999))
def test_numpy_equals_opencv_for_any_sizes(rows, columns, height, width, color_space, seed):
    frame, spec = make_noise(rows, columns, seed), InputSpec(height, width, color_space=color_space)
    with_opencv, without = preprocess(frame, spec), preprocess_without_opencv(frame, spec)
    assert without.shape == spec.shape and without.dtype == np.uint8
    np.testing.assert_array_equal(without, with_opencv)


@pytest.mark.parametrize("times", [(2, 2), (3, 2), (4, 4), (1, 5), (6, 3)])
def test_numpy_equals_opencv_where_whole_blocks_become_a_pixel(times):
    frame, spec = make_noise(30 * times[0], 40 * times[1]), InputSpec(30, 40)
    np.testing.assert_array_equal(preprocess_without_opencv(frame, spec), preprocess(frame, spec))


@pytest.mark.parametrize("frame", [None, "frame.jpg", [[[0, 0, 0]]]])
def test_what_is_no_array_is_refused(frame):
    with pytest.raises(ValueError, match=f"numpy array .* not {type(frame).__name__}"):
        preprocess(frame, RGB)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((160, 320), np.uint8),
        ((160, 320, 4), np.uint8),
        ((160, 320, 1), np.uint8),
        ((3, 160, 320), np.uint8),
        ((1, 160, 320, 3), np.uint8),
        ((0, 320, 3), np.uint8),
        ((160, 320, 3), np.float32),
        ((160, 320, 3), np.int64),
    ],
)
def test_an_array_that_is_no_frame_is_refused_with_its_shape_and_type(shape, dtype):
    with pytest.raises(ValueError, match=f"this array is {'x'.join(map(str, shape))} {np.dtype(dtype)}"):
        preprocess(np.zeros(shape, dtype), RGB)


def test_a_frame_too_low_for_the_crop_is_refused():
    with pytest.raises(ValueError, match="1 rows high has none left after cropping 60% above"):
        preprocess(np.zeros((1, 8, 3), np.uint8), InputSpec(4, 4, crop_top=0.6))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"height": 0}, "0x320 pixels"),
        ({"width": -1}, "160x-1 pixels"),
        ({"crop_top": -0.1}, "crop_top=-0.1"),
        ({"crop_top": 0.5, "crop_bottom": 0.5}, "leave nothing"),
        ({"crop_bottom": float("nan")}, "crop_bottom=nan"),
        ({"color_space": "bgr"}, "'bgr'; use one of rgb, yuv"),
    ],
)
def test_an_impossible_spec_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        InputSpec(**{"height": 160, "width": 320, **values})


def test_a_spec_survives_json():
    spec = InputSpec(66, 200, crop_top=60 / 160, crop_bottom=25 / 160, color_space="yuv")
    assert InputSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize(
    "layout",
    [PixelLayout(7), PixelLayout(6, 2, 1, fill=127.5), PixelLayout(7, above=1, fill=-3.0), PixelLayout(7, beside=3)],
)
@pytest.mark.parametrize("count", [0, 1, 3])
def test_pixels_lie_as_in_the_picture_with_a_border_around_them(layout, count):
    frames = np.random.default_rng(0).integers(0, 256, (count, 7, 5, 3), np.uint8)
    above, beside = (layout.above,) * 2, (layout.beside,) * 2
    framed = np.pad(
        frames[:, : layout.rows].astype(np.float32),
        [(0, 0), above, beside, (0, 0)],
        constant_values=layout.fill,
    )
    inputs = layout.arrange(frames)
    assert inputs.dtype == np.float32
    np.testing.assert_array_equal(inputs, framed.reshape(count, 1, framed.shape[1], 3 * framed.shape[2]))


@pytest.mark.parametrize("has_opencv", [True, False])
@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (1.0, -127.5), (1 / 127.5, -1.0), (0.5, 0.0)])
def test_planes_are_scaled_while_they_become_floats(monkeypatch, has_opencv, scale, offset):
    if not has_opencv:
        monkeypatch.setattr(preprocessing, "cv2", None)
    frames = np.random.default_rng(4).integers(0, 256, (3, 7, 5, 3), np.uint8)
    out = np.empty((3, 3, 7, 5), np.float32)
    planes = move_channels_first(frames, out, scale=scale, offset=offset)
    assert planes is out
    np.testing.assert_allclose(planes, scale * frames.transpose(0, 3, 1, 2).astype(np.float64) + offset, atol=1e-4)
    assert np.array_equal(move_channels_first(frames), frames.transpose(0, 3, 1, 2).astype(np.float32))
