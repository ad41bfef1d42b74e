"""Datasets and loaders that every model shares: a driving log, or the earlier modules' arrays, in; batches out.

>>> from robostig.data import SteeringDataset, TrainingLoader, open_frames
>>> from robostig.driving_log import read_driving_log
>>> from robostig.models import get_spec
>>> from robostig.split import split_by_time
>>> log = read_driving_log("recording")                           # doctest: +SKIP
>>> split = split_by_time(log)                                    # doctest: +SKIP
>>> frames = open_frames(log, get_spec("comma").input)            # doctest: +SKIP
>>> train = SteeringDataset(frames, log.steering, split.train)    # doctest: +SKIP
>>> for frames, steering in TrainingLoader(train).epoch(0): ...   # doctest: +SKIP
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Callable, Deque, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from robostig.augmentation import Augmentation, Draw, Memory, change, give_scenery, join
from robostig.backend import mx
from robostig.driving_log import DrivingLog
from robostig.frame_cache import DEFAULT_BUDGET_GB, CachedFrames
from robostig.preprocessing import InputSpec
from robostig.threads import give_way

__all__ = [
    "ArrayFrames",
    "Batch",
    "SteeringDataset",
    "TrainingLoader",
    "balance_weights",
    "has_arrays",
    "open_frames",
    "read_arrays",
]

LABEL_BIN = 0.05  # width of the bins that balancing counts labels in: 1.25 degrees
# What the pipeline's first module wrote: rows 60 to 135 of 160, 66x200, YUV.
ARRAY_INPUT = InputSpec(66, 200, crop_top=60 / 160, crop_bottom=25 / 160, color_space="yuv")

_BATCHES_AHEAD = 2
Numbers = Union[Sequence[int], np.ndarray]
Begun = Tuple["Future[np.ndarray]", np.ndarray, Draw]  # where a batch will be, its steering, what is to happen to it
FrameSource = Union[CachedFrames, "PartialFrames", "ArrayFrames"]


class Batch(NamedTuple):
    """Frames (n, H, W, 3) uint8 and their steering (n,) float32, -1..1."""

    frames: np.ndarray
    steering: np.ndarray


class SteeringDataset(mx.gluon.data.Dataset):
    """Preprocessed frames and their steering, by number.

    It is a Gluon dataset too: ``dataset[i]`` is the centre camera's frame as (3, H, W) uint8 and the steering, so
    ``mxnet.gluon.data.DataLoader(dataset, batch_size=64)`` works.

    Parameters
    ----------
    frames
        Camera name to the frames of the whole recording; ``"center"`` is needed. What has them has a ``spec``, a
        length, and ``read(numbers)``, which returns (n, H, W, 3) uint8; and may have ``pick``, as
        :meth:`CachedFrames.pick`.
    steering
        (N,) float32, -1..1: the label of every row of the recording.
    rows
        The rows that belong to this dataset, (n,) integers; all if None.

    Raises
    ------
    ValueError
        If the centre camera is missing, the lengths differ, or no row is left.
    """

    def __init__(
        self,
        frames: Mapping[str, FrameSource],
        steering: np.ndarray,
        rows: Optional[Numbers] = None,
    ) -> None:
        if "center" not in frames:
            raise ValueError(f"the centre camera's frames are needed; these are of {', '.join(frames) or 'none'}")
        lengths = {camera: len(source) for camera, source in frames.items()}
        if set(lengths.values()) != {len(steering)}:
            raise ValueError(f"{len(steering)} steering values for {lengths} frames; there must be as many of each")
        self.frames = dict(frames)
        self.rows = np.arange(len(steering)) if rows is None else np.asarray(rows, np.int64)
        if not len(self.rows):
            raise ValueError("a dataset needs at least one row")
        self.steering = np.asarray(steering, np.float32)[self.rows]
        everywhere = np.ones(len(steering), bool)
        shown = [getattr(source, "is_there", everywhere)[self.rows] for source in self.frames.values()]
        self._is_there = np.stack(shown)  # (cameras, n)
        self.spec: InputSpec = self.frames["center"].spec

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Tuple[np.ndarray, np.float32]:
        frame = self.read([number])[0]
        return np.ascontiguousarray(frame.transpose(2, 0, 1)), self.steering[number]

    @property
    def cameras(self) -> Tuple[str, ...]:
        """The cameras whose frames are there."""
        return tuple(self.frames)

    def choose_cameras(self, numbers: Numbers, wished: np.ndarray) -> np.ndarray:
        """Return (n,) positions in :attr:`cameras`: those wished for, or the centre where a row has no such picture."""
        return np.where(self._is_there[wished, numbers], wished, self.cameras.index("center"))

    def read(self, numbers: Numbers) -> np.ndarray:
        """Return the centre camera's frames of these numbers, (n, H, W, 3) uint8, a copy that may be changed."""
        return self.frames["center"].read(self.rows[np.asarray(numbers, np.int64)])

    def pick(self, numbers: Numbers, cameras: np.ndarray) -> List[np.ndarray]:
        """Return frames of chosen cameras, not to be changed: those on disk are the mapped file's own memory, no copy.

        Parameters
        ----------
        numbers
            (n,) integers from 0 to ``len(self) - 1``.
        cameras
            (n,) positions in :attr:`cameras`, one a frame.

        Returns
        -------
        list of numpy.ndarray
            n of (H, W, 3) uint8.

        Raises
        ------
        IndexError
            If there is no such row or camera.
        """
        rows = self.rows[np.asarray(numbers, np.int64)]
        frames: Dict[int, np.ndarray] = {}
        for position, source in enumerate(self.frames.values()):
            places = np.flatnonzero(cameras == position)
            if len(places):
                frames.update(zip(places.tolist(), getattr(source, "pick", source.read)(rows[places])))
        if len(frames) < len(rows):
            raise IndexError(f"cameras {cameras.min()} to {cameras.max()} are wanted; there are {len(self.cameras)}")
        return [frames[place] for place in range(len(rows))]


class TrainingLoader:
    """Batches for training: curves over-sampled, a camera chosen, augmented, and prepared ahead by two threads.

    What an epoch holds follows from the seed and the epoch's number alone, so a resumed run sees the same batches.

    Parameters
    ----------
    dataset
        Where frames come from.
    batch_size
        Frames a batch, default 64. All batches are full.
    augmentation
        What happens to them; the default :class:`~robostig.augmentation.Augmentation` if None.
    balance
        0 draws rows as recorded, 1 makes every angle equally frequent, default 0.25 (see :func:`balance_weights`).
    side_cameras
        Share of frames from the left and right camera, of rows that have them, 0 to 1; their steering is corrected by
        ``augmentation.correction``, as a shift to there is.
    seed
        Of the loader's own generator.
    part
        Which frames of every batch are made here, as start and stop; all if None. Parts side by side are, byte for
        byte, the whole batch.

    Raises
    ------
    ValueError
        If a parameter is out of its range.
    """

    def __init__(
        self,
        dataset: SteeringDataset,
        batch_size: int = 64,
        *,
        augmentation: Optional[Augmentation] = None,
        balance: float = 0.25,
        side_cameras: float = 0.67,
        seed: int = 0,
        part: Optional[Tuple[int, int]] = None,
    ) -> None:
        if batch_size < 1 or not 0.0 <= side_cameras <= 1.0:
            raise ValueError(f"batch_size={batch_size} must be at least 1, and side_cameras={side_cameras} within 0..1")
        start, stop = self._cut = (0, batch_size) if part is None else part
        if not 0 <= start < stop <= batch_size:
            raise ValueError(f"part={part} is not a start and a stop within a batch of {batch_size}")
        self.dataset = dataset
        self.batch_size = batch_size
        self.augmentation = augmentation or Augmentation()
        self.seed = seed
        self._memories: List[Tuple[Memory, Memory]] = []  # of epochs that are over, for later ones
        self._weights = balance_weights(dataset.steering, balance)
        correction = self.augmentation.correction
        corrections = {"center": 0.0, "left": correction, "right": -correction}
        self._corrections = np.array([corrections[camera] for camera in dataset.cameras], np.float32)
        sides = len(dataset.cameras) - 1
        self._camera_shares = np.array(
            [
                (1.0 - side_cameras if sides else 1.0) if camera == "center" else side_cameras / sides
                for camera in dataset.cameras
            ]
        )

    def __len__(self) -> int:
        """Batches in an epoch: enough to draw about as many frames as there are rows."""
        return -(-len(self.dataset) // self.batch_size)

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the batches of an epoch, or this part of each; the next ones are prepared while one is used."""
        rows = self._draw_rows(number)
        memories = self._memories.pop() if self._memories else (Memory(), Memory())
        batches, scratch = memories
        ahead: Deque[Future[Batch]] = deque()
        # One thread changes a batch, the other puts the next one together meanwhile, which takes no lock of Python's:
        # two that both did all of it would mostly wait for that. What the next one needs of Python, the first does
        # before it changes a batch.
        maker, reader = (ThreadPoolExecutor(1, name, give_way) for name in ("loader-make", "loader-read"))
        caller = threading.get_ident()

        def begin(position: int) -> Begun:
            assemble, steering, draw = self._begin_batch(number, position, rows, batches)
            return reader.submit(assemble), steering, draw

        def finish(begun: Future[Begun]) -> Batch:
            assembled, steering, draw = begun.result()
            return self._finish_batch(assembled.result(), steering, draw, scratch)

        begun = deque([maker.submit(begin, 0)])
        try:
            for position in range(len(self)):
                if position + 1 < len(self):
                    begun.append(maker.submit(begin, position + 1))
                ahead.append(maker.submit(finish, begun.popleft()))
                if len(ahead) > _BATCHES_AHEAD:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            waiting: List[Future[Any]] = [*ahead, *begun]
            for future in waiting:
                future.cancel()
            # Garbage collection may end an epoch in any thread, even in one that these wait for.
            is_caller = threading.get_ident() == caller
            maker.shutdown(wait=is_caller)
            reader.shutdown(wait=is_caller)
            if is_caller:  # else the threads may still be there
                self._memories.append(memories)

    def labels(self, number: int) -> np.ndarray:
        """Return the steering of an epoch's whole batches, (n,) float32, without reading a frame: what is learned."""
        rows = self._draw_rows(number)
        batches = []
        for position in range(len(self)):
            steering, _, draw = self._plan_batch(number, position, rows)
            batches.append(draw.steer(steering))
        return np.concatenate(batches)

    def _draw_rows(self, epoch: int) -> np.ndarray:
        """Draw (batches, batch_size) rows: each as often as its weight says, to within one (systematic sampling)."""
        generator = np.random.default_rng([self.seed, epoch])
        count = len(self) * self.batch_size
        order = generator.permutation(len(self.dataset))
        marks = (np.arange(count) + generator.random()) / count
        edges = np.cumsum(self._weights[order])
        rows = order[np.minimum(np.searchsorted(edges, marks * edges[-1], side="right"), len(order) - 1)]
        return generator.permutation(rows).reshape(len(self), self.batch_size)

    def _plan_batch(self, epoch: int, position: int, rows: np.ndarray) -> Tuple[np.ndarray, np.ndarray, Draw]:
        generator = np.random.default_rng([self.seed, epoch, position])
        wished = generator.choice(len(self._camera_shares), self.batch_size, p=self._camera_shares)
        cameras = self.dataset.choose_cameras(rows[position], wished)
        steering = self.dataset.steering[rows[position]] + self._corrections[cameras]
        return steering, cameras, self.augmentation.draw(self.batch_size, generator)

    def _begin_batch(
        self, epoch: int, position: int, rows: np.ndarray, memory: Memory
    ) -> Tuple[Callable[[], np.ndarray], np.ndarray, Draw]:
        """Return what puts a batch together, its steering, and what else is to happen to it."""
        steering, cameras, draw = self._plan_batch(epoch, position, rows)
        numbers, draw = draw.cut(*self._cut)
        batch = memory.take(len(numbers), *self.dataset.spec.shape)
        frames = self.dataset.pick(rows[position][numbers], cameras[numbers])
        return partial(join, give_scenery(frames, draw, self.dataset.spec), batch), steering[numbers], draw

    def _finish_batch(self, batch: np.ndarray, steering: np.ndarray, draw: Draw, scratch: Memory) -> Batch:
        changed = change(batch, steering, draw, self.dataset.spec, scratch)
        start, stop = self._cut
        return Batch(batch[: stop - start], changed[: stop - start])


def balance_weights(steering: np.ndarray, strength: float) -> np.ndarray:
    """Weigh rows so that frequent angles are drawn less often.

    Half to two thirds of all labels are near zero; a network fed with them as they come learns to drive straight.

    Parameters
    ----------
    steering
        (n,) labels, -1..1.
    strength
        0: every row alike; 1: every angle (in bins of 0.05) equally often, however rare; between: in between.

    Returns
    -------
    numpy.ndarray
        (n,) float64, summing to 1.

    Raises
    ------
    ValueError
        If ``strength`` is outside 0..1.
    """
    if not 0.0 <= strength <= 1.0:
        raise ValueError(f"the strength of balancing is {strength}; it must be between 0 (as recorded) and 1 (flat)")
    _, inverse, counts = np.unique(np.rint(steering / LABEL_BIN), return_inverse=True, return_counts=True)
    weights = counts[inverse] ** -float(strength)
    return weights / weights.sum()


def open_frames(
    log: DrivingLog,
    spec: InputSpec,
    *,
    cameras: Optional[Sequence[str]] = None,
    folder: Union[str, Path, None] = None,
    budget_gb: float = DEFAULT_BUDGET_GB,
) -> Dict[str, FrameSource]:
    """Open the preprocessed frames of a log's cameras; the first time, this decodes them.

    A camera that only some rows have pictures of, as where recordings were joined, gives :class:`PartialFrames`.

    Parameters
    ----------
    log
        The drive.
    spec
        The model's input, ``get_spec(name).input``.
    cameras
        Which of the log's cameras; all of them if None.
    folder, budget_gb
        As for :class:`~robostig.frame_cache.CachedFrames`.
    """
    frames: Dict[str, FrameSource] = {}
    for camera in cameras if cameras is not None else log.pictures:
        is_there = log.locate_pictures(camera)
        pictures = log.pictures[camera] if is_there.all() else [each for each in log.pictures[camera] if each]
        cached = CachedFrames(pictures, spec, folder=folder, budget_gb=budget_gb, label=f"{camera} frames")
        frames[camera] = cached if is_there.all() else PartialFrames(cached, is_there)
    return frames


class PartialFrames:
    """Frames of a camera that not every row has a picture of, by the number of the row.

    Parameters
    ----------
    frames
        Of the rows that have one, in their order.
    is_there
        (N,) bool: which rows these are.
    """

    def __init__(self, frames: CachedFrames, is_there: np.ndarray) -> None:
        self.spec, self.is_there = frames.spec, is_there
        self._frames, self._positions = frames, np.cumsum(is_there) - 1

    def __len__(self) -> int:
        return len(self.is_there)

    def read(self, numbers: Numbers) -> np.ndarray:
        """Return (n, H, W, 3) uint8 frames of rows that have one, as :meth:`CachedFrames.read` does."""
        return self._frames.read(self._locate(numbers))

    def pick(self, numbers: Numbers) -> List[np.ndarray]:
        """Return the same frames one by one, not to be changed, as :meth:`CachedFrames.pick`."""
        return self._frames.pick(self._locate(numbers))

    def _locate(self, numbers: Numbers) -> np.ndarray:
        wanted = np.asarray(numbers, np.int64)
        if not self.is_there[wanted].all():
            raise ValueError(f"row {wanted[~self.is_there[wanted]][0]} has no picture of this camera")
        return self._positions[wanted]


class ArrayFrames:
    """Frames of the pipeline's first module: one ``.npy`` file, memory-mapped, as uint8.

    Parameters
    ----------
    path
        (N, H, W, 3) of any real type, 0..255, preprocessed.

    Raises
    ------
    ValueError
        If the file holds anything else.
    FileNotFoundError
        If there is no such file.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._values = path, _load_array(path)
        shape = self._values.shape
        if self._values.ndim != 4 or shape[3] != 3 or 0 in shape:
            raise ValueError(f"{path} is {'x'.join(map(str, shape))}; frames are N x height x width x 3 (NHWC)")
        sample = np.asarray(self._values[:: max(1, len(self._values) // 16)], np.float64)
        low, high = sample.min(), sample.max()
        if not (low >= 0.0 and 1.0 < high <= 255.0):  # NaN fails here too
            raise ValueError(f"{path} holds values from {low:g} to {high:g}; frames are 0..255, not scaled")
        self.spec = replace(ARRAY_INPUT, height=shape[1], width=shape[2])

    def __len__(self) -> int:
        return len(self._values)

    def read(self, numbers: Numbers) -> np.ndarray:
        """Return (n, H, W, 3) uint8 frames of these numbers, a copy that may be changed."""
        values = self._values[np.asarray(numbers, np.int64)]
        if not np.isfinite(values).all():
            raise ValueError(f"{self._path} holds values that are not finite; write it again from the recording")
        return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def has_arrays(folder: Union[str, Path]) -> bool:
    """Say whether a folder holds the pipeline's first module's output (``train_X.npy``)."""
    return (Path(folder) / "train_X.npy").is_file()


def read_arrays(
    folder: Union[str, Path], validation_folder: Union[str, Path, None] = None
) -> Tuple[SteeringDataset, SteeringDataset]:
    """Open ``train_X.npy``, ``train_Y.npy``, ``valid_X.npy``, ``valid_Y.npy`` of the pipeline's first module.

    Parameters
    ----------
    folder
        The training channel.
    validation_folder
        Where the ``valid_`` pair is, if not beside the ``train_`` pair.

    Returns
    -------
    tuple
        Training set and validation set. Their ``spec`` is what they were preprocessed for: YUV, cropped to rows 60 to
        135 of 160, of the arrays' own size.

    Raises
    ------
    FileNotFoundError
        If one of the four is missing.
    ValueError
        If one does not hold what it should.
    """
    folder = Path(folder)
    if validation_folder is None or not (Path(validation_folder) / "valid_X.npy").is_file():
        validation_folder = folder
    sets = []
    for prefix, place in (("train", folder), ("valid", Path(validation_folder))):
        frames = ArrayFrames(place / f"{prefix}_X.npy")
        labels = np.asarray(_load_array(place / f"{prefix}_Y.npy"), np.float32).reshape(-1)
        if not np.isfinite(labels).all() or np.abs(labels).max(initial=0.0) > 1.0:
            raise ValueError(f"{place / f'{prefix}_Y.npy'} has labels that are not in -1..1 (1.0 is full lock)")
        if len(frames) != len(labels):
            raise ValueError(
                f"{place / f'{prefix}_X.npy'} has {len(frames)} frames and {prefix}_Y.npy {len(labels)} labels; "
                "there must be as many of each"
            )
        sets.append(SteeringDataset({"center": frames}, labels))
    train, validation = sets
    if train.spec != validation.spec:
        raise ValueError(
            f"the training frames are {train.spec.height}x{train.spec.width}, the validation frames "
            f"{validation.spec.height}x{validation.spec.width}; they must agree"
        )
    return train, validation


def _load_array(path: Path) -> np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {path}; the first module writes train_X, train_Y, valid_X and valid_Y.npy"
        )
    try:
        values = np.lib.format.open_memmap(path, mode="r")  # .npy only, and never a pickle
    except ValueError as error:
        raise ValueError(f"{path} is no array of numbers that can be read ({error})") from error
    if values.dtype.kind not in "fiu":
        raise ValueError(f"{path} holds {values.dtype}; frames and labels are numbers")
    return values
