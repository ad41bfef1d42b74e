from __future__ import annotations

import logging
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from robostig import driving_log, pipeline
from robostig.artifact import read_facts
from robostig.comparison import compare
from robostig.config import TrainingConfig
from robostig.driving_log import pack_driving_log, read_driving_log
from robostig.models import get_spec
from robostig.pipeline import evaluate_artifact, read_recording, train_model
from robostig.training import CHECKPOINT

CONFIG = TrainingConfig(model="tiny1", epochs=2, batch_size=16, gap_s=0.2, device="cpu")

pytestmark = pytest.mark.usefixtures("zoo")


@pytest.fixture
def drives(make_recording):
    return [make_recording(60, name=name, size=(32, 64), seed=seed) for seed, name in enumerate("abc")]


def test_held_out_stretches_are_scored_where_the_model_was_trained_on_the_log(drives, tmp_path):
    first, _, other = drives
    trained = train_model(CONFIG, read_recording(first, CONFIG), tmp_path / "out")
    open_loop, which = evaluate_artifact(tmp_path / "out", first)
    assert open_loop.scores == trained.open_loop.scores and "held-out rows" in which
    assert "that it was trained on" in evaluate_artifact(tmp_path / "out", first, rows="all")[1]
    assert "other than the one" in evaluate_artifact(tmp_path / "out", other)[1]
    with pytest.raises(ValueError, match=r"nothing of .* was held out"):
        evaluate_artifact(tmp_path / "out", other, rows="held-out")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("LICENSE", "\nMIT License\n\nCopyright", "LICENSE: MIT License"),
        ("licence.md", "# CC0 " + "x" * 200, "licence.md: # CC0 " + "x" * 74),
        ("COPYING", "", "COPYING: empty"),
        ("NOTES", "MIT", None),
    ],
)
def test_the_licence_beside_a_recording_is_remembered_and_no_path_is(drives, tmp_path, name, text, said):
    (drives[0] / name).write_text(text)
    train_model(CONFIG, read_recording(drives[0], CONFIG), tmp_path / "out")
    assert read_facts(tmp_path / "out")["data"]["licence"] == said
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| licence | {said or 'not known'} |" in card and "| recording | a |" in card
    assert str(tmp_path) not in card + (tmp_path / "out" / "robostig.json").read_text()


@pytest.mark.parametrize(
    ("licences", "said"),
    [
        ({"a": "MIT", "b": "MIT"}, "LICENSE: MIT"),
        ({"a": "MIT", "b": "CC0"}, "LICENSE: MIT (a); LICENSE: CC0 (b)"),
        ({"b": "CC0"}, "not known (a); LICENSE: CC0 (b)"),
        ({"": "MIT"}, None),  # nobody asked for the folder above
    ],
)
def test_the_licence_of_each_recording_that_was_joined_is_remembered(drives, tmp_path, licences, said):
    for name, text in licences.items():
        (tmp_path / name / "LICENSE").write_text(text)
    assert read_recording(drives[:2], CONFIG).facts()["licence"] == said


def test_a_licence_is_looked_for_up_to_the_folder_that_was_asked_for(drives, make_comma_drive, tmp_path):
    for name, text in (("", "MIT"), ("b", "CC0")):
        (tmp_path / name / "LICENSE").write_text(text)
    pack_driving_log(read_driving_log(drives[2]), tmp_path / "packed")
    shutil.rmtree(drives[2])
    licence = read_recording(tmp_path, CONFIG).facts()["licence"]
    assert licence == "LICENSE: MIT (a, packed); LICENSE: CC0 (b)"
    pytest.importorskip("h5py")
    (make_comma_drive() / "COPYING").write_text("CC BY-NC-SA 3.0")
    assert read_recording(tmp_path / "comma", CONFIG).facts()["licence"] == "COPYING: CC BY-NC-SA 3.0"
    assert read_recording(tmp_path / "comma" / "camera", CONFIG).facts()["licence"] is None


def test_a_log_of_its_own_is_held_out_as_a_whole(drives, tmp_path):
    first, second, _ = drives
    trained = train_model(CONFIG, read_recording(first, CONFIG, validation_folder=second), tmp_path / "out")
    open_loop, which = evaluate_artifact(tmp_path / "out", second, rows="held-out")
    assert open_loop.scores == trained.open_loop.scores and "that was held out" in which
    assert "that it was trained on" in evaluate_artifact(tmp_path / "out", first)[1]
    with pytest.raises(ValueError, match=r"nothing of .* was held out"):
        evaluate_artifact(tmp_path / "out", first, rows="held-out")


def test_a_recording_cannot_be_held_out_from_itself(drives):
    with pytest.raises(ValueError, match="the very recording that is trained on"):
        read_recording(drives[0], CONFIG, validation_folder=drives[0])


@pytest.mark.parametrize(("wrong", "message"), [({"device": "tpu"}, "device is 'tpu'"), ({"dtype": "float16"}, "GPU")])
def test_what_cannot_be_had_here_is_told_before_a_frame_is_decoded(drives, tmp_path, monkeypatch, wrong, message):
    monkeypatch.setenv("ROBOSTIG_CACHE", str(tmp_path / "frames"))
    with pytest.raises(ValueError, match=message):
        train_model(replace(CONFIG, **wrong), read_recording(drives[0], CONFIG), tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / "frames").exists()


def test_what_fails_after_training_does_not_cost_the_training(drives, tmp_path, monkeypatch, caplog):
    recording, out = read_recording(drives[0], CONFIG), tmp_path / "out"

    def fail(*_: object, **__: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
        patch.setattr(pipeline, "save_artifact", fail)
        train_model(CONFIG, recording, out)
    caplog.set_level(logging.INFO)
    train_model(CONFIG, recording, out)
    assert "resumed after epoch 2" in caplog.text and "epoch=1" not in caplog.text
    assert read_facts(out)["model"] == "tiny1" and not (out / "training" / CHECKPOINT).exists()


def test_an_interrupted_comparison_trains_nothing_twice_and_leaves_no_outdated_answer(
    drives, tmp_path, monkeypatch, caplog
):
    out, models = tmp_path / "out", ["tiny1", "tiny2"]
    compare(drives[0], models, out, CONFIG, tracks=[])
    train = pipeline.train_model

    def interrupt(config, *args, **kwargs):
        if config.model == "tiny2":
            raise KeyboardInterrupt
        return train(config, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("robostig.comparison.train_model", interrupt)
        compare(drives[0], models, out, CONFIG, tracks=[])
    assert not (out / "comparison.json").exists()
    caplog.set_level(logging.INFO)
    compare(drives[0], models, out, CONFIG, tracks=[])
    assert caplog.text.count("epoch=1 ") == 1  # tiny2's alone
    assert (out / "comparison.json").exists() and not list(out.glob(f"*/training/{CHECKPOINT}"))


def test_a_packed_recording_trains_and_is_scored_as_its_source(drives, tmp_path):
    pack_driving_log(read_driving_log(drives[0]), tmp_path / "packed", shard_mb=0.02)
    sources = {"log": drives[0], "packed": tmp_path / "packed"}
    recordings = {name: read_recording(folder, CONFIG) for name, folder in sources.items()}
    sets = {name: each.open(get_spec("tiny1").input, CONFIG) for name, each in recordings.items()}
    for one, other in zip(sets["log"], sets["packed"]):
        np.testing.assert_array_equal(one.rows, other.rows)
        np.testing.assert_array_equal(one.steering, other.steering)
        assert one.cameras == other.cameras
        for camera in one.cameras:
            frames = (each.frames[camera].read(each.rows) for each in (one, other))
            np.testing.assert_array_equal(*frames)
    trained = {name: train_model(CONFIG, each, tmp_path / name / "out") for name, each in recordings.items()}
    losses = [[epoch.train_rmse for epoch in each.training.history] for each in trained.values()]
    assert losses[0] == losses[1] and len(losses[0]) == 2
    assert trained["log"].open_loop.scores == trained["packed"].open_loop.scores
    for name, other in (("log", "packed"), ("packed", "log")):  # each finds what was held out in the other form
        open_loop, which = evaluate_artifact(tmp_path / name / "out", sources[other], rows="held-out")
        assert open_loop.scores == trained[name].open_loop.scores and "held-out rows" in which


def test_drives_in_sub_folders_are_trained_on_and_one_of_them_is_known_again(drives, tmp_path):
    for folder in drives[:2]:
        shutil.move(str(folder), str(tmp_path / "drives" / folder.name))
    folder = tmp_path / "drives"
    trained = train_model(CONFIG, read_recording(folder, CONFIG), tmp_path / "out")
    assert evaluate_artifact(tmp_path / "out", folder)[0].scores == trained.open_loop.scores
    assert "drives among them that it was trained on" in evaluate_artifact(tmp_path / "out", folder / "a")[1]
    assert "other than the one" in evaluate_artifact(tmp_path / "out", drives[2])[1]
    assert read_facts(tmp_path / "out")["data"]["folder"] == "drives"


def test_every_picture_is_measured_once(drives, monkeypatch):
    """Where the files are far away, as on a bucket that is mounted, each look takes its time."""
    measured = Counter()
    monkeypatch.setattr(driving_log.log, "measure_picture", lambda picture: measured.update([picture]) or 1)
    recording = read_recording(drives[0], CONFIG)
    assert recording.facts() == recording.facts()
    assert len(measured) == 3 * 60 and set(measured.values()) == {1}


def test_a_drive_cannot_be_held_out_and_trained_on(drives, tmp_path):
    with pytest.raises(ValueError, match="the very recording that is trained on"):
        read_recording(tmp_path, CONFIG, validation_folder=drives[1])
    shutil.copytree(drives[0], tmp_path / "held" / "a")
    shutil.move(str(drives[2]), str(tmp_path / "held" / "c"))
    with pytest.raises(ValueError, match="have drives in common"):
        read_recording(drives[0], CONFIG, validation_folder=tmp_path / "held")
