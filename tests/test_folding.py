from __future__ import annotations

import json

import numpy as np
import pytest

from robostig.backend import mx
from robostig.folding import fold_constants, fold_scaling, interleave_channels, pair_columns, peel_scaling
from robostig.pilot import as_network_input
from robostig.preprocessing import PixelLayout

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


@pytest.mark.parametrize("outputs", [(0, 1), (1,)])
def test_of_an_operator_with_several_outputs_each_stays_what_it_is(outputs):
    data, halves = mx.sym.var("data"), mx.sym.split(mx.sym.square(mx.sym.var("weight")), num_outputs=2, axis=1)
    symbol = mx.sym.concat(*(mx.sym.broadcast_add(data, halves[number]) for number in outputs))
    folded, parameters = fold_constants(symbol, {"weight": PARAMETERS["weight"]})
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
        make_convolution(mx.sym.var("data") * 2, pad=(1, 1)),  # one pass, as a shift would be
        make_convolution(mx.sym.var("data") * 2, no_bias=True),
        make_convolution(1 - mx.sym.var("data")),
        make_convolution(mx.sym.exp(mx.sym.var("data") * 0.01)),
        make_convolution(mx.sym.var("data")),
    ],
)
def test_what_cannot_be_folded_stays(symbol):
    operators, difference = fold(symbol)
    assert operators == list_operators(symbol) and difference == 0


def test_before_a_convolution_that_pads_a_shift_is_left():
    symbol = make_convolution(mx.sym.var("data") * (1 / 127.5) - 1.0, pad=(1, 1))
    operators, difference = fold(symbol)
    assert operators == ["_plus_scalar", "Convolution"] and difference < 1e-5


def test_what_is_scaled_for_others_too_is_still_scaled_for_them():
    scaled = mx.sym.var("data") * 0.5 - 1
    symbol = mx.sym.broadcast_add(make_convolution(scaled).mean(), scaled.mean())
    operators, difference = fold(symbol)
    assert sorted(operators) == sorted(list_operators(symbol)) and difference < 1e-5


def test_what_is_scaled_is_an_output_still():
    scaled = mx.sym.var("data") * 0.5 - 1
    symbol = mx.sym.Group([make_convolution(scaled, pad=(1, 1)), scaled])
    shapes, _, _ = symbol.infer_shape(data=FRAMES.shape)
    names = symbol.list_arguments()
    parameters = {name: mx.nd.ones(shape) for name, shape in zip(names, shapes) if name != "data"}
    folded, parameters = fold_scaling(symbol, parameters)
    after = folded.eval(ctx=mx.cpu(), data=FRAMES, **parameters)[1]
    np.testing.assert_allclose(after.asnumpy(), (FRAMES * 0.5 - 1).asnumpy(), rtol=1e-6)


def test_parameters_that_two_convolutions_share_stay():
    data, weight, bias = map(mx.sym.var, ("data", "weight", "bias"))
    both = [
        mx.sym.Convolution(each, weight, bias, num_filter=4, kernel=(3, 3)) for each in (data * 0.5 - 1, data * 2 + 1)
    ]
    operators, difference = fold(mx.sym.concat(*both))
    assert operators.count("_mul_scalar") == 2 and difference == 0


def make_pair(channels, *, stride=2, activation="elu", filler=True, wide=3):
    """Make two convolutions with an activation between, the first with channels of zeros up to a multiple of 16."""
    generator = np.random.default_rng(2)
    total = -(-channels // 16) * 16 if filler else channels
    weight = generator.normal(size=(total, 3, 3, wide))
    bias = generator.normal(size=total)
    weight[channels:], bias[channels:] = 0, 0
    next_weight = generator.normal(size=(16, total, 3, 5))
    parameters = {"weight": weight, "bias": bias, "next_weight": next_weight, "next_bias": np.zeros(16)}
    data, *variables = map(mx.sym.var, ("data", *parameters))
    first = mx.sym.Convolution(data, *variables[:2], num_filter=total, kernel=(3, wide), stride=(1, stride))
    between = mx.sym.LeakyReLU(first, act_type=activation, slope=1.0) if activation else mx.sym.sigmoid(first)
    second = mx.sym.Convolution(between, *variables[2:], num_filter=16, kernel=(3, 5), stride=(1, 2))
    return second, {name: mx.nd.array(value) for name, value in parameters.items()}


def list_kernels(symbol):
    return [
        (node["attrs"]["kernel"], node["attrs"]["stride"], node["attrs"]["num_filter"])
        for node in json.loads(symbol.tojson())["nodes"]
        if node["op"] == "Convolution"
    ]


def pair(symbol, parameters, width):
    """Return the convolutions after pairing, and how far apart the answers are then, as a share of the largest."""
    data = mx.nd.array(np.random.default_rng(3).normal(size=(2, 3, 9, width)))
    paired, known = pair_columns(symbol, parameters, data.shape)
    before, after = (
        each.eval(ctx=mx.cpu(), data=data, **values)[0].asnumpy()
        for each, values in ((symbol, parameters), (paired, known))
    )
    return list_kernels(paired), np.abs(after - before).max() / np.abs(before).max()


@pytest.mark.parametrize(("channels", "stride", "wide", "width"), [(24, 2, 3, 41), (24, 2, 4, 42), (8, 1, 3, 22)])
def test_half_empty_blocks_of_channels_are_filled_with_the_next_column(channels, stride, wide, width):
    kernels, difference = pair(*make_pair(channels, stride=stride, wide=wide), width)
    assert kernels == [
        (f"(3, {wide + stride})", f"(1, {2 * stride})", str(2 * channels)),
        ("(3, 3)", "(1, 1)", "16"),
    ]
    assert difference < 1e-5


@pytest.mark.parametrize(
    ("options", "width"),
    [
        ({"channels": 32}, 41),  # full as they are
        ({"channels": 36}, 41),  # 72 fill no blocks either
        ({"channels": 24, "activation": None}, 41),  # a sigmoid of zero is none
        ({"channels": 24}, 43),  # 21 columns make no pairs
    ],
)
def test_what_cannot_be_paired_stays(options, width):
    symbol, parameters = make_pair(**options)
    kernels, difference = pair(symbol, parameters, width)
    assert kernels == list_kernels(symbol) and difference == 0


def test_columns_are_paired_where_sizes_follow_from_parameters_alone():
    symbol, parameters = make_pair(24)
    scaled = mx.sym.broadcast_mul(symbol, mx.sym.var("scale"))
    kernels, difference = pair(scaled, {**parameters, "scale": mx.nd.array([[[[2.0]]]])}, 41)
    assert kernels[0] == ("(3, 5)", "(1, 4)", "48") and difference < 1e-5


def test_convolutions_of_one_name_are_told_apart():
    symbol, parameters = make_pair(24)
    graph = json.loads(symbol.tojson())
    for node in graph["nodes"]:
        node["name"] = "same" if node["op"] == "Convolution" else node["name"]
    kernels, difference = pair(mx.sym.load_json(json.dumps(graph)), parameters, 39)  # 19 columns, and then 8
    assert kernels == list_kernels(symbol) and difference == 0


def test_what_others_see_too_is_not_paired():
    symbol, parameters = make_pair(24)
    internals = symbol.get_internals()
    between = internals[next(name for name in internals.list_outputs() if "leakyrelu" in name)]
    both = mx.sym.broadcast_add(symbol.mean(), between.mean())
    kernels, difference = pair(both, parameters, 41)
    assert kernels == list_kernels(both) and difference == 0


PICTURES = np.random.default_rng(4).integers(0, 256, (2, 12, 14, 3), np.uint8)


def interleave(symbol):
    """Return the graph for interleaved channels, their layout, and how far apart the answers are, as a share."""
    generator, planes = np.random.default_rng(5), as_network_input(PICTURES, mx.cpu())
    names, (shapes, _, _) = symbol.list_arguments(), symbol.infer_shape(data=planes.shape)
    known = {each: mx.nd.array(generator.normal(size=size)) for each, size in zip(names, shapes) if each != "data"}
    before = symbol.eval(ctx=mx.cpu(), data=planes, **known)[0].asnumpy()
    changed, known, layout = interleave_channels(symbol, known, planes.shape)
    pixels = as_network_input(PICTURES, mx.cpu(), layout=layout)
    assert changed.infer_shape(data=pixels.shape)[1] is not None
    after = changed.eval(ctx=mx.cpu(), data=pixels, **known)[0].asnumpy()
    return changed, layout, np.abs(after - before).max() / np.abs(before).max()


def see_twice(combine):
    data = mx.sym.var("data")
    return combine(convolve(data * 2), data)


def convolve(data, **options):
    return mx.sym.Convolution(data, **{"num_filter": 4, "kernel": (5, 3), "stride": (2, 1), "name": "first", **options})


def cut(data, begin=0, end=-3, axis=2):
    return mx.sym.slice_axis(data, axis=axis, begin=begin, end=end)


@pytest.mark.parametrize(
    ("symbol", "operators", "layout"),
    [
        (convolve(mx.sym.var("data")), ["Convolution"], PixelLayout(12)),
        (convolve(cut(mx.sym.var("data") * 2) + 1), ["Convolution"], PixelLayout(9)),
        (convolve(cut(cut(mx.sym.var("data"), end=8))), ["Convolution"], PixelLayout(5)),
        (
            convolve(mx.sym.var("data"), weight=mx.sym.var("weight", shape=(4, 3, 5, 3))),
            ["Convolution"],
            PixelLayout(12),
        ),
        (mx.sym.exp(convolve(cut(mx.sym.var("data")), stride=(3, 2)) * 1e-3).mean(), None, PixelLayout(9)),
    ],
)
def test_the_first_convolution_takes_pixels_as_they_lie_in_a_picture(symbol, operators, layout):
    changed, taken, difference = interleave(symbol)
    assert taken == layout and difference < 1e-5
    assert operators is None or list_operators(changed) == operators


@pytest.mark.parametrize(
    ("symbol", "layout"),
    [
        (convolve(mx.sym.var("data") - 127.5, pad=(1, 2)), PixelLayout(12, 1, 2, 127.5)),
        (convolve(mx.sym.var("data") * 0.5 - 1, pad=(2, 2), stride=(3, 2)), PixelLayout(12, 2, 2, 2.0)),
        (convolve(mx.sym.var("data") + 3, pad=(0, 1)), PixelLayout(12, 0, 1, -3.0)),
        (convolve(cut(mx.sym.var("data")) / 2 + 1, pad=(4, 0)), PixelLayout(9, 4, 0, -2.0)),
    ],
)
def test_a_shift_before_a_convolution_that_pads_becomes_the_frames_border(symbol, layout):
    changed, taken, difference = interleave(symbol)
    assert taken == layout and difference < 1e-5
    assert list_operators(changed) == ["Convolution"]


@pytest.mark.parametrize(
    ("symbol", "operators"),
    [
        (convolve(mx.sym.var("data"), pad=(1, 2)), ["Convolution"]),
        (convolve(mx.sym.var("data") * 2, pad=(1, 2)), ["_mul_scalar", "Convolution"]),
        (convolve(mx.sym.var("data") * 0 + 1, pad=(1, 2)), ["_mul_scalar", "_plus_scalar", "Convolution"]),
    ],
    ids=["nothing", "a scale", "no scale"],
)
def test_without_a_shift_to_undo_the_convolution_still_pads(symbol, operators):
    changed, taken, difference = interleave(symbol)
    assert taken == PixelLayout(12) and difference < 1e-5
    assert list_operators(changed) == operators


@pytest.mark.parametrize(
    "symbol",
    [
        mx.sym.exp(mx.sym.var("data") / 255),
        mx.sym.var("data") * 2,
        convolve(mx.sym.exp(mx.sym.var("data") / 255)),
        convolve(cut(mx.sym.var("data"), begin=1)),
        convolve(cut(mx.sym.var("data"), axis=3)),
        convolve(cut(mx.sym.var("data"), end=None)),
        convolve(mx.sym.var("data"), num_group=3, num_filter=6),
        convolve(mx.sym.var("data"), dilate=(2, 2)),
        convolve(mx.sym.var("data"), no_bias=True),
        see_twice(lambda convolved, data: mx.sym.broadcast_add(convolved.mean(), data.mean())),
        see_twice(lambda convolved, data: mx.sym.Group([convolved, data])),
        (lambda seen: mx.sym.Group([convolve(seen), seen]))(cut(mx.sym.var("data"))),
    ],
)
def test_what_begins_otherwise_still_takes_planes(symbol):
    changed, layout, difference = interleave(symbol)
    assert changed is symbol and layout is None and difference == 0


@pytest.mark.parametrize(
    ("symbol", "operators", "scaling"),
    [
        (convolve(mx.sym.var("data") / 127.5 - 1, pad=(1, 2)), ["Convolution"], (1 / 127.5, -1.0)),
        (convolve(mx.sym.var("data") - 127.5), ["Convolution"], (1.0, -127.5)),
        (convolve(cut((mx.sym.var("data") + 1) * 3)), ["slice_axis", "Convolution"], (3.0, 3.0)),
        (convolve(cut(mx.sym.var("data")) * 2), ["slice_axis", "_mul_scalar", "Convolution"], (1.0, 0.0)),
        (see_twice(lambda convolved, data: mx.sym.broadcast_add(convolved, data.mean())), None, (1.0, 0.0)),
    ],
)
def test_what_a_graph_does_first_can_be_done_to_its_input(symbol, operators, scaling):
    generator, data = np.random.default_rng(5), as_network_input(PICTURES, mx.cpu())
    names, (shapes, _, _) = symbol.list_arguments(), symbol.infer_shape(data=data.shape)
    known = {each: mx.nd.array(generator.normal(size=size)) for each, size in zip(names, shapes) if each != "data"}
    changed, scale, offset = peel_scaling(symbol)
    assert (scale, offset) == pytest.approx(scaling)
    assert operators is None or list_operators(changed) == operators
    assert (changed is symbol) == (scaling == (1.0, 0.0))
    before = symbol.eval(ctx=mx.cpu(), data=data, **known)[0].asnumpy()
    after = changed.eval(ctx=mx.cpu(), data=scale * data + offset, **known)[0].asnumpy()
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5 * np.abs(before).max())
