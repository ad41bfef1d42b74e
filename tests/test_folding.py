from __future__ import annotations

import json

import numpy as np

from robostig.backend import mx
from robostig.folding import fold_constants

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
