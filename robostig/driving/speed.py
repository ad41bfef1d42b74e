"""The throttle: holds a speed, and takes curves more slowly.

References
----------
Proportional and integral control with anti-windup by conditional integration: Åström and Hägglund, "PID Controllers:
Theory, Design, and Tuning", 2nd edition, 1995, section 3.5.
"""

from __future__ import annotations

import math

from robostig.metrics import DEGREES
from robostig.simulation.car import MPH, TOP_MPH, WHEELBASE_M

__all__ = ["SET_SPEED_MPH", "SpeedController"]

SET_SPEED_MPH = 15.0
PROPORTIONAL = 0.1  # throttle for each mph that is missing, as in Udacity's drive.py
INTEGRAL = 0.03  # and for each mph that is missing for a second: its 0.002 a frame
STEP_S = 1 / 15  # a frame; the simulator's own clock, which may run faster or slower than ours, is not in its telemetry
LATERAL_MPS2 = 2.0  # v^2 / radius stays below this in a curve: comfortable to a passenger
SMOOTHING = 0.2  # share of the newest frame in what counts as the curve: one twitch of the wheel is none
# Below 5 mph the simulator takes a negative throttle for the reverse gear (ApplyDrive in its CarController.cs).
BRAKING_MPH = 6.0


class SpeedController:
    """Finds the throttle for a speed.

    Parameters
    ----------
    set_speed_mph
        Speed on a straight, above 0 and up to 30 mph.

    Raises
    ------
    ValueError
        If it is not.
    """

    def __init__(self, set_speed_mph: float = SET_SPEED_MPH) -> None:
        if not 0.0 < set_speed_mph <= TOP_MPH:
            raise ValueError(
                f"a speed of {set_speed_mph:g} mph cannot be held; the simulator's car takes more than 0 and up to "
                f"{TOP_MPH:g}"
            )
        self.set_speed_mph = set_speed_mph
        self._curve = 0.0  # smoothed size of the steering
        self._integral = 0.0

    @property
    def target_mph(self) -> float:
        """The speed that suits the curve that the car is in."""
        angle = math.radians(DEGREES * self._curve)
        fastest_mps = math.sqrt(LATERAL_MPS2 * WHEELBASE_M / max(math.tan(angle), 1e-6))
        return min(self.set_speed_mph, fastest_mps / MPH)

    def control(self, speed_mph: float, steering: float, *, share: float = 1.0) -> float:
        """Return the throttle for the next frame.

        Parameters
        ----------
        speed_mph
            How fast the car is.
        steering
            Where it is steered to, -1..1.
        share
            Of the speed that would suit, 0..1: less for a driver who is unsure.

        Returns
        -------
        float
            -1..1; negative brakes.
        """
        self._curve += SMOOTHING * (abs(steering) - self._curve)
        missing = share * self.target_mph - speed_mph
        wish = PROPORTIONAL * missing + self._integral
        throttle = min(1.0, max(-1.0 if speed_mph > BRAKING_MPH else 0.0, wish))
        if throttle == wish or missing * (wish - throttle) < 0.0:  # never further into what the car cannot do
            self._integral += INTEGRAL * missing * STEP_S
        return throttle
