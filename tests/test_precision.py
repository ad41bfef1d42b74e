from __future__ import annotations

import subprocess
import sys

import pytest

from robostig import precision
from robostig.backend import Gpu, mx
from robostig.precision import scale_losses, set_precision, watch_overflow

CPU = [mx.cpu()]

# AMP changes MXNet's operators for good, so each of these is a process of its own.
TRAIN = """
import sys
import numpy as np
from robostig.backend import mx
from robostig.pilot import predict
from robostig.precision import amp, scale_losses, set_precision, watch_overflow
dtype, scaled = sys.argv[1], sys.argv[2] == "scaled"
set_precision(dtype, [mx.cpu()])
mx.random.seed(0)
net = mx.gluon.nn.HybridSequential()
net.add(mx.gluon.nn.Conv2D(16, 3), mx.gluon.nn.ELU(), mx.gluon.nn.Dense(1))
net.initialize(mx.init.Xavier())
net.hybridize(static_alloc=True, static_shape=True)
trainer = mx.gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.01}, kvstore=None)
watch_overflow(trainer)
if scaled:
    amp.init_trainer(trainer)
frames = mx.nd.array(np.random.default_rng(0).normal(size=(8, 3, 9, 9)))
wanted = mx.nd.array(np.linspace(-1, 1, 8)[:, None])
losses = []
for step in range(20):
    with mx.autograd.record():
        loss = ((net(frames) - wanted) ** 2).sum()
    mx.autograd.backward(scale_losses([loss], trainer))
    trainer.step(8)
    losses.append(float(loss.asscalar()))
steering = predict(net, np.full((2, 9, 9, 3), 9, np.uint8))
assert steering.dtype == np.float32 and steering.shape == (2,)
net.export(sys.argv[3])
assert "amp_cast" not in open(sys.argv[3] + "-symbol.json").read()
print(*losses)
try:
    set_precision("float32", [mx.cpu()])
except ValueError as error:
    print(error)
"""


def train(folder, dtype, scaled=False):
    """Return the losses of a few steps, and what asking for float32 afterwards answered."""
    command = [sys.executable, "-c", TRAIN, dtype, "scaled" if scaled else "", str(folder / "net")]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return [], done.stderr.splitlines()[-1]
    losses, *rest = done.stdout.splitlines()
    return [float(loss) for loss in losses.split()], " ".join(rest)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    return train(tmp_path_factory.mktemp("mixed"), "bfloat16")


def test_bfloat16_trains_as_float32_does_or_says_why_not(mixed, tmp_path):
    plain, _ = train(tmp_path, "float32")
    assert plain[-1] < plain[0] / 2
    mixed, afterwards = mixed
    if mixed:
        assert mixed != plain and mixed == pytest.approx(plain, abs=0.01 * plain[0])
        assert "has trained with 'bfloat16'" in afterwards and "start another" in afterwards
    else:
        assert "ValueError" in afterwards and "on this CPU" in afterwards and 'Choose "float32"' in afterwards


def test_a_scaled_loss_gives_the_same_steps(mixed, tmp_path):
    mixed, _ = mixed
    if not mixed:
        pytest.skip("this CPU cannot compute in bfloat16, for want of AVX-512")
    scaled, _ = train(tmp_path, "bfloat16", scaled=True)
    assert scaled == pytest.approx(mixed, abs=0.01 * mixed[0])


@pytest.mark.parametrize(
    ("dtype", "contexts", "message"),
    [
        ("float16", CPU, 'it needs a GPU.*Choose "float32"'),
        ("bfloat16", [mx.gpu(0)], 'CPUs only. Choose "float16"'),
        ("float16", [mx.gpu(0), mx.gpu(1)], r"^dtype=.float16. cannot be had: Old \(.* 5.2\) computes in float32 only"),
    ],
)
def test_what_a_device_cannot_do_is_refused_before_anything_changes(monkeypatch, dtype, contexts, message):
    monkeypatch.setattr(precision, "list_gpus", lambda: [Gpu("Old", (5, 2)), Gpu("New", (8, 0))])
    convolution = mx.sym.Convolution
    with pytest.raises(ValueError, match=message):
        set_precision(dtype, contexts)
    assert mx.sym.Convolution is convolution
    set_precision("float32", contexts)


def test_without_mixed_precision_losses_stay_as_they_are():
    losses = [mx.nd.array([1.0])]
    parameter = mx.gluon.Parameter("weight", shape=(1,))
    parameter.initialize()
    trainer = mx.gluon.Trainer([parameter], "sgd", {"learning_rate": 0.1})
    watch_overflow(trainer)
    assert scale_losses(losses, trainer)[0] is losses[0]
