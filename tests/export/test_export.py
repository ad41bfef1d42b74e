from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import draw_road

import robostig
from robostig.artifact import WEIGHTS, save_artifact
from robostig.backend import mx
from robostig.driving_log import read_driving_log, read_picture
from robostig.export import TOLERANCE, export_onnx, verification
from robostig.models import get_model, get_spec, list_models
from robostig.pilot import Pilot
from robostig.preprocessing import InputSpec, preprocess

nn = mx.gluon.nn

SPEC = InputSpec(16, 32, crop_top=0.25, color_space="yuv")
BATCHES = (1, 2, 5)
FRAMES = np.stack([draw_road(steering) for steering in (-0.6, -0.2, 0.0, 0.3, 0.7)])

# What a program on a car may do: it has numpy and ONNX Runtime, and nothing of what the network was made with.
ELSEWHERE = """
import sys
sys.modules.update(dict.fromkeys(("mxnet", "robostig", "cv2", "onnx", "gluoncv")))  # importing them raises
import numpy as np, onnxruntime
path, frames, answers = sys.argv[1:]
session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
np.save(answers, session.run(None, {"frames": np.load(frames)})[0])
"""


class Custom(nn.HybridSequential):
    """A network of a layer of somebody's choice, as another package may register it."""

    def __init__(self, *layers: Any) -> None:
        super().__init__(prefix="custom_")
        with self.name_scope():
            self.add(nn.HybridLambda(lambda F, frames: frames * (1 / 127.5) - 1.0))
            self.add(*(make() for make in layers), nn.Flatten(), nn.Dense(1))


def save(folder: Path, net: Any, spec: InputSpec, name: str, **facts: Any) -> Path:
    """Save a network that steers to both sides, and whose normalisation is not what it is at first."""
    mx.random.seed(0)
    generator = np.random.default_rng(0)
    net.initialize(mx.init.MSRAPrelu())
    frames = mx.nd.array(np.stack([preprocess(frame, spec) for frame in FRAMES]).transpose(0, 3, 1, 2))
    net(frames)
    for key, parameter in net.collect_params().items():
        if key.endswith(("gamma", "beta")):
            parameter.set_data(mx.nd.array(generator.uniform(0.5, 1.5, parameter.shape)))
    net.apply(forget_at_once)
    with mx.autograd.record():
        answers = net(frames)
    answers.backward()  # means and variances are these frames' now
    *_, weight, bias = net.collect_params(".*dense.*").values()
    answers = net(frames)
    spread, middle = float((answers.max() - answers.min()).asscalar()), float(answers.mean().asscalar())
    weight.set_data(weight.data() / spread)
    bias.set_data((bias.data() - middle) / spread)
    return save_artifact(folder, net, spec, {"model": name, "scores": {"open_loop": {"rmse": 0.1}}, **facts})


def forget_at_once(block: Any) -> None:
    if isinstance(block, nn.BatchNorm):
        block._kwargs["momentum"] = 0.0


@pytest.fixture
def saved(tmp_path) -> Path:
    return save(tmp_path / "artifact", Custom(lambda: nn.Conv2D(4, 3, 2), nn.ELU), SPEC, "tiny")


def run(path: Path, inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"frames": inputs})[0]


def assert_steers_as_the_pilot(exported: Path, artifact: Path, frames: np.ndarray, *, with_preprocessing: bool) -> None:
    pilot = Pilot.load(artifact)
    expected = pilot.steer_many(frames)
    assert np.ptp(expected) > 0.01
    inputs = frames
    if not with_preprocessing:
        pictures = np.stack([preprocess(frame, pilot.spec) for frame in frames])
        inputs = pictures.transpose(0, 3, 1, 2).astype(np.float32)
    for size in BATCHES:
        answers = run(exported, inputs[:size])
        assert answers.shape == (size, 1) and answers.dtype == np.float32
        np.testing.assert_allclose(answers[:, 0], expected[:size], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", list_models())
def test_every_model_steers_as_its_pilot(name, tmp_path, make_recording):
    spec, log = get_spec(name), read_driving_log(make_recording(8))
    artifact = save(tmp_path / "artifact", get_model(name), spec.input, name)
    frames = np.stack([read_picture(picture) for picture in log.pictures["center"]])
    for with_preprocessing in (False, True):
        exported = export_onnx(artifact, tmp_path / "net.onnx", with_preprocessing=with_preprocessing, log=log)
        assert exported.parameters == spec.parameters  # none of AlignedConv2D's zeros is among them
        assert exported.agreement.frames == 8 and 0 <= exported.agreement.max_difference < 1e-5
        assert_steers_as_the_pilot(exported.path, artifact, frames, with_preprocessing=with_preprocessing)


@pytest.mark.parametrize(
    "weights", [pytest.param(path, id=path.name) for path in sorted(WEIGHTS.iterdir()) if path.is_dir()]
)
def test_trained_weights_steer_as_their_pilot_on_a_real_recording(weights, tmp_path, lake):
    log = read_driving_log(lake)
    frames = np.stack([read_picture(picture) for picture in log.pictures["center"][::500]])
    exported = export_onnx(weights.name, tmp_path / "net.onnx", with_preprocessing=True)
    assert_steers_as_the_pilot(exported.path, weights, frames, with_preprocessing=True)


@pytest.mark.parametrize("size", [(120, 160), (320, 640)])
def test_frames_of_another_size_can_be_taken(saved, tmp_path, size):
    exported = export_onnx(saved, tmp_path / "net.onnx", with_preprocessing=True, frame_size=size)
    assert exported.input["shape"] == ["N", *size, 3] and exported.agreement.frames == 60
    frames = np.stack([draw_road(steering, height=size[0], width=size[1]) for steering in (-0.6, -0.2, 0.0, 0.3, 0.7)])
    assert_steers_as_the_pilot(exported.path, saved, frames, with_preprocessing=True)


def test_frames_are_of_the_size_that_the_model_learned_from(tmp_path):
    saved = save(tmp_path / "artifact", Custom(), SPEC, "tiny", data={"frame_size": [48, 64]})
    exported = export_onnx(saved, tmp_path / "net.onnx", with_preprocessing=True)
    assert exported.input["shape"] == ["N", 48, 64, 3]


@pytest.mark.parametrize("data", ["my own drive", {}, {"frame_size": None}])
def test_without_a_known_size_frames_are_the_simulators(tmp_path, data):
    saved = save(tmp_path / "artifact", Custom(), SPEC, "tiny", data=data)
    exported = export_onnx(saved, tmp_path / "net.onnx", with_preprocessing=True)
    assert exported.input["shape"] == ["N", 160, 320, 3]


@pytest.mark.parametrize(("size", "came"), [([0, 320], "0x320"), (160, "160")])
def test_a_size_that_is_none_is_refused(tmp_path, size, came):
    saved = save(tmp_path / "artifact", Custom(), SPEC, "tiny", data={"frame_size": size})
    with pytest.raises(ValueError, match=f"'{came}' is no size of a camera's frames"):
        export_onnx(saved, tmp_path / "net.onnx", with_preprocessing=True)


@pytest.mark.parametrize("with_preprocessing", [False, True])
def test_it_runs_where_there_is_neither_mxnet_nor_this_package(saved, tmp_path, with_preprocessing):
    exported = export_onnx(saved, tmp_path / "net.onnx", with_preprocessing=with_preprocessing)
    pictures = np.stack([preprocess(frame, SPEC) for frame in FRAMES])
    inputs = FRAMES if with_preprocessing else pictures.transpose(0, 3, 1, 2).astype(np.float32)
    np.save(tmp_path / "frames.npy", inputs)
    words = [exported.path, tmp_path / "frames.npy", tmp_path / "answers.npy"]
    subprocess.run([sys.executable, "-c", ELSEWHERE, *map(str, words)], check=True, cwd=tmp_path)
    answers = np.load(tmp_path / "answers.npy")
    np.testing.assert_allclose(answers[:, 0], Pilot.load(saved).steer_many(FRAMES), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("with_preprocessing", [False, True])
def test_the_lines_that_show_how_to_use_it_do(saved, tmp_path, with_preprocessing):
    exported = export_onnx(saved, tmp_path / "net.onnx", with_preprocessing=with_preprocessing)
    seen = {}
    exec(exported.snippet, seen)
    assert seen["steering"].shape == (1,)
    np.testing.assert_array_equal(seen["steering"], run(exported.path, seen["frames"])[:, 0])
    if with_preprocessing:
        assert abs(seen["steering"][0] - Pilot.load(saved).steer(seen["frames"][0])) < TOLERANCE


def test_the_file_says_what_it_is(saved, tmp_path):
    model = onnx.load(str(export_onnx(saved, tmp_path / "net.onnx").path))
    assert (model.producer_name, model.producer_version) == ("robostig", robostig.__version__)
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 13)]
    about = {each.key: each.value for each in model.metadata_props}
    assert about["model"] == "tiny" and json.loads(about["scores"]) == {"open_loop": {"rmse": 0.1}}
    frames, steering = json.loads(about["frames"]), json.loads(about["steering"])
    assert frames["shape"] == ["N", 3, 16, 32] and frames["color_space"] == "yuv" and frames["crop_top"] == 0.25
    assert steering["range"] == [-1, 1] and "25 degrees" in steering["unit"]
    parameters = (saved / "model-0000.params").read_bytes()
    assert json.loads(about["artifact_sha256"])["model-0000.params"] == hashlib.sha256(parameters).hexdigest()
    assert [each.name for each in model.graph.input] == ["frames"]  # parameters are none


def test_the_same_artifact_gives_the_same_bytes(saved, tmp_path):
    first, second = (export_onnx(saved, tmp_path / name).path.read_bytes() for name in ("1.onnx", "2.onnx"))
    assert first == second


def test_steering_ends_at_full_lock(tmp_path):
    net = Custom()
    artifact = save(tmp_path / "artifact", net, SPEC, "tiny")
    net.collect_params(".*bias").setattr("grad_req", "null")
    next(iter(net.collect_params(".*bias").values())).set_data(mx.nd.array([5.0]))
    save_artifact(artifact, net, SPEC, {"model": "tiny"})
    exported = export_onnx(artifact, tmp_path / "net.onnx", with_preprocessing=True)
    assert run(exported.path, FRAMES).tolist() == [[1.0]] * 5


def test_layers_of_other_packages_can_be_exported(tmp_path):
    layers = (lambda: nn.Conv2D(8, 3), nn.BatchNorm, nn.Swish, nn.MaxPool2D, nn.AvgPool2D, lambda: nn.Dense(8))
    artifact = save(tmp_path / "artifact", Custom(*layers), SPEC, "theirs")
    exported = export_onnx(artifact, tmp_path / "net.onnx", with_preprocessing=True)
    assert_steers_as_the_pilot(exported.path, artifact, FRAMES, with_preprocessing=True)


def test_an_operator_that_has_no_translation_is_named_with_its_layer(tmp_path):
    artifact = save(tmp_path / "artifact", Custom(lambda: nn.Conv2D(4, 3), nn.GroupNorm), SPEC, "theirs")
    with pytest.raises(
        ValueError, match=r"theirs cannot be exported .* layer custom_groupnorm0_\w+ is the operator GroupNorm"
    ):
        export_onnx(artifact, tmp_path / "net.onnx")
    assert {path.name for path in tmp_path.iterdir()} == {"artifact"}


def test_a_network_for_one_frame_at_a_time_is_refused(tmp_path):
    net = nn.HybridSequential(prefix="single_")
    with net.name_scope():
        net.add(nn.HybridLambda(lambda F, frames: F.reshape(frames, shape=(1, -1))), nn.Dense(1))
    net.initialize()
    artifact = save_artifact(tmp_path / "artifact", net, SPEC, {"model": "single"})
    with pytest.raises(ValueError, match=r"ONNX Runtime .* cannot run the exported network"):
        export_onnx(artifact, tmp_path / "net.onnx")
    assert {path.name for path in tmp_path.iterdir()} == {"artifact"}


@pytest.mark.parametrize("with_preprocessing", [False, True])
def test_a_network_of_two_answers_is_refused(tmp_path, with_preprocessing):
    net = nn.HybridSequential(prefix="two_")
    with net.name_scope():
        net.add(nn.Dense(2))
    net.initialize()
    artifact = save_artifact(tmp_path / "artifact", net, SPEC, {"model": "two"})
    with pytest.raises(ValueError, match="answers 1 frames with 1x2 numbers; one a frame is a steering"):
        export_onnx(artifact, tmp_path / "net.onnx", with_preprocessing=with_preprocessing)


def test_what_steers_otherwise_than_the_pilot_is_not_written(saved, tmp_path, monkeypatch):
    path = tmp_path / "net.onnx"
    path.write_text("an earlier one")
    monkeypatch.setattr(verification, "TOLERANCE", 0.0)
    with pytest.raises(ValueError, match=r"steers up to \S+e-\d\d otherwise than the pilot, and at most 0 is allowed"):
        export_onnx(saved, path)
    assert path.read_text() == "an earlier one" and {each.name for each in tmp_path.iterdir()} == {
        "artifact",
        path.name,
    }


def test_a_network_that_steers_by_nan_is_not_written(tmp_path):
    net = Custom()
    save(tmp_path / "artifact", net, SPEC, "tiny")
    next(iter(net.collect_params(".*bias").values())).set_data(mx.nd.array([float("nan")]))
    save_artifact(tmp_path / "artifact", net, SPEC, {"model": "tiny"})
    with pytest.raises(ValueError, match="tiny steers by what is no number"):
        export_onnx(tmp_path / "artifact", tmp_path / "net.onnx")
    assert not (tmp_path / "net.onnx").exists()


def test_a_damaged_artifact_is_not_exported(saved, tmp_path):
    (saved / "model-0000.params").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"is damaged: model-0000\.params"):
        export_onnx(saved, tmp_path / "net.onnx")
    with pytest.raises(FileNotFoundError, match="no trained model in"):
        export_onnx(tmp_path / "nowhere", tmp_path / "net.onnx")
    assert not list(tmp_path.glob("net.onnx*"))


def test_where_nothing_can_be_written_nothing_is_compared(saved, tmp_path):
    with pytest.raises(IsADirectoryError, match=r"is a folder; name a file to write, such as .*model\.onnx"):
        export_onnx(saved, tmp_path)
    with pytest.raises(NotADirectoryError, match="is a file; name a folder"):
        export_onnx(saved, saved / "robostig.json" / "net.onnx")


def test_frames_of_a_size_that_the_file_does_not_take_are_refused(saved, tmp_path, make_recording):
    log = read_driving_log(make_recording(3, size=(48, 64)))
    with pytest.raises(ValueError, match=r"a frame of 48x64 .* takes 160x320: --frame-size 48x64"):
        export_onnx(saved, tmp_path / "net.onnx", with_preprocessing=True, log=log)
    assert export_onnx(saved, tmp_path / "net.onnx", log=log).agreement.frames == 3  # these are resized by the pilot
