"""What a recording holds, before anybody trains on it: time, laps, labels, every picture's faults, what is left out.

Laps are counted by what the camera sees. Of every third frame a thumbnail is kept, less what all frames share (bonnet,
horizon); if a second of them looks like an earlier one again, after looking like nothing of the kind in between, the
car has been around. On the recordings tried (Udacity's lake in both directions, the built-in track, a donkey car
indoors) the same place came back with a correlation of 0.7 to 1.0, and no other place reached 0.7.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import cv2
import numpy as np
from tqdm import tqdm

from robostig._files import describe_error
from robostig.config import TrainingConfig
from robostig.driving_log import DrivingLog, Places, read_driving_log
from robostig.metrics import STRAIGHT
from robostig.picture import decode_picture, digest_picture, read_in_order, read_picture_bytes
from robostig.split import Split, split_by_time
from robostig.threads import map_in_chunks

__all__ = ["FAULTS", "BadPicture", "Inspection", "Labels", "Leg", "Pause", "Run", "inspect_recording"]

PAUSE_S = 1.0  # a longer step between two rows is a pause, as everywhere else
LEG_S = 5.0  # a longer one may be another road, or the other way around
LATE = 1.5  # of the usual step: a row at least is missing
STANDING_MPH = 0.5
FROZEN_ROWS = 3  # alike, one after the other: a camera that hangs

FAULTS = ("unreadable", "other size", "black", "over-exposed", "one colour")
BLACK = 16  # of 255: no pixel is lighter, but for a hundredth of them
ONE_COLOUR = 2.0  # standard deviation of the pixels, of 255
WHITE, OVER_EXPOSED = 250, 0.5  # half of the picture is white

EVERY = 3  # rows from one thumbnail to the next
THUMB = (24, 12)  # pixels, width and height
SHIFTS = (-2, 0, 2)  # pixels that a thumbnail may be moved: the car is not where it was to the inch
WINDOW = 5  # thumbnails that are compared at once: a second
SHORTEST, LONGEST = 25, 3000  # thumbnails of a lap: 5 s to 10 minutes of 15 rows a second
ENOUGH = 18_000  # thumbnails of a leg in which laps are looked for, an hour: bounds memory and time
ALIKE, APART = 0.7, 0.4  # mean correlation of a window that shows the same place, and of one that does not
AGREE = 0.15  # of the median, that a lap may be longer or shorter to be taken for the same


class BadPicture(NamedTuple):
    """A picture that training should not see: its camera and row, one of :data:`FAULTS`, and the details."""

    camera: str
    row: int
    kind: str
    detail: str


class Pause(NamedTuple):
    """The row before which nothing was recorded for so many seconds; below 0 the clock went backwards."""

    row: int
    seconds: float


class Run(NamedTuple):
    """Rows of which a camera has the very same picture, from ``start`` up to but without ``stop``."""

    camera: str
    start: int
    stop: int


class Leg(NamedTuple):
    """Rows that were driven without a long pause, and how often around.

    Parameters
    ----------
    drive
        The drive's name; empty where there is only one.
    start, stop
        First row, and the one after the last.
    seconds
        Of driving.
    mean_steering
        -1..1, right is positive: over whole laps, the direction of driving.
    lap_rows
        Rows of a lap; None if no place was seen twice.
    """

    drive: str
    start: int
    stop: int
    seconds: float
    mean_steering: float
    lap_rows: Optional[int]

    @property
    def laps(self) -> Optional[float]:
        """How often around, parts of a lap included; None if no place was seen twice."""
        return None if self.lap_rows is None else (self.stop - self.start) / self.lap_rows

    @property
    def direction(self) -> str:
        """``"left"`` or ``"right"``, to which the car turned on average; ``"straight"`` within a tenth of a degree."""
        if abs(self.mean_steering) < STRAIGHT / 10.0:
            return "straight"
        return "left" if self.mean_steering < 0.0 else "right"


class Labels(NamedTuple):
    """What the driver steered, in shares of full lock (25 degrees), right is positive.

    Parameters
    ----------
    zero
        Share of labels that are exactly 0, 0..1.
    straight
        Share of labels within a degree of 0, 0..1.
    mean, std, low, high
        Over all rows; ``std`` is also the RMSE of always answering the mean.
    distinct
        Number of different labels: few of a keyboard, many of a mouse or wheel.
    """

    zero: float
    straight: float
    mean: float
    std: float
    low: float
    high: float
    distinct: int


@dataclass(frozen=True)
class Inspection:
    """What a recording holds. Rows count from 0, without those that were left out.

    Parameters
    ----------
    log
        The recording; ``log.skipped`` are the rows that cannot be used.
    sizes
        Camera to (height, width) in pixels, to the number of its pictures; the most frequent first.
    brightness
        Camera to (N, 2) float32: mean and standard deviation of its pictures' grey levels, 0..255; NaN where one cannot
        be read, or a row has none.
    bad_pictures
        Pictures with a fault.
    copies
        Camera and row of pictures whose bytes are those of an earlier one, of this camera or of one before it.
    frozen
        Three rows or more with the same picture, though the car moves.
    rows_per_second
        The usual rate; None if no file name carries a time.
    pauses
        Steps of more than a second within a drive, and of less than nothing.
    late_rows
        Number of rows that came later than one and a half usual steps, but within a second.
    legs
        What was driven without a pause of more than five seconds.
    labels
        What the driver steered.
    stop
        What a training would stop at, if it is not told to leave bad rows out; None if it would not.
    split
        What a training would train on and hold out; None if the recording is too short for that.
    split_fault
        Why it is None.
    rmse_mean_baseline
        RMSE on the held-out rows of always answering the training rows' mean; None without a split.
    leaks
        Number of held-out rows whose picture is, byte for byte, one that is trained on.
    """

    log: DrivingLog
    sizes: Mapping[str, Mapping[Tuple[int, int], int]]
    brightness: Mapping[str, np.ndarray]
    bad_pictures: Tuple[BadPicture, ...]
    copies: Tuple[Tuple[str, int], ...]
    frozen: Tuple[Run, ...]
    rows_per_second: Optional[float]
    pauses: Tuple[Pause, ...]
    late_rows: int
    legs: Tuple[Leg, ...]
    labels: Labels
    stop: Optional[str]
    split: Optional[Split]
    split_fault: Optional[str]
    rmse_mean_baseline: Optional[float]
    leaks: int

    @property
    def seconds(self) -> float:
        """Seconds of driving, without pauses."""
        return float(self.log.driving_clock()[-1])

    @property
    def fault(self) -> Optional[str]:
        """Why a training would stop, even with bad rows left out: it is too short, or a picture cannot be read."""
        unreadable = (bad.detail for bad in self.bad_pictures if bad.kind == FAULTS[0])
        return self.split_fault or next(unreadable, None)

    def count_skipped(self) -> Dict[str, int]:
        """Return what is wrong with rows that cannot be used, and how many there are of each; the most first."""
        return dict(Counter(each.kind for each in self.log.skipped).most_common())

    def count_bad_pictures(self) -> Dict[str, int]:
        """Return how many pictures have which fault, for the faults that there are."""
        counts = Counter(each.kind for each in self.bad_pictures)
        return {kind: counts[kind] for kind in FAULTS if counts[kind]}

    def to_dict(self) -> Dict[str, Any]:
        """Return everything but the pictures' brightness as plain values, for JSON."""
        log, split = self.log, self.split
        return {
            "source": log.where,
            "format": log.format,
            "rows": len(log),
            "drives": [{"name": drive.name, "start": drive.start} for drive in log.drives],
            "cameras": {
                camera: [{"height": height, "width": width, "pictures": n} for (height, width), n in sizes.items()]
                for camera, sizes in self.sizes.items()
            },
            "seconds": self.seconds,
            "rows_per_second": self.rows_per_second,
            "rows_without_time": int(np.isnan(log.time_s).sum()),
            "pauses": [pause._asdict() for pause in self.pauses],
            "late_rows": self.late_rows,
            "legs": [{**leg._asdict(), "laps": leg.laps, "direction": leg.direction} for leg in self.legs],
            "labels": self.labels._asdict(),
            "bad_pictures": [bad._asdict() for bad in self.bad_pictures],
            "copies": [{"camera": camera, "row": row} for camera, row in self.copies],
            "frozen": [run._asdict() for run in self.frozen],
            "pictures_without_row": log.unused_pictures,
            "rows_left_out": [
                {"row": each.row, "log": each.log, "kind": each.kind, "detail": each.detail} for each in log.skipped
            ],
            "training": {
                "stops_at": self.stop,
                "fault": self.fault,
                "rows": None if split is None else len(split.train),
                "held_out": None if split is None else len(split.validation),
                "gaps": None if split is None else split.left_out,
                "rmse_mean_baseline": self.rmse_mean_baseline,
                "leaks": self.leaks,
            },
        }


def inspect_recording(path: Places, config: Optional[TrainingConfig] = None) -> Inspection:
    """Read a recording, look at every one of its pictures, and say what training would make of it.

    Parameters
    ----------
    path
        Whatever :func:`~robostig.driving_log.read_driving_log` reads, or several of these, which are joined. Rows that
        cannot be used are left out and listed.
    config
        For what would be held out; the default :class:`~robostig.config.TrainingConfig` if None.

    Raises
    ------
    FileNotFoundError
        If there is no recording.
    ValueError
        If no row of it can be used.
    OSError
        If a folder or the log cannot be read.
    """
    log = read_driving_log(path, on_error="skip")
    looks = {camera: _Looks(log, camera) for camera in log.pictures}
    center = looks["center"]
    split, fault = _split(log, config or TrainingConfig())
    rate, pauses, late = _find_pauses(log)
    return Inspection(
        log=log,
        sizes={camera: each.count_sizes() for camera, each in looks.items()},
        brightness={camera: each.brightness for camera, each in looks.items()},
        bad_pictures=tuple(bad for each in looks.values() for bad in each.list_bad()),
        copies=_find_copies({camera: each.digests for camera, each in looks.items()}),
        frozen=tuple(run for each in looks.values() for run in each.find_frozen()),
        rows_per_second=rate,
        pauses=pauses,
        late_rows=late,
        legs=_find_legs(log, center.thumbs),
        labels=_summarize_labels(log.steering),
        stop=_find_stop(path) if log.skipped else None,
        split=split,
        split_fault=fault,
        rmse_mean_baseline=None if split is None else _score_mean(log.steering, split),
        leaks=0 if split is None else _count_leaks(center.digests, split),
    )


class _Look(NamedTuple):
    """What is kept of a picture: (height, width), grey levels' mean and deviation, hash, thumbnail, kind and detail."""

    size: Tuple[int, int]
    brightness: Tuple[float, float]
    digest: int
    thumb: np.ndarray
    fault: Optional[Tuple[str, str]]


_NOTHING = _Look((0, 0), (math.nan, math.nan), 0, np.zeros(THUMB[::-1], np.uint8), None)


class _Looks:
    """What is kept of a camera's pictures: some 30 bytes of each, and a thumbnail of every third."""

    def __init__(self, log: DrivingLog, camera: str) -> None:
        self._log, self._camera = log, camera
        rows = len(log)
        self.brightness = np.full((rows, 2), np.nan, np.float32)
        # 64 bits: among a million pictures, two different ones share them once in 37 million recordings.
        self.digests = np.zeros(rows, np.uint64)  # 0: none that can be read
        self.thumbs = np.empty((-(-rows // EVERY), *THUMB[::-1]), np.uint8)
        self._sizes = np.zeros((rows, 2), np.int32)
        self._faults: Dict[int, Tuple[str, str]] = {}
        bar = tqdm(total=rows, desc=f"looking at {camera} pictures", unit="picture", disable=None)
        with bar, contextlib.closing(map_in_chunks(_look, _read(log.pictures[camera]))) as chunks:
            for row, look in enumerate(chain.from_iterable(chunks)):
                self._keep(row, look)
                bar.update()
        for start, stop in log.locate_drives():
            self._compare_sizes(start, stop)

    def _keep(self, row: int, look: _Look) -> None:
        self._sizes[row], self.brightness[row], self.digests[row] = look.size, look.brightness, look.digest
        if row % EVERY == 0:
            self.thumbs[row // EVERY] = look.thumb
        if look.fault:
            self._faults[row] = look.fault

    def _compare_sizes(self, start: int, stop: int) -> None:
        """Note what is not of its drive's usual size."""
        rows = start + np.flatnonzero(self.digests[start:stop])
        if not len(rows):
            return
        sizes, numbers, counts = np.unique(self._sizes[rows], axis=0, return_inverse=True, return_counts=True)
        usual = int(counts.argmax())
        for row in rows[numbers.reshape(-1) != usual].tolist():
            here, there = ("x".join(map(str, size)) for size in (self._sizes[row], sizes[usual]))
            self._faults.setdefault(row, ("other size", f"is {here} pixels, where {there} is usual"))

    def count_sizes(self) -> Dict[Tuple[int, int], int]:
        """Return (height, width) to the number of pictures, the most frequent first."""
        sizes, counts = np.unique(self._sizes[self.digests > 0], axis=0, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return {(int(height), int(width)): int(n) for (height, width), n in zip(sizes[order], counts[order])}

    def list_bad(self) -> List[BadPicture]:
        """Return the pictures with a fault, in the order of their rows."""
        return [BadPicture(self._camera, row, *self._faults[row]) for row in sorted(self._faults)]

    def find_frozen(self) -> List[Run]:
        """Return where the picture stays the same, though the car moves, or nobody knows."""
        log, digests = self._log, self.digests
        begins = np.diff(digests, prepend=digests[:1]) != 0
        begins |= log.find_breaks() | (digests == 0)
        if log.speed_mph.any():
            begins |= log.speed_mph < STANDING_MPH
        starts = np.flatnonzero(begins)
        stops = np.append(starts[1:], len(log))
        return [Run(self._camera, int(a), int(b)) for a, b in zip(starts, stops) if b - a >= FROZEN_ROWS]


def _read(pictures: Sequence[str]) -> Iterator[Tuple[str, Union[bytes, Exception, None]]]:
    """Yield pictures with their bytes, as read_in_order does, and with the error if one cannot be read."""
    row = 0
    while row < len(pictures):
        try:
            for data in read_in_order(map(pictures.__getitem__, range(row, len(pictures)))):
                yield pictures[row], data
                row += 1
        except (OSError, ValueError) as error:
            yield pictures[row], error
            row += 1


def _look(item: Tuple[str, Union[bytes, Exception, None]]) -> _Look:
    """Look at a picture, and keep little of it."""
    picture, data = item
    if not picture:
        return _NOTHING
    try:
        if isinstance(data, Exception):
            raise data
        data = read_picture_bytes(picture) if data is None else data
        grey = cv2.cvtColor(decode_picture(data, picture), cv2.COLOR_RGB2GRAY)
    except (OSError, ValueError, cv2.error) as error:
        fault = ("unreadable", describe_error(error))
        return _NOTHING._replace(fault=fault)
    levels = cv2.calcHist([grey], [0], None, [256], [0, 256]).reshape(-1) / grey.size
    mean = float(levels @ np.arange(256))
    deviation = math.sqrt(float(levels @ (np.arange(256) - mean) ** 2))
    thumb = cv2.resize(grey, THUMB, interpolation=cv2.INTER_AREA)
    digest = int.from_bytes(digest_picture(data)[:8], "little")
    return _Look(grey.shape, (mean, deviation), digest, thumb, _find_fault(levels, mean, deviation))


def _find_fault(levels: np.ndarray, mean: float, deviation: float) -> Optional[Tuple[str, str]]:
    """Return kind and details of what the shares of grey levels, (256,), tell."""
    if levels[:BLACK].sum() > 0.99:
        return "black", f"has a mean grey level of {mean:.0f} of 255"
    if levels[WHITE:].sum() >= OVER_EXPOSED:
        return "over-exposed", f"is white in {100.0 * levels[WHITE:].sum():.0f} % of its pixels"
    if deviation < ONE_COLOUR:
        return "one colour", f"has a mean grey level of {mean:.0f} of 255, and a standard deviation of {deviation:.1f}"
    return None


def _find_copies(digests: Mapping[str, np.ndarray]) -> Tuple[Tuple[str, int], ...]:
    """Return camera and row of what was there before; the digests, (N,) of each camera, are 0 where there is none."""
    cameras, everything = list(digests), np.concatenate(list(digests.values()))
    is_copy = everything > 0
    is_copy[np.unique(everything, return_index=True)[1]] = False
    cameras_and_rows = (divmod(place, len(digests["center"])) for place in np.flatnonzero(is_copy).tolist())
    return tuple((cameras[number], row) for number, row in cameras_and_rows)


def _count_leaks(digests: np.ndarray, split: Split) -> int:
    held_out = digests[split.validation]
    return int((np.isin(held_out, digests[split.train]) & (held_out > 0)).sum())


def _find_stop(path: Places) -> Optional[str]:
    """Return what a reader says who is to stop at the first bad row."""
    try:
        read_driving_log(path)
    except (OSError, ValueError) as error:
        return describe_error(error)
    return None


def _split(log: DrivingLog, config: TrainingConfig) -> Tuple[Optional[Split], Optional[str]]:
    """Return the split that a configuration asks for, or why there is none."""
    try:
        split = split_by_time(log, fraction=config.validation_fraction, stretch_s=config.stretch_s, gap_s=config.gap_s)
    except ValueError as error:
        return None, str(error)
    return split, None


def _score_mean(steering: np.ndarray, split: Split) -> float:
    mean = steering[split.train].mean(dtype=np.float64)
    return float(np.sqrt(np.mean((steering[split.validation] - mean) ** 2)))


def _summarize_labels(steering: np.ndarray) -> Labels:
    exact = steering.astype(np.float64)
    return Labels(
        zero=float((steering == 0.0).mean()),
        straight=float((np.abs(steering) <= STRAIGHT).mean()),
        mean=float(exact.mean()),
        std=float(exact.std()),
        low=float(exact.min()),
        high=float(exact.max()),
        distinct=len(np.unique(steering)),
    )


def _find_pauses(log: DrivingLog) -> Tuple[Optional[float], Tuple[Pause, ...], int]:
    """Return the usual number of rows a second, the pauses within drives, and the number of late rows."""
    steps = np.diff(log.time_s, prepend=np.nan)
    steps[[start for start, _ in log.locate_drives()]] = np.nan
    usual = steps[(steps > 0.0) & (steps <= PAUSE_S)]
    if not len(usual):
        return None, (), 0
    step = float(np.median(usual))
    rows = np.flatnonzero((steps > PAUSE_S) | (steps < 0.0)).tolist()
    return 1.0 / step, tuple(Pause(row, float(steps[row])) for row in rows), int((usual > LATE * step).sum())


def _find_legs(log: DrivingLog, thumbs: np.ndarray) -> Tuple[Leg, ...]:
    clock = log.driving_clock()
    starts = np.flatnonzero(log.find_breaks(max_gap_s=LEG_S)).tolist()
    drives = np.searchsorted([drive.start for drive in log.drives], starts, side="right") - 1
    legs = []
    for start, stop, drive in zip(starts, [*starts[1:], len(log)], drives):
        lap = _find_lap(thumbs[-(-start // EVERY) : -(-stop // EVERY)])
        legs.append(
            Leg(
                log.drives[drive].name,
                start,
                stop,
                float(clock[stop - 1] - clock[start]),
                float(log.steering[start:stop].mean(dtype=np.float64)),
                None if lap is None else round(lap * EVERY),
            )
        )
    return tuple(legs)


def _find_lap(thumbs: np.ndarray) -> Optional[float]:
    """Return after how many thumbnails, (n, 12, 24) uint8, the same place is seen again; None if none is.

    From every second of the drive it is searched when it came back for the first time; most seconds must agree.
    """
    thumbs = thumbs[:ENOUGH]
    if len(thumbs) < SHORTEST + WINDOW:
        return None
    different = thumbs - thumbs.mean(axis=0, dtype=np.float32)
    margin = max(SHIFTS)
    seen = [_normalize(different[:, :, margin + shift : THUMB[0] - margin + shift]) for shift in SHIFTS]
    here = seen[SHIFTS.index(0)]
    laps = []
    for start in range(0, len(thumbs) - SHORTEST - WINDOW + 1, WINDOW):
        stop = start + LONGEST + WINDOW
        alike = np.max([here[start : start + WINDOW] @ each[start:stop].T for each in seen], axis=0)
        count = alike.shape[1] - WINDOW + 1
        back = _find_return(np.mean([alike[k, k : k + count] for k in range(WINDOW)], axis=0))
        if back is not None:
            laps.append(back)
    middle = float(np.median(laps)) if laps else 0.0
    agreed = [lap for lap in laps if abs(lap - middle) <= AGREE * middle]
    return float(np.median(agreed)) if len(agreed) >= max(2.0, len(laps) / 2.0) else None


def _normalize(thumbs: np.ndarray) -> np.ndarray:
    """Return (n, pixels) float32 whose products are correlations."""
    flat = thumbs.reshape(len(thumbs), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    normal: np.ndarray = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    return normal


def _find_return(alike: np.ndarray) -> Optional[int]:
    """Return where a correlation with the beginning, (n,), is high again after it was lost; None if nowhere."""
    lost = np.flatnonzero(alike < APART)
    back = np.flatnonzero(alike >= ALIKE)
    back = back[back >= max(SHORTEST, lost[0])] if len(lost) else back[:0]
    if not len(back):
        return None
    start = int(back[0])
    over = np.flatnonzero(alike[start:] < ALIKE)
    stop = start + int(over[0]) if len(over) else len(alike)
    return start + int(alike[start:stop].argmax())
