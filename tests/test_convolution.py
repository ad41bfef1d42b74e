from __future__ import annotations

import numpy as np
import pytest

from robostig.backend import CHANNEL_BLOCK, mx
from robostig.convolution import AlignedConv2D, ScaledConv2D

nn = mx.gluon.nn

FRAMES = np.random.default_rng(0).normal(size=(2, 3, 12, 14)).astype(np.float32)


def make_nets(channels):
    """Two convolutions, ours and Gluon's, with the same parameters."""
    first = AlignedConv2D(channels, (5, 3), 2, in_channels=3)
    ours, theirs = nn.HybridSequential(), nn.HybridSequential()
    ours.add(first, nn.ELU(), AlignedConv2D(2 * CHANNEL_BLOCK, 3, in_channels=channels, in_padding=first.padding))
    theirs.add(nn.Conv2D(channels, (5, 3), 2), nn.ELU(), nn.Conv2D(2 * CHANNEL_BLOCK, 3))
    ours.initialize(mx.init.Xavier())
    theirs.initialize()
    theirs(mx.nd.array(FRAMES))
    for mine, other in zip(ours.collect_params().values(), theirs.collect_params().values()):
        assert mine.shape == other.shape
        values = np.random.default_rng(mine.shape[0]).normal(size=mine.shape)
        mine.set_data(mx.nd.array(values))
        other.set_data(mx.nd.array(values))
    return ours, theirs


@pytest.mark.parametrize("channels", [1, CHANNEL_BLOCK - 1, CHANNEL_BLOCK, CHANNEL_BLOCK + 1])
@pytest.mark.parametrize("hybridize", [True, False])
def test_answers_and_gradients_are_those_of_gluons_convolution(channels, hybridize):
    gradients, answers = [], []
    for net in make_nets(channels):
        net.hybridize(hybridize)
        with mx.autograd.record():
            answer = net(mx.nd.array(FRAMES))
            loss = (answer * answer).sum()
        loss.backward()
        answers.append(answer.asnumpy())
        gradients.append([parameter.grad().asnumpy() for parameter in net.collect_params().values()])
    np.testing.assert_allclose(*answers, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(*gradients):
        assert np.abs(theirs).max() > 0
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize(("channels", "computed"), [(16, 16), (24, 32), (36, 48)])
def test_the_channels_beyond_its_own_are_zero(channels, computed):
    layer = AlignedConv2D(channels, 3, in_channels=3)
    layer.initialize(mx.init.Normal(1.0), force_reinit=True)
    layer.bias.set_data(mx.nd.ones((channels,)))
    answer = layer(mx.nd.array(FRAMES)).asnumpy()
    assert answer.shape[1] == channels + layer.padding == computed
    assert np.abs(answer[:, :channels]).min() > 0 and not answer[:, channels:].any()


@pytest.mark.parametrize("hybridize", [True, False])
@pytest.mark.parametrize(
    ("make", "scale", "offset"),
    [
        (lambda: ScaledConv2D(4, 3, padding=1, scale=0.5, in_channels=3), 0.5, 0.0),
        (lambda: ScaledConv2D(4, 3, scale=2.0, offset=-1.0, use_bias=True, in_channels=3), 2.0, -1.0),
        (lambda: ScaledConv2D(4, 3, offset=3.0, in_channels=3), 1.0, 3.0),
        (lambda: AlignedConv2D(4, 3, in_channels=3, scale=1 / 127.5, offset=-1.0), 1 / 127.5, -1.0),
    ],
    ids=["padded", "both", "offset", "aligned"],
)
def test_a_convolution_that_scales_answers_and_learns_as_gluons_of_the_scaled_input(make, scale, offset, hybridize):
    ours = make()
    theirs = nn.Conv2D(4, 3, in_channels=3, padding=ours._kwargs["pad"])
    gradients, answers = [], []
    for net, data in ((ours, mx.nd.array(FRAMES)), (theirs, scale * mx.nd.array(FRAMES) + offset)):
        net.initialize()
        for parameter in net.collect_params().values():
            parameter.set_data(mx.nd.array(np.random.default_rng(3).normal(size=parameter.shape)))
        net.hybridize(hybridize)
        with mx.autograd.record():
            answer = net(data)
            loss = (answer * answer).sum()
        loss.backward()
        answers.append(answer.asnumpy()[:, :4])  # channels beyond these are zero
        gradients.append([parameter.grad().asnumpy() for parameter in net.collect_params().values()])
    np.testing.assert_allclose(*answers, rtol=1e-4, atol=1e-4)
    for mine, others in zip(*gradients):
        np.testing.assert_allclose(mine, others, rtol=1e-3, atol=1e-4 * np.abs(others).max())


def test_an_offset_before_padding_is_refused():
    with pytest.raises(ValueError, match=r"offset=-1.0 with padding \(1, 1\): shift the input before this layer"):
        ScaledConv2D(4, 3, padding=1, offset=-1.0)
