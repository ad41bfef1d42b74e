from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from robostig.artifact import read_facts
from robostig.backend import mx
from robostig.config import TrainingConfig
from robostig.imagenet import MEAN, STD, import_gluoncv
from robostig.models import get_model, get_spec
from robostig.pilot import Pilot, predict
from robostig.pipeline import read_recording, train_model

CLASSIFIERS = {
    "mobilenet_v2": "mobilenetv2_0.5",
    "mobilenet_v3_small": "mobilenetv3_small",
    "resnet18": "resnet18_v1",
}
MILLION_OPERATIONS = {"mobilenet_v2": 22.0, "mobilenet_v3_small": 14.0, "resnet18": 444.4}
CONFIG = TrainingConfig(
    model="mobilenet_v3_small", pretrained=True, freeze_epochs=1, epochs=2, batch_size=16, gap_s=0.2, device="cpu"
)

every_backbone = pytest.mark.parametrize("name", CLASSIFIERS)


@pytest.fixture
def keep_weights(tmp_path, monkeypatch):
    """Return a function that puts weights where GluonCV keeps its own: its network's, saved, with their digest."""
    monkeypatch.setenv("MXNET_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MXNET_GLUON_REPO", "http://127.0.0.1:1")

    def keep(name):
        mx.random.seed(9)
        trained = import_gluoncv("model_zoo").get_model(CLASSIFIERS[name])
        trained.initialize(mx.init.Xavier())
        trained(mx.nd.zeros((1, 3, 64, 64)))
        for parameter in trained.collect_params(".*running_mean").values():  # not what a new network has
            parameter.set_data(mx.nd.random.normal(scale=0.1, shape=parameter.shape))
        (tmp_path / "home" / "models").mkdir(parents=True)
        path = tmp_path / "home" / "models" / "weights.params"
        trained.save_parameters(str(path))
        digest = hashlib.sha1(path.read_bytes()).hexdigest()
        path.rename(path.with_name(f"{CLASSIFIERS[name]}-{digest[:8]}.params"))
        monkeypatch.setitem(import_gluoncv("model_zoo.model_store")._model_sha1, CLASSIFIERS[name], digest)
        return [each.data().asnumpy() for each in trained.features.collect_params().values()]

    return keep


def read(block):
    return [each.data().asnumpy() for each in block.collect_params().values()]


@every_backbone
def test_the_backbone_has_gluoncvs_weights_and_the_head_its_own(name, keep_weights):
    weights = keep_weights(name)
    assert get_spec(name).pretrained == "ImageNet"
    net = get_model(name, pretrained=True)
    frames = mx.nd.random.uniform(0, 255, (2, 3, 64, 192))
    assert net(frames).shape == (2, 1) and net.features(frames).shape[2:] == (2, 6)
    backbone = read(net.features)
    assert 0 <= len(weights) - len(backbone) <= 2  # a layer of MobileNetV3's is behind the pooling
    for ours, theirs in zip(backbone, weights):
        np.testing.assert_array_equal(ours, theirs)
    assert all(np.ptp(values) > 0 for values in read(net.output) if values.ndim > 1)


@every_backbone
def test_what_is_said_of_its_size_is_true(name):
    net, counts = get_model(name), []

    def count(layer, _, maps):
        counts.append(np.prod(layer.weight.shape) * np.prod(maps.shape[2:]))

    net.initialize()
    net.apply(
        lambda layer: hasattr(layer, "weight") and not layer.register_forward_hook(count)  # convolutions and dense ones
    )
    net(mx.nd.zeros((1, 3, 64, 192)))
    assert sum(counts) / 1e6 == pytest.approx(MILLION_OPERATIONS[name], abs=0.05)


def test_frames_are_normalised_as_imagenets_are():
    net = get_model("mobilenet_v2")
    net.features, net.output = mx.gluon.nn.HybridSequential(), mx.gluon.nn.HybridSequential()
    frames = mx.nd.array([MEAN, np.add(MEAN, STD), (0, 0, 255)]).reshape((3, 3, 1, 1))
    expected = [[0, 0, 0], [1, 1, 1], (np.array([0, 0, 255]) - MEAN) / STD]
    np.testing.assert_allclose(net(frames).asnumpy()[:, :, 0, 0], expected, atol=1e-5)


def test_a_pretrained_backbone_is_trained_frozen_at_first_saved_and_drives(keep_weights, make_recording, tmp_path):
    weights = keep_weights(CONFIG.model)
    recording = read_recording(make_recording(40, size=(32, 64)), CONFIG)
    trained = [
        train_model(replace(CONFIG, freeze_epochs=epochs), recording, tmp_path / str(epochs)) for epochs in (1, 1, 9)
    ]
    rmse = [[record.train_rmse for record in each.training.history] for each in trained]
    assert rmse[0] == rmse[1] and rmse[0][0] == rmse[2][0] and rmse[0][1] != rmse[2][1]
    facts = read_facts(tmp_path / "9")
    assert facts["parameters"] == trained[2].parameters == get_spec(CONFIG.model).parameters
    assert (facts["config"]["pretrained"], facts["config"]["freeze_epochs"]) == (True, 9)
    saved = mx.nd.load(str(tmp_path / "9" / "model-0000.params"))
    net = get_model(CONFIG.model)
    net.collect_params().load_dict({name.split(":")[1]: value for name, value in saved.items()}, ctx=mx.cpu())
    for ours, theirs in zip(read(net.features), weights):
        np.testing.assert_array_equal(ours, theirs)
    frames = np.random.default_rng(0).integers(0, 256, (3, 64, 192, 3), np.uint8)
    np.testing.assert_allclose(Pilot.load(tmp_path / "9").predict(frames), predict(net, frames), atol=1e-5)


def test_freezing_random_weights_is_refused_before_a_frame_is_read(make_recording, tmp_path):
    recording = read_recording(make_recording(40, size=(32, 64)), CONFIG)
    with pytest.raises(ValueError, match=r"freeze_epochs=1 would hold .* random weights: .*pretrained=true"):
        train_model(replace(CONFIG, pretrained=False), recording, tmp_path / "out")
    assert not (tmp_path / "out").exists()
