from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robostig.augmentation import Augmentation
from robostig.config import TrainingConfig
from robostig.data import SteeringDataset, TrainingLoader, open_frames
from robostig.driving_log import CAMERAS, name_places, pack_driving_log, read_driving_log, read_picture
from robostig.packed_log import unpack_stream
from robostig.pipeline import evaluate_artifact, read_recording, train_model
from robostig.preprocessing import InputSpec, preprocess

SPEC = InputSpec(8, 16, crop_top=0.25)
CONFIG = TrainingConfig(model="tiny1", epochs=1, batch_size=16, gap_s=0.2, device="cpu")


@pytest.fixture
def mixed(make_recording, make_tub, make_comma_drive) -> Path:
    """A folder of three recordings: 30 rows of a donkey car, 20 of comma.ai's, 40 of Udacity's simulator."""
    pytest.importorskip("h5py")
    make_recording(40, name="mixed/udacity", size=(32, 64), seed=1)
    make_tub(30, name="mixed/a_tub", seed=2)
    return make_comma_drive(20, name="mixed").parent / "mixed"


def test_recordings_of_different_formats_are_one_log(mixed):
    log = read_driving_log(mixed)
    assert log.drives == (("a_tub", 0), ("camera/2016-06-08--11-46-01", 30), ("udacity", 50)) and len(log) == 90
    assert log.format == "donkeycar tub, comma.ai HDF5, Udacity driving log" and log.source == mixed
    sizes = [read_picture(log.pictures["center"][row]).shape[:2] for row in (29, 30, 50)]
    assert sizes == [(120, 160), (160, 320), (32, 64)]
    assert np.abs(log.steering[:30]).max() > 0.5 > np.abs(log.steering[30:50]).max() * 10
    assert np.flatnonzero(log.find_breaks()).tolist() == [0, 30, 50]
    assert list(log.pictures) == list(CAMERAS)
    for camera in ("left", "right"):
        np.testing.assert_array_equal(log.locate_pictures(camera), np.arange(90) >= 50)
    assert "90 rows of 3 drives" in log.describe() and "left (in 40 rows), right (in 40 rows)" in log.describe()


def test_several_places_are_joined_in_the_order_they_are_named_in(mixed):
    both = read_driving_log([mixed / "udacity", str(mixed / "a_tub")])
    assert [drive.name for drive in both.drives] == ["udacity", "a_tub"] and both.source == mixed
    assert read_driving_log([mixed]).fingerprint() == read_driving_log(mixed).fingerprint()
    with pytest.raises(ValueError, match=r"a_tub/manifest.json is the same recording as .*a_tub/manifest.json"):
        read_driving_log([mixed / "a_tub", mixed / "a_tub"])
    with pytest.raises(FileNotFoundError, match=r"there is no .*elsewhere"):
        read_driving_log([mixed / "a_tub", mixed / "elsewhere"])
    for nothing in ([], "", [mixed / "a_tub", ""]):  # the last two as a variable of the shell that is not set
        with pytest.raises(ValueError, match="no recording to read"):
            read_driving_log(nothing)


def test_a_camera_goes_with_the_only_drive_that_had_it(mixed, tmp_path):
    pack_driving_log(read_driving_log([mixed / "a_tub", mixed / "udacity"]), tmp_path / "packed")
    lines = [line.split(",") for line in (mixed / "udacity" / "driving_log.csv").read_text().splitlines()]
    (mixed / "udacity" / "driving_log.csv").write_text("\n".join(f"{line[0]},,,{line[3]}" for line in lines))
    log = read_driving_log([mixed / "udacity", tmp_path / "packed"], on_error="skip")
    assert len(log) == 70 and len(log.skipped) == 40 and list(log.pictures) == ["center"]


def test_a_recording_of_several_places_has_a_name(mixed):
    log = read_driving_log([mixed / "a_tub", mixed / "udacity"])
    assert log.names == ("a_tub", "udacity") and log.name == "a_tub, udacity"
    assert log.describe().startswith(f"{mixed / 'a_tub'}, {mixed / 'udacity'}: 70 rows of 2 drives")
    assert replace(log, places=()).name == read_driving_log(mixed).name == "mixed"


@pytest.mark.parametrize(
    ("places", "names"),
    [
        (["a/drive/"], ["drive"]),
        (["a/drive", "b/other"], ["drive", "other"]),
        (["a/drive", "b/drive"], ["a/drive", "b/drive"]),
        (["a", "a/drive/../../b/a"], ["a", "b/a"]),
        (["a/drive/log.csv"], ["drive/log.csv"]),
        (["b/drive/log.csv", "a/drive/log.csv", "b/drive"], ["b/drive/log.csv", "a/drive/log.csv", "b/drive"]),
    ],
)
def test_places_are_named_by_what_tells_them_apart(tmp_path, monkeypatch, places, names):
    for name in ("a/drive", "b/drive", "b/other", "b/a"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "log.csv").touch()
    monkeypatch.chdir(tmp_path)
    assert name_places(places) == name_places([tmp_path / place for place in places]) == tuple(names)


def test_a_recording_below_or_beside_another_ones_is_named(mixed, caplog):
    os.replace(mixed / "a_tub", mixed / "udacity" / "a_tub")
    (mixed / "udacity" / "index.rec").write_bytes(b"")
    assert len(read_driving_log(mixed / "udacity")) == 40
    (message,) = caplog.messages
    assert "2 further logs below it are not (a_tub/manifest.json, index.rec)" in message


def test_what_is_in_no_recording_is_listed_with_what_is_recognised(tmp_path):
    (tmp_path / "movie.mp4").write_bytes(b"")
    with pytest.raises(FileNotFoundError) as caught:
        read_driving_log(tmp_path)
    for word in ("holds movie.mp4", "driving_log.csv", "index.rec", "manifest.json", "camera/DATE.h5", "train_X.npy"):
        assert word in str(caught.value)


def test_side_cameras_are_learned_from_where_there_are_some(mixed):
    log = read_driving_log([mixed / "a_tub", mixed / "udacity"])
    corrections = {"center": 0.0, "left": 0.2, "right": -0.2}
    known = defaultdict(set)  # whose picture a frame is made of: cameras and rows, for some are alike
    for camera, pictures in log.pictures.items():
        for row, picture in enumerate(pictures):
            if picture:
                known[preprocess(read_picture(picture), SPEC).tobytes()].add((camera, row))
    never = dict.fromkeys(Augmentation.__dataclass_fields__, 0.0)
    loader = TrainingLoader(
        SteeringDataset(open_frames(log, SPEC), log.steering),
        16,
        augmentation=Augmentation(**{**never, "correction": 0.2}),
    )
    rows = defaultdict(set)
    for batch in (batch for epoch in range(3) for batch in loader.epoch(epoch)):
        for frame, steering in zip(batch.frames, batch.steering):
            errors = {
                each: abs(log.steering[each[1]] + corrections[each[0]] - steering) for each in known[frame.tobytes()]
            }
            camera, row = min(errors, key=errors.get)
            assert errors[camera, row] < 1e-6
            rows[camera].add(row)
    assert rows["center"] >= set(range(30)) and len(rows["left"] | rows["right"]) > 30
    assert rows["left"] | rows["right"] <= set(range(30, 70))


def test_frames_that_are_not_there_are_refused(mixed):
    frames = open_frames(read_driving_log([mixed / "a_tub", mixed / "udacity"]), SPEC)
    with pytest.raises(ValueError, match="row 3 has no picture of this camera"):
        frames["left"].read([40, 3])


@pytest.mark.usefixtures("zoo")
def test_what_was_joined_is_trained_on_packed_and_known_again(mixed, tmp_path, caplog):
    caplog.set_level("INFO")
    recording = read_recording([mixed / "a_tub", mixed / "udacity"], CONFIG)
    assert [each for each in caplog.messages if each.startswith("30 of 70 rows have no side cameras")]
    trained = train_model(CONFIG, recording, tmp_path / "out")
    assert "pictures are of 2 sizes: 120x160 (a_tub), 32x64 (udacity); the same shares" in caplog.text
    assert np.isfinite(trained.open_loop.scores["rmse"])
    card = (tmp_path / "out" / "README.md").read_text()
    assert "--data a_tub \\\n    --data udacity \\\n    --model" in card and "udacity |" in card
    pack_driving_log(recording.log, tmp_path / "packed")
    for place in ([mixed / "a_tub", mixed / "udacity"], tmp_path / "packed"):
        scores, which = evaluate_artifact(tmp_path / "out", place)
        assert scores.scores == trained.open_loop.scores and "held-out rows" in which
    (tmp_path / "came").mkdir()
    with open(tmp_path / "all", "wb") as pipe:
        for path in sorted((tmp_path / "packed").iterdir(), reverse=True):
            pipe.write(path.read_bytes())
    with open(tmp_path / "all", "rb") as pipe:
        unpack_stream(pipe, tmp_path / "came", name="training_0")
    assert read_driving_log(tmp_path / "came").fingerprint() == recording.log.fingerprint()


@pytest.mark.usefixtures("zoo")
def test_a_donkey_cars_drive_is_trained_on_with_one_warning(tub, tmp_path, caplog):
    recording = read_recording(tub, CONFIG)
    for name in ("one", "two"):
        train_model(CONFIG, recording, tmp_path / name)
    warnings = [each for each in caplog.messages if "no side cameras" in each]
    assert len(warnings) == 1 and warnings[0].startswith("1,000 of 1,000 rows have no side cameras")


@pytest.mark.usefixtures("zoo")
def test_pictures_too_low_for_a_model_are_refused_before_the_first_is_decoded(make_recording, tmp_path):
    recording = read_recording(make_recording(60, size=(1, 64)), CONFIG)
    with pytest.raises(ValueError, match=r"center_.*jpg: a frame 1 rows high has none left after cropping"):
        recording.open(InputSpec(8, 16, crop_top=0.4, crop_bottom=0.4 + 0.15), CONFIG)
    (tmp_path / "train_X.npy").write_bytes(b"")
    with pytest.raises(ValueError, match="holds arrays, which cannot be joined with other recordings"):
        read_recording([tmp_path, tmp_path / "recording"], CONFIG)
