"""Recording the expert: a driving log like one of Udacity's simulator, of any road, as long as one likes."""

from __future__ import annotations

import logging
import math
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import List, Sequence, Union

import numpy as np
from tqdm import tqdm

from robostig._files import fill_folder
from robostig.driving_log import CAMERAS, DrivingLogWriter
from robostig.simulation.car import TOP_MPH
from robostig.simulation.drive import FRAME_S, Simulation, check_laps, find_renderer
from robostig.simulation.expert import steer_towards
from robostig.simulation.track import LOOKS, Track

__all__ = ["record"]

logger = logging.getLogger(__name__)

BEGINNING_S = 1_700_000_000.0  # 2023-11-14: recordings with the same seed are the same, names of pictures included
BETWEEN_TRACKS_S = 10.0
HAND_NOISE = 0.02  # standard deviation of the hands' trembling: half a degree
HAND_NOISE_S = 0.4  # how long a tremble lasts
RECOVERY_S = (5.0, 9.0)  # of recorded driving between two recoveries
RECOVERY_M = (0.5, 1.2)  # how far from the lane's middle one begins
DRIFT_S = 2.5  # how long the car drifts there, which is not recorded
AHEAD = 64  # rows that may wait to be written


def record(
    out: Union[str, Path],
    tracks: Sequence[Track],
    *,
    laps: float = 1.0,
    seed: int = 0,
    speed_mph: float = TOP_MPH,
    recoveries: bool = True,
) -> Path:
    """Let the expert drive, and record it as Udacity's simulator would: ``driving_log.csv`` and three pictures a row.

    The expert's hands tremble a little. Every few seconds it lets the car drift towards the edge with the recorder off,
    and records how it comes back: without that, a network never sees how to mend its own errors.

    Parameters
    ----------
    out
        The folder; it must not be there yet. It appears when the recording is complete.
    tracks
        One after the other, into one log.
    laps
        On each track, more than 0, default 1.
    seed
        Of hands and drifts, default 0; the same seed gives the same files.
    speed_mph
        Miles an hour, default 30.
    recoveries
        Whether to record any, default True.

    Returns
    -------
    pathlib.Path
        ``out``.

    Raises
    ------
    FileExistsError
        If ``out`` is there already, and not empty.
    ValueError
        For a number of laps, a speed or a seed that cannot be.
    OSError
        If it cannot be written.
    """
    check_laps(laps)
    if seed < 0:
        raise ValueError(f"the seed is {seed}; it is a whole number from 0")
    if not tracks:
        raise ValueError("name at least one track to record")
    out = Path(out)
    meters = round(sum(track.lane.length_m for track in tracks) * laps)
    clock = BEGINNING_S
    with fill_folder(out) as folder, DrivingLogWriter(folder, named=out) as writer:
        bar = tqdm(total=meters, desc="recording", unit="m", disable=None)
        with bar, ThreadPoolExecutor(1) as pool:
            worlds = [pool.submit(find_renderer, tracks[0].road.look, tracks[0].road.seed)]
            for number, track in enumerate(tracks):
                bar.set_description(f"recording {track}")
                worlds.pop().result()
                for coming in tracks[number + 1 : number + 2]:  # painted while this one is driven
                    worlds.append(pool.submit(find_renderer, coming.road.look, coming.road.seed))
                random = np.random.default_rng([seed, number, list(LOOKS).index(track.road.look), track.road.seed])
                clock = _record_track(
                    writer, Simulation(track, speed_mph=speed_mph), laps, random, clock, bar, recoveries=recoveries
                )
                clock += BETWEEN_TRACKS_S
        rows = writer.rows
    logger.info("recorded %s rows on %d %s in %s", f"{rows:,}", len(tracks), "tracks"[: 5 + (len(tracks) > 1)], out)
    return out


def _record_track(
    writer: DrivingLogWriter,
    drive: Simulation,
    laps: float,
    random: np.random.Generator,
    clock: float,
    bar: tqdm,
    *,
    recoveries: bool,
) -> float:
    """Record some laps; returns the time at their end."""
    tremble, keep = 0.0, math.exp(-FRAME_S / HAND_NOISE_S)
    lane, goal = drive.track.lane, laps * drive.track.lane.length_m
    next_drift = _draw(random, RECOVERY_S) if recoveries else math.inf
    waiting: List[Future[None]] = []
    shown = 0
    with ThreadPoolExecutor(1) as pool:  # while a row is compressed and written, the next one is drawn
        while drive.travelled_m < goal:
            if next_drift <= 0.0:
                aside = _draw(random, RECOVERY_M) * (1.0 if random.random() < 0.5 else -1.0)
                for _ in range(round(DRIFT_S / FRAME_S)):
                    drive.step(steer_towards(drive.car, lane, drive.place, aside))
                next_drift = _draw(random, RECOVERY_S)
            tremble = keep * tremble + math.sqrt(1.0 - keep**2) * HAND_NOISE * float(random.standard_normal())
            steering = min(1.0, max(-1.0, steer_towards(drive.car, lane, drive.place) + tremble))
            waiting.append(
                pool.submit(
                    writer.write,
                    {camera: drive.look(camera) for camera in CAMERAS},
                    steering=steering,
                    throttle=drive.car.speed_mph / TOP_MPH,  # what holds the speed against the drag
                    brake=0.0,
                    speed_mph=drive.car.speed_mph,
                    time_s=clock + drive.time_s,
                )
            )
            if len(waiting) > AHEAD:
                waiting.pop(0).result()
            drive.step(steering)
            next_drift -= FRAME_S
            bar.update(round(min(drive.travelled_m, goal)) - shown)
            shown = round(min(drive.travelled_m, goal))
        for row in waiting:
            row.result()
    return clock + drive.time_s


def _draw(random: np.random.Generator, limits: Sequence[float]) -> float:
    return limits[0] + (limits[1] - limits[0]) * float(random.random())
