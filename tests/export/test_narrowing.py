from __future__ import annotations

import numpy as np
import pytest

from robostig.backend import mx
from robostig.convolution import AlignedConv2D
from robostig.export.narrowing import drop_zero_channels
from robostig.folding import fold_constants

nn = mx.gluon.nn

FRAMES = mx.nd.array(np.random.default_rng(0).normal(size=(2, 3, 24, 24)))


def narrow(symbol, parameters):
    """Return the parameters after narrowing, and how far apart the answers are then."""
    before = symbol.eval(ctx=mx.cpu(), data=FRAMES, **parameters)[0].asnumpy()
    symbol, parameters = drop_zero_channels(symbol, parameters)
    after = symbol.eval(ctx=mx.cpu(), data=FRAMES, **parameters)[0].asnumpy()
    assert np.ptp(before) > 0.01
    return parameters, np.abs(after - before).max()


def make_two(activate, *, groups: int = 1, alone: bool = True, channels: int = 4):
    """Make two convolutions, the first with two channels of zeros after two others, and what is between."""
    first = mx.sym.Convolution(mx.sym.var("data"), num_filter=4, kernel=(3, 3), name="first")
    between = activate(first)
    second = mx.sym.Convolution(between, num_filter=channels, kernel=(3, 3), num_group=groups, name="second")
    symbol = second if alone else mx.sym.broadcast_add(second, between.mean(axis=(1, 2, 3), keepdims=True))
    generator = np.random.default_rng(1)
    shapes, _, _ = symbol.infer_shape(data=FRAMES.shape)
    values = {name: generator.normal(size=shape) for name, shape in zip(symbol.list_arguments(), shapes)}
    values["first_weight"][2:], values["first_bias"][2:] = 0, 0
    return symbol, {name: mx.nd.array(value) for name, value in values.items() if name != "data"}


@pytest.mark.parametrize(
    "activate",
    [
        lambda x: x,
        lambda x: mx.sym.LeakyReLU(x, act_type="elu"),
        lambda x: mx.sym.Dropout(mx.sym.Activation(x, act_type="tanh")),
    ],
)
def test_channels_of_zeros_are_left_out(activate):
    parameters, difference = narrow(*make_two(activate))
    assert parameters["first_weight"].shape == (2, 3, 3, 3) and parameters["first_bias"].shape == (2,)
    assert parameters["second_weight"].shape == (4, 2, 3, 3) and difference < 1e-5


@pytest.mark.parametrize(
    "symbol_and_parameters",
    [
        make_two(lambda x: mx.sym.Activation(x, act_type="sigmoid")),  # makes a half of zero
        make_two(lambda x: x, groups=2),
        make_two(lambda x: x, alone=False),  # others read the channels, too
        make_two(lambda x: mx.sym.transpose(x, axes=(0, 2, 1, 3)).transpose(axes=(0, 2, 1, 3))),
    ],
)
def test_channels_that_may_mean_something_stay(symbol_and_parameters):
    shapes = {name: value.shape for name, value in symbol_and_parameters[1].items()}
    parameters, difference = narrow(*symbol_and_parameters)
    assert {name: value.shape for name, value in parameters.items()} == shapes and difference == 0


def test_what_was_rounded_up_has_its_own_size_again():
    net = nn.HybridSequential(prefix="net_")
    with net.name_scope():
        first = AlignedConv2D(24, 5, 2, in_channels=3)
        net.add(first, nn.ELU(), AlignedConv2D(36, 3, in_channels=24, in_padding=first.padding), nn.ELU())
        net.add(AlignedConv2D(48, 3, in_channels=36, in_padding=net[2].padding), nn.Flatten(), nn.Dense(1))
    net.initialize(mx.init.Xavier())
    net(FRAMES)
    own = {name: parameter.data() for name, parameter in net.collect_params().items()}
    symbol, folded = fold_constants(net(mx.sym.var("data")), own)
    assert sum(value.size for value in folded.values()) > sum(value.size for value in own.values())
    parameters, difference = narrow(symbol, folded)
    assert sorted(value.shape for value in parameters.values()) == sorted(value.shape for value in own.values())
    assert difference < 1e-5
