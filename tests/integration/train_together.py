"""What each host of a small group runs: networks to train, and what becomes of them, in a file a host."""

from __future__ import annotations

import logging
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Optional, Sequence, Tuple
from unittest.mock import patch

import numpy as np

from robostig.backend import mx
from robostig.config import TrainingConfig
from robostig.data import SteeringDataset
from robostig.models import get_model, get_spec
from robostig.preprocessing import InputSpec
from robostig.training import fit
from robostig.workers import WorkerGroup, join_workers

nn = mx.gluon.nn

SMALL = InputSpec(16, 32, crop_top=0.3)
# Five steps an epoch; neither a batch nor the 13 rows to validate on can be halved.
CONFIG = TrainingConfig(epochs=2, batch_size=9, learning_rate=0.003, patience=0, hybridize=True, device="cpu", seed=2)
RESUMABLE = replace(CONFIG, epochs=4)
WIDE = 1000  # units of a layer that is so large that its gradient travels as factors
FATAL_READ = 2 * 5 + 3  # in the third epoch


class Frames:
    """Frames in memory: the darker side of each is where its steering points. One reading may be the process's last."""

    def __init__(self, steering: np.ndarray, spec: InputSpec, fatal_read: Optional[int] = None) -> None:
        generator = np.random.default_rng(len(steering))
        frames = generator.integers(60, 120, (len(steering), *spec.shape))
        slope = np.linspace(100, -100, spec.width)[:, None] * steering[:, None, None, None]
        self.frames, self.spec = np.clip(frames + slope, 0, 255).astype(np.uint8), spec
        self.reads, self.fatal_read = 0, fatal_read

    def __len__(self) -> int:
        return len(self.frames)

    def read(self, numbers: Sequence[int], out: Optional[np.ndarray] = None) -> np.ndarray:
        self.reads += 1
        if self.reads == self.fatal_read:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.take(self.frames, numbers, axis=0, out=out)


def make_sets(spec: InputSpec, fatal_read: Optional[int] = None) -> Tuple[SteeringDataset, SteeringDataset]:
    steering = [0.6 * np.sin(np.arange(count, dtype=np.float32) / 3.0 + count) for count in (45, 13)]
    frames = [Frames(steering[0], spec, fatal_read), Frames(steering[1], spec)]
    return tuple(SteeringDataset({"center": each}, labels) for each, labels in zip(frames, steering))


def make_small_net(*, dropout: float = 0.0, normalize_batch: bool = False, units: int = 8) -> mx.gluon.HybridBlock:
    net = nn.HybridSequential(prefix="small_")
    with net.name_scope():
        net.add(nn.HybridLambda(lambda F, frames: frames * (1 / 127.5) - 1.0), nn.Conv2D(4, 5, 2))
        if normalize_batch:
            net.add(nn.BatchNorm())
        net.add(nn.ELU(), nn.Flatten(), nn.Dropout(dropout), nn.Dense(units), nn.ELU(), nn.Dense(1))
    return net


class Backboned(mx.gluon.HybridBlock):
    """A small network with initialised layers to freeze."""

    def __init__(self) -> None:
        super().__init__(prefix="backboned_")
        with self.name_scope():
            self.features, self.output = make_small_net(normalize_batch=True)[:3], nn.Dense(1)
        mx.random.seed(5)
        self.features.initialize(mx.init.Xavier())
        self.features(mx.nd.zeros((1, 3, 16, 32)))

    def hybrid_forward(self, F, frames):
        return self.output(self.features(frames))


def train(name: str, workers: WorkerGroup, folder: Path, fatal_read: Optional[int] = None) -> Dict[str, Any]:
    """Train one of a few networks; return its parameters and its history without durations."""
    spec, config = SMALL, CONFIG
    if name == "nvidia":
        net, spec = get_model("nvidia", dropout=0.0), get_spec("nvidia").input
    elif name == "two devices":
        net, config = make_small_net(units=WIDE), replace(CONFIG, device="cpu:2", optimizer="sgd")
    elif name == "batch norm":
        net = make_small_net(normalize_batch=True)
    elif name == "frozen":
        net, config = Backboned(), replace(CONFIG, freeze_epochs=1)
    else:
        net, config = make_small_net(dropout=0.3, units=WIDE), RESUMABLE
    small = 100 if name in ("two devices", "frozen") else 250_000  # there, some gradients travel alone
    with patch("robostig.workers._SMALL", small):
        result = fit(net, *make_sets(spec, fatal_read), config, workdir=folder, workers=workers)
    outcome = {key: value.data(value.list_ctx()[0]).asnumpy() for key, value in net.collect_params().items()}
    records = [(each.epoch, each.train_rmse, each.validation_rmse, each.learning_rate) for each in result.history]
    return {**outcome, "history": np.array(records), "resumed from": result.resumed_from, "devices": result.devices}


def main(folder: Path, names: Sequence[str], fatal_read: Optional[int]) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    with join_workers(os.environ) as workers:
        fatal = None if workers.is_first else fatal_read
        for name in names:
            outcome = train(name, workers, folder / workers.host, fatal)
            np.savez(folder / f"{workers.host} {name}.npz", **outcome)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2].split(","), int(sys.argv[3]) if len(sys.argv) > 3 else None)
