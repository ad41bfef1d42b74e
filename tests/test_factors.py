from __future__ import annotations

from typing import Dict, List, Optional

import numpy as np
import pytest

from robostig import factors
from robostig.backend import mx
from robostig.factors import FactoredDense, factor_largest_dense
from robostig.models import get_model, get_spec

nn = mx.gluon.nn
LOSS = mx.gluon.loss.L2Loss()
BATCH = 9


@pytest.fixture(autouse=True)
def of_any_size(monkeypatch):
    """Let small layers count as large ones."""
    monkeypatch.setattr(factors, "_LEAST", 0)


def make_net(*, bias: bool = True) -> mx.gluon.HybridBlock:
    net = nn.HybridSequential(prefix="net_")
    with net.name_scope():
        net.add(nn.Conv2D(4, 3, 2), nn.Activation("relu"), nn.Dense(40, use_bias=bias), nn.ELU(), nn.Dense(1))
    return net


class Net(mx.gluon.HybridBlock):
    """A network with a large layer; what it does with that is a function of its own."""

    def __init__(self, answer, **parameters) -> None:
        super().__init__(prefix="net_")
        self.answer = answer
        with self.name_scope():
            self.large, self.last = nn.Dense(40), nn.Dense(1)
            for name, options in parameters.items():
                setattr(self, name, self.params.get(name, **options))

    def hybrid_forward(self, F, frames, **parameters):
        return self.answer(self, F, frames, **parameters)


class OwnForward(mx.gluon.HybridBlock):
    """A network that hybridizes by parts, since it asks its input for its shape."""

    def __init__(self) -> None:
        super().__init__(prefix="own_")
        with self.name_scope():
            self.large, self.last = nn.Dense(40), nn.Dense(1)

    def forward(self, frames):
        return self.last(self.large(frames.reshape((frames.shape[0], -1))))


def prepare(net: mx.gluon.HybridBlock, shape, contexts) -> List[mx.nd.NDArray]:
    """Initialise a network, and return a batch of frames and steering."""
    mx.random.seed(3)
    net.initialize(mx.init.Xavier(), ctx=contexts, force_reinit=True)
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
    factored = factor_largest_dense(net, BATCH, (3, *shape))
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
        memory = factored.read()
        assert [rows.shape for rows in memory] == [(BATCH, size) for size in reversed(factored.weight.shape)]
        assert sum(rows.size for rows in memory) == factored.size
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


def test_a_host_computes_with_the_frames_of_another():
    net = make_net()
    frames, steering = prepare(net, (16, 32), [mx.cpu()])
    with mx.autograd.record():
        whole = LOSS(net(frames), steering).sum()
    whole.backward()
    expected = read_gradients(net)[0]
    hosts = [factor_largest_dense(net, BATCH, (3, 16, 32)) for _ in range(2)]
    for host, start, stop in zip(hosts, (0, 4), (4, BATCH)):
        with mx.autograd.record():
            loss = LOSS(host(frames[start:stop]), steering[start:stop]).sum()
        loss.backward()
        host.collect(mx.cpu(), start)
    for rows, others in zip(*(host.read() for host in hosts)):
        rows[4:] = others[4:]
    hosts[0].write_gradient()
    name = hosts[0].weight.name
    np.testing.assert_allclose(read_gradients(net)[0][name], expected[name], rtol=1e-4, atol=1e-7)


def factor(net: mx.gluon.HybridBlock, batch_size: int = 1, shape=(16, 32)) -> Optional[FactoredDense]:
    prepare(net, shape, [mx.cpu()])
    return factor_largest_dense(net, batch_size, (3, *shape))


def test_factors_are_exchanged_where_they_are_less_than_half_of_the_gradient():
    net = make_net()
    assert factor(net, 18).weight.shape == (40, 420)  # 16,800 numbers, or 18 * 460 = 8,280
    assert factor(net, 19) is None


def test_what_is_small_travels_with_all_the_rest(monkeypatch):
    monkeypatch.setattr(factors, "_LEAST", 16_801)
    assert factor(make_net()) is None
    monkeypatch.setattr(factors, "_LEAST", 16_800)
    assert factor(make_net()) is not None


def test_a_large_layer_that_learns_is_found_beside_a_larger_one_that_does_not():
    net = nn.HybridSequential()
    net.add(nn.Conv2D(4, 3), nn.Dense(50), nn.Dense(40), nn.Dense(1))
    assert factor(net).weight is net[1].weight
    net[1].weight.grad_req = "null"
    assert factor(net).weight is net[2].weight
    net[2].bias.grad_req = "null"
    assert factor(net) is None


WHOLE = {
    "no dense layer": lambda net, F, frames: F.mean(frames, axis=(1, 2, 3)),
    "no large layer": lambda net, F, frames: net.last(F.mean(frames, axis=(2, 3))),
    "a way around": lambda net, F, frames: net.last(F.concat(net.large(frames * 2), F.Flatten(frames), dim=1)),
    "frames as they come": lambda net, F, frames: net.last(net.large(frames)),
    "used twice": lambda net, F, frames: net.last(net.large(F.exp(frames)) + net.large(frames * 2)),
    "patches": lambda net, F, frames: net.last(
        net.large(F.reshape(frames * 2, shape=(-1, 3, 8, 32))).reshape((-1, 80))
    ),
    "an index": lambda net, F, frames, index: net.last(F.take(net.large(frames * 2), index, axis=1)),
    "a computed bias": lambda net, F, frames, weight, bias: net.last(
        F.FullyConnected(frames * 2, weight, bias * 2, num_hidden=40)
    ),
}
PARAMETERS = {
    "an index": {"index": {"shape": (3,), "dtype": "int32", "init": "zeros", "grad_req": "null"}},
    "a computed bias": {"weight": {"shape": (40, 3 * 16 * 32)}, "bias": {"shape": (40,), "init": "zeros"}},
}


@pytest.mark.parametrize("name", WHOLE)
def test_what_cannot_be_cut_is_left_whole(name):
    assert factor(Net(WHOLE[name], **PARAMETERS.get(name, {}))) is None


def test_a_network_that_is_no_graph_as_a_whole_is_left_so():
    assert factor(OwnForward()) is None


def test_a_dense_layer_of_many_places_is_left_whole():
    net = nn.HybridSequential()
    net.add(nn.Conv2D(40, 16, 4), nn.Dense(500, flatten=False), nn.Dense(1))
    assert factor(net, shape=(16, 320)) is None
