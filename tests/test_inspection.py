from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Iterable

import cv2
import numpy as np
import pytest

from robostig.config import TrainingConfig
from robostig.driving_log import DrivingLogWriter, pack_driving_log, read_driving_log
from robostig.inspection import BadPicture, Pause, Run, inspect_recording
from robostig.simulation import parse_tracks, record

ROWS = 53  # of the expert's fifty metres, below


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Return fifty metres of road, as the built-in recorder writes them; not to be changed."""
    folder = tmp_path_factory.mktemp("recorded") / "drive"
    return record(folder, parse_tracks("lake:5", "forward"), laps=0.066, recoveries=False)


class Copy:
    """A copy of a recording that faults can be put in; rows count from 0."""

    def __init__(self, recorded: Path, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(recorded, folder)
        self.cells = [line.split(",") for line in (folder / "driving_log.csv").read_text().splitlines()]
        for row in self.cells:
            row[:3] = [Path(cell).name for cell in row[:3]]

    def find(self, row: int, camera: int = 0) -> Path:
        return self.folder / "IMG" / self.cells[row][camera]

    def paint(self, row: int, picture: np.ndarray, camera: int = 0) -> None:
        assert cv2.imwrite(str(self.find(row, camera)), picture)

    def write(self) -> Path:
        (self.folder / "driving_log.csv").write_text("\n".join(map(",".join, self.cells)) + "\n")
        return self.folder


@pytest.fixture
def copy(recorded, tmp_path):
    made = Copy(recorded, tmp_path / "copy")
    assert len(made.cells) == ROWS
    return made


def test_nothing_is_found_in_a_good_recording(recorded):
    found = inspect_recording(recorded)
    assert (found.bad_pictures, found.copies, found.frozen, found.pauses, found.late_rows) == ((), (), (), (), 0)
    assert (found.stop, found.count_skipped(), found.log.unused_pictures, found.leaks) == (None, {}, 0, 0)
    assert found.sizes == {camera: {(160, 320): ROWS} for camera in ("center", "left", "right")}
    assert found.rows_per_second == pytest.approx(1.0 / 0.067, rel=0.01)
    (leg,) = found.legs
    assert (leg.start, leg.stop, leg.laps) == (0, ROWS, None)
    assert leg.seconds == pytest.approx(found.seconds) == pytest.approx((ROWS - 1) / 15.0, abs=0.01)


def test_every_fault_is_found_where_it_is(copy):
    whole = copy.find(3).read_bytes()
    copy.find(3).write_bytes(whole[: len(whole) // 2])  # what the loader leaves out
    copy.find(5, 1).unlink()
    copy.cells[7][3] = "nan"
    copy.find(10).write_bytes(b"\xff\xd8" + bytes(200) + b"\xff\xd9")  # what it cannot see without decoding
    copy.paint(12, np.zeros((160, 320, 3), np.uint8))
    copy.paint(13, np.full((160, 320, 3), 255, np.uint8), camera=1)
    copy.paint(14, np.full((160, 320, 3), 120, np.uint8), camera=2)
    copy.paint(15, cv2.resize(cv2.imread(str(copy.find(15))), (200, 100)))
    for row in (21, 22, 23):  # the camera hangs
        shutil.copy(copy.find(20), copy.find(row))
    shutil.copy(copy.find(30, 1), copy.find(31, 2))
    shutil.copy(copy.find(1), copy.folder / "IMG" / "stray.jpg")
    found = inspect_recording(copy.write())

    # Three rows above the others are left out: what was row 12 is row 9.
    assert found.count_skipped() == {
        "center picture damaged": 1, "picture not found": 1, "steering is not finite": 1,
    }  # fmt: skip
    assert {(each.row, each.kind) for each in found.log.skipped} == {
        (4, "center picture damaged"), (6, "picture not found"), (8, "steering is not finite"),
    }  # fmt: skip
    assert found.stop is not None and "row 4" in found.stop
    assert [bad[:3] for bad in found.bad_pictures] == [
        ("center", 7, "unreadable"),
        ("center", 9, "black"),
        ("center", 12, "other size"),
        ("left", 10, "over-exposed"),
        ("right", 11, "one colour"),
    ]
    assert found.count_bad_pictures() == dict.fromkeys(
        ("unreadable", "other size", "black", "over-exposed", "one colour"), 1
    )
    assert found.bad_pictures[2] == BadPicture("center", 12, "other size", "is 100x200 pixels, where 160x320 is usual")
    assert found.frozen == (Run("center", 17, 21),)
    assert found.copies == (("center", 18), ("center", 19), ("center", 20), ("right", 28))
    assert found.log.unused_pictures == 1 + 8  # the stray one, and what is there of the rows that are left out
    assert found.sizes["center"] == {(160, 320): ROWS - 5, (100, 200): 1}
    assert found.late_rows == 3  # each behind one that is left out


def test_a_standing_car_sees_the_same_picture_without_a_fault(copy):
    for row in range(10, 20):
        shutil.copy(copy.find(9), copy.find(row))
        copy.cells[row][6] = "0"
    found = inspect_recording(copy.write())
    assert found.frozen == () and len(found.copies) == 10
    for row in range(10, 20):
        copy.cells[row][6] = "5"
    assert inspect_recording(copy.write()).frozen == (Run("center", 9, 20),)


def write_drive(folder: Path, frames: Iterable[np.ndarray], times: np.ndarray) -> Path:
    """Write a log of the centre camera alone, in which the driver steers a little to the right."""
    numbers = {"steering": 0.1, "throttle": 0.0, "brake": 0.0, "speed_mph": 9.0}
    with DrivingLogWriter(folder, cameras=["center"]) as writer:
        for frame, time_s in zip(frames, times):
            writer.write({"center": frame}, time_s=1e9 + time_s, **numbers)
    return folder


def draw_noise(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 16, 32, 3), np.uint8)


def test_pauses_late_rows_and_a_clock_that_goes_back_are_told_apart(tmp_path):
    times = np.arange(60) / 10.0
    times[10:] += 0.3  # late
    times[20:] += 2.0  # a pause
    times[30:] += 7.0  # a long one: another leg
    times[50:] -= 2.0
    found = inspect_recording(write_drive(tmp_path / "drive", draw_noise(60), times))
    assert found.rows_per_second == pytest.approx(10.0) and found.late_rows == 1
    assert [pause.row for pause in found.pauses] == [20, 30, 50]
    assert [pause.seconds for pause in found.pauses] == pytest.approx([2.1, 7.1, -1.9])
    assert [(leg.start, leg.stop) for leg in found.legs] == [(0, 30), (30, 50), (50, 60)]


def test_drives_that_are_joined_have_sizes_and_legs_of_their_own(tmp_path, make_recording):
    make_recording(20, name="all/one", size=(16, 32), seed=1)
    make_recording(10, name="all/two", size=(32, 64), seed=2)
    found = inspect_recording(tmp_path / "all")
    assert found.bad_pictures == () and found.sizes["left"] == {(16, 32): 20, (32, 64): 10}
    assert [(leg.drive, leg.start, leg.stop) for leg in found.legs] == [("one", 0, 20), ("two", 20, 30)]


def test_several_folders_are_one_recording_and_a_copy_is_left_out(tmp_path, make_recording):
    one, two = (make_recording(20, name=name, size=(16, 32), seed=1) for name in ("one", "two"))
    found = inspect_recording([one, two])
    assert len(found.log) == 20 and found.count_skipped() == {"copy of another log": 20}
    assert found.stop is not None and "is the same recording as" in found.stop


def test_a_side_camera_that_a_drive_lacks_is_no_fault(tmp_path, make_recording):
    make_recording(20, name="all/one", size=(16, 32), seed=1)
    write_drive(tmp_path / "all" / "two", draw_noise(10), np.arange(10) / 15.0)
    found = inspect_recording(tmp_path / "all")
    assert found.sizes["left"] == {(16, 32): 20} and found.bad_pictures == () and found.copies == ()


def test_a_packed_recording_is_looked_at_alike_until_it_is_damaged(copy, tmp_path):
    copy.paint(12, np.zeros((160, 320, 3), np.uint8))
    folder = copy.write()
    pack_driving_log(read_driving_log(folder), tmp_path / "packed")
    plain, packed = inspect_recording(folder), inspect_recording(tmp_path / "packed")
    assert packed.bad_pictures == plain.bad_pictures != () and packed.legs == plain.legs
    (shard,) = (tmp_path / "packed").glob("*center*.rec")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 16] = bytes(16)
    shard.write_bytes(data)
    damaged = inspect_recording(tmp_path / "packed")
    assert damaged.count_bad_pictures() == {"unreadable": 1, "black": 1}
    assert damaged.sizes["center"] == {(160, 320): ROWS - 1}
    assert damaged.stop is None and "the shard is damaged here" in damaged.fault  # training stops there


def test_what_is_held_out_follows_the_configuration(make_recording):
    recording = make_recording(120, size=(16, 32))
    found = inspect_recording(recording, TrainingConfig(validation_fraction=0.5, stretch_s=2.0, gap_s=0.2))
    assert len(found.split.validation) == 60 and found.split_fault is None
    rows = found.log.steering[found.split.train]
    expected = np.sqrt(np.mean((found.log.steering[found.split.validation] - rows.mean()) ** 2))
    assert found.rmse_mean_baseline == pytest.approx(expected, rel=1e-5)
    short = inspect_recording(recording, TrainingConfig(gap_s=30.0))
    assert short.split is None and "too short to split" in short.split_fault and short.rmse_mean_baseline is None


def test_a_picture_that_is_trained_on_and_held_out_is_a_leak(copy):
    config = TrainingConfig(validation_fraction=0.5, gap_s=0.1)
    split = inspect_recording(copy.folder, config).split
    for learned, held_out in zip(split.train[:3], split.validation):
        shutil.copy(copy.find(learned), copy.find(held_out))
    assert inspect_recording(copy.write(), config).leaks == 3


def test_labels_are_summarized(make_recording):
    recording = make_recording(8, size=(16, 32))
    lines = [line.split(",") for line in (recording / "driving_log.csv").read_text().splitlines()]
    for line, steering in zip(lines, ("0", "0", "0.04", "-0.04", "0.5", "-0.5", "1", "-0.25")):
        line[3] = steering
    (recording / "driving_log.csv").write_text("\n".join(map(",".join, lines)))
    labels = inspect_recording(recording).labels
    assert (labels.zero, labels.straight, labels.low, labels.high, labels.distinct) == (0.25, 0.5, -0.5, 1.0, 7)
    values = np.array([0, 0, 0.04, -0.04, 0.5, -0.5, 1, -0.25])
    assert (labels.mean, labels.std) == (pytest.approx(values.mean()), pytest.approx(values.std()))


@pytest.mark.parametrize(("rows", "laps"), [(230, 1.15), (500, 2.5), (190, None)])
def test_a_lap_ends_where_the_world_looks_as_it_did_before(tmp_path, rows, laps):
    """The camera sees a part of a panorama whose end is its beginning, a lap in 200 rows."""
    panorama = cv2.resize(np.random.default_rng(0).integers(0, 256, (4, 200), np.uint8), (1600, 32))
    panorama = np.concatenate([panorama, panorama[:, :64]], axis=1)
    views = (panorama[:, start : start + 64] for start in np.arange(rows) * 8 % 1600)
    frames = (np.repeat(view[..., None], 3, axis=2) for view in views)
    (leg,) = inspect_recording(write_drive(tmp_path / "drive", frames, np.arange(rows) / 15.0)).legs
    assert leg.direction == "right" and leg.laps == (None if laps is None else pytest.approx(laps, abs=0.03))


def test_everything_can_be_written_as_json(copy):
    copy.paint(12, np.zeros((160, 320, 3), np.uint8))
    found = inspect_recording(copy.write(), TrainingConfig(gap_s=30.0))
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert told["rows"] == ROWS and told["bad_pictures"][0]["kind"] == "black"
    assert told["cameras"]["left"] == [{"height": 160, "width": 320, "pictures": ROWS}]
    assert told["training"]["rows"] is None and "too short" in told["training"]["fault"]


def test_what_is_no_recording_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no driving_log"):
        inspect_recording(tmp_path)


def test_the_real_recording_is_known_exactly(lake):
    found = inspect_recording(lake)
    assert len(found.log) == 2459 and found.log.skipped == () and found.log.unused_pictures == 0
    assert (found.bad_pictures, found.copies, found.frozen, found.late_rows, found.leaks) == ((), (), (), 0, 0)
    assert found.pauses == (Pause(1238, pytest.approx(79.893, abs=0.001)),)
    first, second = found.legs
    assert (first.start, first.stop, first.direction) == (0, 1238, "left")
    assert (second.start, second.stop, second.direction) == (1238, 2459, "right")
    assert first.laps == pytest.approx(1238 / 1167, abs=0.01) and second.laps == pytest.approx(1221 / 1159, abs=0.01)
    labels = found.labels
    assert (labels.distinct, round(labels.zero * 2459)) == (60, 485)
    assert labels.std == pytest.approx(0.086, abs=5e-4) and labels.low == pytest.approx(-0.283, abs=5e-4)
    assert (len(found.split.train), len(found.split.validation), found.split.left_out) == (1856, 494, 109)


def test_the_real_tub_is_known_exactly(tub):
    found = inspect_recording(tub)
    assert len(found.log) == 1000 and found.sizes == {"center": {(120, 160): 1000}}
    assert (found.bad_pictures, found.frozen, found.pauses, len(found.copies)) == ((), (), (), 11)
    (leg,) = found.legs
    assert leg.direction == "right" and leg.laps == pytest.approx(2.05, abs=0.1)
    assert found.labels.zero == pytest.approx(0.2)
    assert [found.labels.low, found.labels.high] == pytest.approx([-0.857, 1.0], abs=1e-3)
