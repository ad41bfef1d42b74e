from __future__ import annotations

import csv
import errno
import re
import resource
from pathlib import Path
from typing import Dict

import numpy as np
import pytest

from robostig.driving_log import CAMERAS, LOG_NAME, read_driving_log, read_picture
from robostig.picture import encode_jpeg
from robostig.simulation import FRAME_S, Simulation, load_track, record, steer_towards

LAKE, BACK = load_track("lake"), load_track("lake", "backward")


def read_all(folder: Path) -> Dict[str, bytes]:
    """Read all files of a recording; its own path, which the log holds, is taken out."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    files[LOG_NAME] = files[LOG_NAME].replace(str(folder).encode(), b"FOLDER")
    return files


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    """A third of a lap, with recoveries."""
    return record(tmp_path_factory.mktemp("record") / "out", [BACK], laps=0.35, seed=7)


@pytest.fixture(scope="module")
def short(tmp_path_factory) -> Path:
    return record(tmp_path_factory.mktemp("record") / "short", [LAKE], laps=0.03, seed=1)


def read_rows(folder: Path):
    return list(csv.reader((folder / LOG_NAME).read_text().splitlines()))


def test_the_folder_holds_what_the_simulator_writes(recording):
    assert {path.name for path in recording.iterdir()} == {LOG_NAME, "IMG"}
    text = (recording / LOG_NAME).read_bytes()
    assert text.endswith(b"\n") and not any(mark in text for mark in (b"\r", b'"', b", ", b"center,"))
    rows = read_rows(recording)
    stamps = []
    for row in rows:
        assert len(row) == 7
        for camera, path in zip(CAMERAS, row):
            name = re.fullmatch(camera + r"_(\d{4}(_\d\d){5}_\d{3})\.jpg", Path(path).name)
            assert name and Path(path).parent == recording / "IMG" and Path(path).is_absolute()
            assert name.group(1) == Path(row[0]).stem[len("center_") :]
            assert Path(path).is_file()
        stamps.append(Path(row[0]).name)
        steering, throttle, brake, speed = map(float, row[3:])
        assert -1.0 <= steering <= 1.0 and 0.0 <= throttle <= 1.0 and brake == 0.0 and speed == pytest.approx(30.0)
        assert all(len(cell.lstrip("-0.")) <= 12 for cell in row[3:])
    assert stamps == sorted(set(stamps))
    assert len(list((recording / "IMG").iterdir())) == 3 * len(rows)


def test_it_looks_like_a_real_recording(recording, lake):
    """The same columns in the same form; only paths and numbers differ."""
    form = re.compile(
        r"[^,\n]*[\\/]IMG[\\/]center_[\d_]+\.jpg,[^,]*left_[\d_]+\.jpg,[^,]*right_[\d_]+\.jpg(,-?[\d.E+-]+){4}", re.I
    )
    for folder in (lake, recording):
        assert all(form.fullmatch(line) for line in (folder / LOG_NAME).read_text().splitlines()[:50])
    real, ours = (read_picture(read_driving_log(folder).pictures["center"][5]) for folder in (lake, recording))
    assert real.shape == ours.shape == (160, 320, 3)
    sizes = [Path(read_driving_log(folder).pictures["center"][5]).stat().st_size for folder in (lake, recording)]
    assert 0.4 < sizes[1] / sizes[0] < 2.5


def test_it_is_read_back_without_a_fault(recording):
    log = read_driving_log(recording)
    assert list(log.pictures) == list(CAMERAS) and not log.skipped and not log.unused_pictures
    assert len(log) == len(read_rows(recording)) > 150
    for camera in CAMERAS:
        assert read_picture(log.pictures[camera][-1]).shape == (160, 320, 3)
    steps = np.diff(log.time_s)
    assert np.median(steps) == pytest.approx(FRAME_S, abs=1e-3) and (steps > 0.0).all()


def test_a_recording_can_be_moved(short, tmp_path):
    for path in short.rglob("*"):
        if path.is_file():
            target = tmp_path / "moved" / path.relative_to(short)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    assert read_driving_log(tmp_path / "moved").fingerprint() == read_driving_log(short).fingerprint()


def test_the_first_pictures_are_those_of_the_tracks_start(short):
    log, simulation = read_driving_log(short), Simulation(LAKE)
    for camera in CAMERAS:
        assert Path(log.pictures[camera][0]).read_bytes() == encode_jpeg(simulation.look(camera))


def test_who_steers_as_recorded_sees_the_recorded_pictures(recording):
    """Labels belong to their pictures: neither early nor late, and of the right sign."""
    log, simulation = read_driving_log(recording), Simulation(BACK)
    until = int(np.flatnonzero(log.find_breaks())[1])
    assert until > 60
    for row in range(until):
        if row % 20 == 0:
            for camera in CAMERAS:
                seen, recorded = simulation.look(camera).astype(int), read_picture(log.pictures[camera][row])
                assert np.abs(seen - recorded).mean() < 6.0, (row, camera)  # what JPEG loses
        simulation.step(float(log.steering[row]))


@pytest.mark.parametrize("track", [LAKE, BACK], ids=str)
def test_labels_follow_the_road(track, recording, tmp_path):
    folder = recording if track is BACK else record(tmp_path / "out", [track], laps=0.15, recoveries=False)
    log, lane = read_driving_log(folder), track.lane
    until = int(np.append(np.flatnonzero(log.find_breaks())[1:], len(log))[0])
    along = np.arange(until) * FRAME_S * 13.4112 + 4.0
    bends = lane.curvatures[np.round(along / lane.spacing_m).astype(int) % len(lane.curvatures)]
    assert np.corrcoef(log.steering[:until], -bends)[0, 1] > 0.8  # a road that bends to the left is steered to the left
    expected = -np.degrees(np.arctan(2.67 * bends)).mean() / 25.0
    assert log.steering[:until].mean() == pytest.approx(expected, abs=0.03)


def test_hands_tremble_a_little(tmp_path, short):
    calm, lane = [], LAKE.lane
    simulation, log = Simulation(LAKE), read_driving_log(short)
    for steering in log.steering:
        calm.append(steer_towards(simulation.car, lane, simulation.place))
        simulation.step(float(steering))
    tremble = log.steering - calm
    assert 0.001 < tremble.std() < 0.06 and np.abs(tremble).max() < 0.1


def test_recoveries_are_gaps_in_time_after_which_the_car_is_beside_the_lane(recording):
    log = read_driving_log(recording)
    breaks = np.flatnonzero(log.find_breaks())[1:]
    assert len(breaks) >= 2
    assert np.diff(np.append(0, breaks)).min() > 4.5 / FRAME_S and np.diff(np.append(0, breaks)).max() < 9.5 / FRAME_S
    np.testing.assert_allclose(log.time_s[breaks] - log.time_s[breaks - 1], 2.5 + FRAME_S, atol=0.05)
    for row in breaks:
        assert 0.3 < abs(find_aside(log, row)) < 1.5
        assert abs(find_aside(log, row - 1)) < 0.5 and abs(find_aside(log, row + 30)) < 0.5


def find_aside(log, row: int) -> float:
    """Find how far from the lane's middle a picture was taken: by the one that is most like it."""
    frame = read_picture(log.pictures["center"][row])[90:140].astype(int)
    along, simulation = (log.time_s[row] - log.time_s[0]) * 13.4112, Simulation(BACK)
    best = (np.inf, 0.0)
    for forth in np.arange(-2.0, 2.1, 1.0):
        for aside in np.arange(-1.6, 1.7, 0.2):
            for turn in (-0.08, 0.0, 0.08):
                x, y, heading = BACK.lane.point_at(along + forth, aside)
                simulation.car.place(x, y, heading + turn)
                best = min(best, (np.abs(simulation.look()[90:140].astype(int) - frame).mean(), float(aside)))
    return best[1]


def test_without_recoveries_there_are_no_gaps(tmp_path):
    log = read_driving_log(record(tmp_path / "out", [LAKE], laps=0.15, recoveries=False, speed_mph=30.0))
    assert np.diff(log.time_s).max() < 2 * FRAME_S and len(log) * FRAME_S > 7.0


def test_the_same_seed_gives_the_same_files_and_another_one_others(short, tmp_path):
    again = record(tmp_path / "again", [LAKE], laps=0.03, seed=1)
    other = record(tmp_path / "other", [LAKE], laps=0.03, seed=2)
    assert read_all(again) == read_all(short)
    steering = [read_driving_log(folder).steering[:30] for folder in (short, other)]
    assert (steering[0] != steering[1]).mean() > 0.9


def test_tracks_come_one_after_the_other_in_one_log(tmp_path):
    log = read_driving_log(record(tmp_path / "out", [LAKE, BACK], laps=0.02))
    (second,) = np.flatnonzero(log.find_breaks())[1:]
    assert log.time_s[second] - log.time_s[second - 1] == pytest.approx(10.0, abs=0.2)
    for row, track in ((0, LAKE), (second, BACK)):
        start = encode_jpeg(Simulation(track).look())
        assert Path(log.pictures["center"][row]).read_bytes() == start


def test_slower_drives_have_more_rows_and_say_their_speed(tmp_path, short):
    log = read_driving_log(record(tmp_path / "out", [LAKE], laps=0.03, seed=1, speed_mph=15.0))
    assert len(log) == pytest.approx(2 * len(read_driving_log(short)), abs=2)
    assert set(log.speed_mph.tolist()) == {15.0} and set(log.throttle.tolist()) == {0.5}


@pytest.mark.parametrize("laps", [0.0, -1.0, 1000.1, float("nan"), float("inf")])
def test_impossible_laps_are_refused(tmp_path, laps):
    with pytest.raises(ValueError, match=f"laps is {laps:g}; it is more than 0"):
        record(tmp_path / "out", [LAKE], laps=laps)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("tracks", "settings", "message"),
    [
        ([], {}, "at least one track"),
        ([LAKE], {"speed_mph": 0.0}, "speed is 0"),
        ([LAKE], {"speed_mph": 31.0}, "is 31"),
    ],
)
def test_what_cannot_be_recorded_is_refused_and_leaves_nothing(tmp_path, tracks, settings, message):
    with pytest.raises(ValueError, match=message):
        record(tmp_path / "out", tracks, laps=0.01, **settings)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_refused_and_stays_as_it_is(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "diary.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=f"{tmp_path / 'out'} is there already"):
        record(tmp_path / "out", [LAKE], laps=0.01)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "diary.txt"]
    assert (tmp_path / "out" / "diary.txt").read_text() == "mine"


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    assert len(read_driving_log(record(tmp_path / "out", [LAKE], laps=0.005))) > 3


def test_a_disk_that_is_full_in_the_middle_leaves_nothing_behind(tmp_path):
    """No file may grow beyond 20 kB: pictures fit, the log does not after some dozens of rows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError) as caught:
            record(tmp_path / "deep" / "out", [LAKE], laps=0.5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert list((tmp_path / "deep").iterdir()) == []


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match=f"{tmp_path / 'file'} is there already"):
        record(tmp_path / "file", [LAKE], laps=0.01)
    with pytest.raises(OSError, match="cannot write to"):
        record(tmp_path / "file" / "below" / "it", [LAKE], laps=0.01)
    assert (tmp_path / "file").read_text() == "mine"
