from __future__ import annotations

from typing import Dict, List

import numpy as np
import pytest

from robostig.backend import mx
from robostig.factors import factor_largest_dense
from robostig.models import get_model, get_spec

nn = mx.gluon.nn
LOSS = mx.gluon.loss.L2Loss()
BATCH = 9


def make_net(*, bias: bool = True) -> mx.gluon.HybridBlock:
    net = nn.HybridSequential(prefix="net_")
    with net.name_scope():
        net.add(nn.Conv2D(4, 3, 2), nn.Activation("relu"), nn.Dense(40, use_bias=bias), nn.ELU(), nn.Dense(1))
    return net


class Around(mx.gluon.HybridBlock):
    """A network whose large layer is not the only way through it."""

    def __init__(self) -> None:
        super().__init__(prefix="around_")
        with self.name_scope():
            self.large, self.way = nn.Dense(40), nn.Dense(1)

    def hybrid_forward(self, F, frames):
        return self.way(F.concat(self.large(frames), F.Flatten(frames), dim=1))


class Twice(mx.gluon.HybridBlock):
    """A network that uses its large layer twice."""

    def __init__(self) -> None:
        super().__init__(prefix="twice_")
        with self.name_scope():
            self.large, self.last = nn.Dense(300, in_units=300), nn.Dense(1)

    def hybrid_forward(self, F, frames):
        return self.last(self.large(self.large(F.slice_axis(F.Flatten(frames), axis=1, begin=0, end=300))))


def prepare(net: mx.gluon.HybridBlock, shape, contexts) -> List[mx.nd.NDArray]:
    """Initialise a network, and return a batch of frames and steering."""
    mx.random.seed(3)
    net.initialize(mx.init.Xavier(), ctx=contexts)
    frames = mx.nd.random.uniform(0, 255, shape=(BATCH, 3, *shape))
    net(frames[:1].as_in_context(contexts[0]))
    return [frames, mx.nd.random.uniform(-1, 1, shape=(BATCH, 1))]


def read_gradients(net: mx.gluon.HybridBlock) -> List[Dict[str, np.ndarray]]:
    """Return each device's gradients by name."""
    parameters = net.collect_params()
    contexts = next(iter(parameters.values())).list_ctx()
    return [{name: each.grad(context).asnumpy() for name, each in parameters.items()} for context in contexts]


def check_factored(net: mx.gluon.HybridBlock, shape, cuts) -> None:
    """Hold the gradients of a batch that devices share, exchanging factors, to those of the whole batch on one."""
    contexts = [mx.cpu(number) for number in range(len(cuts) - 1)]
    frames, steering = prepare(net, shape, contexts)
    with mx.autograd.record():
        whole = LOSS(net(frames), steering).sum()
    whole.backward()
    expected = read_gradients(net)[0]
    factored = factor_largest_dense(net, contexts, BATCH)
    assert factored is not None
    for part in (factored.below, factored.above):
        part.hybridize(static_alloc=True, static_shape=True)
    for _ in range(2):  # the second step is in the memory of the first
        for parameter in net.collect_params().values():
            parameter.zero_grad()
        shares = list(zip(contexts, cuts, cuts[1:]))
        with mx.autograd.record():
            losses = [
                LOSS(
                    factored(frames[start:stop].as_in_context(context)),
                    steering[start:stop].as_in_context(context),
                ).sum()
                for context, start, stop in shares
            ]
        mx.autograd.backward(losses)
        for context, start, _ in shares:
            factored.collect(context, start)
        total = sum(rows.asnumpy() for rows in factored.rows)
        for rows in factored.rows:  # what the parameter server does
            rows[:] = mx.nd.array(total)
        factored.write_gradient()
        assert sum(loss.asscalar() for loss in losses) == pytest.approx(whole.asscalar(), rel=1e-5)
        found = read_gradients(net)
        for name, gradient in expected.items():
            is_weight = name == factored.weight.name
            for sums in [each[name] for each in found] if is_weight else [sum(each[name] for each in found)]:
                np.testing.assert_allclose(sums, gradient, rtol=1e-4, atol=1e-5 * np.abs(gradient).max(), err_msg=name)
    for context in contexts:  # the trainer refuses what looks like an earlier step's
        assert all(parameter.data(context)._fresh_grad for parameter in net.collect_params().values())


@pytest.mark.parametrize("model", ["nvidia", "comma"])
def test_hosts_that_exchange_factors_have_the_gradients_of_the_whole_batch(model):
    spec = get_spec(model).input
    net = get_model(model)
    net.apply(lambda block: setattr(block, "_rate", 0.0) if isinstance(block, nn.Dropout) else None)
    check_factored(net, (spec.height, spec.width), (0, 4, BATCH))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("cuts", [(0, BATCH), (0, 1, 5, BATCH)], ids=["one device", "three devices"])
def test_a_network_of_ones_own_has_them_too(bias, cuts):
    check_factored(make_net(bias=bias), (16, 32), cuts)


def test_factors_are_exchanged_where_they_are_less_than_half_of_the_gradient():
    net = make_net()
    prepare(net, (16, 32), [mx.cpu()])
    weight = net.collect_params()["net_dense0_weight"]
    assert weight.shape == (40, 420)
    assert factor_largest_dense(net, [mx.cpu()], 18).weight is weight  # 16,800 numbers, or 18 * 460 = 8,280
    assert factor_largest_dense(net, [mx.cpu()], 19) is None


@pytest.mark.parametrize(
    "net",
    [
        Around(),
        Twice(),
        pytest.param(nn.HybridSequential(), id="no dense layer"),
    ],
    ids=lambda net: type(net).__name__,
)
def test_what_cannot_be_cut_is_left_whole(net):
    if isinstance(net, nn.HybridSequential):
        net.add(nn.Conv2D(1, 16))
    prepare(net, (16, 32), [mx.cpu()])
    assert factor_largest_dense(net, [mx.cpu()], 1) is None


@pytest.mark.parametrize("name", ["net_dense0_weight", "net_dense0_bias"])
def test_a_layer_that_does_not_learn_is_left_whole(name):
    net = make_net()
    prepare(net, (16, 32), [mx.cpu()])
    net.collect_params()[name].grad_req = "null"
    assert factor_largest_dense(net, [mx.cpu()], 1) is None


def test_a_dense_layer_of_many_places_is_left_whole():
    net = nn.HybridSequential()
    net.add(nn.Conv2D(40, 16, 4), nn.Dense(500, flatten=False), nn.Dense(1))
    prepare(net, (16, 320), [mx.cpu()])
    assert factor_largest_dense(net, [mx.cpu()], 1) is None
