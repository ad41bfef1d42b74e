from __future__ import annotations

import json

import numpy as np
import pytest

from robostig.backend import mx
from robostig.folding import fold_constants, fold_scaling

DATA = mx.nd.array([[1.0, 2.0], [3.0, 4.0]])
PARAMETERS = {"weight": mx.nd.array([[1.0, -2.0]]), "bias": mx.nd.array([0.5]), "scale": mx.nd.array([[3.0]])}


def list_operators(symbol):
    return [node["op"] for node in json.loads(symbol.tojson())["nodes"] if node["op"] != "null"]


def answer(symbol, parameters):
    return symbol.eval(ctx=mx.cpu(), data=DATA, **parameters)[0].asnumpy()


def make_symbol():
    """Make (data * 2) weight' + bias', both primes computed: the weight by two operators, the bias by one."""
    weight, bias, scale, data = map(mx.sym.var, ("weight", "bias", "scale", "data"))
    weight = mx.sym.broadcast_mul(mx.sym.square(weight), scale)
    return mx.sym.FullyConnected(data * 2, weight, mx.sym.exp(bias), num_hidden=1)


def test_what_follows_from_parameters_becomes_a_parameter():
    symbol = make_symbol()
    folded, parameters = fold_constants(symbol, PARAMETERS)
    assert list_operators(folded) == ["_mul_scalar", "FullyConnected"]
    assert sorted(value.shape for value in parameters.values()) == [(1,), (1, 2)]
    np.testing.assert_array_equal(answer(folded, parameters), answer(symbol, PARAMETERS))


def test_a_graph_without_constants_stays_as_it_is():
    symbol = mx.sym.FullyConnected(mx.sym.var("data"), mx.sym.var("weight"), mx.sym.var("bias"), num_hidden=1)
    parameters = {name: PARAMETERS[name] for name in ("weight", "bias")}
    folded, known = fold_constants(symbol, parameters)
    assert folded is symbol and known == parameters


def test_a_variable_that_is_no_parameter_is_an_input():
    symbol = mx.sym.exp(mx.sym.var("data")) + mx.sym.exp(mx.sym.var("bias"))
    folded, parameters = fold_constants(symbol, {})
    assert list_operators(folded) == list_operators(symbol) and not parameters


def test_what_is_drawn_is_not_folded():
    symbol = mx.sym.broadcast_add(mx.sym.var("data"), mx.sym.random.uniform(shape=(2, 2)) + 1)
    folded, _ = fold_constants(symbol, {})
    assert list_operators(folded) == list_operators(symbol)


def test_a_parameter_that_is_also_used_as_it_is_stays():
    data, weight = mx.sym.var("data"), mx.sym.var("weight")
    symbol = mx.sym.broadcast_add(mx.sym.broadcast_mul(data, weight), mx.sym.exp(weight))
    folded, parameters = fold_constants(symbol, {"weight": PARAMETERS["weight"]})
    assert len(parameters) == 2 and "weight" in parameters
    np.testing.assert_array_equal(answer(folded, parameters), answer(symbol, {"weight": PARAMETERS["weight"]}))


FRAMES = mx.nd.array(np.random.default_rng(0).integers(0, 256, (2, 3, 8, 9)))


def make_convolution(data, **options):
    return mx.sym.Convolution(data, num_filter=4, kernel=(3, 3), name="convolution", **options)


def fold(symbol):
    """Return the operators after folding, and how far apart the answers are then, as a share of the largest."""
    generator = np.random.default_rng(1)
    shapes, _, _ = symbol.infer_shape(data=FRAMES.shape)
    parameters = {
        name: mx.nd.array(generator.normal(size=shape))
        for name, shape in zip(symbol.list_arguments(), shapes)
        if name != "data"
    }
    before = symbol.eval(ctx=mx.cpu(), data=FRAMES, **parameters)[0].asnumpy()
    folded, parameters = fold_scaling(symbol, parameters)
    after = folded.eval(ctx=mx.cpu(), data=FRAMES, **parameters)[0].asnumpy()
    return list_operators(folded), np.abs(after - before).max() / np.abs(before).max()


@pytest.mark.parametrize(
    "scaled",
    [
        lambda x: x * (1 / 127.5) - 1.0,
        lambda x: (x - 127.5) / 127.5,
        lambda x: (x + 3.0) * 2.0 - 7.0,
        lambda x: x / 255,
    ],
)
def test_scaling_before_a_convolution_becomes_its_parameters(scaled):
    operators, difference = fold(make_convolution(scaled(mx.sym.var("data"))))
    assert operators == ["Convolution"] and difference < 1e-5


@pytest.mark.parametrize(
    "symbol",
    [
        make_convolution(mx.sym.var("data") * 2 - 1, pad=(1, 1)),  # what is padded is zero after the scaling
        make_convolution(mx.sym.var("data") * 2, no_bias=True),
        make_convolution(1 - mx.sym.var("data")),
        make_convolution(mx.sym.exp(mx.sym.var("data") * 0.01)),
        make_convolution(mx.sym.var("data")),
    ],
)
def test_what_cannot_be_folded_stays(symbol):
    operators, difference = fold(symbol)
    assert operators == list_operators(symbol) and difference == 0


def test_what_is_scaled_for_others_too_is_still_scaled_for_them():
    scaled = mx.sym.var("data") * 0.5 - 1
    symbol = mx.sym.broadcast_add(make_convolution(scaled).mean(), scaled.mean())
    operators, difference = fold(symbol)
    assert sorted(operators) == sorted(list_operators(symbol)) and difference < 1e-5


def test_parameters_that_two_convolutions_share_stay():
    data, weight, bias = map(mx.sym.var, ("data", "weight", "bias"))
    both = [
        mx.sym.Convolution(each, weight, bias, num_filter=4, kernel=(3, 3)) for each in (data * 0.5 - 1, data * 2 + 1)
    ]
    operators, difference = fold(mx.sym.concat(*both))
    assert operators.count("_mul_scalar") == 2 and difference == 0
