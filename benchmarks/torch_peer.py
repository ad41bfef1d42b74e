"""The PyTorch side: the zoo's networks, and training, steering and loading as a careful user of PyTorch writes them.

Runs in a process of its own (see ``side.py``), which never imports MXNet. The networks are those of
``robostig/models``, layer by layer, so that weights can be copied by their order and the answers compared. What the
frames go through, :func:`robostig.preprocessing.preprocess` and :func:`robostig.augmentation.apply`, is OpenCV's work
and the package's own code on both sides: the frames are the same to the byte.

What PyTorch does best with was tried for each choice here: Adam's fused form (comma's step takes a fifth less time),
gradients set to None, both memory formats, bytes and not floats between the loader's workers and the training.
"""

from __future__ import annotations

import math
import time
from typing import Any, Dict, List, Mapping, Sequence, Tuple

import cv2
import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler

from robostig.augmentation import Augmentation, apply
from robostig.preprocessing import InputSpec, preprocess

__all__ = ["Epochs", "Pilot", "TrainingStep", "copy_weights", "make_network"]

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
BATCH = 64
Rows = Tuple[Mapping[str, Sequence[str]], np.ndarray]  # paths of pictures by camera, and steering


class Normalize(nn.Module):
    """0..255 to -1..1, as both networks begin."""

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Return the frames, scaled."""
        return frames * (1 / 127.5) - 1.0


def make_network(name: str) -> nn.Sequential:
    """Return the network that the zoo has under this name, with weights drawn as Gluon's Xavier does."""
    if name == "nvidia":
        layers: List[nn.Module] = []
        channels = 3
        for wide, kernel, stride in ((24, 5, 2), (36, 5, 2), (48, 5, 2), (64, 3, 1), (64, 3, 1)):
            layers += [nn.Conv2d(channels, wide, kernel, stride), nn.ELU()]
            channels = wide
        layers += [nn.Flatten(), nn.Dropout(0.2)]
        units = 1152
        for many in (100, 50, 10):
            layers += [nn.Linear(units, many), nn.ELU()]
            units = many
    elif name == "comma":
        layers = [
            nn.Conv2d(3, 16, 8, 4, padding=2),
            nn.ELU(),
            nn.Conv2d(16, 32, 5, 2, padding=2),
            nn.ELU(),
            nn.Conv2d(32, 64, 5, 2, padding=2),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.ELU(),
            nn.Linear(64 * 10 * 20, 512),
            nn.Dropout(0.5),
            nn.ELU(),
        ]
        units = 512
    else:
        raise ValueError(f"there is no {name!r} in PyTorch to measure against; there are nvidia and comma")
    net = nn.Sequential(Normalize(), *layers, nn.Linear(units, 1))
    for layer in net:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    if name == "comma":
        nn.init.normal_(net[-1].weight, std=0.001)
    return net


def copy_weights(net: nn.Module, weights: Sequence[np.ndarray]) -> None:
    """Copy another framework's weights into a network of the same layers, in their order.

    Raises
    ------
    ValueError
        If there are more or fewer, or one has another shape: it is not the same network.
    """
    ours = list(net.parameters())
    shapes = [tuple(each.shape) for each in ours], [tuple(each.shape) for each in weights]
    if shapes[0] != shapes[1]:
        raise ValueError(f"the networks differ: weights of {shapes[0]} here, {shapes[1]} there")
    with torch.no_grad():
        for mine, theirs in zip(ours, weights):
            mine.copy_(torch.from_numpy(theirs))


def as_network_input(frames: torch.Tensor, form: str) -> torch.Tensor:
    """Return (n, H, W, 3) bytes as (n, 3, H, W) float32 in a memory format, 0..255."""
    # Bytes of pixels are channels-last as they are: for that format, this is one cast and no transpose.
    return frames.permute(0, 3, 1, 2).to(torch.float32, memory_format=FORMATS[form])


class TrainingStep:
    """Forward, backward and update on batches that lie in memory as bytes."""

    def prepare(self, model: str, weights: Sequence[np.ndarray], batches: Sequence[Tuple[np.ndarray, ...]]) -> None:
        """Take a model's first weights, and batches of (n, H, W, 3) uint8 and (n,) steering."""
        self.model, self.weights, self.batches = model, weights, batches
        self.runs = {form: Run(model, weights, form) for form in FORMATS}

    def measure(self, form: str, steps: int) -> float:
        """Return the images a second over a number of steps."""
        started = time.perf_counter()
        for step in range(steps):
            self.runs[form].step(*self._load(step, form))
        return steps * BATCH / (time.perf_counter() - started)

    def learn(self, form: str, passes: int) -> List[float]:
        """Return the loss of each step from the first weights on, without dropout.

        MXNet's Adam adds epsilon before it corrects the second moment's bias (as Kingma and Ba 2015, end of section
        2), PyTorch's after. It matters for comma's gradients, which are as small as epsilon at first; for this, the
        same epsilon is meant.
        """
        run = Run(self.model, self.weights, form, dropout=False)
        losses: List[float] = []
        for step in range(passes * len(self.batches)):
            for group in run.optimizer.param_groups:
                group["eps"] = 1e-8 / math.sqrt(1.0 - group["betas"][1] ** (step + 1))
            losses.append(run.step(*self._load(step, form)))
        return losses

    def _load(self, step: int, form: str) -> Tuple[torch.Tensor, torch.Tensor]:
        frames, steering = self.batches[step % len(self.batches)]
        return as_network_input(torch.from_numpy(frames), form), torch.from_numpy(steering)


class Run:
    """A network in a memory format, its optimizer, and the step."""

    def __init__(
        self, model: str, weights: Sequence[np.ndarray], form: str, *, rate: float = 1e-3, dropout: bool = True
    ) -> None:
        self.net = make_network(model)
        if len(weights):
            copy_weights(self.net, weights)
        for layer in self.net:
            if isinstance(layer, nn.Dropout) and not dropout:
                layer.p = 0.0
        self.net = self.net.to(memory_format=FORMATS[form]).train()
        self.optimizer = torch.optim.Adam(self.net.parameters(), rate, fused=True)

    def step(self, frames: torch.Tensor, steering: torch.Tensor) -> float:
        """Forward, backward, update; returns the loss."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = 0.5 * nn.functional.mse_loss(self.net(frames)[:, 0], steering)  # half the square, as Gluon's L2
        loss.backward()
        self.optimizer.step()
        return loss.item()


class Pilot:
    """A raw camera frame, or many, to steering."""

    def prepare(
        self, model: str, weights: Sequence[np.ndarray], spec: InputSpec, frames: np.ndarray, is_compiled: bool
    ) -> Dict[str, str]:
        """Take a model's weights and raw frames, (n, H, W, 3) uint8; return what does not work, and why.

        Both memory formats are run as they are, and channels-last, if asked for, through ``torch.compile`` too, for one
        frame and for a batch. Contiguous tensors compiled were never the quickest, and take half a minute to compile.
        """
        self.spec, self.frames = spec, frames
        self.forms: Dict[str, Tuple[Any, str]] = {}
        failures = {}
        torch._dynamo.reset()  # what the last network was compiled for
        for form in FORMATS:
            net = make_network(model)
            copy_weights(net, weights)
            net = net.to(memory_format=FORMATS[form]).eval()
            self.forms[f"eager, {form}"] = net, form
            if is_compiled and form == "channels_last":
                name = f"compiled, {form}"
                self.forms[name] = torch.compile(net, dynamic=False), form
                try:
                    for count in (1, BATCH):
                        self.steer(name, frames[:count])
                except Exception as error:  # whatever the compiler lacks: it is told, and the rest measured
                    del self.forms[name]
                    failures[name] = str(error).strip().splitlines()[0]
        return failures

    def list_forms(self) -> List[str]:
        """Return the ways to run the network that work."""
        return list(self.forms)

    def steer(self, name: str, frames: np.ndarray) -> np.ndarray:
        """Return (n,) float32 steering for raw frames."""
        net, form = self.forms[name]
        if len(frames) == 1:
            inputs = preprocess(frames[0], self.spec, copy=False)[None]
        else:
            inputs = np.stack([preprocess(frame, self.spec) for frame in frames])
        with torch.inference_mode():
            return np.clip(net(as_network_input(torch.from_numpy(inputs), form)).numpy()[:, 0], -1.0, 1.0)

    def measure_latency(self, name: str, count: int) -> float:
        """Return the median milliseconds from a frame to steering, one frame after the other."""
        seconds = []
        for number in range(count):
            frame = self.frames[number % len(self.frames)][None]
            started = time.perf_counter()
            float(self.steer(name, frame)[0])
            seconds.append(time.perf_counter() - started)
        return 1e3 * float(np.median(seconds))

    def measure_throughput(self, name: str, batches: int) -> float:
        """Return the frames a second, a batch at a time."""
        started = time.perf_counter()
        for _ in range(batches):
            self.steer(name, self.frames[:BATCH])
        return batches * BATCH / (time.perf_counter() - started)


class Frames(Dataset):
    """One preprocessed frame and its steering by number, from its JPEG.

    Parameters
    ----------
    rows
        Paths of the pictures by camera, and (n,) float32 steering.
    spec
        How to preprocess.
    side_cameras
        Share of frames from the left and the right camera, drawn anew each time.
    correction
        Steering added for the left, taken for the right.
    """

    def __init__(self, rows: Rows, spec: InputSpec, side_cameras: float = 0.0, correction: float = 0.0) -> None:
        self.pictures, self.steering = rows
        self.spec, self.side_cameras, self.correction = spec, side_cameras, correction

    def __len__(self) -> int:
        return len(self.steering)

    def __getitem__(self, number: int) -> Tuple[np.ndarray, float]:
        camera, steering = "center", float(self.steering[number])
        draw = float(torch.rand(()))  # PyTorch's generator: each worker has its own seed
        if draw < self.side_cameras:
            camera, sign = ("left", 1.0) if draw < self.side_cameras / 2 else ("right", -1.0)
            steering += sign * self.correction
        picture = cv2.imread(self.pictures[camera][number])
        return preprocess(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB, dst=picture), self.spec), steering


class Collate:
    """Samples to a batch of bytes, augmented: scenery and bonnets come from other frames of the batch."""

    def __init__(self, spec: InputSpec, augmentation: Augmentation) -> None:
        self.spec, self.augmentation = spec, augmentation

    def __call__(self, samples: Sequence[Tuple[np.ndarray, float]]) -> Tuple[torch.Tensor, torch.Tensor]:
        """Return (n, H, W, 3) uint8 and (n,) float32."""
        frames, steering = (np.stack(each) for each in zip(*samples))
        generator = np.random.default_rng(int(torch.randint(2**62, ())))
        draw = self.augmentation.draw(len(frames), generator)
        frames, steering = apply(frames, steering.astype(np.float32), draw, self.spec)
        return torch.from_numpy(frames), torch.from_numpy(steering)


class Epochs:
    """Whole epochs from recorded JPEGs."""

    def run(
        self,
        train: Rows,
        validation: Rows,
        weights: np.ndarray,
        spec: InputSpec,
        settings: Mapping[str, Any],
        form: str,
    ) -> Dict[str, Any]:
        """Train and validate.

        Parameters
        ----------
        train, validation
            The rows.
        weights
            (n,) how often each training row is drawn.
        spec
            How to preprocess.
        settings
            Those of :class:`robostig.config.TrainingConfig`, by name.
        form
            The memory format.

        Returns
        -------
        dict
            ``seconds``, each epoch's ``train_rmse`` and ``validation_rmse``.
        """
        started = time.perf_counter()
        correction = settings["camera_correction"]
        names = ("flip", "shift", "shadow", "brightness", "tint", "scenery", "bonnet")
        augmentation = Augmentation(**{name: settings[name] for name in names}, correction=correction)
        batches = -(-len(train[1]) // BATCH)
        loading: Dict[str, Any] = {
            "batch_size": BATCH,
            "num_workers": 2,
            "persistent_workers": True,
            "prefetch_factor": 4,
            "worker_init_fn": _start_worker,
        }
        loader = DataLoader(
            Frames(train, spec, settings["side_cameras"], correction),
            sampler=WeightedRandomSampler(torch.from_numpy(weights), batches * BATCH),
            collate_fn=Collate(spec, augmentation),
            **loading,
        )
        held_out = DataLoader(Frames(validation, spec), **loading)
        run = Run(settings["model"], (), form, rate=settings["learning_rate"])
        averaged = AveragedModel(run.net, multi_avg_fn=_make_average(settings["averaging"]))
        schedule = _make_schedule(settings["warmup_epochs"], settings["epochs"], batches)
        rates = torch.optim.lr_scheduler.LambdaLR(run.optimizer, schedule)
        train_rmse, validation_rmse = [], []
        for _ in range(settings["epochs"]):
            run.net.train()
            losses = []
            for frames, steering in loader:
                losses.append(run.step(as_network_input(frames, form), steering))
                averaged.update_parameters(run.net)
                rates.step()
            train_rmse.append(math.sqrt(2.0 * float(np.mean(losses))))
            validation_rmse.append(validate(averaged, held_out, form))
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "train_rmse": train_rmse, "validation_rmse": validation_rmse}


def validate(net: nn.Module, loader: DataLoader, form: str) -> float:
    """Return the root of the mean squared error."""
    net.eval()
    squares, count = 0.0, 0
    with torch.inference_mode():
        for frames, steering in loader:
            error = net(as_network_input(frames, form))[:, 0].clamp(-1.0, 1.0) - steering
            squares, count = squares + float(error.square().sum()), count + len(error)
    return math.sqrt(squares / count)


def _start_worker(number: int) -> None:
    cv2.setNumThreads(0)  # two processes, two cores


def _make_average(weight: float) -> Any:
    """Return the running average that ``robostig.training`` keeps: quick at first, then of this weight of the past."""

    @torch.no_grad()
    def average(averages: Any, parameters: Any, count: Any) -> None:
        steps = int(count) + 1
        torch._foreach_lerp_(averages, parameters, 1.0 - min(weight, steps / (steps + 9.0)))

    return average


def _make_schedule(warmup: float, epochs: int, batches: int) -> Any:
    """Return the learning rate's factor by step: up, then a cosine down to a hundredth."""

    def schedule(step: int) -> float:
        epoch = step / batches
        if epoch < warmup:
            return min(1.0, (epoch + 0.5 / batches) / warmup)
        done = min((epoch - warmup) / max(epochs - warmup, 1e-9), 1.0)
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))

    return schedule
