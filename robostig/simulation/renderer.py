"""The world as the car's cameras see it: flat ground in perspective, a sky, and things that stand beside the road.

Every pixel below the horizon belongs to a point of the ground that moves with the car. Where that point is beside the
road comes from a map made once; what it looks like, from the surface painted along the road. So lines stay sharp
however long the road is, and a picture costs three look-ups.
"""

from __future__ import annotations

import math
from typing import Tuple

import cv2
import numpy as np

from robostig import camera
from robostig.simulation import scenery as painted
from robostig.simulation.scenery import make_scenery
from robostig.simulation.track import Road

__all__ = ["Renderer"]

MAP_M = 0.5  # a cell of the map
FAR_M = 90.0  # things further away are not drawn
NEAR_M = 1.5
BONNET = (141, 158)  # rows of its highest point and of its corners


class Renderer:
    """Draws what the cameras see.

    Parameters
    ----------
    road
        The road, with everything around it.
    """

    def __init__(self, road: Road) -> None:
        self.road = road
        self.scenery = make_scenery(road)
        self._origin, self._map = _map_ground(road)
        first = math.ceil(camera.HORIZON * camera.HEIGHT + 0.5)
        self._first = first
        rows, columns = np.mgrid[first : camera.HEIGHT, 0 : camera.WIDTH]
        ahead, aside = camera.view_ground(rows, columns)
        distance = ahead[:, 0]
        level = np.searchsorted(painted.LEVELS_M, distance, side="right") - 1
        self._ground = {
            mount: ((ahead + camera.AHEAD_M).astype(np.float32), (aside + shift).astype(np.float32))
            for mount, shift in camera.ASIDE_M.items()
        }
        height = len(self.scenery.surface) // (painted.SECTIONS * len(painted.LEVELS_M))
        self._surface_rows = height - 1
        self._surface_level = (level * height).astype(np.float32)[:, None]
        self._section_first = (self.scenery.sections * height * len(painted.LEVELS_M)).astype(np.float32)
        self._relief_level = (level * (painted.RELIEF_SIZE + 1)).astype(np.float32)[:, None]
        clear = np.exp(-distance / self.scenery.fog_m)[:, None]
        self._clear = (clear / 128.0).astype(np.float32)  # of the relief
        fog = np.rint((1.0 - clear) * np.asarray(self.scenery.fog_color)).astype(np.uint8)[:, None]
        self._fog = np.ascontiguousarray(np.broadcast_to(fog, (len(rows), camera.WIDTH, 3)))
        self._sky_angles = np.arctan((np.arange(camera.WIDTH) + 0.5 - camera.WIDTH / 2.0) / camera.FOCAL)
        self._bonnets = {mount: _draw_bonnet(shift, self.scenery.bonnet) for mount, shift in camera.ASIDE_M.items()}

    def draw(self, x: float, y: float, heading: float, mount: str = "center") -> np.ndarray:
        """Draw a picture.

        Parameters
        ----------
        x, y, heading
            Of the car's origin, in metres and radians.
        mount
            ``"center"``, ``"left"`` or ``"right"``.

        Returns
        -------
        numpy.ndarray
            (160, 320, 3) uint8, RGB.
        """
        frame = np.empty((camera.HEIGHT, camera.WIDTH, 3), np.uint8)
        frame[: self._first] = self._draw_sky(heading)
        frame[self._first :] = self._draw_ground(x, y, heading, mount)
        self._draw_things(frame, x, y, heading, mount)
        where, picture = self._bonnets[mount]
        np.copyto(frame[-len(picture) :], picture, where=where)
        return frame

    def find_edges(self, x: float, y: float, heading: float, mount: str = "center") -> np.ndarray:
        """Return where a picture shows what a driver keeps to: the road's edges, and the lines painted along it.

        Parameters
        ----------
        x, y, heading, mount
            As for :meth:`draw`.

        Returns
        -------
        numpy.ndarray
            (160, 320) bool: pixels next to such a line, which is a pixel or two wide, however near or wide what it
            stands for is. What stands beside the road may hide some of it; what the car hides is left out.
        """
        aside = self._locate_ground(x, y, heading, mount)[2][..., 0]
        shape = self.road.shape
        lines = [0.0] if shape.lane_m else []  # the centre line between two lanes
        for side in (-1.0, 1.0):
            lines += [side * shape.half_width_m]
            lines += [side * (shape.half_width_m - painted.EDGE_LINE_M)] if self.road.look != "dirt" else []
        is_beyond = aside[..., None] > np.array(lines, np.float32)
        near = np.abs(aside) < shape.half_width_m + 3.0  # half-way to another stretch, left and right change places
        edges = np.zeros((camera.HEIGHT, camera.WIDTH), bool)
        ground = edges[self._first :]
        ground[:, 1:] |= (is_beyond[:, 1:] != is_beyond[:, :-1]).any(axis=2) & near[:, 1:] & near[:, :-1]
        ground[1:] |= (is_beyond[1:] != is_beyond[:-1]).any(axis=2) & near[1:] & near[:-1]
        where, _ = self._bonnets[mount]
        edges[-len(where) :] &= ~where[..., 0]
        return edges

    def _draw_sky(self, heading: float) -> np.ndarray:
        columns = (self._sky_angles - heading) * (painted.SKY_COLUMNS / (2.0 * math.pi))
        columns = np.floor(columns).astype(np.intp) % painted.SKY_COLUMNS
        top = painted.SKY_ROWS - 12 - (self._first - 1)  # the horizon is 12 rows above the panorama's end
        return self.scenery.sky[top : top + self._first].take(columns, axis=1)

    def _locate_ground(
        self, x: float, y: float, heading: float, mount: str
    ) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return where pixels below the horizon are: in the world, x and y, and beside the road, as its map says."""
        ahead, aside = self._ground[mount]
        cosine, sine = np.float32(math.cos(heading)), np.float32(math.sin(heading))
        world_x = ahead * cosine + aside * sine + np.float32(x)
        world_y = ahead * sine - aside * cosine + np.float32(y)

        place = cv2.remap(
            self._map,
            (world_x - np.float32(self._origin[0])) * np.float32(1.0 / MAP_M),
            (world_y - np.float32(self._origin[1])) * np.float32(1.0 / MAP_M),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return world_x, world_y, place

    def _draw_ground(self, x: float, y: float, heading: float, mount: str) -> np.ndarray:
        world_x, world_y, place = self._locate_ground(x, y, heading, mount)
        columns = (place[..., 0] + np.float32(painted.SURFACE_REACH_M)) * np.float32(1.0 / painted.ACROSS_M)
        half = np.float32(self.road.center.length_m / 2.0)
        is_near_start = np.abs(place[..., 2] - half) < half / 2
        along = np.where(is_near_start, place[..., 2] - half, place[..., 1])
        periods = along * np.float32(1.0 / self.scenery.period_m)
        rows = (periods - np.floor(periods)) * np.float32(self._surface_rows) + self._surface_level
        parts = len(self._section_first)
        section = np.floor(along * np.float32(parts / self.road.center.length_m)).astype(np.intp)
        rows += self._section_first.take(section, mode="wrap")
        surface = cv2.remap(self.scenery.surface, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

        tiles_x, tiles_y = world_x * np.float32(1.0 / painted.RELIEF_M), world_y * np.float32(1.0 / painted.RELIEF_M)
        relief = cv2.remap(
            self.scenery.relief,
            (tiles_x - np.floor(tiles_x)) * np.float32(painted.RELIEF_SIZE),
            (tiles_y - np.floor(tiles_y)) * np.float32(painted.RELIEF_SIZE) + self._relief_level,
            cv2.INTER_LINEAR,
        )
        light = relief * self._clear
        lit = cv2.multiply(surface, cv2.merge([light, light, light]), dtype=cv2.CV_8U)
        return cv2.add(lit, self._fog)

    def _draw_things(self, frame: np.ndarray, x: float, y: float, heading: float, mount: str) -> None:
        """Draw what stands beside the road, the furthest first."""
        things = self.scenery.things
        dx, dy = things[:, 1] - x, things[:, 2] - y
        ahead = dx * math.cos(heading) + dy * math.sin(heading) - camera.AHEAD_M
        aside = dx * math.sin(heading) - dy * math.cos(heading) - camera.ASIDE_M[mount]
        seen = np.flatnonzero((ahead > NEAR_M) & (ahead < FAR_M) & (np.abs(aside) < 1.3 * ahead + 3.0))
        columns, rows, depth = camera.project(ahead[seen], aside[seen])
        for order in np.argsort(-depth, kind="stable"):
            sprite = self.scenery.sprites[int(things[seen[order], 0])]
            size = min(
                int(np.searchsorted(sprite.sizes, camera.FOCAL * sprite.height_m / depth[order])), len(sprite.sizes) - 1
            )
            _paste(frame, sprite.pictures[size], sprite.gaps[size], float(columns[order]), float(rows[order]))


def _paste(frame: np.ndarray, picture: np.ndarray, gaps: np.ndarray, column: float, row: float) -> None:
    """Put a picture into a frame, the middle of its foot at a point."""
    height, width = picture.shape[:2]
    left, top = math.floor(column - width / 2.0), math.floor(row) - height
    x0, x1 = max(0, left), min(frame.shape[1], left + width)
    y0, y1 = max(0, top), min(frame.shape[0], top + height)
    if x0 >= x1 or y0 >= y1:
        return
    part = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
    view = frame[y0:y1, x0:x1]
    view[:] = cv2.add(cv2.multiply(view, gaps[part], scale=1.0 / 255.0), picture[part])


def _map_ground(road: Road) -> Tuple[Tuple[float, float], np.ndarray]:
    """Return where each cell of the ground is beside the road.

    Returns
    -------
    tuple
        x and y of the first cell, and (rows, columns, 3) float32: metres to the right of the road's centre line, along
        it, and along it from half a lap further back. Between cells, the second makes no sense where a lap begins, and
        the third does.
    """
    center = road.center
    margin = painted.SURFACE_REACH_M + 8.0
    low = np.floor(center.points.min(0) - margin)
    size = np.ceil((center.points.max(0) + margin - low) / MAP_M).astype(int)
    free = np.full((size[1], size[0]), 255, np.uint8)
    cells = np.floor((center.points - low) / MAP_M + 0.5).astype(int)
    free[cells[:, 1], cells[:, 0]] = 0
    _, labels = cv2.distanceTransformWithLabels(free, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    owner = np.zeros(labels.max() + 1, np.intp)
    owner[labels[cells[:, 1], cells[:, 0]]] = np.arange(len(cells))
    x, y = (low[axis] + MAP_M * np.arange(size[axis]) for axis in range(2))
    along, aside = center.project(owner[labels], x[None], y[:, None])
    later = (along + center.length_m / 2.0) % center.length_m
    return (float(low[0]), float(low[1])), np.stack([aside, along, later], axis=-1).astype(np.float32)


def _draw_bonnet(shift_m: float, color: Tuple[float, float, float]) -> Tuple[np.ndarray, np.ndarray]:
    """Return where the car's bonnet hides the road in the lowest rows, and its picture."""
    rows = np.arange(BONNET[0], camera.HEIGHT)[:, None]
    columns = np.arange(camera.WIDTH)[None] - camera.WIDTH / 2.0 + 150.0 * shift_m
    edge = BONNET[0] + (BONNET[1] - BONNET[0]) * (np.abs(columns) / 170.0) ** 2.2
    where = np.repeat((rows >= edge)[..., None], 3, axis=2)
    shine = np.clip(1.25 - (rows - edge) / 14.0, 0.6, 1.2)[..., None]
    return where, np.clip(np.rint(shine * np.asarray(color)), 0, 255).astype(np.uint8)
