from __future__ import annotations

import numpy as np
import pytest

from robostig.artifact import load_artifact, save_artifact
from robostig.backend import mx
from robostig.convolution import AlignedConv2D
from robostig.explanation import SaliencyMasker, _cover, explain
from robostig.models import get_model, get_spec, list_models
from robostig.pilot import Pilot
from robostig.preprocessing import InputSpec

nn = mx.gluon.nn
RNG = np.random.default_rng(0)


class Network(mx.gluon.HybridBlock):
    """Layers in a row, each of whose outputs can be asked for."""

    def __init__(self, *layers):
        super().__init__(prefix="network_")
        with self.name_scope():
            self.layers = nn.HybridSequential(prefix="layers_")
            self.layers.add(*layers)

    def hybrid_forward(self, F, frames):
        return self.layers(frames)


class Residual(mx.gluon.HybridBlock):
    """Half the size by two convolutions with batch normalisation, and by a smaller one beside them."""

    def __init__(self):
        super().__init__(prefix="residual_")
        with self.name_scope():
            self.first = nn.Conv2D(6, 3, 2, padding=1, in_channels=4, use_bias=False)
            self.norm = nn.BatchNorm(in_channels=6)
            self.second = nn.Conv2D(6, 3, padding=1, in_channels=6)
            self.aside = nn.Conv2D(6, 1, 2, in_channels=4)

    def hybrid_forward(self, F, x):
        return F.relu(self.second(F.relu(self.norm(self.first(x)))) + self.aside(x))


def make_masker(net, spec):
    """Return a network's masker; its parameters are random if it has none yet."""
    if not next(iter(net.collect_params().values()))._data:
        mx.random.seed(1)
        net.initialize(mx.init.Xavier(magnitude=3.0))
    net(mx.nd.zeros((1, 3, spec.height, spec.width)))
    symbol = net(mx.sym.var("data"))
    return SaliencyMasker(symbol, {name: each.data() for name, each in net.collect_params().items()}, spec)


def draw_inputs(spec, count=2):
    return RNG.integers(0, 256, (count, *spec.shape), dtype=np.uint8)


def convolve(picture, weight, bias, stride, pad, dilate):
    """Convolve one (channels, h, w) picture, by the definition."""
    padded = np.pad(picture, [(0, 0), (pad, pad), (pad, pad)])
    reach = dilate * (weight.shape[2] - 1) + 1
    height, width = ((size - reach) // stride + 1 for size in padded.shape[1:])
    out = np.zeros((len(weight), height, width))
    for row in range(height):
        for column in range(width):
            y, x = row * stride, column * stride
            part = padded[:, y : y + reach : dilate, x : x + reach : dilate]
            out[:, row, column] = (weight * part).sum(axis=(1, 2, 3)) + bias
    return out


def deconvolve(averaged, size, kernel, stride, pad=0, dilate=1):
    """Give every input the sum of the outputs that look at it, by the definition."""
    out = np.zeros(size)
    for row, column in np.ndindex(averaged.shape):
        for down, aside in np.ndindex(kernel, kernel):
            y, x = row * stride - pad + down * dilate, column * stride - pad + aside * dilate
            if 0 <= y < size[0] and 0 <= x < size[1]:
                out[y, x] += averaged[row, column]
    return out


def normalize(mask):
    return (mask - mask.min()) / (mask.max() - mask.min())


@pytest.mark.parametrize("activation", [nn.ELU, lambda: nn.Activation("relu")], ids=["elu", "relu"])
@pytest.mark.parametrize(("stride", "pad", "dilate"), [(2, 0, 1), (3, 2, 1), (1, 1, 2)])
def test_the_mask_is_what_the_paper_says(activation, stride, pad, dilate):
    spec = InputSpec(13, 18)
    layers = [
        nn.Conv2D(4, 5, 2, in_channels=3),
        activation(),
        nn.Conv2D(5, 3, stride, padding=pad, dilation=dilate, in_channels=4),
        activation(),
    ]
    masker = make_masker(Network(*layers, nn.Flatten(), nn.Dense(1)), spec)
    inputs = draw_inputs(spec)
    activate = (lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0)))) if activation is nn.ELU else np.fabs
    for picture, mask in zip(inputs.astype(float).transpose(0, 3, 1, 2), masker.look(inputs).masks):
        maps = []
        for layer, (step, margin, hole) in ((layers[0], (2, 0, 1)), (layers[2], (stride, pad, dilate))):
            weight, bias = layer.weight.data().asnumpy(), layer.bias.data().asnumpy()
            picture = convolve(picture, weight, bias, step, margin, hole)
            picture = activate(np.maximum(picture, 0)) if activation is not nn.ELU else activate(picture)
            maps.append(np.abs(picture).mean(axis=0))
        up = deconvolve(maps[1], maps[0].shape, 3, stride, pad, dilate)
        by_hand = normalize(deconvolve(maps[0] * up, (13, 18), 5, 2))
        assert mask.shape == (13, 18) and mask.dtype == np.float32
        np.testing.assert_allclose(mask, by_hand, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pad", "dilate"),
    [(31, 5, 2, 0, 1), (66, 5, 2, 0, 1), (40, 5, 2, 2, 1), (160, 8, 4, 2, 1), (20, 3, 1, 1, 1), (23, 3, 2, 1, 2)],
)
def test_scaling_up_is_a_deconvolution_with_weights_of_one(size, kernel, stride, pad, dilate):
    count = (size + 2 * pad - dilate * (kernel - 1) - 1) // stride + 1
    averaged = RNG.random((count, count), dtype=np.float32)
    cover = _cover(size, count, kernel, stride, pad, dilate)
    left_over = size - ((count - 1) * stride - 2 * pad + dilate * (kernel - 1) + 1)
    pairs = {"kernel": kernel, "stride": stride, "pad": pad, "dilate": dilate, "adj": left_over}
    theirs = mx.nd.Deconvolution(
        mx.nd.array(averaged[None, None]),
        mx.nd.ones((1, 1, kernel, kernel)),
        num_filter=1,
        **{name: (value, value) for name, value in pairs.items()},
    )
    mine = cover.T @ averaged @ cover
    np.testing.assert_allclose(mine, theirs.asnumpy()[0, 0], rtol=1e-5)
    np.testing.assert_allclose(mine, deconvolve(averaged, (size, size), kernel, stride, pad, dilate), rtol=1e-5)


def test_of_layers_of_one_size_the_last_counts_with_residuals_pooling_and_batch_normalisation():
    spec = InputSpec(12, 16)
    first, pool, block = nn.Conv2D(4, 3, padding=1, in_channels=3, activation="relu"), nn.MaxPool2D(2), Residual()
    net = Network(first, pool, block, nn.GlobalAvgPool2D(), nn.Dense(1))
    masker = make_masker(net, spec)
    block.norm.running_mean.set_data(mx.nd.array(RNG.normal(0, 1, 6)))
    masker, inputs = make_masker(net, spec), draw_inputs(spec)
    features = first(mx.nd.array(inputs.transpose(0, 3, 1, 2)))
    maps = [each.asnumpy().mean(axis=1) for each in (features, pool(features), block(pool(features)))]
    for number, mask in enumerate(masker.look(inputs).masks):
        whole, half, quarter = (each[number] for each in maps)
        up = deconvolve(quarter, (6, 8), 3, 2, 1)  # by the larger kernel of the two that are side by side
        np.testing.assert_allclose(mask, normalize(whole * deconvolve(half * up, (12, 16), 2, 2)), atol=1e-5)


def test_parameters_that_are_computed_from_others_are_no_obstacle():
    class Scaled(mx.gluon.HybridBlock):
        def __init__(self):
            super().__init__(prefix="scaled_")
            with self.name_scope():
                self.layer, self.head = nn.Conv2D(2, 3, in_channels=3), nn.Dense(1)
                self.scale = self.params.get("scale", shape=(1, 2, 1, 1), init=mx.init.One())

        def hybrid_forward(self, F, x, scale):
            return self.head(F.broadcast_mul(self.layer(x), F.exp(scale)))

    net, spec = Scaled(), InputSpec(8, 8)
    masks, _ = make_masker(net, spec).look(draw_inputs(spec))
    assert masks.shape == (2, 8, 8) and masks.max() == 1.0


def test_maps_may_grow_before_they_shrink_to_a_size_that_was_there():
    spec = InputSpec(8, 9)
    first = nn.Conv2D(4, 3, padding=2, in_channels=3, activation="relu")
    second = nn.Conv2D(5, 3, in_channels=4, activation="relu")
    masker, inputs = make_masker(Network(first, second, nn.Flatten(), nn.Dense(1)), spec), draw_inputs(spec, 1)
    grown = first(mx.nd.array(inputs.transpose(0, 3, 1, 2)))
    larger, shrunk = (each.asnumpy()[0].mean(axis=0) for each in (grown, second(grown)))
    by_hand = deconvolve(larger * deconvolve(shrunk, (10, 11), 3, 1), (8, 9), 3, 1, 2)
    np.testing.assert_allclose(masker.look(inputs).masks[0], normalize(by_hand), atol=1e-5)


def test_what_goes_past_the_convolutions_is_left_out():
    spec = InputSpec(12, 16)
    convolution, pool = nn.Conv2D(4, 3, 2, in_channels=3, activation="relu"), nn.AvgPool2D(4)
    both = mx.gluon.contrib.nn.HybridConcurrent(axis=1)
    for layer in (convolution, pool):  # the last maps of the graph are those of the picture itself
        way = nn.HybridSequential()
        way.add(layer, nn.Flatten())
        both.add(way)
    masker, inputs = make_masker(Network(both, nn.Dense(1)), spec), draw_inputs(spec, 1)
    features = convolution(mx.nd.array(inputs.transpose(0, 3, 1, 2))).asnumpy()[0]
    by_hand = deconvolve(features.mean(axis=0), (12, 16), 3, 2)
    np.testing.assert_allclose(masker.look(inputs).masks[0], normalize(by_hand), atol=1e-5)


@pytest.mark.parametrize(("axis", "begin", "end"), [(2, 0, 11), (2, 3, None), (-1, -10, None)])
def test_what_is_cut_off_within_the_network_does_not_count(axis, begin, end):
    spec = InputSpec(14, 17)
    convolution = nn.Conv2D(3, 3, 2, in_channels=3, activation="relu")
    cut = nn.HybridLambda(lambda F, x: F.slice_axis(x, axis=axis, begin=begin, end=end))
    masker = make_masker(Network(cut, convolution, nn.Dense(1)), spec)
    inputs = draw_inputs(spec, 1)
    seen = tuple(slice(begin, end) if number == axis % 4 - 2 else slice(None) for number in range(2))
    pixels = inputs[0].transpose(2, 0, 1)[(slice(None), *seen)]
    features = convolution(mx.nd.array(pixels[None])).asnumpy()[0]
    by_hand = np.zeros((14, 17))
    by_hand[seen] = deconvolve(features.mean(axis=0), pixels.shape[1:], 3, 2)
    np.testing.assert_allclose(masker.look(inputs).masks[0], normalize(by_hand), atol=1e-5)


def test_channels_of_zeros_change_nothing():
    spec, masks = InputSpec(20, 24), []
    for is_aligned in (False, True):
        if is_aligned:
            first = AlignedConv2D(5, 3, 2, in_channels=3)
            second = AlignedConv2D(7, 3, 1, in_channels=5, in_padding=first.padding)
            third = nn.HybridLambda(lambda F, x: F.slice_axis(x, axis=1, begin=0, end=7))
        else:
            first, second = nn.Conv2D(5, 3, 2, in_channels=3), nn.Conv2D(7, 3, in_channels=5)
            third = nn.HybridLambda(lambda F, x: F.identity(x))
        net = Network(first, nn.ELU(), second, nn.ELU(), third, nn.Flatten(), nn.Dense(1))
        net.initialize()
        for layer, seed in ((first, 1), (second, 2)):
            values = np.random.default_rng(seed).normal(0, 0.02, layer.weight.shape)
            layer.weight.set_data(mx.nd.array(values))
        masks.append(make_masker(net, spec).look(np.arange(20 * 24 * 3, dtype=np.uint8).reshape(1, 20, 24, 3)).masks)
    np.testing.assert_allclose(*masks, atol=1e-5)


def test_a_network_that_finds_nothing_looks_nowhere():
    net = Network(nn.Conv2D(2, 3, in_channels=3, activation="relu"), nn.Dense(1))
    net.initialize(mx.init.Zero())
    assert not make_masker(net, InputSpec(8, 8)).look(draw_inputs(InputSpec(8, 8))).masks.any()


def test_a_model_without_convolutions_is_refused_in_words():
    net = Network(nn.Flatten(), nn.Dense(1))
    with pytest.raises(ValueError, match=r"no convolutions.*such as nvidia and comma"):
        make_masker(net, InputSpec(6, 12))


def test_a_size_that_cannot_be_followed_is_named():
    larger = nn.HybridLambda(lambda F, x: F.UpSampling(x, scale=2, sample_type="nearest"))
    net = Network(nn.Conv2D(2, 3, in_channels=3), larger, nn.Dense(1))
    with pytest.raises(ValueError, match=r"upsampling0 \(UpSampling\) changes the size"):
        make_masker(net, InputSpec(8, 8))


@pytest.mark.parametrize("name", list_models())
def test_every_model_of_the_zoo_can_be_explained(name):
    spec, net = get_spec(name).input, get_model(name)
    masker, inputs = make_masker(net, spec), draw_inputs(spec)
    masks, steering = masker.look(inputs)
    assert masks.shape == (2, spec.height, spec.width) and masks.dtype == np.float32
    np.testing.assert_allclose(masks.max(axis=(1, 2)), 1.0)
    assert masks.min() == 0.0 and masks.std(axis=(1, 2)).min() > 0.01
    np.testing.assert_allclose(steering, Pilot(net, spec).predict(inputs), atol=1e-4)


def test_an_artifact_is_explained_as_its_network_is(tmp_path):
    net, spec = get_model("nvidia"), get_spec("nvidia").input
    masker = make_masker(net, spec)
    artifact = load_artifact(save_artifact(tmp_path / "artifact", net, spec, {"model": "nvidia"}))
    inputs = draw_inputs(spec, 3)
    np.testing.assert_allclose(SaliencyMasker.load(artifact).look(inputs).masks, masker.look(inputs).masks, atol=1e-5)


def test_frames_of_any_size_and_number_are_explained():
    artifact = load_artifact("nvidia")
    frames = [RNG.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((160, 320), (120, 160), (480, 640))]
    masks = explain(artifact, frames)
    assert masks.shape == (3, 66, 200) and 0.0 <= masks.min() < masks.max() <= 1.0
    np.testing.assert_allclose(masks[1:2], explain(artifact, frames[1:2]), atol=1e-5)
    assert explain(artifact, []).shape == (0, 66, 200)
    many = explain(artifact, [frames[0]] * 70)  # more than go through the network at once
    np.testing.assert_allclose(many, np.broadcast_to(masks[0], many.shape), atol=1e-5)
    with pytest.raises(ValueError, match="RGB"):
        explain(artifact, [frames[0][..., 0]])
