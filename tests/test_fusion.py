from __future__ import annotations

import json

import numpy as np
import pytest

from robostig.artifact import load_artifact, save_artifact
from robostig.backend import mx
from robostig.fusion import fuse_activations
from robostig.models import get_model, get_spec

needs_onednn = pytest.mark.skipif(
    not mx.runtime.Features().is_enabled("MKLDNN"), reason="this MXNet was built without oneDNN"
)


def make_network(kind):
    """Make a convolution and a dense layer, each with an activation of that kind after it."""
    net = mx.sym.Convolution(mx.sym.var("data"), num_filter=16, kernel=(3, 3), name="convolution")
    net = mx.sym.LeakyReLU(net, act_type=kind, slope=0.7)
    net = mx.sym.FullyConnected(net, num_hidden=8, name="dense")
    net = mx.sym.LeakyReLU(net, act_type=kind, slope=0.7)
    generator, data = np.random.default_rng(0), mx.nd.array(np.random.default_rng(1).normal(size=(2, 3, 9, 9)))
    shapes, _, _ = net.infer_shape(data=data.shape)
    values = {name: mx.nd.array(generator.normal(size=shape)) for name, shape in zip(net.list_arguments(), shapes)}
    return net, {**values, "data": data}


def list_operators(symbol):
    return [node["op"] for node in json.loads(symbol.tojson())["nodes"] if node["op"] != "null"]


@needs_onednn
@pytest.mark.parametrize("kind", ["elu", "leaky"])
def test_activations_are_computed_within_the_layers_before_them(kind):
    net, values = make_network(kind)
    fused = fuse_activations(net)
    assert list_operators(fused) == ["_sg_mkldnn_conv", "_sg_mkldnn_fully_connected"]
    answers = [each.eval(ctx=mx.cpu(), **values)[0].asnumpy() for each in (net, fused)]
    assert (answers[0] < 0).any()
    np.testing.assert_allclose(*answers, atol=1e-5)


def flatten_before(activate, *, dropout="training", combine=None):
    """Make a convolution whose output is flattened before an activation, and then goes into a dense layer."""
    net = mx.sym.Convolution(mx.sym.var("data"), num_filter=16, kernel=(3, 3), name="convolution")
    flat = mx.sym.Dropout(mx.sym.Flatten(net), p=0.5, mode=dropout)
    net = mx.sym.FullyConnected(activate(flat), num_hidden=8, name="dense")
    return combine(net, flat) if combine else net


def compare(net):
    """Return the operators after fusion, and how far apart the answers are, as a share of the largest.

    Dropout, idle here, is not among them: MXNet 1.9.1 takes it out, 1.9.0 does not.
    """
    generator, shape = np.random.default_rng(2), (2, 3, 9, 9)
    shapes, _, _ = net.infer_shape(data=shape)
    values = {name: mx.nd.array(generator.normal(size=size)) for name, size in zip(net.list_arguments(), shapes)}
    fused = fuse_activations(net)
    before, after = (each.eval(ctx=mx.cpu(), **values)[0].asnumpy() for each in (net, fused))
    operators = [operator for operator in list_operators(fused) if operator != "Dropout"]
    return operators, np.abs(after - before).max() / np.abs(before).max()


@needs_onednn
@pytest.mark.parametrize(
    "activate",
    [
        lambda x: mx.sym.LeakyReLU(x, act_type="elu", slope=1.0),
        lambda x: mx.sym.LeakyReLU(x, act_type="leaky", slope=0.3),
        lambda x: mx.sym.Activation(x, act_type="tanh"),
    ],
    ids=["elu", "leaky", "tanh"],
)
def test_an_activation_after_flattening_is_computed_before_it(activate):
    operators, difference = compare(flatten_before(activate))
    assert operators == ["_sg_mkldnn_conv", "Flatten", "_sg_mkldnn_fully_connected"] and difference < 1e-5


@needs_onednn
@pytest.mark.parametrize(
    "net",
    [
        flatten_before(
            lambda x: mx.sym.LeakyReLU(x, act_type="leaky"),
            combine=lambda net, flat: mx.sym.broadcast_add(net, flat.sum(axis=1, keepdims=True)),
        ),
        flatten_before(lambda x: mx.sym.LeakyReLU(x, act_type="prelu")),  # a slope for each of what was flattened
    ],
    ids=["seen by others", "with parameters"],
)
def test_an_activation_that_is_not_all_that_flattening_is_for_stays(net):
    operators, difference = compare(net)
    assert operators[:3] == ["_sg_mkldnn_conv", "Flatten", "LeakyReLU"] and difference < 1e-5


@needs_onednn
def test_no_activation_is_moved_before_dropout_that_inference_draws_too():
    fused = fuse_activations(flatten_before(lambda x: mx.sym.LeakyReLU(x, act_type="elu"), dropout="always"))
    assert list_operators(fused)[:4] == ["_sg_mkldnn_conv", "Flatten", "Dropout", "LeakyReLU"]


def test_an_elu_with_nothing_before_it_stays_one():
    net = mx.sym.LeakyReLU(mx.sym.var("data"), act_type="elu", slope=1.0)
    data = mx.nd.array([[-2.0, 3.0]])
    (answer,) = fuse_activations(net).eval(ctx=mx.cpu(), data=data)
    np.testing.assert_allclose(answer.asnumpy(), [[np.expm1(-2.0), 3.0]], rtol=1e-5)


@needs_onednn
@pytest.mark.parametrize("model", ["comma", "nvidia"])
def test_a_loaded_network_has_no_activation_of_its_own(model, tmp_path):
    net, spec = get_model(model), get_spec(model).input
    net.initialize()
    loaded = load_artifact(save_artifact(tmp_path, net, spec, {"model": model})).net
    assert "LeakyReLU" not in list_operators(loaded(mx.sym.var("data")))


def test_batches_of_all_sizes_may_follow_each_other(tmp_path):
    net, spec = get_model("nvidia"), get_spec("nvidia").input
    net.initialize(mx.init.Xavier())
    loaded = load_artifact(save_artifact(tmp_path, net, spec, {"model": "nvidia"})).net
    frames = mx.nd.array(np.random.default_rng(0).integers(0, 256, (5, 3, spec.height, spec.width)))
    expected = net(frames).asnumpy()
    assert np.ptp(expected) > 0
    for count in (1, 5, 2, 1, 5):
        np.testing.assert_allclose(loaded(frames[:count]).asnumpy(), expected[:count], atol=1e-5)
