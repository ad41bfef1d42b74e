"""The camera of Udacity's simulator: where it sits on the car, and how it sees flat ground.

One set of numbers for all that needs them: the built-in track draws with it, augmentation moves its viewpoint, and the
report draws paths into its pictures. The car's origin is the middle of its rear axle; ``ahead`` and ``aside`` (to the
right) are metres from there on the ground.

References
----------
Field of view and mount are those of the simulator's source. Horizon and distance between the cameras were fitted to its
pictures: the car leans forward on its springs, so that the camera looks further down than its mount says.
"""

from __future__ import annotations

import math
from typing import Tuple

import numpy as np

__all__ = [
    "ASIDE_M",
    "BONNET",
    "FOCAL",
    "HEIGHT",
    "HEIGHT_M",
    "HORIZON",
    "SIDE_SLOPE",
    "WIDTH",
    "project",
    "view_ground",
]

HEIGHT, WIDTH = 160, 320  # pixels
FOCAL = HEIGHT / 2.0 / math.tan(math.radians(60.0) / 2.0)  # pixels; 60 degrees of vertical field of view
HEIGHT_M = 0.97  # above the ground
AHEAD_M = 1.35  # of the car's origin
SIDE_SLOPE = 0.7  # pixels that a side camera sees the ground moved, for each row below the horizon
ASIDE_M = {"center": 0.0, "left": -SIDE_SLOPE * HEIGHT_M, "right": SIDE_SLOPE * HEIGHT_M}
HORIZON = 64 / 160  # its row, as a share of the picture's height
BONNET = 135 / 160  # the first row in which the car itself is seen
PITCH = math.atan((0.5 - HORIZON) * HEIGHT / FOCAL)  # nose-down, 6.6 degrees


def view_ground(rows: np.ndarray, columns: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Return the points of the ground that pixels show, in metres ``(ahead, aside)`` of the point below the camera.

    Parameters
    ----------
    rows, columns
        Pixels of a picture of 160x320, below the horizon; 0 is the middle of the first one.
    """
    down = (np.asarray(rows, np.float64) + 0.5 - HEIGHT / 2.0) / FOCAL
    right = (np.asarray(columns, np.float64) + 0.5 - WIDTH / 2.0) / FOCAL
    reach = HEIGHT_M / (math.sin(PITCH) + down * math.cos(PITCH))
    return reach * (math.cos(PITCH) - down * math.sin(PITCH)), reach * right


def project(
    ahead_m: np.ndarray, aside_m: np.ndarray, height_m: float = 0.0
) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where points are seen, in pixels of a picture of 160x320, and how far away they are.

    Parameters
    ----------
    ahead_m, aside_m
        Metres from the point below the camera; points behind it (a depth of 0 or less) have no place in the picture.
    height_m
        Their height above the ground.

    Returns
    -------
    tuple of numpy.ndarray
        Column and row, where 0 is the picture's edge, and depth along the camera's axis in metres.
    """
    below = HEIGHT_M - height_m
    depth = np.asarray(ahead_m) * math.cos(PITCH) + below * math.sin(PITCH)
    down = below * math.cos(PITCH) - np.asarray(ahead_m) * math.sin(PITCH)
    near = np.where(depth > 1e-6, depth, np.inf)
    return WIDTH / 2.0 + FOCAL * np.asarray(aside_m) / near, HEIGHT / 2.0 + FOCAL * down / near, depth
