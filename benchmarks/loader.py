"""Augmented training batches a second, without a network, against the per-frame Python that is published for this task.

Ours is the loader that ``robostig.training.make_loader`` makes of the default settings; its frames were decoded before.
The peer is one generator in one process, as in the well-known Udacity behavioural-cloning repositories: for each frame
it chooses a camera, reads the JPEG, mirrors, translates, throws a shadow (in HLS), changes the brightness (in HSV),
crops, resizes and converts to YUV. It does that as often as published (Shibuya 2017: six frames in ten, each of which
gets everything), and once more only as often as our settings say, which is less. Either way it is favoured: its masks
are quick ones, OpenCV may use all threads, and of scenery and bonnet, which ours exchanges besides, it knows nothing.
That both begin with the same pixels is checked: where nothing is changed, their frames are equal byte for byte.

Then ``robostig.training.fit`` trains, and its wait for each batch is timed, as is the processor time of making one.

    python benchmarks/loader.py [--data recording] [--quick] [--json FILE]
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Iterator, List
from unittest import mock

import cv2
import numpy as np
from harness import Comparison, Figure, Report, find_log, make_parser, measure_in_turns

from robostig import training
from robostig.config import TrainingConfig
from robostig.data import Batch, SteeringDataset, TrainingLoader
from robostig.models import get_model, get_spec
from robostig.pipeline import Recording, read_recording
from robostig.preprocessing import InputSpec

MODELS = ("nvidia", "comma")
GOAL, LONGEST_WAIT = 10.0, 0.05
BATCHES = {"peer": 4, "nvidia": 100, "comma": 50}  # a round: about half a second
TRANSLATION, PIXEL_CORRECTION = 50.0, 0.002  # V. Yadav 2016: pixels to either side, and the steering for each
# N. Shibuya 2017: how many frames are changed at all, and how many of these in which way.
PUBLISHED_SHARE = 0.6
COPIES = "robostig, nothing changed"
PUBLISHED = {"side_cameras": 2 / 3, "flip": 0.5, "shift": 1.0, "shadow": 1.0, "brightness": 1.0}
UNCHANGED = {"flip": 0.0, "shift": 0.0, "shadow": 0.0, "brightness": 0.0, "scenery": 0.0, "bonnet": 0.0}


def main() -> int:
    arguments = make_parser(__doc__).parse_args()
    report = Report("loader", "augmented training batches, against per-frame Python as published", arguments)
    with tempfile.TemporaryDirectory() as scratch:
        recording = read_recording(find_log(arguments.data, Path(scratch)), TrainingConfig())
        for model in MODELS:
            config, spec = TrainingConfig(model=model), get_spec(model).input
            train, validation = recording.open(spec, config)
            check_frames(report, recording, train, config)
            compare_loaders(report, recording, train, config, 3 if arguments.quick else 15)
            measure_changes(report, train, config, 2 if arguments.quick else 7)
            measure_waiting(report, train, validation, replace(config, epochs=2 if arguments.quick else 5))
    return report.finish()


def check_frames(report: Report, recording: Recording, train: SteeringDataset, config: TrainingConfig) -> None:
    """Make sure that both give the same frames where nothing is changed, and say so."""
    plain = replace(config, side_cameras=0.0, balance=0.0, **UNCHANGED)
    frames, steering = next(training.make_loader(train, plain).epoch(0))
    rows = training.make_loader(train, plain)._draw_rows(0)[0]
    peer = generate(recording, train.rows[rows], train.spec, plain, is_shuffled=False)
    if not all(np.array_equal(ours, theirs) for ours, theirs in zip((frames, steering), next(peer))):
        raise SystemExit(f"{config.model}: the two sides begin with different frames")
    report.note(f"{config.model}: without changes, a batch of both sides is equal byte for byte")


def compare_loaders(
    report: Report, recording: Recording, train: SteeringDataset, config: TrainingConfig, repeats: int
) -> None:
    """Measure both in turns."""
    ours = repeat_epochs(training.make_loader(train, config))
    copies = repeat_epochs(training.make_loader(train, replace(config, **UNCHANGED)))
    seldom = generate(recording, train.rows, train.spec, config)
    published = generate(recording, train.rows, train.spec, replace(config, **PUBLISHED), share=PUBLISHED_SHARE)

    def measure(batches: Iterator[Batch], count: int) -> float:
        started = time.perf_counter()
        frames = sum(len(steering) for _, steering in islice(batches, count))
        return frames / (time.perf_counter() - started)

    values = measure_in_turns(
        {
            "robostig": lambda: measure(ours, BATCHES[config.model]),
            COPIES: lambda: measure(copies, BATCHES[config.model]),
            "per frame, as published": lambda: measure(published, BATCHES["peer"]),
            "per frame, as often as ours": lambda: measure(seldom, BATCHES["peer"]),
        },
        repeats,
        config.model,
    )
    mine, copied, *others = [Figure(name, each, "frames/s") for name, each in values.items()]
    for other, goal in zip(others, (GOAL, None)):
        report.add(Comparison(f"{config.model}, augmented frames", mine, other, goal=goal))
    report.add(Comparison(f"{config.model}, what reading and copying alone would give", copied, others[0]))


def measure_changes(report: Report, train: SteeringDataset, config: TrainingConfig, repeats: int) -> None:
    """Measure what a batch takes with each change alone, and what OpenCV takes for one pass over its bytes."""
    loaders = {"nothing": training.make_loader(train, replace(config, **UNCHANGED))}
    for change in UNCHANGED:
        alone = replace(config, **{**UNCHANGED, change: getattr(config, change)})
        loaders[f"{change} alone"] = training.make_loader(train, alone)
    batch = next(loaders["nothing"].epoch(0)).frames
    target, count = np.empty_like(batch), BATCHES[config.model]
    planes, into = (each.reshape(len(each), -1) for each in (batch, target))

    def measure(loader: TrainingLoader) -> float:
        batches = repeat_epochs(loader)
        next(batches)
        started = time.perf_counter()
        for _ in islice(batches, count):
            pass
        return 1e3 * (time.perf_counter() - started) / count

    def measure_pass() -> float:
        started = time.perf_counter()
        for _ in range(count):
            cv2.addWeighted(planes, 0.5, planes, 0.5, 0.0, dst=into)
        return 1e3 * (time.perf_counter() - started) / count

    sides = {f"a batch with {name}": partial(measure, loader) for name, loader in loaders.items()}
    sides["OpenCV's blending of a batch with another, and no more"] = measure_pass
    for name, values in measure_in_turns(sides, repeats, config.model).items():
        report.add(Figure(f"{config.model}, {name}", values, "ms"))


def repeat_epochs(loader: TrainingLoader) -> Iterator[Batch]:
    """Yield one epoch's batches after the other's, for ever."""
    epoch = 0
    while True:
        yield from loader.epoch(epoch)
        epoch += 1


class TimedLoader:
    """A loader that knows how long its batches were waited for, and took to be made."""

    def __init__(self, loader: TrainingLoader) -> None:
        self.loader, self.waited_s, self.begun_s, self.finished_s = loader, [], [], []
        self._begin_batch, loader._begin_batch = loader._begin_batch, self._time_beginning
        self._finish_batch, loader._finish_batch = loader._finish_batch, self._time_finishing

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader)

    def _time_beginning(self, *arguments: Any) -> Any:
        started = time.thread_time()
        assemble, *rest = self._begin_batch(*arguments)
        begun = time.thread_time() - started

        def assemble_timed() -> Any:
            started = time.thread_time()
            batch = assemble()
            self.begun_s.append(begun + time.thread_time() - started)
            return batch

        return (assemble_timed, *rest)

    def _time_finishing(self, *arguments: Any) -> Batch:
        started = time.thread_time()
        batch = self._finish_batch(*arguments)
        self.finished_s.append(time.thread_time() - started)
        return batch

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the loader's batches."""
        batches, waited = self.loader.epoch(number), 0.0
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            waited += time.perf_counter() - started
            if batch is None:
                break
            yield batch
        self.waited_s.append(waited)


def measure_waiting(
    report: Report, train: SteeringDataset, validation: SteeringDataset, config: TrainingConfig
) -> None:
    """Train as ever, and add which share of the time went by without a batch; the first epoch only warms up."""
    loaders: List[TimedLoader] = []
    used: List[float] = []

    def make_loader(*arguments: Any) -> TimedLoader:
        loaders.append(TimedLoader(make(*arguments)))
        return loaders[0]

    make = training.make_loader
    with mock.patch.object(training, "make_loader", make_loader):
        result = training.fit(
            get_model(config.model), train, validation, config, on_epoch=lambda _: used.append(time.process_time())
        )
    (loader,), rows = loaders, len(loaders[0]) * config.batch_size
    seconds = [rows / record.images_per_second for record in result.history]
    shares = [waited / whole for waited, whole in zip(loader.waited_s, seconds)][1:]
    name = f"{config.model}, share of training spent waiting for data"
    report.add(Figure(name, [100.0 * share for share in shares], "%"))
    met = "met" if np.median(shares) < LONGEST_WAIT else "NOT MET"
    report.note(f"{name}: goal below {LONGEST_WAIT:.0%}: {met}")
    batches = len(loader)
    made_s = np.add(loader.begun_s, loader.finished_s).reshape(-1, batches)
    whole = [1e3 * float(each) / batches for each in np.diff(used)]
    made = (1e3 * made_s.mean(axis=1)[1:]).tolist()
    report.add(Figure(f"{config.model}, processor time to make a batch while training", made, "ms"))
    report.add(Figure(f"{config.model}, processor time of a whole step, all threads", whole, "ms"))


def generate(
    recording: Recording,
    rows: np.ndarray,
    spec: InputSpec,
    config: TrainingConfig,
    *,
    share: float = 1.0,
    is_shuffled: bool = True,
) -> Iterator[Batch]:
    """Yield batches for ever, as published: one frame at a time."""
    assert recording.log is not None
    pictures, labels = recording.log.pictures, recording.log.steering
    sides = [camera for camera in ("left", "right") if camera in pictures]
    corrections = {"center": 0.0, "left": config.camera_correction, "right": -config.camera_correction}
    generator = np.random.default_rng(config.seed)
    while True:
        order = generator.permutation(rows) if is_shuffled else rows
        for start in range(0, len(order) - config.batch_size + 1, config.batch_size):
            frames = np.empty((config.batch_size, *spec.shape), np.uint8)
            steering = np.empty(config.batch_size, np.float32)
            for number, row in enumerate(order[start : start + config.batch_size]):
                is_changed = generator.random() < share
                has_side = is_changed and sides and generator.random() < config.side_cameras
                camera = sides[generator.integers(len(sides))] if has_side else "center"
                frame = cv2.cvtColor(cv2.imread(pictures[camera][row]), cv2.COLOR_BGR2RGB)
                angle = labels[row] + corrections[camera]
                if is_changed and generator.random() < config.flip:
                    frame, angle = cv2.flip(frame, 1), -angle
                if is_changed and generator.random() < config.shift:
                    frame, angle = translate(frame, angle, generator)
                if is_changed and generator.random() < config.shadow:
                    frame = throw_shadow(frame, generator)
                if is_changed and generator.random() < config.brightness:
                    frame = change_brightness(frame, generator)
                frames[number], steering[number] = convert(frame, spec), angle
            yield Batch(frames, steering)


def translate(frame: np.ndarray, angle: float, generator: np.random.Generator) -> Any:
    pixels = generator.uniform(-TRANSLATION, TRANSLATION)
    moved = cv2.warpAffine(frame, np.float32([[1, 0, pixels], [0, 1, 0]]), (frame.shape[1], frame.shape[0]))
    return moved, angle + PIXEL_CORRECTION * pixels


def throw_shadow(frame: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    height, width = frame.shape[:2]
    border = np.linspace(*generator.uniform(0.0, width, 2), height)
    mask = (np.arange(width) < border[:, None]).astype(np.uint8)
    hls = cv2.cvtColor(frame, cv2.COLOR_RGB2HLS)
    lightness = cv2.extractChannel(hls, 1)
    cv2.copyTo(cv2.convertScaleAbs(lightness, alpha=generator.uniform(0.5, 0.75)), mask, lightness)
    return cv2.cvtColor(cv2.insertChannel(lightness, hls, 1), cv2.COLOR_HLS2RGB)


def change_brightness(frame: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    hsv = cv2.cvtColor(frame, cv2.COLOR_RGB2HSV)
    value = cv2.convertScaleAbs(cv2.extractChannel(hsv, 2), alpha=generator.uniform(0.6, 1.4))
    return cv2.cvtColor(cv2.insertChannel(value, hsv, 2), cv2.COLOR_HSV2RGB)


def convert(frame: np.ndarray, spec: InputSpec) -> np.ndarray:
    rows = len(frame)
    frame = frame[round(rows * spec.crop_top) : rows - round(rows * spec.crop_bottom)]
    if frame.shape != spec.shape:
        frame = cv2.resize(frame, (spec.width, spec.height), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(frame, cv2.COLOR_RGB2YUV) if spec.color_space == "yuv" else frame


if __name__ == "__main__":
    sys.exit(main())
