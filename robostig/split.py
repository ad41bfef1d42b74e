"""Rows to train on and rows held out, as whole stretches of time: no held-out frame has a near copy in training."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from typing import Dict, List, Tuple

import numpy as np

from robostig.driving_log import RECORDING_HZ, DrivingLog
from robostig.picture import measure_picture

__all__ = ["Split", "split_by_time"]


@dataclass(frozen=True)
class Split:
    """Rows to train on and rows held out, as whole stretches of time.

    Parameters
    ----------
    train, validation
        Row numbers, ascending, (N,) int64.
    left_out
        Number of rows that belong to neither: the gaps at the borders.
    description
        The split in one sentence.
    """

    train: np.ndarray
    validation: np.ndarray
    left_out: int
    description: str


def split_by_time(log: DrivingLog, *, fraction: float = 0.2, stretch_s: float = 10.0, gap_s: float = 1.0) -> Split:
    """Hold out whole stretches of time, spread evenly over the drive.

    Neighbouring frames are some 70 ms apart and look alike; a random split puts near copies of the training frames
    into the validation set, and its error says nothing. Here the drive is cut into stretches of equal length, every
    ``1 / fraction``-th is held out, and rows close to its borders are dropped from training.

    Parameters
    ----------
    log
        The drive.
    fraction
        Share of the stretches that is held out, above 0 and up to 0.5, rounded to one in a whole number: 0.2 is every
        fifth, 0.3 every third.
    stretch_s
        Wished length of a stretch in seconds; shorter where the drive is too short for ``1 / fraction`` of them.
    gap_s
        Seconds on both sides of a held-out stretch that are left out of training.

    Raises
    ------
    ValueError
        If a parameter is out of its range, or the log is too short to leave rows on both sides.
    """
    if not 0.0 < fraction <= 0.5:
        raise ValueError(f"the held-out fraction is {fraction}; it must be above 0 and at most 0.5")
    if stretch_s <= 0.0 or gap_s < 0.0:
        raise ValueError(f"stretch_s={stretch_s} must be above 0, and gap_s={gap_s} at least 0")
    clock = log.driving_clock()
    duration = float(clock[-1]) + 1.0 / RECORDING_HZ
    period = round(1.0 / fraction)
    stretches = max(period, round(duration / stretch_s / period) * period)
    length_s = duration / stretches
    held_out = np.arange(stretches) % period == period // 2
    stretch = np.minimum((clock / length_s).astype(np.int64), stretches - 1)
    in_validation = held_out[stretch]
    # A row is in the gap if the drive was, or will be, held out within gap_s of it.
    before, after = (np.clip((clock + gap) / length_s, 0, stretches - 1).astype(np.int64) for gap in (-gap_s, gap_s))
    held_out_until = np.concatenate([[0], np.cumsum(held_out)])  # the gap may reach across a whole stretch
    near = held_out_until[after + 1] > held_out_until[before]
    near |= _find_near_in_time(log, in_validation, gap_s)
    near |= _is_near(clock, np.sort(clock[_find_undated_copies(log, in_validation)]), gap_s)
    train, validation = np.flatnonzero(~in_validation & ~near), np.flatnonzero(in_validation)
    if not len(train) or not len(validation):
        raise ValueError(
            f"{log.where} is too short to split: {len(log)} rows, {duration:.1f} s of driving, with {gap_s:g} s left "
            f"out at each border leave {len(train)} rows to train on and {len(validation)} to hold out; record more, "
            "shorten the gap, or, if the rows are not in the order of time, sort them"
        )
    left_out = len(log) - len(train) - len(validation)
    return Split(
        train,
        validation,
        left_out,
        f"{held_out.sum()} of {stretches} stretches of {length_s:.1f} s held out, every {period}th, evenly over the "
        f"drive: {len(train):,} rows to train on, {len(validation):,} held out, {left_out:,} in gaps of {gap_s:g} s "
        "left out",
    )


def _find_near_in_time(log: DrivingLog, held_out: np.ndarray, gap_s: float) -> np.ndarray:
    """Return (N,) bool: rows that were recorded within ``gap_s`` of a held-out one, wherever in the file they stand.

    In a log as it was recorded these are the rows of the gaps; in one that was shuffled, or joined from overlapping
    parts, they are the copies of held-out frames. Different drives may have been recorded at the same time.
    """
    near = np.zeros(len(log), bool)
    for rows in _group_by_clock(log):
        time_s = log.time_s[rows]
        times = np.sort(time_s[held_out[rows] & np.isfinite(time_s)])
        near[rows] = _is_near(time_s, times, gap_s)
    return near


def _is_near(time_s: np.ndarray, times: np.ndarray, gap_s: float) -> np.ndarray:
    """Return (n,) bool: which are less than ``gap_s`` from one of ``times``, which ascend; NaN is not."""
    if not len(times):
        return np.zeros(len(time_s), bool)
    after = np.clip(np.searchsorted(times, time_s), 0, len(times) - 1)
    before = np.maximum(after - 1, 0)
    near: np.ndarray = np.minimum(np.abs(times[after] - time_s), np.abs(times[before] - time_s)) < gap_s
    return near


def _find_undated_copies(log: DrivingLog, held_out: np.ndarray) -> np.ndarray:
    """Return (n,) numbers of rows that are not held out, but equal one that is, where names carry no time."""
    undated = ~np.isfinite(log.time_s)
    pictures = log.pictures["center"]
    alike: Dict[Tuple[str, float], List[str]] = defaultdict(list)
    for row in np.flatnonzero(undated & held_out):
        alike[os.path.basename(pictures[row]), float(log.steering[row])].append(pictures[row])
    copies = []
    for row in np.flatnonzero(undated & ~held_out) if alike else ():
        twins = alike.get((os.path.basename(pictures[row]), float(log.steering[row])), ())
        if any(twin == pictures[row] or measure_picture(twin) == measure_picture(pictures[row]) for twin in twins):
            copies.append(row)
    return np.array(copies, np.int64)


def _group_by_clock(log: DrivingLog) -> List[np.ndarray]:
    """Return the rows of each drive; those of drives that share a frame, which are parts of one, together."""
    ranges = log.locate_drives()
    groups = np.arange(len(ranges))
    alike: Dict[Tuple[str, float], List[Tuple[int, str]]] = defaultdict(list)  # drives and pictures
    for drive, (start, stop) in enumerate(ranges if len(ranges) > 1 else []):
        for row in start + np.flatnonzero(np.isfinite(log.time_s[start:stop])):
            picture = log.pictures["center"][row]
            others = alike[os.path.basename(picture), float(log.steering[row])]
            for other, twin in others:
                if groups[other] != groups[drive] and measure_picture(twin) == measure_picture(picture):
                    groups[groups == groups[drive]] = groups[other]
            others.append((drive, picture))
    of_row = np.repeat(groups, [stop - start for start, stop in ranges])
    return [np.flatnonzero(of_row == group) for group in np.unique(groups)]
