"""Our side of what is measured against PyTorch, each class in a process of its own (see ``side.py``).

Everything here is what a user who sets nothing gets: the loader, ``fit`` and the pilot with their defaults.
"""

from __future__ import annotations

import itertools
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Sequence, Tuple

import numpy as np

from robostig.artifact import save_artifact
from robostig.backend import mx
from robostig.closed_loop import evaluate_closed_loop
from robostig.data import SteeringDataset, balance_weights, open_frames
from robostig.driving_log import read_driving_log
from robostig.models import get_model, get_spec
from robostig.pilot import InputMemory, as_network_input
from robostig.pilot import Pilot as SteeringPilot
from robostig.pipeline import evaluate_artifact, read_recording, train_model
from robostig.preprocessing import InputSpec, preprocess
from robostig.roads import RECIPE, TEST_ROADS, TRAINING_LAPS, training_tracks
from robostig.simulation import parse_tracks, record
from robostig.split import split_by_time
from robostig.training import TrainingConfig, _compile, _make_optimizer, _peel_scaling, _prepare, fit

__all__ = ["Driver", "Epochs", "Pilot", "TrainingStep"]

BATCH = TrainingConfig.batch_size
LOOK = "lake"  # of the roads that a network learns to drive on here
Rows = Tuple[Mapping[str, Sequence[str]], np.ndarray]  # paths of pictures by camera, and steering


class HeldFrames(NamedTuple):
    """Preprocessed frames in memory, as a source of a dataset."""

    frames: np.ndarray
    spec: InputSpec

    def __len__(self) -> int:
        return len(self.frames)

    def read(self, numbers: Sequence[int]) -> np.ndarray:
        """Return the frames of these numbers."""
        return self.frames[np.asarray(numbers)]


class TrainingStep:
    """Forward, backward and update on batches that lie in memory as bytes."""

    def find_spec(self, model: str) -> InputSpec:
        """Return how frames are preprocessed for a model."""
        return get_spec(model).input

    def prepare(self, model: str, batches: Sequence[Tuple[np.ndarray, np.ndarray]]) -> List[np.ndarray]:
        """Take batches of (n, H, W, 3) uint8 and (n,) steering for a model; return its first weights."""
        self.model = model
        self.frame = batches[0][0][:1]
        self.run = Run(model, self.frame)
        self.weights = self.run.read_weights()
        self.batches = batches
        return self.weights

    def measure(self, steps: int) -> float:
        """Return the images a second over a number of steps."""
        started = time.perf_counter()
        pending = []
        for step in range(steps):
            pending.append(self.run.step(*self.batches[step % len(self.batches)]))
            if len(pending) > 1:  # one step behind, as fit
                pending.pop(0).asscalar()
        mx.nd.waitall()
        return steps * BATCH / (time.perf_counter() - started)

    def learn(self, passes: int) -> List[float]:
        """Return the loss of each step from the first weights on, without dropout."""
        run = Run(self.model, self.frame, dropout=False)
        run.write_weights(self.weights)
        return [run.step(*each).asscalar() / BATCH for _ in range(passes) for each in self.batches]


class Run:
    """A network as ``fit`` prepares it, its trainer, and the step."""

    def __init__(self, model: str, frame: np.ndarray, *, dropout: bool = True) -> None:
        config = TrainingConfig(model=model, device="cpu")
        self.net = get_model(model)
        if not dropout:
            self.net.apply(_leave_out_dropout)
        frames = SteeringDataset({"center": HeldFrames(frame, get_spec(model).input)}, np.zeros(1, np.float32))
        _prepare(self.net, frames, [mx.cpu()], config)
        self.parameters = self.net.collect_params()
        self.learner, scale, offset = _peel_scaling(self.net)
        _compile(self.learner, config)
        self.memory = InputMemory(mx.cpu(), scale=scale, offset=offset)
        self.trainer = mx.gluon.Trainer(self.parameters, _make_optimizer(config), update_on_kvstore=False)
        self.loss = mx.gluon.loss.L2Loss()

    def step(self, frames: np.ndarray, steering: np.ndarray) -> mx.nd.NDArray:
        """Forward, backward, update on (n, H, W, 3) uint8 and (n,); returns the summed loss, not waited for."""
        inputs, labels = self.memory.write(frames), mx.nd.array(steering)
        with mx.autograd.record():
            loss = self.loss(self.learner(inputs), labels).sum()
        loss.backward()
        self.trainer.step(BATCH)
        return loss

    def read_weights(self) -> List[np.ndarray]:
        """Return all weights in the order of the layers."""
        return [parameter.data().asnumpy() for parameter in self.parameters.values()]

    def write_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Change all weights."""
        for parameter, values in zip(self.parameters.values(), weights):
            parameter.set_data(mx.nd.array(values))


def _leave_out_dropout(block: mx.gluon.Block) -> None:
    if isinstance(block, mx.gluon.nn.Dropout):
        block._rate = 0.0


class Pilot:
    """A raw camera frame, or many, to steering, by an artifact that was saved and loaded."""

    def prepare(self, model: str, frames: np.ndarray) -> Tuple[List[np.ndarray], InputSpec]:
        """Take raw frames (n, H, W, 3) uint8 for a model; return its weights and how it preprocesses."""
        self.frames, spec = frames, get_spec(model).input
        net = get_model(model)
        net.initialize(mx.init.Xavier())
        with tempfile.TemporaryDirectory() as folder:
            artifact = save_artifact(folder, net, spec, {"model": model})
            self.pilots, self.refusals = {"float32": SteeringPilot.load(artifact)}, {}
            try:
                self.pilots["int8"] = SteeringPilot.load(artifact, dtype="int8")
            except ValueError as error:
                self.refusals["int8"] = str(error)
        self.pilot = self.pilots["float32"]
        return [parameter.data().asnumpy() for parameter in net.collect_params().values()], spec

    def list_types(self) -> List[str]:
        """Return what the network can compute with here."""
        return list(self.pilots)

    def list_refusals(self) -> Dict[str, str]:
        """Return which types the network does not compute with here, and why."""
        return self.refusals

    def steer(self, frames: np.ndarray) -> np.ndarray:
        """Return (n,) float32 steering for raw frames."""
        return self.pilot.steer_many(frames)

    def measure_latency(self, dtype: str, count: int) -> float:
        """Return the median milliseconds from a frame to steering, one frame after the other."""
        pilot, frames = self.pilots[dtype], itertools.cycle(self.frames)
        return 1e3 * _time(lambda: pilot.steer(next(frames)), count)

    def measure_throughput(self, dtype: str, batches: int) -> float:
        """Return the frames a second, a batch at a time."""
        started = time.perf_counter()
        for _ in range(batches):
            self.pilots[dtype].steer_many(self.frames[:BATCH])
        return batches * BATCH / (time.perf_counter() - started)

    def count_work(self) -> Tuple[int, int]:
        """Return the multiplications and additions of a frame as they are computed, and the bytes of the parameters."""
        symbol = self.pilot.net(mx.sym.var("data"))
        parameters = {name: each.data().shape for name, each in self.pilot.net.collect_params().items()}
        internals, black = symbol.get_internals(), np.zeros((1, *self.pilot.spec.shape), np.uint8)
        _, sizes, _ = internals.infer_shape(data=as_network_input(black, mx.cpu(), layout=self.pilot.layout).shape)
        outputs = dict(zip(internals.list_outputs(), sizes))
        count = 0
        nodes = json.loads(symbol.tojson())["nodes"]
        for node in nodes:
            weight = nodes[node["inputs"][1][0]]["name"] if len(node["inputs"]) > 1 else ""
            if weight in parameters:
                # (1, channels, H', W') or (1, units): each place takes every weight once.
                count += 2 * math.prod(parameters[weight]) * math.prod(outputs[f"{node['name']}_output"][2:])
        return count, 4 * sum(map(math.prod, parameters.values()))

    def measure_ceilings(self, count: int) -> Dict[str, float]:
        """Return what this machine can do.

        Returns
        -------
        dict
            ``flops``, of large matrices' product; ``bytes_per_s``, of a matrix too large for the caches times a vector;
            ``preprocessing_ms`` of a frame. Medians.
        """
        square, large = np.ones((1024, 1024), np.float32), np.ones((1024, 16384), np.float32)
        vector = np.ones(16384, np.float32)
        spec = self.pilot.spec
        return {
            "flops": 2 * 1024**3 / _time(lambda: square @ square, count),
            "bytes_per_s": large.nbytes / _time(lambda: large @ vector, count),
            "preprocessing_ms": 1e3 * _time(lambda: preprocess(self.frames[0], spec), 10 * count),
        }


def _time(work: Callable[[], Any], count: int) -> float:
    """Return the median seconds that something takes."""
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds))


class Driver:
    """A network that has learned to drive from the expert on the built-in track."""

    def train(self, model: str, folder: str) -> int:
        """Record the expert on roads of one look as ``robostig compare`` does, train, and return how many rows."""
        tracks = [track for track in training_tracks() if track.name.startswith(LOOK)]
        self.recording = record(Path(folder) / "recording", tracks, laps=TRAINING_LAPS)
        config = TrainingConfig(model=model, device="cpu", **RECIPE)
        recording = read_recording(self.recording, config)
        self.artifact = train_model(config, recording, Path(folder) / "out").artifact
        return len(recording.split.train)

    def score(self, dtype: str) -> Dict[str, float]:
        """Return the ``rmse`` on what was held out, and the scores of driving roads that were not recorded."""
        open_loop, _ = evaluate_artifact(self.artifact, self.recording, rows="held-out", dtype=dtype)
        pilot = SteeringPilot.load(self.artifact, dtype=dtype)
        roads = ",".join(road for road in TEST_ROADS if road.startswith(LOOK))
        drives = evaluate_closed_loop(pilot, parse_tracks(roads, "both"))
        return {"rmse": open_loop.scores["rmse"], **drives.scores}


class Epochs:
    """Whole epochs from recorded JPEGs."""

    def describe(self, data: str, config: TrainingConfig) -> Tuple[Rows, Rows, np.ndarray, InputSpec]:
        """Return the rows to train on, those held out, how often each of the first is drawn, and how to preprocess."""
        log = read_driving_log(data)
        split = split_by_time(log)
        train, validation = (
            ({camera: [paths[row] for row in rows] for camera, paths in log.pictures.items()}, log.steering[rows])
            for rows in (split.train, split.validation)
        )
        return train, validation, balance_weights(train[1], config.balance), get_spec(config.model).input

    def run(self, data: str, config: TrainingConfig) -> Dict[str, Any]:
        """Read the log, decode, train and validate, with an empty frame cache.

        Returns
        -------
        dict
            ``seconds``, ``decoding_s`` of them until all was decoded, each epoch's ``train_rmse`` and
            ``validation_rmse``.
        """
        with tempfile.TemporaryDirectory() as cache:
            started = time.perf_counter()
            log = read_driving_log(data)
            split = split_by_time(log)
            frames = open_frames(log, get_spec(config.model).input, folder=cache)
            decoded = time.perf_counter()
            train, validation = (
                SteeringDataset(frames, log.steering, rows) for rows in (split.train, split.validation)
            )
            result = fit(get_model(config.model), train, validation, config)
            seconds = time.perf_counter() - started
        return {
            "seconds": seconds,
            "decoding_s": decoded - started,
            "train_rmse": [record.train_rmse for record in result.history],
            "validation_rmse": [record.validation_rmse for record in result.history],
        }
