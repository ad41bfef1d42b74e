from __future__ import annotations

import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import List, Tuple

import cv2
import numpy as np
import pytest
from conftest import draw_road

from robostig import preprocessing
from robostig.artifact import load_artifact, save_artifact
from robostig.backend import mx
from robostig.data import SteeringDataset, open_frames
from robostig.driving_log import DrivingLog, read_driving_log, read_picture
from robostig.models import get_model, get_spec, list_models
from robostig.pilot import Pilot, predict
from robostig.preprocessing import InputSpec, PixelLayout
from robostig.serving import transform_fn

nn = mx.gluon.nn

SPEC = InputSpec(12, 24, crop_top=0.3, color_space="yuv")


def make_net() -> mx.gluon.HybridBlock:
    net = nn.HybridSequential(prefix="tiny_")
    with net.name_scope():
        net.add(nn.HybridLambda(lambda F, frames: frames * (1 / 127.5) - 1.0))
        net.add(nn.Conv2D(4, 3, 2), nn.ELU(), nn.Flatten(), nn.Dropout(0.5), nn.Dense(1))
    return initialize(net)


def initialize(net: mx.gluon.HybridBlock) -> mx.gluon.HybridBlock:
    mx.random.seed(0)
    net.initialize(mx.init.Xavier(factor_type="in", magnitude=4))  # with less, deep networks answer next to nothing
    net.hybridize()
    return net


@pytest.fixture(scope="module")
def pilot() -> Pilot:
    return Pilot(make_net(), SPEC)


@pytest.mark.parametrize("size", [(160, 320), (80, 160), (12, 24), (480, 640), (5, 3)])
def test_frames_of_any_size_are_answered_with_a_number_in_the_wheels_range(pilot, size):
    answer = pilot.steer(draw_road(0.3, height=size[0], width=size[1]))
    assert type(answer) is float and -1.0 <= answer <= 1.0


def test_many_frames_are_answered_as_one_by_one(pilot):
    frames = [draw_road(angle, height=height, width=100) for angle, height in ((-0.5, 50), (0.0, 60), (0.5, 70))]
    answers = pilot.steer_many(frames)
    assert answers.shape == (3,) and answers.dtype == np.float32
    np.testing.assert_allclose(answers, [pilot.steer(frame) for frame in frames], atol=1e-6)
    assert np.ptp(answers) > 1e-3


def test_many_frames_may_differ_in_size_and_more_than_go_through_at_once(pilot):
    frames = [draw_road(angle, height=40 + number, width=100) for number, angle in enumerate(np.linspace(-1, 1, 150))]
    answers = pilot.steer_many(iter(frames))
    np.testing.assert_allclose(answers, [pilot.steer(frame) for frame in frames], atol=1e-6)


def test_no_frames_get_no_answers(pilot):
    assert pilot.steer_many([]).shape == (0,)


def test_a_frame_among_many_that_is_none_is_refused(pilot):
    with pytest.raises(ValueError, match="uint8"):
        pilot.steer_many([draw_road(0.0), draw_road(0.0).astype(np.float32)])


@pytest.mark.parametrize(
    ("model", "layout"), [("nvidia", PixelLayout(61)), ("comma", PixelLayout(160, above=2, beside=2, fill=127.5))]
)
def test_the_paper_s_networks_take_pixels_as_they_lie_and_others_planes_when_loaded(model, layout, tmp_path):
    net, spec = initialize(get_model(model)), get_spec(model).input
    assert Pilot.load(save_artifact(tmp_path, net, spec, {"model": model})).layout == layout
    assert load_artifact(tmp_path).layout is None
    one_plane_each = nn.HybridSequential(prefix="grouped_")
    one_plane_each.add(nn.Conv2D(3, 3, groups=3), nn.Dense(1))
    assert Pilot.load(save_artifact(tmp_path, initialize(one_plane_each), SPEC, {"model": "grouped"})).layout is None


BORDERED = PixelLayout(10, above=1, beside=2, fill=127.5)  # of SPEC's twelve rows


def make_pilot(seen: List[mx.nd.NDArray], *, wait=lambda: None) -> Pilot:
    """Make a pilot whose network keeps what it is given, and answers with the mean, 0..1, once it has waited."""

    def net(inputs):
        seen.append(inputs)
        wait()
        return inputs.reshape((0, -1)).mean(axis=1, keepdims=True) / 255

    return Pilot(net, SPEC, context=mx.cpu(), layout=BORDERED)


def make_inputs(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 50 * (seed + 1), (count, *SPEC.shape), np.uint8)


def expect(inputs: np.ndarray):
    return pytest.approx(BORDERED.arrange(inputs).mean(axis=(1, 2, 3)) / 255, abs=1e-6)


@pytest.mark.parametrize("counts", [(1, 1, 1), (3, 3), (1, 3, 1, 1), (70, 70)])
def test_memory_that_is_used_again_holds_the_frames_that_came_last(counts):
    pilot = make_pilot(seen=[])
    for seed, count in enumerate(counts):
        inputs = make_inputs(count, seed)
        assert pilot.predict(inputs) == expect(inputs)


def test_the_network_s_input_is_the_same_memory_for_as_many_frames():
    seen: List[mx.nd.NDArray] = []
    pilot = make_pilot(seen)
    for count in (1, 1, 2, 2):
        pilot.predict(make_inputs(count, 0))
    assert seen[0] is seen[1] and seen[2] is seen[3] and seen[0] is not seen[2]


def test_threads_that_steer_at_once_do_not_write_into_each_others_memory():
    both = threading.Barrier(2, timeout=20)
    pilot = make_pilot(seen=[], wait=both.wait)  # neither network reads before both frames are written
    frames = [make_inputs(1, seed) for seed in range(2)]
    with ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(pilot.predict, frames))
    assert answers == [expect(frame) for frame in frames]


@pytest.mark.parametrize("model", ["nvidia", "comma"])
def test_a_loaded_pilot_answers_on_any_cpu_context(model, tmp_path):
    save_artifact(tmp_path, initialize(get_model(model)), get_spec(model).input, {"model": model})
    frames = [draw_road(angle) for angle in (-0.5, 0.5)]
    first, other = (Pilot.load(tmp_path, context=context) for context in (mx.cpu(), mx.cpu(1)))
    assert [other.steer(frame) for frame in frames] == pytest.approx([first.steer(frame) for frame in frames], abs=1e-6)


def test_a_network_that_wants_more_than_the_wheel_gives_gets_full_lock():
    net = initialize(nn.Dense(1, prefix="wild_"))
    net.weight.set_data(mx.nd.ones((1, 12 * 24 * 3)))
    assert Pilot(net, SPEC).steer(draw_road(0.0)) == 1.0
    net.weight.set_data(-mx.nd.ones((1, 12 * 24 * 3)))
    assert Pilot(net, SPEC).steer(draw_road(0.0)) == -1.0


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((160, 320), np.uint8),
        np.zeros((160, 320, 4), np.uint8),
        np.zeros((3, 160, 320), np.uint8),
        np.zeros((160, 320, 3), np.float32),
        np.zeros((0, 320, 3), np.uint8),
        [[[0, 0, 0]]],
        None,
    ],
    ids=["grey", "rgba", "channels first", "float", "no rows", "list", "none"],
)
def test_what_is_no_frame_is_refused(pilot, frame):
    with pytest.raises(ValueError, match="a frame is"):
        pilot.steer(frame)


def test_a_loaded_pilot_knows_its_model(tmp_path, pilot):
    loaded = Pilot.load(save_artifact(tmp_path, pilot.net, SPEC, {"model": "tiny"}))
    assert loaded.facts["model"] == "tiny" and loaded.spec == SPEC


@pytest.fixture(scope="module")
def drive(tmp_path_factory) -> Tuple[Path, DrivingLog]:
    """Return a recording of one frame, and its log."""
    folder = tmp_path_factory.mktemp("drive")
    (folder / "IMG").mkdir()
    cv2.imwrite(str(folder / "IMG" / "center_0.jpg"), draw_road(0.3)[..., ::-1])
    (folder / "driving_log.csv").write_text("center_0.jpg,,,0.3,0.5,0,30\n")
    return folder, read_driving_log(folder)


@pytest.mark.parametrize("with_opencv", [True, False], ids=["with OpenCV", "without OpenCV"])
@pytest.mark.parametrize("model", ["tiny", *list_models()])
def test_the_same_frame_gets_the_same_answer_everywhere(model, drive, with_opencv, tmp_path, monkeypatch):
    folder, log = drive
    net, spec = (make_net(), SPEC) if model == "tiny" else (initialize(get_model(model)), get_spec(model).input)
    data = SteeringDataset(open_frames(log, spec, cameras=["center"], folder=tmp_path / "cache"), log.steering)
    untrained = predict(net, data.read([0]))[0]
    weight = [each for name, each in net.collect_params().items() if name.endswith("weight")][-1]
    weight.set_data(weight.data() * (0.3 / untrained))
    expected = predict(net, data.read([0]))[0]  # as training validates
    frame = read_picture(log.pictures["center"][0])
    jpeg = (folder / "IMG" / "center_0.jpg").read_bytes()
    png = cv2.imencode(".png", frame[..., ::-1])[1].tobytes()
    npy = io.BytesIO()
    np.save(npy, frame)
    if not with_opencv:
        monkeypatch.setattr(preprocessing, "cv2", None)  # as in SageMaker's inference image
    loaded = Pilot.load(save_artifact(tmp_path / "artifact", net, spec, {"model": model}))

    def ask(body, content_type: str) -> float:
        return json.loads(transform_fn(loaded, body, content_type)[0])[0]

    answers = {
        "pilot": Pilot(net, spec).steer(frame),
        "loaded pilot": loaded.steer(frame),
        "npy": ask(npy.getvalue(), "application/x-npy"),
        "JSON": ask(json.dumps(frame.tolist()), "application/json"),
        "PNG": ask(png, "image/png"),
        "JPEG": ask(jpeg, "image/jpeg"),
    }
    assert 0.25 < expected < 0.35  # neither nothing nor clipped
    assert answers == {way: pytest.approx(expected, abs=5e-5) for way in answers}
