from __future__ import annotations

import base64
import resource

import cv2
import numpy as np
import pytest
from PIL import Image

from robostig.closed_loop import Constant, evaluate_closed_loop
from robostig.simulation import load_track
from robostig.video import CODECS, ExplanationVideo, VideoWriter, embed

TRACK = load_track("lake")


def read_video(path):
    """Return the frames of a video."""
    capture, frames = cv2.VideoCapture(str(path)), []
    while True:
        there, frame = capture.read()
        if not there:
            return frames
        frames.append(frame)


@pytest.mark.parametrize("suffix", sorted(CODECS))
def test_a_drive_becomes_a_video_with_one_picture_a_step(tmp_path, suffix):
    path = tmp_path / f"drive{suffix}"
    with VideoWriter(path, "always left") as video:
        driven = evaluate_closed_loop(Constant(-0.3), [TRACK], laps=0.01, watch=video.write)
    frames = read_video(path)
    assert len(frames) == len(driven.drives[0].steering)
    assert frames[0].shape == (440, 640, 3)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    # The picture is the camera's: blue above, not red, so its channels are in order.
    sky = frames[0][:40].mean(axis=(0, 1))
    assert sky[0] > sky[2] - 12
    # The bar of the driver's steering points to the left of the panel's middle and not to its right.
    panel = frames[-1][320 + 34 : 320 + 48].astype(int)
    blue = (panel[..., 0] - panel[..., 2]) > 80
    assert blue[:, 200:300].mean() > 0.5 > 0.1 > blue[:, 305:400].mean()


@pytest.mark.parametrize("name", ["drive.gif", "drive", "drive.mp5"])
def test_a_suffix_that_is_no_videos_is_refused_with_those_that_are(tmp_path, name):
    with pytest.raises(ValueError, match=r"name it with one of .*\.webm"):
        VideoWriter(tmp_path / name, "driver")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        VideoWriter(tmp_path / "nowhere" / "drive.avi", "driver")


def test_a_missing_codec_says_what_to_try(tmp_path, monkeypatch):
    monkeypatch.setitem(CODECS, ".mp4", "av01")  # AV1, for which OpenCV's wheels have a decoder alone
    with pytest.raises(ValueError, match=r"no av01.*try another suffix \(.*\.avi"):
        VideoWriter(tmp_path / "drive.mp4", "driver")
    assert not list(tmp_path.iterdir())


def test_a_drive_that_fails_leaves_an_earlier_video_as_it_was(tmp_path):
    path = tmp_path / "drive.avi"
    path.write_bytes(b"an earlier one")

    def steer(frame: np.ndarray) -> float:
        return float("nan")

    with pytest.raises(ValueError, match="answered nan"), VideoWriter(path, "driver") as video:
        evaluate_closed_loop(steer, [TRACK], laps=0.01, watch=video.write)
    assert path.read_bytes() == b"an earlier one" and len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_is_an_error_and_no_half_video_is_left(tmp_path):
    path, (soft, hard) = tmp_path / "drive.avi", resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
        with pytest.raises(OSError, match="is the disk full"), VideoWriter(path, "driver") as video:
            evaluate_closed_loop(Constant(0.0), [TRACK], laps=0.03, watch=video.write)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_a_folder_is_no_video_and_a_link_leads_to_one(tmp_path):
    (tmp_path / "folder.avi").mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder"):
        VideoWriter(tmp_path / "folder.avi", "driver")
    (tmp_path / "link.avi").symlink_to(tmp_path / "real.avi")
    with VideoWriter(tmp_path / "link.avi", "driver") as video:
        evaluate_closed_loop(Constant(0.0), [TRACK], laps=0.005, watch=video.write)
    assert (tmp_path / "link.avi").is_symlink() and (tmp_path / "real.avi").stat().st_size > 0


@pytest.mark.parametrize(
    ("count", "frame_size", "size"),
    [(1, (160, 320), (640, 376)), (2, (120, 160), (960, 416)), (3, (160, 320), (960, 592))],
)
def test_models_are_shown_side_by_side_with_what_they_steer(tmp_path, count, frame_size, size):
    path, names = tmp_path / "looks.avi", [f"model {number}" for number in range(count)]
    with ExplanationVideo(path, names, frame_size, "driver") as video:
        for answer in (-0.3, 0.3):
            overlay = np.full((*frame_size, 3), (250, 40, 140), np.uint8)
            video.write(dict.fromkeys(names, (overlay, answer)), 0.0)
    frames = [frame.astype(int) for frame in read_video(path)]
    assert len(frames) == 2 and frames[0].shape == (size[1], size[0], 3)
    width = size[0] // min(2, count)
    blue, green, red = frames[0][20, width // 2]
    assert red > 200 > blue > green + 40
    # The bars of what it steers: to the left of the middle, and to the right.
    stripe = slice(-44, -38) if count < 3 else slice(-(size[1] // 2) - 44, -(size[1] // 2) - 38)
    for frame, is_left in zip(frames, (True, False)):
        row, middle = frame[stripe, :width], width * 3 // 4
        is_bar = (row[..., 0] - row[..., 2]) > 80
        left, right = is_bar[:, middle - 60 : middle - 5].mean(), is_bar[:, middle + 5 : middle + 60].mean()
        assert (left > 0.9 and right < 0.1) == is_left and (right > 0.9 and left < 0.1) != is_left


def test_an_animated_picture_has_every_other_frame_half_as_large(tmp_path):
    path = tmp_path / "drive.webp"
    with VideoWriter(path, "always left") as video:
        driven = evaluate_closed_loop(Constant(-0.3), [TRACK], laps=0.02, watch=video.write)
    with Image.open(path) as picture:
        assert (picture.n_frames, picture.size) == (-(-len(driven.drives[0].steering) // 2), (320, 220))
        sky = np.asarray(picture.convert("RGB"))[:20].mean(axis=(0, 1))
        picture.seek(picture.n_frames - 1)
        assert (np.asarray(picture.convert("RGB"))[160:] > 60).any()  # the panel is there, too
    assert sky[2] > sky[0] - 12  # blue above, not red
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_an_animated_picture_that_is_cut_short_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), VideoWriter(tmp_path / "drive.webp", "driver") as video:
        video.add(np.zeros((440, 640, 3), np.uint8))
        raise RuntimeError
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix, tag", [(".webp", "img"), (".webm", "video")])
def test_a_video_can_be_part_of_a_page(tmp_path, suffix, tag):
    path = tmp_path / f"drive{suffix}"
    path.write_bytes(b"pictures")
    assert f"<{tag} " in embed(path) and f'{suffix[1:]};base64,{base64.b64encode(b"pictures").decode()}"' in embed(path)
