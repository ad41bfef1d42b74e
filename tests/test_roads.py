from __future__ import annotations

import json

import pytest

from robostig import roads
from robostig.driving_log import read_driving_log
from robostig.simulation import LOOKS, parse_tracks


def test_no_road_is_both_learned_from_and_tested_on():
    training = roads.training_tracks()
    tested = parse_tracks(",".join(roads.TEST_ROADS), "both")
    assert not {track.name for track in training} & {track.name for track in tested}
    for tracks in (training, tested):
        for look in LOOKS:
            mine = [track for track in tracks if track.road.look == look]
            assert {track.direction for track in mine} == {"forward", "backward"}
            assert len({track.name for track in mine}) >= 2


@pytest.fixture
def few(monkeypatch):
    """Make it a short recording of three roads."""
    monkeypatch.setattr(roads, "TRAINING_ROADS", dict.fromkeys(LOOKS, 1))
    monkeypatch.setattr(roads, "TRAINING_LAPS", 0.01)


def test_a_recording_is_made_once_and_says_what_it_is(few, tmp_path):
    folder = roads.record_training_roads(tmp_path / "out" / "recording", seed=3)
    log = read_driving_log(folder)
    assert len(log) > 15 and len(log.find_breaks().nonzero()[0]) >= 3
    note = json.loads((tmp_path / "out" / "recording.json").read_text())
    assert note["seed"] == 3 and [name.split(":")[0] for name in note["tracks"]] == list(LOOKS)

    before = (folder / "driving_log.csv").stat().st_mtime_ns
    assert roads.record_training_roads(folder, seed=3) == folder
    assert (folder / "driving_log.csv").stat().st_mtime_ns == before


def test_another_recording_in_its_place_is_left_alone(few, make_recording):
    folder = make_recording(5)
    text = (folder / "driving_log.csv").read_text()
    with pytest.raises(FileExistsError, match="is there already; name another folder"):
        roads.record_training_roads(folder)
    assert (folder / "driving_log.csv").read_text() == text


def test_another_seed_takes_the_place_of_an_earlier_recording_of_ours(few, tmp_path):
    folder = roads.record_training_roads(tmp_path / "recording")
    first = read_driving_log(folder).fingerprint()
    roads.record_training_roads(folder, seed=1)
    assert read_driving_log(folder).fingerprint() != first
    assert json.loads((tmp_path / "recording.json").read_text())["seed"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recording", "recording.json"]


def test_a_recording_that_was_interrupted_is_made_again(few, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr("robostig.simulation.recorder.steer_towards", stop)
        with pytest.raises(KeyboardInterrupt):
            roads.record_training_roads(tmp_path / "recording")
    assert not (tmp_path / "recording").exists()
    assert len(read_driving_log(roads.record_training_roads(tmp_path / "recording"))) > 15


def test_fewer_roads_are_the_first_ones_and_others_take_their_place(few, tmp_path):
    folder = roads.record_training_roads(tmp_path / "recording", count=2)
    note = json.loads((tmp_path / "recording.json").read_text())
    assert note["tracks"] == [str(track) for track in roads.training_tracks()[:2]]
    two = len(read_driving_log(folder))
    assert len(read_driving_log(roads.record_training_roads(folder))) > two
    for count in (0, 4):
        with pytest.raises(ValueError, match=f"count is {count}; there are 1 to 3 roads"):
            roads.record_training_roads(folder, count=count)
