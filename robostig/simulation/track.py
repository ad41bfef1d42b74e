"""Roads as closed smooth curves: drawn from a seed, found by name, and where a car is on them."""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

__all__ = ["DIRECTIONS", "LOOKS", "Place", "Road", "Shape", "Track", "load_track", "parse_tracks"]

DIRECTIONS = ("forward", "backward")
SPACING_M = 0.5  # between two points of a curve, about
EASING_M = 2.0  # over which a bend begins
CLEARANCE_M = 26.0  # between two stretches of road at least, so that neither is seen as the other
LAP_M = (600.0, 800.0)
WINDING = 1.4  # how much a lap turns at least, in full circles: 1 would be all bends to one side
TRIES = 200


@dataclass(frozen=True)
class Shape:
    """What roads of a look have in common.

    Parameters
    ----------
    half_width_m
        From the road's centre line to its edge.
    lane_m
        From the road's centre line to the middle of the lane that is driven on, to the right.
    radius_m
        The tightest bend of its centre line.
    summary
        In words.
    """

    half_width_m: float
    lane_m: float
    radius_m: float
    summary: str


LOOKS = {
    "lake": Shape(3.1, 0.0, 34.0, "asphalt with edge lines and kerbs beside grass, sand and water"),
    "mountain": Shape(4.2, 2.0, 28.0, "a two-lane road with a centre line, rocks, trees and their shadows"),
    "dirt": Shape(2.7, 0.0, 28.0, "a dirt road without lines, with ruts and soft edges, through brush"),
}


class Place(NamedTuple):
    """Where a point is beside a curve."""

    along_m: float  # from the curve's first point
    aside_m: float  # to the right of the curve
    heading: float  # of the curve there, radians
    curvature: float  # 1/m, positive to the left


@dataclass(frozen=True, eq=False)
class Curve:
    """A closed curve through points with equal distances.

    Parameters
    ----------
    points
        (n, 2) metres, x and y; without the first one again at the end.
    """

    points: np.ndarray
    length_m: float = field(init=False)
    headings: np.ndarray = field(init=False)
    curvatures: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        steps = np.roll(self.points, -1, axis=0) - self.points
        ahead = np.roll(self.points, -1, axis=0) - np.roll(self.points, 1, axis=0)
        headings = np.arctan2(ahead[:, 1], ahead[:, 0])
        turned = _wrap(np.roll(headings, -1) - np.roll(headings, 1))
        set_field = object.__setattr__
        set_field(self, "length_m", float(np.hypot(*steps.T).sum()))
        set_field(self, "headings", headings)
        set_field(self, "curvatures", turned / np.maximum(np.hypot(*ahead.T), 1e-9))

    @property
    def spacing_m(self) -> float:
        """Distance between two points along the curve."""
        return self.length_m / len(self.points)

    def locate(self, x: float, y: float, *, near_m: Optional[float] = None, window_m: float = 25.0) -> Place:
        """Return where the point (x, y) is: by the nearest point of the curve, near ``near_m`` along it if given."""
        count = len(self.points)
        if near_m is None:
            candidates = np.arange(count)
        else:
            middle, reach = round(near_m / self.spacing_m), math.ceil(window_m / self.spacing_m)
            candidates = np.arange(middle - reach, middle + reach + 1) % count
        offsets = self.points[candidates] - (x, y)
        nearest = int(candidates[int(np.argmin(np.einsum("ij,ij->i", offsets, offsets)))])
        along, aside = self.project(np.asarray(nearest), np.asarray(x), np.asarray(y))
        return Place(
            float(along % self.length_m) % self.length_m,  # the first may round up to the length
            float(aside),
            float(self.headings[nearest] + self.curvatures[nearest] * (along - nearest * self.spacing_m)),
            float(self.curvatures[nearest]),
        )

    def project(self, nearest: np.ndarray, x: np.ndarray, y: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """Return how far along the curve and how far to its right points are, given the number of the nearest one."""
        heading, curvature = self.headings[nearest], self.curvatures[nearest]
        dx, dy = x - self.points[nearest, 0], y - self.points[nearest, 1]
        ahead = dx * np.cos(heading) + dy * np.sin(heading)
        left = -dx * np.sin(heading) + dy * np.cos(heading)
        # Between two points, the curve is an arc: one step of Newton's method along it.
        ahead = ahead / np.maximum(1.0 - curvature * left, 0.1)
        return nearest * self.spacing_m + ahead, -(left - 0.5 * curvature * ahead**2)

    def point_at(self, along_m: float, aside_m: float = 0.0) -> Tuple[float, float, float]:
        """Return x, y and heading of a point that far along the curve and to its right."""
        position = (along_m % self.length_m) / self.spacing_m
        first, share = int(position), position - int(position)
        here, there = first % len(self.points), (first + 1) % len(self.points)
        turned = float(_wrap(self.headings[there] - self.headings[here]))
        heading = float(self.headings[here]) + share * turned
        x, y = self.points[here] + share * (self.points[there] - self.points[here])
        return float(x + aside_m * math.sin(heading)), float(y - aside_m * math.cos(heading)), heading

    def offset(self, aside_m: float) -> Curve:
        """Return the curve that runs that far to the right of this one."""
        if not aside_m:
            return self
        right = np.stack([np.sin(self.headings), -np.cos(self.headings)], axis=1)
        return Curve(_space_evenly(self.points + aside_m * right))

    def reverse(self) -> Curve:
        """Return the curve in the other direction, from the same first point."""
        return Curve(np.roll(self.points[::-1], 1, axis=0))


@dataclass(frozen=True)
class Road:
    """A road in the world: its look, the seed that everything about it follows from, and its centre line."""

    look: str
    seed: int
    center: Curve = field(compare=False)

    @property
    def shape(self) -> Shape:
        """What it has in common with other roads of its look."""
        return LOOKS[self.look]

    @property
    def name(self) -> str:
        """As :func:`load_track` takes it."""
        return f"{self.look}:{self.seed}"


@dataclass(frozen=True)
class Track:
    """A road to be driven in one direction.

    Parameters
    ----------
    road
        The road.
    direction
        ``"forward"`` (the curve's own, against the clock) or ``"backward"``.
    lane
        The middle of the lane, in the direction of driving: where the car should be.
    """

    road: Road
    direction: str
    lane: Curve = field(compare=False)

    @property
    def name(self) -> str:
        """Look and seed."""
        return self.road.name

    def __str__(self) -> str:
        return f"{self.name} {self.direction}"


def load_track(name: str, direction: str = "forward") -> Track:
    """Return a track by its name.

    Parameters
    ----------
    name
        ``"lake"``, ``"mountain"`` or ``"dirt"``; or another road with that look, by its number: ``"mountain:17"``.
    direction
        ``"forward"`` or ``"backward"``.

    Raises
    ------
    ValueError
        For a name or direction that there is not.
    """
    if direction not in DIRECTIONS:
        raise ValueError(f"the direction is {direction!r}; it is {' or '.join(DIRECTIONS)}")
    match = re.fullmatch(r"([a-z]+)(?::([0-9]{1,9}))?", name.strip().lower())
    if not match or match.group(1) not in LOOKS:
        near = difflib.get_close_matches(name.split(":")[0], LOOKS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(
            f"there is no track {name!r}.{hint} There are {', '.join(LOOKS)}, and any number of others with such a "
            "look, as in mountain:17"
        )
    road = _make_road(match.group(1), int(match.group(2) or 0))
    center = road.center if direction == "forward" else road.center.reverse()
    return Track(road, direction, center.offset(road.shape.lane_m))


def parse_tracks(names: str, direction: str = "forward") -> List[Track]:
    """Return tracks from names with commas between; ``direction`` may be ``"both"``: each track twice.

    Raises
    ------
    ValueError
        As :func:`load_track`.
    """
    if direction not in (*DIRECTIONS, "both"):
        raise ValueError(f"the direction is {direction!r}; it is {', '.join(DIRECTIONS)} or both")
    directions: Sequence[str] = DIRECTIONS if direction == "both" else (direction,)
    return [load_track(name, each) for name in names.split(",") for each in directions]


@lru_cache(maxsize=64)
def _make_road(look: str, seed: int) -> Road:
    """Draw polygons until one makes a road."""
    generator = np.random.default_rng([list(LOOKS).index(look), seed, 1])
    limit = 1.0 / LOOKS[look].radius_m
    for _ in range(TRIES):
        corners = 9 + int(generator.random() * 5)
        around = (np.arange(corners) + 0.6 * generator.random(corners)) * 2.0 * np.pi / corners
        reach = 0.35 + 0.65 * generator.random(corners)
        lap = LAP_M[0] + (LAP_M[1] - LAP_M[0]) * generator.random()
        polygon = np.stack([reach * np.cos(around), reach * np.sin(around)], axis=1)
        curve = _ease_bends(polygon, lap, 0.85 * limit)  # coarse points; the fine ones bend a little more
        if curve is None or np.abs(curve.curvatures).sum() * curve.spacing_m < WINDING * 2.0 * np.pi:
            continue
        points = _space_evenly(curve.points)
        center = Curve(_space_evenly(_smooth(points, EASING_M / lap)))
        if np.abs(center.curvatures).max() <= limit and _measure_clearance(center) >= CLEARANCE_M:
            return Road(look, seed, center)
    raise ValueError(f"no road came of {look}:{seed} in {TRIES} tries; take another number")


def _ease_bends(polygon: np.ndarray, lap_m: float, limit: float) -> Optional[Curve]:
    """Return a closed curve of that length along a polygon: smoothed where it bends too much, until it nowhere does."""
    points = _smooth(_space_evenly(polygon, count=400), 0.0125)
    for _ in range(100):
        curve = Curve(_space_evenly(points, count=400))
        curve = Curve(curve.points * lap_m / curve.length_m)
        bends = np.abs(curve.curvatures)
        if bends.max() < limit:
            return curve
        share = np.clip(2.0 * _smooth((bends > 0.9 * limit).astype(float), 0.02), 0.0, 1.0)
        points = curve.points + share[:, None] * (_smooth(curve.points, 0.015) - curve.points)
    return None


def _smooth(values: np.ndarray, width: float) -> np.ndarray:
    """Smooth (n,) or (n, 2) values around a lap by a Gaussian; ``width`` is its deviation as a share of the lap."""
    frequency = np.fft.fftfreq(len(values), 1.0 / len(values)).reshape([-1] + [1] * (values.ndim - 1))
    keep = np.exp(-0.5 * (2.0 * np.pi * width * frequency) ** 2)
    return np.fft.ifft(np.fft.fft(values, axis=0) * keep, axis=0).real


def _measure_clearance(curve: Curve) -> float:
    """Return the smallest distance between points that are not neighbours along the curve."""
    points = curve.points[::8]
    distance = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1))
    steps = np.abs(np.arange(len(points))[:, None] - np.arange(len(points)))
    apart = np.minimum(steps, len(points) - steps) * 8 * curve.spacing_m
    return float(distance[apart > 2.0 * CLEARANCE_M].min())


def _space_evenly(points: np.ndarray, count: Optional[int] = None) -> np.ndarray:
    """Return points of the same closed curve with equal distances between them; ``SPACING_M`` if no count is given.

    Between its points, the curve is Catmull and Rom's spline (1974), which is as smooth as a road.
    """
    for _ in range(2):  # the second time, the chords are as long as the arcs
        closed = np.concatenate([points, points[:1]])
        along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(closed, axis=0).T))])
        number = count or max(8, round(along[-1] / SPACING_M))
        position = np.interp(np.linspace(0.0, along[-1], number, endpoint=False), along, np.arange(len(along)))
        first = position.astype(int)
        share = (position - first)[:, None]
        before, here, there, after = (points[(first + step) % len(points)] for step in (-1, 0, 1, 2))
        slope, slope_after = 0.5 * (there - before), 0.5 * (after - here)
        points = (
            here
            + share * slope
            + share**2 * (3.0 * (there - here) - 2.0 * slope - slope_after)
            + share**3 * (2.0 * (here - there) + slope + slope_after)
        )
    return points


def _wrap(angle: np.ndarray) -> np.ndarray:
    """Return angles in -pi..pi."""
    return (np.asarray(angle) + np.pi) % (2.0 * np.pi) - np.pi
