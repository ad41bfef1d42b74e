from __future__ import annotations

from dataclasses import fields, replace

import cv2
import numpy as np
import pytest
from conftest import draw_road

from robostig import camera
from robostig.augmentation import (
    BRIGHTNESS,
    CAMERA_CORRECTION,
    CHANGES,
    SHADOW_LIGHT,
    TINT,
    Augmentation,
    Draw,
    Memory,
    apply,
)
from robostig.driving_log import CAMERAS, read_picture
from robostig.models import get_spec, list_models
from robostig.preprocessing import InputSpec, preprocess

OFF = {each.name: 0.0 for each in fields(Augmentation) if each.name != "correction"}
RGB, YUV = (InputSpec(160, 320, color_space=color_space) for color_space in ("rgb", "yuv"))
STEERING = np.array([0.25, -0.5], np.float32)


def make_frames(height: int = 160, width: int = 320, count: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)


def draw_nothing(count: int) -> Draw:
    nothing = Augmentation(**OFF).draw(count, np.random.default_rng(0))
    return replace(nothing, shadow_edge=np.full((count, 2), 0.5))


def change(frames: np.ndarray, steering: np.ndarray = STEERING, spec: InputSpec = RGB, **drawn):
    draw = replace(draw_nothing(len(frames)), **{name: np.asarray(values) for name, values in drawn.items()})
    return apply(frames.copy(), steering, draw, spec)


def test_a_flip_mirrors_the_frame_and_the_sign_of_its_own_frame_only():
    frames = make_frames()
    changed, steering = change(frames, flip=[True, False])
    np.testing.assert_array_equal(changed[0], frames[0, :, ::-1])
    np.testing.assert_array_equal(changed[1], frames[1])
    assert steering.tolist() == [-0.25, -0.5]


def test_flipping_twice_changes_nothing():
    frames = make_frames(width=201)
    changed, steering = change(*change(frames, flip=[True, True]), flip=[True, True])
    np.testing.assert_array_equal(changed, frames)
    np.testing.assert_array_equal(steering, STEERING)


@pytest.mark.parametrize("shift", [1.0, -1.0])
def test_seen_from_the_left_the_ground_moves_right_and_the_horizon_stays(shift):
    frames = make_frames()
    changed, steering = change(frames, shift=[shift, 0.0])
    direction = int(shift)
    mirrored, changed_mirrored = frames[0, :, ::direction], changed[0, :, ::direction]
    np.testing.assert_array_equal(changed[0, :65], frames[0, :65])
    for row in range(74, 160, 10):  # where 0.7 pixels a row are whole ones
        pixels = (row - 64) * 7 // 10
        np.testing.assert_array_equal(changed_mirrored[row, pixels:], mirrored[row, :-pixels])
        assert (changed_mirrored[row, :pixels] == mirrored[row, 0]).all()
    np.testing.assert_array_equal(changed[1], frames[1])
    np.testing.assert_allclose(steering, [0.25 + 0.05 * shift, -0.5], atol=1e-6)


@pytest.mark.parametrize("name", list_models())
@pytest.mark.parametrize("shift", [0.7, -0.7])
def test_a_viewpoint_is_the_same_before_and_after_preprocessing(name, shift):
    spec, raw = get_spec(name).input, InputSpec(160, 320)
    road = draw_road(0.3)
    first, _ = change(road[None], STEERING[:1], spec=raw, shift=[shift])
    expected = preprocess(first[0], spec)
    changed, _ = change(preprocess(road, spec)[None], STEERING[:1], spec=spec, shift=[shift])
    unchanged = preprocess(road, spec)
    difference, before = (np.abs(each.astype(float) - expected).mean() for each in (changed[0], unchanged))
    assert difference < 0.25 * before


def test_a_shift_of_1_looks_like_the_real_left_camera_and_of_minus_1_like_the_right(lake):
    ground = slice(66, 130)
    for name in sorted(path.name for path in (lake / "IMG").glob("center_*.jpg"))[100::600]:
        center, left, right = (read_picture(lake / "IMG" / name.replace("center", camera)) for camera in CAMERAS)
        for side, shift in ((left, 1.0), (right, -1.0)):
            changed, _ = change(center[None], STEERING[:1], shift=[shift])
            after, before = (
                np.abs(each[ground, 60:-60].astype(float) - side[ground, 60:-60]).mean()
                for each in (changed[0], center)
            )
            assert after < 0.8 * before


def test_a_frame_without_ground_moves_nowhere():
    spec = InputSpec(20, 40, crop_bottom=0.7)
    frames = make_frames(20, 40)
    changed, steering = change(frames, spec=spec, flip=[True, False], shift=[1.0, -1.0])
    np.testing.assert_array_equal(changed, [frames[0, :, ::-1], frames[1]])
    np.testing.assert_allclose(steering, [-0.25 + CAMERA_CORRECTION, -0.5 - CAMERA_CORRECTION])


def test_only_the_view_above_the_horizon_comes_from_another_frame():
    frames = make_frames(count=3)
    changed, steering = change(frames, np.zeros(3, np.float32), scenery=[2, 0, 2])
    for number, donor in enumerate((2, 0, 2)):
        np.testing.assert_array_equal(changed[number, :64], frames[donor, :64])
        np.testing.assert_array_equal(changed[number, 64:], frames[number, 64:])
    assert not steering.any()


def test_the_rows_with_the_bonnet_come_from_another_frame_after_all_else():
    frames = make_frames(count=3)
    changed, steering = change(frames, np.zeros(3, np.float32), bonnet=[1, 2, 0], flip=[False, True, False])
    np.testing.assert_array_equal(changed[0, 135:], frames[1, 135:, ::-1])
    np.testing.assert_array_equal(changed[:, :135], [frames[0, :135], frames[1, :135, ::-1], frames[2, :135]])
    assert not steering.any()


def test_where_the_bonnet_is_cropped_away_nothing_is_exchanged():
    frames = make_frames(66, 200)
    assert "nvidia" in list_models()
    spec = get_spec("nvidia").input
    np.testing.assert_array_equal(change(frames, spec=spec, bonnet=[1, 0])[0], frames)


def test_a_tint_changes_red_and_blue_and_not_green():
    frames = np.full((2, 4, 6, 3), 100, np.uint8)
    changed, steering = change(frames, tint=[[1.0, -1.0], [0.0, 0.0]])
    assert changed[0, 0, 0].tolist() == [round(100 * (1 + TINT)), 100, round(100 * (1 - TINT))]
    np.testing.assert_array_equal(changed[1], frames[1])
    np.testing.assert_array_equal(steering, STEERING)


def test_a_tint_of_grey_is_the_same_in_yuv_as_in_rgb():
    grey = np.full((2, 4, 6, 3), 128, np.uint8)
    tints = [[1.0, 0.5], [-0.4, -1.0]]
    rgb, _ = change(grey, tint=tints)
    yuv, _ = change(grey, spec=YUV, tint=tints)  # a grey of 128 is 128, 128, 128 in YUV too
    wanted = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2YUV) for frame in rgb]).astype(int)
    assert np.abs(yuv[..., 1:].astype(int) - wanted[..., 1:]).max() <= 6  # luma is not changed, so chroma nearly so


def test_a_view_without_sky_keeps_its_own_scenery():
    spec = InputSpec(66, 200, crop_top=0.5)
    frames = make_frames(66, 200)
    np.testing.assert_array_equal(change(frames, spec=spec, scenery=[1, 0])[0], frames)


def test_a_crop_of_sky_alone_does_not_shift():
    spec = InputSpec(66, 200, crop_bottom=0.7)
    frames = make_frames(66, 200)
    changed, _ = change(frames, spec=spec, shift=[1.0, -1.0])
    np.testing.assert_array_equal(changed, frames)


def test_the_correction_scales_with_the_shift():
    _, steering = change(make_frames(), np.zeros(2, np.float32), shift=[0.5, -0.25], correction=0.2)
    np.testing.assert_allclose(steering, [0.1, -0.05], atol=1e-7)


def test_flip_comes_before_shift_in_the_frame_as_in_the_label():
    frames = make_frames()
    changed, steering = change(frames, flip=[True, False], shift=[1.0, 0.0])
    np.testing.assert_array_equal(changed[0, 84, 14:], frames[0, 84, ::-1][:-14])
    assert steering[0] == pytest.approx(-0.25 + 0.05)


def test_light_saturates_and_never_wraps():
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, None, :, None], 3, axis=3).repeat(2, axis=0)
    changed, steering = change(ramp, light=[1.2, 0.8])
    np.testing.assert_array_equal(changed[0, 0, :, 0], np.minimum(np.rint(np.arange(256) * 1.2), 255))
    np.testing.assert_array_equal(changed[1, 0, :, 2], np.rint(np.arange(256) * 0.8))
    np.testing.assert_array_equal(steering, STEERING)


def test_neutral_chroma_stays_neutral_in_yuv():
    frames = np.full((2, 4, 6, 3), 128, np.uint8)
    changed, _ = change(frames, spec=YUV, light=[1.2, 0.8])
    assert changed[0, 0, 0].tolist() == [154, 128, 128]
    assert changed[1, 0, 0].tolist() == [102, 128, 128]


def test_a_shadow_darkens_only_the_left_of_its_edge():
    frames = make_frames(height=3, width=100)
    changed, steering = change(frames, shadow_edge=[[0.2, 0.6], [0.5, 0.5]], shadow_light=[0.5, 1.0])
    for row, border in enumerate((20, 40, 60)):
        np.testing.assert_array_equal(changed[0, row, :border], np.rint(frames[0, row, :border] * 0.5))
        np.testing.assert_array_equal(changed[0, row, border:], frames[0, row, border:])
    np.testing.assert_array_equal(changed[1], frames[1])
    np.testing.assert_array_equal(steering, STEERING)


def test_light_and_shadow_multiply():
    frames = np.full((2, 2, 10, 3), 100, np.uint8)
    changed, _ = change(frames, light=[1.2, 1.0], shadow_light=[0.5, 1.0])
    assert changed[0, 0, :, 0].tolist() == [60] * 5 + [120] * 5


def test_labels_are_clipped():
    _, steering = change(make_frames(), np.array([0.99, -0.99], np.float32), shift=[1.0, -1.0])
    assert steering.tolist() == [1.0, -1.0] and steering.dtype == np.float32


def test_neither_frames_nor_labels_are_changed():
    frames, steering = make_frames(), STEERING.copy()
    before = frames.copy()
    for frame in frames:
        frame.setflags(write=False)  # as those of a mapped file are
    flip, light = np.array([True, False]), np.array([0.8, 0.7])
    answer, changed = apply(list(frames), steering, replace(draw_nothing(2), flip=flip, light=light), RGB)
    assert (answer != before).any(axis=(1, 2, 3)).all() and not np.shares_memory(answer, frames)
    np.testing.assert_array_equal(frames, before)
    np.testing.assert_array_equal(steering, STEERING)
    assert changed is not steering


def change_one_by_one(frames: np.ndarray, draw: Draw, spec: InputSpec) -> np.ndarray:
    """Do what ``apply`` does, frame by frame: with OpenCV's warpAffine, and light a pixel at a time."""
    height, width = spec.shape[:2]
    seen = 1.0 - spec.crop_top - spec.crop_bottom
    horizon, bonnet = ((share - spec.crop_top) / seen * height for share in (camera.HORIZON, camera.BONNET))
    sky, first = max(0, int(horizon)), max(0, int(np.ceil(horizon)))
    changed = []
    for number, frame in enumerate(frames):
        frame = np.concatenate([frames[draw.scenery[number], :sky], frame[sky:]])
        frame = frame[:, ::-1].copy() if draw.flip[number] else frame
        slope = draw.shift[number] * camera.SIDE_SLOPE * (width / camera.WIDTH) / (height / (camera.HEIGHT * seen))
        if slope and first < height:
            shear, size = np.array([[1.0, slope, slope * (first - horizon)], [0.0, 1.0, 0.0]]), (width, height - first)
            frame[first:] = cv2.warpAffine(frame[first:], shear, size, borderMode=cv2.BORDER_REPLICATE)
        edge = np.linspace(*draw.shadow_edge[number], height) * width
        shadow = np.where(np.arange(width) < edge[:, None], draw.shadow_light[number], 1.0)[..., None]
        (red, blue), light = TINT * draw.tint[number], draw.light[number] * shadow
        if spec.color_space == "rgb":
            frame = frame * light * (1.0 + np.array([red, 0.0, blue]))
        else:
            grey = np.array([0.0, 128.0, 128.0])
            chroma = 0.492 * (0.886 * blue - 0.299 * red), 0.877 * (0.701 * red - 0.114 * blue)
            frame = (frame - grey) * light + grey + 128.0 * np.array([0.0, *chroma]) * light
        changed.append(np.clip(np.rint(frame), 0, 255).astype(np.uint8))
    bonnets = np.stack(changed)[draw.bonnet, max(0, int(np.ceil(bonnet))) :]
    return np.concatenate([np.stack(changed)[:, : height - bonnets.shape[1]], bonnets], axis=1)


SPECS = [get_spec("nvidia").input, get_spec("comma").input, InputSpec(33, 101, crop_top=0.5), InputSpec(40, 80)]


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("tint", [0.0, 0.5])
def test_a_batch_at_once_is_to_the_bit_what_frames_are_one_by_one(spec, tint):
    frames = make_frames(spec.height, spec.width, count=24)
    often = Augmentation(**{**dict.fromkeys(OFF, 0.6), "tint": tint})
    draw, memory = often.draw(24, np.random.default_rng(1)), Memory()
    expected = change_one_by_one(frames, draw, spec)
    for _ in range(2):  # in fresh memory, and in what is left in there
        changed, _ = apply(frames, np.zeros(24, np.float32), draw, spec, memory)
        np.testing.assert_array_equal(changed, expected)


def test_memory_is_taken_again_when_neither_an_array_nor_a_view_of_it_is_held():
    memory = Memory()
    first = memory.take(2, 3, 5)
    place, view = first.ctypes.data, first[1:, 0]
    assert first.shape == (2, 3, 5) and first.dtype == np.uint8
    other = memory.take(2, 3, 5)
    assert not np.shares_memory(first, other)
    del first
    assert memory.take(30).ctypes.data != place
    del view
    assert memory.take(7).ctypes.data == place
    del other
    larger = memory.take(1000)
    assert larger.size == 1000


def test_memory_keeps_no_more_arrays_than_it_may():
    memory = Memory()
    held = [memory.take(10) for _ in range(50)]
    assert len({each.ctypes.data for each in held}) == 50 and len(memory._arrays) == Memory._LIMIT


def draw(augmentation: Augmentation, seed: int = 0, count: int = 1000) -> Draw:
    return augmentation.draw(count, np.random.default_rng(seed))


def test_with_probability_0_nothing_changes():
    never = draw(Augmentation(**OFF), count=2)
    frames = make_frames()
    changed, steering = apply(frames.copy(), STEERING, never, YUV)
    np.testing.assert_array_equal(changed, frames)
    np.testing.assert_array_equal(steering, STEERING)


def test_with_probability_1_every_frame_changes_within_its_range():
    always = draw(Augmentation(**dict.fromkeys(OFF, 1.0)))
    assert sorted(always.scenery) == list(range(1000)) and (always.scenery != np.arange(1000)).mean() > 0.99
    assert always.flip.all()
    ranges = ((always.light, BRIGHTNESS), (always.shadow_light, SHADOW_LIGHT), (always.shift, (-1.0, 1.0)))
    for values, (low, high) in ranges:
        margin = 0.02 * (high - low)
        assert low <= values.min() < low + margin and high - margin < values.max() <= high


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("flip", lambda drawn: drawn.flip),
        ("shift", lambda drawn: drawn.shift != 0),
        ("shadow", lambda drawn: drawn.shadow_light != 1),
        ("brightness", lambda drawn: drawn.light != 1),
        ("bonnet", lambda drawn: drawn.bonnet != np.arange(1000)),
        ("tint", lambda drawn: drawn.tint.any(axis=1)),
        ("scenery", lambda drawn: drawn.scenery != np.arange(1000)),
    ],
)
def test_each_change_happens_as_often_as_told_and_alone(name, changed):
    drawn = draw(Augmentation(**{**OFF, name: 0.3}))
    assert changed(drawn).mean() == pytest.approx(0.3, abs=0.05)
    nothing = draw(Augmentation(**OFF))
    same = [np.array_equal(getattr(drawn, each.name), getattr(nothing, each.name)) for each in fields(Draw)]
    assert same.count(False) == 1


def test_the_same_seed_draws_the_same():
    first, again, other = (draw(Augmentation(), seed) for seed in (1, 1, 2))
    for each in fields(Draw):
        np.testing.assert_array_equal(getattr(first, each.name), getattr(again, each.name))
    assert (first.shift != other.shift).any()


def test_a_setting_does_not_disturb_the_other_draws():
    generators = np.random.default_rng(3), np.random.default_rng(3)
    some, none = Augmentation().draw(50, generators[0]), Augmentation(flip=0, shadow=0).draw(50, generators[1])
    np.testing.assert_array_equal(some.shift, none.shift)
    assert generators[0].random() == generators[1].random()


@pytest.mark.parametrize("name", OFF)
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_what_is_no_probability_is_refused(name, value):
    with pytest.raises(ValueError, match=f"probability of {name} is {value}"):
        Augmentation(**{name: value})


@pytest.mark.parametrize("name", CHANGES)
def test_one_change_alone_happens_to_every_frame(name):
    alone = Augmentation.only(name)
    assert {each: getattr(alone, each) for each in CHANGES} == {each: float(each == name) for each in CHANGES}
    with pytest.raises(ValueError, match="there is no change 'rain'; there are: flip, shift"):
        Augmentation.only(name, "rain")
