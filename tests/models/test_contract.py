"""What every registered model promises; a new model is tested by being registered."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import draw_road

from robostig.backend import mx
from robostig.models import ModelSpec, get_model, get_spec, list_models
from robostig.preprocessing import COLOR_SPACES, InputSpec, preprocess

PARAMETERS = {
    "nvidia": 252_219,
    "comma": 6_621_809,
    "mobilenet_v2": 750_145,
    "mobilenet_v3_small": 970_177,
    "resnet18": 11_217_633,
}
STEERING = np.array([-0.6, -0.2, 0.2, 0.6], np.float32)

every_model = pytest.mark.parametrize("name", list_models())


def make_batch(spec: ModelSpec):
    """Make four preprocessed camera frames, (4, 3, H, W) float32 of whole numbers 0..255."""
    generator = np.random.default_rng(0)
    frames = [draw_road(steering) + generator.integers(0, 20, (160, 320, 3), np.uint8) for steering in STEERING]
    batch = np.stack([preprocess(frame, spec.input) for frame in frames])
    assert batch.max() > 200  # not scaled
    return mx.nd.array(batch.transpose(0, 3, 1, 2), dtype="float32")


def build(name: str, seed: int = 0):
    """Build and initialise a model, shapes and all."""
    mx.random.seed(seed)
    net = get_model(name)
    net.initialize(mx.init.Xavier())
    net(mx.nd.zeros((1, 3, get_spec(name).input.height, get_spec(name).input.width)))
    return net


def export(net, folder, frames):
    net.hybridize()
    net(frames)
    folder.mkdir()
    net.export(str(folder / "model"))
    return folder / "model-symbol.json", folder / "model-0000.params"


def values(net):
    return {name: parameter.data().asnumpy() for name, parameter in net.collect_params().items()}


def test_every_built_in_model_is_in_the_table():
    built_in = {name for name in list_models() if type(get_model(name)).__module__.startswith("robostig.models.")}
    assert built_in == set(PARAMETERS)


@every_model
def test_the_spec_is_complete(name):
    spec = get_spec(name)
    assert spec.name == name == name.lower()
    assert isinstance(spec.input, InputSpec) and min(spec.input.height, spec.input.width) > 0
    assert spec.input.color_space in COLOR_SPACES
    assert spec.parameters > 0 and len(spec.reference) > 10 and 10 < len(spec.summary) < 120


@every_model
def test_the_parameters_are_as_many_as_said(name):
    trainable = [parameter for parameter in build(name).collect_params().values() if parameter.grad_req != "null"]
    count = sum(int(np.prod(parameter.shape)) for parameter in trainable)
    assert count == get_spec(name).parameters == PARAMETERS.get(name, count)


@every_model
@pytest.mark.parametrize("count", [1, 4])
def test_a_batch_gives_one_steering_a_frame_whatever_its_neighbours(name, count):
    net, frames = build(name), make_batch(get_spec(name))
    answer = net(frames[:count])
    assert answer.shape == (count, 1) and answer.dtype == np.float32
    np.testing.assert_allclose(answer.asnumpy(), net(frames).asnumpy()[:count], atol=1e-5)
    assert np.ptp(net(frames).asnumpy()) > 0


@every_model
def test_hybridized_equals_imperative(name):
    net, frames = build(name), make_batch(get_spec(name))
    imperative = net(frames).asnumpy()
    net.hybridize(static_alloc=True, static_shape=True)
    np.testing.assert_allclose(net(frames).asnumpy(), imperative, atol=1e-5)


@every_model
def test_exported_and_imported_answers_the_same(name, tmp_path):
    net, frames = build(name), make_batch(get_spec(name))
    symbol, parameters = export(net, tmp_path / "export", frames)
    imported = mx.gluon.SymbolBlock.imports(str(symbol), ["data"], str(parameters))
    np.testing.assert_allclose(imported(frames).asnumpy(), net(frames).asnumpy(), atol=1e-5)


@every_model
def test_normalisation_is_in_the_exported_graph(name, tmp_path):
    frames = make_batch(get_spec(name))
    symbol, parameters = export(build(name), tmp_path / "export", frames)
    values = {key.split(":", 1)[1]: value for key, value in mx.nd.load(str(parameters)).items()}
    nodes = json.loads(symbol.read_text())["nodes"]
    first = next(node for node in nodes if node["op"] in ("Convolution", "FullyConnected"))
    for number, *_ in first["inputs"][1:]:  # a layer that answers with the mean of what it looks at
        while nodes[number]["op"] != "null":
            number = nodes[number]["inputs"][0][0]
        shape = values[nodes[number]["name"]].shape
        values[nodes[number]["name"]] = mx.nd.full(shape, 1 / np.prod(shape[1:]) if len(shape) > 1 else 0)
    answers = mx.sym.load(str(symbol)).get_internals()[f"{first['name']}_output"]
    given = {key: values[key] for key in answers.list_inputs() if key in values}
    looks_at = answers.eval(ctx=mx.cpu(), data=frames, **given)[0].asnumpy()
    looks_at = looks_at[:, : shape[0]]  # channels beyond its own are zero
    assert np.abs(looks_at).max() < 5 and looks_at.std() > 0.01


@every_model
def test_a_few_steps_lower_the_loss(name):
    net, frames, labels = build(name), make_batch(get_spec(name)), mx.nd.array(STEERING[:, None])
    trainer = mx.gluon.Trainer(net.collect_params(), "adam", {"learning_rate": 1e-3})
    net.hybridize()
    losses = []
    for _ in range(15):
        with mx.autograd.record():  # batch normalisation's running statistics need far more steps than these
            loss = (net(frames) - labels) ** 2
        loss.backward()
        trainer.step(len(STEERING))
        losses.append(float(loss.mean().asscalar()))
    assert np.mean(losses[-4:]) < 0.7 * losses[0]  # of several, for dropout


@every_model
def test_the_gradient_reaches_every_parameter(name):
    net, frames = build(name), make_batch(get_spec(name))
    with mx.autograd.record():
        loss = ((net(frames) - 1.0) ** 2).sum()
    loss.backward()
    for parameter in net.collect_params().values():
        if parameter.grad_req != "null":
            gradient = parameter.grad().asnumpy()
            assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0, parameter.name


@every_model
def test_nothing_depends_on_what_was_built_before(name, tmp_path):
    frames = make_batch(get_spec(name))
    first = build(name)
    initial = values(first)
    for other in [*list_models() * 5][:5]:
        get_model(other)
    mx.gluon.nn.HybridSequential().add(mx.gluon.nn.Dense(1))
    sixth = build(name)
    assert list(values(sixth)) == list(initial)
    for key, value in values(sixth).items():
        np.testing.assert_array_equal(value, initial[key], err_msg=key)
    texts = [
        export(net, tmp_path / folder, frames)[0].read_text() for net, folder in ((first, "first"), (sixth, "sixth"))
    ]
    assert texts[0] == texts[1]


@every_model
def test_another_seed_gives_other_parameters(name):
    first, other = (values(build(name, seed)) for seed in (0, 1))
    assert any((first[key] != other[key]).any() for key in first)


@every_model
def test_the_names_of_parameters_begin_with_the_models(name):
    assert all(key.startswith(f"{name}_") for key in get_model(name).collect_params())
