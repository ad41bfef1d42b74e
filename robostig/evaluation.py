"""Scoring a driver: anything that turns a camera frame into a steering, a network, a constant or a colleague's code."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterable, List, Optional

import numpy as np
from tqdm import tqdm

from robostig.driving_log import DrivingLog, read_picture
from robostig.metrics import score_steering, summarize_latency

__all__ = ["OpenLoop", "Steer", "evaluate_on_log", "evaluate_open_loop"]

Steer = Callable[[np.ndarray], float]


@dataclass(frozen=True)
class OpenLoop:
    """How a driver did on a recorded drive, where it sees what the human saw but does not move the car.

    Parameters
    ----------
    predicted, human
        (n,) float32 steering, -1..1.
    scores
        From :func:`robostig.metrics.score_steering`.
    latency_ms
        ``p50`` and ``p99`` of frame to steering, one frame at a time, decoding left out.
    """

    predicted: np.ndarray
    human: np.ndarray
    scores: Dict[str, Any]
    latency_ms: Dict[str, float]


def evaluate_open_loop(
    steer: Steer,
    frames: Iterable[np.ndarray],
    human: np.ndarray,
    *,
    training_mean: float = 0.0,
    time_s: Optional[np.ndarray] = None,
    breaks: Optional[np.ndarray] = None,
    label: str = "driver",
) -> OpenLoop:
    """Show a driver frames one by one and compare its steering with the human's.

    Parameters
    ----------
    steer
        Camera frame (H, W, 3) uint8 RGB -> steering -1..1.
    frames
        n of them.
    human
        (n,) steering, -1..1.
    training_mean
        Mean label of what the driver learned from, for the baseline.
    time_s, breaks
        As in :func:`robostig.metrics.score_steering`.
    label
        What to call the driver in the progress bar.

    Raises
    ------
    ValueError
        If a picture cannot be decoded, or an answer is not finite.
    """
    predicted: List[float] = []
    seconds: List[float] = []
    for frame in tqdm(frames, desc=f"scoring {label}", total=len(human), unit="frame", disable=None, leave=None):
        started = time.perf_counter()
        predicted.append(float(steer(frame)))
        seconds.append(time.perf_counter() - started)
    scores = score_steering(predicted, human, training_mean=training_mean, time_s=time_s, breaks=breaks)
    return OpenLoop(np.array(predicted, np.float32), human, scores, summarize_latency(seconds))


def evaluate_on_log(
    steer: Steer, log: DrivingLog, rows: np.ndarray, *, training_mean: float = 0.0, label: str = "driver"
) -> OpenLoop:
    """Score a driver on rows of a log, by the centre camera; as :func:`evaluate_open_loop`.

    Parameters
    ----------
    rows
        (n,) ascending row numbers.
    """
    return evaluate_open_loop(
        steer,
        (read_picture(log.pictures["center"][row]) for row in rows),
        log.steering[rows],
        training_mean=training_mean,
        time_s=log.driving_clock()[rows],
        breaks=log.find_breaks(rows),
        label=label,
    )
