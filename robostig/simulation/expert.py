"""A driver who knows where the road is: what networks learn from, and are measured against.

References
----------
The steering law is pure pursuit: Coulter, "Implementation of the Pure Pursuit Path Tracking Algorithm", Carnegie Mellon
University, CMU-RI-TR-92-01, 1992.
"""

from __future__ import annotations

import math

from robostig.simulation.car import FULL_LOCK, WHEELBASE_M, Car
from robostig.simulation.track import Curve, Place

__all__ = ["LOOKAHEAD_S", "steer_towards"]

LOOKAHEAD_S = 0.55  # how far ahead the goal is, in seconds of driving
LEAST_M = 5.0  # but no nearer than this


def steer_towards(car: Car, lane: Curve, place: Place, aside_m: float = 0.0) -> float:
    """Return the steering that leads along an arc to a point of the lane ahead.

    Parameters
    ----------
    car
        The car.
    lane
        The curve to follow.
    place
        Where the car is on it.
    aside_m
        How far to the right of the lane's middle to drive, default 0.

    Returns
    -------
    float
        -1..1, 1.0 = full lock to the right.
    """
    reach = max(LEAST_M, LOOKAHEAD_S * car.speed_mps)
    x, y, _ = lane.point_at(place.along_m + reach, aside_m)
    dx, dy = x - car.x, y - car.y
    left = -dx * math.sin(car.heading) + dy * math.cos(car.heading)
    curvature = 2.0 * left / max(dx * dx + dy * dy, 1e-6)
    return min(1.0, max(-1.0, -math.atan(WHEELBASE_M * curvature) / FULL_LOCK))
