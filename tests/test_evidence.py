from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from robostig.artifact import load_artifact
from robostig.backend import mx
from robostig.driving_log import read_driving_log
from robostig.evidence import (
    SALIENT,
    Scene,
    choose_moments,
    drive_expert,
    film_scenes,
    highlight_scenes,
    measure,
    paint_out,
    read_scenes,
)
from robostig.explanation import SaliencyMasker
from robostig.models import get_model, get_spec
from robostig.preprocessing import InputSpec
from robostig.roads import TEST_ROADS
from robostig.simulation import parse_tracks
from robostig.video import ExplanationVideo

nn = mx.gluon.nn


@pytest.fixture(scope="module")
def scenes():
    """What the expert sees on roads that no model has learned from, in both directions."""
    return list(drive_expert(parse_tracks(",".join(TEST_ROADS[:3]), "both"), count=90))


@pytest.fixture(scope="module")
def nvidia():
    return SaliencyMasker.load(load_artifact("nvidia"))


def make_masker(net, spec):
    net(mx.nd.zeros((1, 3, spec.height, spec.width)))
    parameters = {name: each.data() for name, each in net.collect_params().items()}
    return SaliencyMasker(net(mx.sym.var("data")), parameters, spec)


def test_a_trained_model_looks_at_the_edges_of_roads_that_it_has_never_seen(nvidia, scenes):
    evidence = measure(nvidia, scenes)
    assert evidence.frames == len(scenes) and 0.1 < evidence.chance_at_edges < 0.3
    assert evidence.salient_at_edges > 1.5 * evidence.chance_at_edges
    assert evidence.mass_at_edges > 1.2 * evidence.chance_at_edges


def test_painting_out_what_it_looks_at_changes_its_steering_more_than_as_many_other_pixels(nvidia, scenes):
    evidence = measure(nvidia, scenes)
    assert evidence.salient_change > 1.2 * evidence.other_change > 0.0
    assert evidence.salient_wins > 0.55


def test_a_model_that_has_learned_nothing_does_not_look_at_the_edges(scenes):
    mx.random.seed(0)
    net, spec = get_model("nvidia"), get_spec("nvidia").input
    net.initialize(mx.init.Xavier())
    evidence = measure(make_masker(net, spec), scenes[::3])
    assert evidence.salient_at_edges < 1.2 * evidence.chance_at_edges


@pytest.fixture
def redness():
    """A network that looks at what is red, and steers by how much of it there is."""
    spec = InputSpec(40, 80)
    net = nn.HybridSequential(prefix="red_")
    with net.name_scope():
        convolution = nn.Conv2D(1, 1, in_channels=3, activation="relu")
        net.add(convolution, nn.GlobalAvgPool2D(), nn.Dense(1, in_units=1))
    net.initialize(mx.init.One())
    convolution.weight.set_data(mx.nd.array([1 / 255, -1 / 255, 0]).reshape((1, 3, 1, 1)))
    return make_masker(net, spec)


def draw_scene(column, *, edge=None):
    """Draw a red patch of 5 % of the frame, and know of an edge in the middle of the patch at ``edge``."""
    frame = np.full((40, 80, 3), 90, np.uint8)
    frame[10:20, column : column + 16] = (255, 0, 0)
    edges = None
    if edge is not None:
        edges = np.zeros((40, 80), bool)
        edges[14:16, edge : edge + 16] = True
    return Scene(frame, 0.0, "here", edges)


def test_what_is_known_to_steer_is_found_and_what_is_beside_it_does_nothing(redness):
    evidence = measure(redness, [draw_scene(8, edge=8), draw_scene(56, edge=56)])
    assert evidence.salient_change == pytest.approx(SALIENT, abs=1e-3), "all of the red is gone"
    assert evidence.other_change < 0.3 * evidence.salient_change and evidence.salient_wins == 1.0
    assert evidence.salient_at_edges == 1.0 and evidence.mass_at_edges == pytest.approx(1.0)
    assert evidence.chance_at_edges < 0.1
    elsewhere = measure(redness, [draw_scene(8, edge=56), draw_scene(56, edge=8)])
    assert elsewhere.salient_at_edges == elsewhere.mass_at_edges == 0.0


def test_edges_are_not_measured_where_any_are_unknown(redness):
    evidence = measure(redness, [draw_scene(8, edge=8), draw_scene(30)])
    assert (evidence.salient_at_edges, evidence.mass_at_edges, evidence.chance_at_edges) == (None, None, None)
    assert evidence == measure(redness, [draw_scene(8), draw_scene(30)])
    assert evidence.to_dict()["frames"] == 2


def test_painted_pixels_take_the_colour_around_them_and_the_others_stay():
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[:, 40:] = (200, 100, 50)
    where = np.zeros((40, 80), bool)
    where[18:22, 8:12] = where[18:22, 66:70] = True
    spotted = picture.copy()
    spotted[where] = (1, 255, 7)
    assert (paint_out(spotted, where) == picture).all()
    assert (spotted[where] == (1, 255, 7)).all(), "the picture itself is left alone"
    assert paint_out(picture, np.ones((40, 80), bool)).shape == picture.shape
    alone = np.zeros((40, 80), bool)
    alone[:, :60] = True  # much of it with nothing left around
    assert (paint_out(picture, alone)[:, :20] == (200, 100, 50)).all()


def test_moments_are_chosen_from_left_to_right_and_from_different_roads():
    steering = np.random.default_rng(0).normal(0.05, 0.1, 400)
    chosen = choose_moments(steering, 5)
    assert len(set(chosen)) == 5 and (np.diff(steering[chosen]) > 0).all()
    assert steering[chosen[0]] < -0.1 and abs(steering[chosen[2]]) < 0.01 and steering[chosen[4]] > 0.2
    roads = ["straight", "bends"] * 200
    assert {roads[number] for number in choose_moments(steering, 3, roads)} == {"straight", "bends"}
    assert choose_moments([0.3, -0.2], 5) == [1, 0]
    assert abs(steering[choose_moments(steering, 1)[0]]) < 0.01
    assert choose_moments([0.1, 0.4, 0.2], 3) == [0, 2, 1], "who only turns right has no left"


def test_the_expert_shows_as_many_scenes_as_asked_for_all_along_its_drive():
    tracks = parse_tracks("lake:9,dirt:9")
    scenes = list(drive_expert(tracks, laps=0.1, count=10))
    assert 10 <= len(scenes) <= 12 and scenes[0].place == "lake:9 forward, 0 m"
    assert {scene.place.split(",")[0] for scene in scenes} == {"lake:9 forward", "dirt:9 forward"}
    assert all(scene.frame.shape == (160, 320, 3) and scene.edges.any() for scene in scenes)
    whole = list(drive_expert(tracks[:1], laps=0.1))
    assert len(whole) > 50 and any((scenes[1].frame == scene.frame).all() for scene in whole)
    assert len(list(drive_expert(tracks[:1], laps=0.001, count=100))) == 1


def test_the_scenes_of_a_recording_are_its_rows(make_recording):
    log = read_driving_log(make_recording(20))
    rows = np.arange(2, 20)
    assert [scene.place for scene in read_scenes(log, rows, count=3)] == ["row 2", "row 10", "row 19"]
    whole = list(read_scenes(log, rows, count=50))
    assert len(whole) == 18 and whole[3].edges is None
    np.testing.assert_allclose([scene.steering for scene in whole], log.steering[2:])


def test_scenes_are_filmed_side_by_side_up_to_a_minute(nvidia, redness, scenes, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr("robostig.evidence.FILMED", 70)
    maskers = {"nvidia": nvidia, "red": redness}
    with ExplanationVideo(tmp_path / "looks.avi", list(maskers), (160, 320), "expert") as video:
        film_scenes(video, maskers, iter(scenes))
    capture = cv2.VideoCapture(str(tmp_path / "looks.avi"))
    frames = [capture.read()[1] for _ in range(70)]
    assert not capture.read()[0] and "the video shows the first minute" in caplog.text
    # The half of the network that is cropped is dark above; the other one sees the sky.
    left, right = frames[-1][:60, :480].mean(), frames[-1][:60, 480:].mean()
    assert left < 0.6 * right
    [(overlay, steering)] = highlight_scenes(nvidia, [replace(scenes[69], edges=None)])
    small = cv2.resize(overlay, (480, 240), interpolation=cv2.INTER_CUBIC)
    assert np.abs(frames[69][:240, :480, ::-1].astype(int) - small).mean() < 8 and -1.0 <= steering <= 1.0
