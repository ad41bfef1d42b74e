"""The car: a kinematic bicycle.

References
----------
Polack et al., "The kinematic bicycle model: a consistent model for planning feasible trajectories for autonomous
vehicles?", 2017. The wheelbase is what makes the radius of a bend the simulator's own: Lf in Udacity's
CarND-MPC-Project.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Deque, Optional, Tuple

from robostig.metrics import DEGREES

__all__ = ["MPH", "TOP_MPH", "WHEELBASE_M", "Car"]

MPH = 0.44704  # metres a second
TOP_MPH = 30.0
WHEELBASE_M = 2.67
FULL_LOCK = math.radians(DEGREES)
STEERING_RATE = 2.0  # of full lock a second: 50 degrees
PULL = 5.0  # m/s^2 at full throttle; drag is such that it ends at TOP_MPH
BRAKE = 8.0  # m/s^2 at a throttle of -1
SUBSTEPS = 4


@dataclass
class Car:
    """A car on flat ground that goes where its front wheels point.

    Parameters
    ----------
    x, y
        Middle of the rear axle, metres.
    heading
        Radians, against the clock from the x axis.
    speed_mps
        Metres a second.
    steering
        Of the front wheels now, -1..1: 1.0 is full lock (25 degrees) to the right.
    delay_s
        Seconds until a command begins to be followed.
    """

    x: float = 0.0
    y: float = 0.0
    heading: float = 0.0
    speed_mps: float = TOP_MPH * MPH
    steering: float = 0.0
    delay_s: float = 0.0
    _time: float = field(default=0.0, repr=False)
    _commands: Deque[Tuple[float, float]] = field(default_factory=deque, repr=False)

    @property
    def speed_mph(self) -> float:
        """Miles an hour."""
        return self.speed_mps / MPH

    def place(self, x: float, y: float, heading: float) -> None:
        """Put the car somewhere with its wheels straight; what it was told before is forgotten, its speed is not."""
        self.x, self.y, self.heading, self.steering = x, y, heading, 0.0
        self._commands.clear()

    def step(self, steering: float, dt: float, throttle: Optional[float] = None) -> None:
        """Drive for a moment.

        Parameters
        ----------
        steering
            Where the wheels should go, -1..1 (beyond is cut off); they turn at 50 degrees a second at most.
        dt
            Seconds.
        throttle
            -1 (brake) to 1 (beyond is cut off); the speed is held if None.

        Raises
        ------
        ValueError
            If a command is no number.
        """
        if math.isnan(steering) or math.isnan(throttle or 0.0):
            raise ValueError(f"steering is {steering} and throttle {throttle}; both are numbers from -1 to 1")
        self._commands.append((self._time + self.delay_s, min(1.0, max(-1.0, steering))))
        dt /= SUBSTEPS
        for _ in range(SUBSTEPS):
            while len(self._commands) > 1 and self._commands[1][0] <= self._time + 1e-9:
                self._commands.popleft()
            due, wanted = self._commands[0]
            if due > self._time + 1e-9:
                wanted = self.steering
            most = STEERING_RATE * dt
            self.steering += min(most, max(-most, wanted - self.steering))
            turn = -self.speed_mps / WHEELBASE_M * math.tan(self.steering * FULL_LOCK) * dt
            middle = self.heading + 0.5 * turn
            self.x += self.speed_mps * math.cos(middle) * dt
            self.y += self.speed_mps * math.sin(middle) * dt
            self.heading += turn
            if throttle is not None:
                pedal = min(1.0, max(-1.0, throttle))
                pull = PULL * pedal if pedal >= 0.0 else BRAKE * pedal
                drag = PULL * self.speed_mps / (TOP_MPH * MPH)
                self.speed_mps = max(0.0, self.speed_mps + (pull - drag) * dt)
            self._time += dt
