"""Letting a driver drive: anything that steers, on the built-in track, with a person who puts the car back.

References
----------
Autonomy and the limit of one metre: Bojarski et al. 2016, arXiv:1604.07316, section 7.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, Generator, Iterable, List, Optional, Sequence, Tuple, Union

import numpy as np
from tqdm import tqdm

from robostig.metrics import LIMIT_M, measure_autonomy, measure_whiteness
from robostig.picture import encode_jpeg
from robostig.pilot import Pilot
from robostig.simulation import FRAME_S, TOP_MPH, Simulation, Track, check_laps, steer_towards

__all__ = ["ClosedLoop", "Constant", "Drive", "Moment", "evaluate_closed_loop"]

SNAPSHOTS = 8  # pictures kept of a drive

Steer = Callable[[np.ndarray], float]


@dataclass(frozen=True)
class Constant:
    """A driver that never looks: always the same steering, -1..1. What scores little better than this is blind too."""

    steering: float = 0.0

    def __call__(self, frame: Optional[np.ndarray] = None) -> float:
        """Return the steering."""
        return self.steering


@dataclass(frozen=True)
class Moment:
    """One step of a drive, for those who watch: what the driver saw and did.

    Parameters
    ----------
    simulation
        The drive, before the car moved.
    frame
        (160, 320, 3) uint8, RGB.
    steering, expert
        What the driver and the expert would do here, -1..1.
    interventions
        So far.
    """

    simulation: Simulation
    frame: np.ndarray
    steering: float
    expert: float
    interventions: int


@dataclass(frozen=True)
class Drive:
    """What happened on one track. Arrays have one element a step, a fifteenth of a second.

    Parameters
    ----------
    track
        The track, with its direction.
    x, y
        (n,) float32 where the car was, metres.
    along_m
        (n,) float32 how far along the lane, from the start of the drive.
    lateral_error_m
        (n,) float32 distance from the middle of the lane, right is positive.
    steering, expert
        (n,) float32 what the driver answered, and the expert would have in its place, -1..1.
    intervened
        (n,) bool: the step ended more than a metre off, and the car was put back.
    whiteness_expert
        Of the expert, driving the same track itself; degrees a second.
    snapshots
        ``(step, JPEG)``: some of the pictures that the driver saw.
    """

    track: Track
    x: np.ndarray
    y: np.ndarray
    along_m: np.ndarray
    lateral_error_m: np.ndarray
    steering: np.ndarray
    expert: np.ndarray
    intervened: np.ndarray
    whiteness_expert: float
    snapshots: Tuple[Tuple[int, bytes], ...] = ()

    def summarize(self) -> Dict[str, Any]:
        """Return the scores of this drive, as :meth:`ClosedLoop.summarize` does, with ``track`` and ``direction``."""
        return {"track": self.track.name, "direction": self.track.direction, **_score([self])}


@dataclass(frozen=True)
class ClosedLoop:
    """How a driver drove.

    Parameters
    ----------
    drives
        One for each track and direction.
    elapsed_s
        What it took, on the clock on the wall.
    """

    drives: Tuple[Drive, ...]
    elapsed_s: float

    @property
    def scores(self) -> Dict[str, Any]:
        """Scores over all drives.

        ``autonomy`` in percent, ``interventions``, ``distance_per_intervention_m`` (None if there was none),
        ``distance_m``, ``laps``, ``lateral_rmse_m`` and ``lateral_max_m`` from the middle of the lane, ``whiteness``
        and ``whiteness_expert`` in degrees a second, ``simulated_s``.
        """
        return _score(self.drives)

    def summarize(self) -> Dict[str, Any]:
        """Return the scores, the seconds it took, and under ``tracks`` each drive's own: plain values, for JSON."""
        return {**self.scores, "elapsed_s": self.elapsed_s, "tracks": [drive.summarize() for drive in self.drives]}


def evaluate_closed_loop(
    driver: Union[Pilot, Steer],
    tracks: Sequence[Track],
    *,
    laps: float = 1.0,
    speed_mph: float = TOP_MPH,
    delay_s: float = 0.0,
    watch: Optional[Callable[[Moment], None]] = None,
    label: str = "driver",
) -> ClosedLoop:
    """Let a driver drive some tracks.

    Parameters
    ----------
    driver
        Camera frame (160, 320, 3) uint8 RGB -> steering -1..1; or a :class:`~robostig.pilot.Pilot`, which drives all
        tracks at once, in step, because a network answers several frames quicker than one after the other.
    tracks
        From :func:`robostig.simulation.parse_tracks`.
    laps
        On each, more than 0, default 1.
    speed_mph
        Miles an hour, which are held; default 30.
    delay_s
        Seconds between an answer and the wheels, default 0.
    watch
        Called at every step; the tracks are then driven one after the other.
    label
        What to call the driver in the progress bar.

    Raises
    ------
    ValueError
        If an answer is not a finite number, or laps, speed or delay cannot be.
    """
    if not tracks:
        raise ValueError("name at least one track to drive")
    check_laps(laps)
    started = time.perf_counter()
    meters = round(sum(track.lane.length_m for track in tracks) * laps)
    is_blind = isinstance(driver, Constant)
    with tqdm(total=meters, desc=f"driving {label}", unit="m", disable=None) as bar:
        runs = [
            _drive(Simulation(track, speed_mph=speed_mph, delay_s=delay_s), laps, watch, bar, is_blind=is_blind)
            for track in tracks
        ]
        if isinstance(driver, Pilot) and watch is None:
            drives = _drive_together(driver.steer_many, runs)
        else:
            steer = driver.steer if isinstance(driver, Pilot) else driver
            drives = [_drive_together(lambda frames: [steer(frame) for frame in frames], [run])[0] for run in runs]
    return ClosedLoop(tuple(drives), time.perf_counter() - started)


_Run = Generator[np.ndarray, Any, Drive]
_NOTHING = np.zeros((1, 1, 3), np.uint8)


def _drive_together(steer_many: Callable[[List[np.ndarray]], Iterable[float]], runs: Sequence[_Run]) -> List[Drive]:
    """Drive several tracks in step: one batch of frames, one batch of answers."""
    done: List[Optional[Drive]] = [None] * len(runs)
    frames = {number: next(run) for number, run in enumerate(runs)}
    while frames:
        answers = steer_many(list(frames.values()))
        for number, answer in zip(list(frames), answers):
            try:
                frames[number] = runs[number].send(answer)
            except StopIteration as end:
                done[number] = end.value
                del frames[number]
    return [drive for drive in done if drive is not None]


def _drive(
    simulation: Simulation, laps: float, watch: Optional[Callable[[Moment], None]], bar: tqdm, *, is_blind: bool
) -> _Run:
    """Drive one track: yields a frame, takes a steering, and returns what happened."""
    track = simulation.track
    goal = laps * track.lane.length_m
    steps: List[Tuple[float, ...]] = []
    snapshots: List[Tuple[int, bytes]] = []
    interventions = shown = 0
    while simulation.travelled_m < goal:
        is_snapshot = simulation.travelled_m >= len(snapshots) * goal / SNAPSHOTS
        frame = _NOTHING if is_blind and watch is None and not is_snapshot else simulation.look()
        if is_snapshot:
            snapshots.append((len(steps), encode_jpeg(frame)))
        expert = steer_towards(simulation.car, track.lane, simulation.place)
        answer = yield frame
        try:
            steering = float(answer)
        except (TypeError, ValueError):
            steering = math.nan
        if not math.isfinite(steering):
            raise ValueError(
                f"the driver answered {answer!r} after {simulation.time_s:.1f} s on {track}; a steering is a "
                "number from -1 to 1"
            )
        steering = min(1.0, max(-1.0, steering))
        if watch is not None:
            watch(Moment(simulation, frame, steering, expert, interventions))
        simulation.step(steering)
        error = simulation.lateral_error_m
        intervened = abs(error) > LIMIT_M
        car = simulation.car
        steps.append((car.x, car.y, simulation.travelled_m, error, steering, expert, intervened))
        if intervened:
            interventions += 1
            simulation.put_back()
        come = round(min(max(simulation.travelled_m, 0.0), goal))
        bar.update(come - shown)
        shown = come
    x, y, along, errors, steerings, experts, broken = np.array(steps, np.float32).T
    return Drive(
        track,
        x,
        y,
        along,
        errors,
        steerings,
        experts,
        broken.astype(bool),
        _measure_expert(simulation, laps),
        tuple(snapshots),
    )


def _measure_expert(like: Simulation, laps: float) -> float:
    """Return the whiteness of the expert on the same track, at the same speed, without delay."""
    simulation = Simulation(like.track, speed_mph=like.car.speed_mph)
    steering = []
    while simulation.travelled_m < laps * like.track.lane.length_m:
        steering.append(steer_towards(simulation.car, like.track.lane, simulation.place))
        simulation.step(steering[-1])
    return measure_whiteness(np.array(steering), np.arange(len(steering)) * FRAME_S) or 0.0


def _score(drives: Sequence[Drive]) -> Dict[str, Any]:
    """Return the scores of some drives taken together."""
    steps = sum(len(drive.steering) for drive in drives)
    interventions = int(sum(drive.intervened.sum() for drive in drives))
    distance = float(sum(drive.along_m[-1] for drive in drives))
    errors = np.concatenate([drive.lateral_error_m for drive in drives]).astype(np.float64)
    steering = np.concatenate([drive.steering for drive in drives])
    # There is no rate from one drive to the next, nor over the moment in which the car was put back.
    breaks = np.concatenate([np.r_[True, drive.intervened[:-1]] for drive in drives])
    shares = [len(drive.steering) / steps for drive in drives]
    expert = math.sqrt(sum(share * drive.whiteness_expert**2 for share, drive in zip(shares, drives)))
    return {
        "autonomy": measure_autonomy(interventions, steps * FRAME_S),
        "interventions": interventions,
        "distance_per_intervention_m": distance / interventions if interventions else None,
        "distance_m": distance,
        "laps": float(sum(drive.along_m[-1] / drive.track.lane.length_m for drive in drives)),
        "lateral_rmse_m": float(np.sqrt(np.mean(errors**2))),
        "lateral_max_m": float(np.abs(errors).max()),
        "whiteness": measure_whiteness(steering, np.arange(steps) * FRAME_S, breaks),
        "whiteness_expert": expert,
        "simulated_s": steps * FRAME_S,
    }
