from __future__ import annotations

import builtins
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from conftest import draw_road

from robostig.driving_log import Drive, pack_driving_log, read_driving_log, read_picture
from robostig.frame_cache import CachedFrames
from robostig.picture import encode_png, measure_picture, read_picture_bytes
from robostig.preprocessing import InputSpec, preprocess

h5py = pytest.importorskip("h5py")

DATE = "2016-06-08--11-46-01"
SPEC = InputSpec(20, 40, crop_top=0.3)


def test_a_recording_is_a_log_in_our_units(make_comma_drive):
    folder = make_comma_drive()
    log = read_driving_log(folder)
    assert len(log) == 40 and list(log.pictures) == ["center"] and log.format == "comma.ai HDF5"
    assert log.drives == (Drive(DATE, 0),) and not log.skipped
    # Tenths of a degree of the steering wheel, the mean of five samples; 15.3 of them turn the road wheel by one.
    samples = 150.0 * np.sin(np.arange(200) / 40.0)
    np.testing.assert_allclose(log.steering, samples.reshape(40, 5).mean(1) / 10.0 / 15.3 / 25.0, rtol=1e-5)
    np.testing.assert_allclose(log.speed_mph, 44.7387, rtol=1e-5)
    assert log.time_s[0] == pytest.approx(1465386361.02) and np.allclose(np.diff(log.time_s), 0.05)  # 2016-06-08
    assert not log.throttle.any() and not log.brake.any()
    for place in (folder / "camera", folder / "camera" / f"{DATE}.h5"):
        assert read_driving_log(place).fingerprint() == log.fingerprint()


def test_the_sign_is_that_of_commas_own_viewer(make_comma_drive):
    # view_steering_model.py draws the path of -steering_angle; it sees a point 1.42 m aside in column 43 of 320, and
    # one -2.14 m aside in column 301: what is positive there is left, so a positive steering_angle is right.
    log = read_driving_log(make_comma_drive(steering_angle=np.full(200, 150.0)))
    np.testing.assert_allclose(log.steering, 15.0 / 15.3 / 25.0, rtol=1e-6)


def test_a_picture_is_read_where_it_is_without_loss(make_comma_drive):
    log = read_driving_log(make_comma_drive())
    picture = log.pictures["center"][7]
    frame = draw_road(0.3 * float(np.sin(7 / 8.0)))
    np.testing.assert_array_equal(read_picture(picture), frame)
    assert os.path.basename(picture) == f"{DATE}-000007.png" and pickle.loads(pickle.dumps(picture)) == picture
    assert read_picture_bytes(picture) == encode_png(frame) and measure_picture(picture) == len(encode_png(frame))
    pictures = log.pictures["center"]
    assert list(pictures[3:9:2]) == [pictures[row] for row in (3, 5, 7)] and pictures[np.int64(-1)] == pictures[39]
    with pytest.raises(IndexError):
        pictures[40]


def test_frames_are_kept_packed_and_known_again(make_comma_drive, tmp_path):
    log = read_driving_log(make_comma_drive())
    expected = np.stack([preprocess(read_picture(picture), SPEC) for picture in log.pictures["center"]])
    for _ in range(2):  # built, then found
        frames = CachedFrames(log.pictures["center"], SPEC, folder=tmp_path / "cache")
        np.testing.assert_array_equal(frames.read(range(40)), expected)
    pack_driving_log(log, tmp_path / "packed", shard_mb=1.0)
    packed = read_driving_log(tmp_path / "packed")
    assert packed.fingerprint() == log.fingerprint() and packed.identify_drives() == log.identify_drives()
    CachedFrames(packed.pictures["center"], SPEC, folder=tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 1  # the same bytes, so the same file


def test_pictures_with_the_wheel_far_turned_are_left_out_as_published(make_comma_drive):
    angle = np.zeros(200)
    angle[50:100], angle[103] = 200.0, -201.0  # one sample is enough
    log = read_driving_log(make_comma_drive(steering_angle=angle))
    assert len(log) == 39 and [(each.row, each.kind) for each in log.skipped] == [
        (21, "wheel turned beyond 20 degrees")
    ]
    assert log.steering.max() == pytest.approx(20.0 / 15.3 / 25.0)
    assert os.path.basename(log.pictures["center"][20]) == f"{DATE}-000021.png"


def test_pictures_that_no_sample_names_are_left_out_and_counted(make_comma_drive):
    pointers = np.arange(200) // 5
    pointers[50:60] = 12  # 10 and 11 were never the newest
    log = read_driving_log(make_comma_drive(cam1_ptr=pointers.astype(np.float64)))
    assert [(each.row, each.kind) for each in log.skipped] == [(row, "no sample of the log") for row in (11, 12)]
    assert len(log) == 38


@pytest.mark.parametrize("name", ["steering_angle", "speed"])
def test_numbers_that_are_not_finite_are_refused_or_left_out(make_comma_drive, name):
    values = np.zeros(200)
    values[33] = np.nan
    folder = make_comma_drive(**{name: values})
    with pytest.raises(ValueError, match=r"log/2016.*h5, samples of picture 6: .* not finite.*--on-error skip"):
        read_driving_log(folder)
    assert [each.row for each in read_driving_log(folder, on_error="skip").skipped] == [7]


def test_a_speed_that_no_log_holds_is_refused(make_comma_drive):
    with pytest.raises(ValueError, match=r"samples of picture 0: .* not finite"):
        read_driving_log(make_comma_drive(speed=np.full(200, 1e300)))


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_times_that_are_not_finite_are_not_known(make_comma_drive, wrong):
    times = np.arange(200) / 100.0
    times[33] = wrong
    log = read_driving_log(make_comma_drive(times=times))
    assert len(log) == 40 and np.flatnonzero(~np.isfinite(log.time_s)).tolist() == [6] and np.isnan(log.time_s[6])


@pytest.mark.parametrize("wrong", [40, -1, np.nan])
def test_samples_of_pictures_that_are_not_there_are_refused_or_left_out(make_comma_drive, wrong):
    pointers = np.arange(200) / 5 // 1
    pointers[190:] = wrong
    folder = make_comma_drive(cam1_ptr=pointers)
    with pytest.raises(
        ValueError, match=r"10 of 200 samples in .*log/.* are of pictures that .*camera/.* does not have"
    ):
        read_driving_log(folder)
    log = read_driving_log(folder, on_error="skip")
    assert len(log) == 38 and [each.kind for each in log.skipped].count("samples without a picture") == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"cam1_ptr": None}, "log/.* has no cam1_ptr, but speed, steering_angle, times"),
        ({"steering_angle": None}, "has no steering_angle"),
        ({"speed": np.zeros(100)}, "there are 200 of cam1_ptr, 200 of steering_angle, 100 of speed"),
        ({"speed": np.zeros((200, 2))}, "speed is 200x2 float64; there must be one number a sample"),
        ({"steering_angle": np.array([b"left"] * 200)}, "steering_angle is 200 "),
    ],
)
def test_a_log_that_does_not_fit_is_refused(make_comma_drive, more, message):
    with pytest.raises(ValueError, match=message):
        read_driving_log(make_comma_drive(**more))


def test_what_is_not_there_is_named(make_comma_drive, tmp_path):
    folder = make_comma_drive()
    (folder / "log" / f"{DATE}.h5").unlink()
    with pytest.raises(FileNotFoundError, match=rf"there is no .*log/{DATE}.h5, the log that belongs to .*camera/"):
        read_driving_log(folder)
    (folder / "elsewhere").mkdir()
    os.replace(folder / "camera" / f"{DATE}.h5", folder / "elsewhere" / "x.h5")
    with pytest.raises(FileNotFoundError, match=r"holds camera, elsewhere, log; .*camera/DATE.h5 and log/DATE.h5"):
        read_driving_log(folder)
    with pytest.raises(ValueError, match=r"x\.h5 is not in a folder camera, beside one that is called log"):
        read_driving_log(folder / "elsewhere" / "x.h5")


@pytest.mark.parametrize("fault", ["without X", "of another shape", "cut off", "no HDF5", "empty"])
def test_a_camera_file_that_is_no_use_is_refused(make_comma_drive, fault):
    folder = make_comma_drive()
    path = folder / "camera" / f"{DATE}.h5"
    data = {"cut off": path.read_bytes()[:5000], "no HDF5": b"picture", "empty": b""}.get(fault)
    if data is None:
        with h5py.File(path, "w") as file:
            file["X" if fault == "of another shape" else "Y"] = np.zeros((40, 160, 320), np.uint8)
    else:
        path.write_bytes(data)
    message = {"without X": "has no X, but Y", "of another shape": "X is 40x160x320 uint8; comma.ai's"}
    with pytest.raises(ValueError, match=f"camera/{DATE}.h5.*{message.get(fault, 'is no whole HDF5 file')}"):
        read_driving_log(folder)


@pytest.mark.parametrize("on_error", ["raise", "skip"])
@pytest.mark.parametrize("count", [1 << 40, 201])
def test_more_pictures_than_the_log_can_tell_of_are_refused(make_comma_drive, count, on_error):
    folder = make_comma_drive()
    with h5py.File(folder / "camera" / f"{DATE}.h5", "w") as file:  # declared, and never written
        file.create_dataset("X", (count, 3, 160, 320), np.uint8, chunks=(1, 3, 160, 320))
    message = rf"camera/{DATE}.h5 has {count:,} pictures, and .*log/{DATE}.h5 only 200 samples.* Copy them again"
    with pytest.raises(ValueError, match=message):
        read_driving_log(folder, on_error=on_error)


def test_a_log_that_declares_more_samples_than_memory_holds_is_refused(make_comma_drive):
    folder = make_comma_drive()
    with h5py.File(folder / "log" / f"{DATE}.h5", "w") as file:
        for name in ("cam1_ptr", "steering_angle", "speed"):
            file.create_dataset(name, (1 << 60,), np.float32, chunks=(100,))
    with pytest.raises(ValueError, match=rf"log/{DATE}.h5 is no whole HDF5 file .*copy it again"):
        read_driving_log(folder)


def test_whatever_is_wrong_in_a_file_is_said_of_the_file(make_comma_drive):
    folder = make_comma_drive(4)
    for place in ("log", "camera"):
        path = folder / place / f"{DATE}.h5"
        whole = path.read_bytes()
        for start in range(0, 2400, 48):  # what HDF5 knows of the arrays is in there
            path.write_bytes(whole[:start] + b"\x5a" * 24 + whole[start + 24 :])
            try:
                log = read_driving_log(folder, on_error="skip")
                read_picture(log.pictures["center"][0])
            except ValueError as error:
                assert DATE in str(error)
        path.write_bytes(whole)


def test_a_file_that_changes_meanwhile_is_an_error_that_names_it(make_comma_drive, tmp_path):
    folder = make_comma_drive()
    log = read_driving_log(folder)
    make_comma_drive(20)
    with pytest.raises(ValueError, match=rf"{DATE}.h5@30/{DATE}-000030.png cannot be read"):
        read_picture(log.pictures["center"][30])
    (folder / "camera" / f"{DATE}.h5").unlink()
    with pytest.raises(FileNotFoundError, match=f"{DATE}.h5"):
        CachedFrames(log.pictures["center"], SPEC, folder=tmp_path / "cache")


def test_several_recordings_are_drives(make_comma_drive):
    folder = make_comma_drive()
    make_comma_drive(20, date="2016-01-30--11-24-51", seed=3)
    log = read_driving_log(folder)
    assert log.drives == (Drive("camera/2016-01-30--11-24-51", 0), Drive(f"camera/{DATE}", 20))
    assert len(log) == 60 and np.flatnonzero(log.find_breaks()).tolist() == [0, 20]
    assert [drive.name for drive in read_driving_log(folder / "camera").drives] == ["2016-01-30--11-24-51", DATE]


def test_without_h5py_it_is_said_what_to_install(make_comma_drive, monkeypatch):
    folder = make_comma_drive()
    find = builtins.__import__

    def refuse(name, *rest):
        if name == "h5py":
            raise ModuleNotFoundError("No module named 'h5py'", name="h5py")
        return find(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"is an HDF5 file, for which h5py is needed: pip install 'robostig\[hdf5\]'"):
        read_driving_log(folder)


def test_memory_stays_flat_however_long_the_recording_is(tmp_path):
    """A file of 1,000 pictures, 154 MB if they were all there at once, is read, hashed and preprocessed in less."""
    (tmp_path / "camera").mkdir()
    (tmp_path / "log").mkdir()
    count = 1000
    with h5py.File(tmp_path / "camera" / f"{DATE}.h5", "w") as file:
        frame = draw_road(0.1).transpose(2, 0, 1)
        pictures = file.create_dataset("X", (count, 3, 160, 320), np.uint8, chunks=(1, 3, 160, 320), compression=1)
        for number in range(count):
            pictures[number] = frame
    with h5py.File(tmp_path / "log" / f"{DATE}.h5", "w") as file:
        file["cam1_ptr"], file["speed"] = np.arange(5 * count) // 5, np.full(5 * count, 20.0)
        file["steering_angle"] = np.zeros(5 * count)
    script = (
        "import resource, sys; from robostig.driving_log import read_driving_log;"
        "from robostig.frame_cache import CachedFrames; from robostig.preprocessing import InputSpec; import h5py;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; log = read_driving_log(sys.argv[1]);"
        "log.fingerprint(); CachedFrames(log.pictures['center'], InputSpec(8, 16), folder=sys.argv[2]);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    words = [sys.executable, "-c", script, str(tmp_path), str(tmp_path / "cache")]
    grown = int(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)
    assert grown * (1024 if sys.platform != "darwin" else 1) < 77e6  # half of it
