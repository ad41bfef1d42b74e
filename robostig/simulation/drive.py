"""A car on a track, step by step: what it sees, where it is, how far it has come."""

from __future__ import annotations

from functools import lru_cache
from typing import Optional

import numpy as np

from robostig.camera import ASIDE_M
from robostig.simulation.car import MPH, TOP_MPH, Car
from robostig.simulation.renderer import Renderer
from robostig.simulation.track import Place, Track, load_track

__all__ = ["FRAME_S", "Simulation", "check_laps", "find_renderer"]

FRAME_S = 1.0 / 15.0  # as often as Udacity's simulator records


class Simulation:
    """A drive on a built-in track. It begins in the middle of the lane, at the start of a lap.

    Parameters
    ----------
    track
        From :func:`~robostig.simulation.load_track`.
    speed_mph
        Speed at the start, 1 to 30, default 30 miles an hour; it is held unless a throttle is given.
    delay_s
        Seconds between a command and the wheels, default 0.

    Raises
    ------
    ValueError
        For a speed or delay that cannot be.
    """

    def __init__(self, track: Track, *, speed_mph: float = TOP_MPH, delay_s: float = 0.0) -> None:
        if not 1.0 <= speed_mph <= TOP_MPH:
            raise ValueError(f"the speed is {speed_mph:g} mph; this car drives at 1 to {TOP_MPH:g}")
        if not 0.0 <= delay_s <= 2.0:
            raise ValueError(f"the delay is {delay_s:g} s; it is between 0 and 2 seconds")
        self.track = track
        x, y, heading = track.lane.point_at(0.0)
        self.car = Car(x, y, heading, speed_mps=speed_mph * MPH, delay_s=delay_s)
        self.place = track.lane.locate(x, y, near_m=0.0)
        self.travelled_m = 0.0  # along the lane; what is driven in reverse counts against it
        self.time_s = 0.0
        self._renderer: Optional[Renderer] = None

    @property
    def lateral_error_m(self) -> float:
        """Metres from the middle of the lane, positive to the right."""
        return self.place.aside_m

    @property
    def laps(self) -> float:
        """Laps driven, with the begun one."""
        return self.travelled_m / self.track.lane.length_m

    def look(self, mount: str = "center") -> np.ndarray:
        """Return what a camera (``"center"``, ``"left"``, ``"right"``) sees: (160, 320, 3) uint8, RGB."""
        return self._find_renderer(mount).draw(self.car.x, self.car.y, self.car.heading, mount)

    def find_edges(self, mount: str = "center") -> np.ndarray:
        """Return where a camera sees the road's edges and lines: (160, 320) bool."""
        return self._find_renderer(mount).find_edges(self.car.x, self.car.y, self.car.heading, mount)

    def _find_renderer(self, mount: str) -> Renderer:
        if mount not in ASIDE_M:
            raise ValueError(f"there is no camera {mount!r}; there are {', '.join(ASIDE_M)}")
        if self._renderer is None:  # who never looks needs no world
            self._renderer = find_renderer(self.track.road.look, self.track.road.seed)
        return self._renderer

    def step(self, steering: float, throttle: Optional[float] = None, dt: float = FRAME_S) -> None:
        """Drive on for ``dt`` seconds; ``steering`` and ``throttle`` as in :meth:`Car.step`."""
        self.car.step(steering, dt, throttle)
        self.time_s += dt
        self._find_place()

    def put_back(self, aside_m: float = 0.0) -> None:
        """Put the car into the middle of the lane, or beside it, in the lane's direction."""
        self.car.place(*self.track.lane.point_at(self.place.along_m, aside_m))
        self._find_place()

    def _find_place(self) -> None:
        before: Place = self.place
        self.place = self.track.lane.locate(self.car.x, self.car.y, near_m=before.along_m)
        length = self.track.lane.length_m
        self.travelled_m += (self.place.along_m - before.along_m + length / 2.0) % length - length / 2.0


def check_laps(laps: float) -> None:
    """Raise ValueError unless so many laps can be driven."""
    if not 0.0 < laps <= 1000.0:
        raise ValueError(f"laps is {laps:g}; it is more than 0 and at most 1000")


@lru_cache(maxsize=8)
def find_renderer(look: str, seed: int) -> Renderer:
    """Return a road's renderer; painting its world takes a moment, so the last ones are kept."""
    return Renderer(load_track(f"{look}:{seed}").road)
