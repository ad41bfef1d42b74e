"""Telemetry in, command out, whatever is wrong with the telemetry or with the model."""

from __future__ import annotations

import base64
import binascii
import math
import time
from dataclasses import dataclass
from typing import Any, Callable, Optional

import numpy as np

from robostig.driving.protocol import Telemetry
from robostig.driving.speed import SpeedController
from robostig.picture import decode_rgb
from robostig.preprocessing import check_picture_size

__all__ = ["Command", "Driver", "Sight", "decode_jpeg", "look", "read_steering"]

Steer = Callable[[np.ndarray], float]

# A driver who sees nothing comes to a stop within so much of time, or of frames where these come quickly.
BLIND_S, BLIND_FRAMES = 2.0, 30


@dataclass(frozen=True)
class Command:
    """What the car shall do: steering and throttle, each -1..1; ``blind`` if it was given without seeing the road."""

    steering: float
    throttle: float
    blind: bool = False


@dataclass(frozen=True)
class Sight:
    """What a look at the road gave: the JPEG's bytes, the steering for it, and the seconds that the model took."""

    jpeg: bytes
    steering: float
    seconds: float


def look(image: Optional[str], steer: Steer) -> Sight:
    """Decode a picture and let a model steer by it.

    Parameters
    ----------
    image
        A JPEG in base64, as telemetry brings it.
    steer
        Frame (H, W, 3) uint8 RGB, of the camera's size -> steering.

    Raises
    ------
    ValueError
        If there is no whole picture, or the model's answer is no number; whatever ``steer`` raises.
    """
    if not image:
        raise ValueError("telemetry without a picture")
    try:
        jpeg = base64.b64decode(image, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"the picture is no base64 ({error})") from error
    frame = decode_jpeg(jpeg)
    started = time.perf_counter()
    answer = steer(frame)
    seconds = time.perf_counter() - started
    return Sight(jpeg, read_steering(answer), seconds)


def read_steering(answer: Any) -> float:
    """Return a model's answer as a steering, -1..1.

    Raises
    ------
    ValueError
        If it is no finite number.
    """
    try:
        steering = float(answer)
    except (TypeError, ValueError, OverflowError):
        steering = math.nan
    if not math.isfinite(steering):
        raise ValueError(f"the model answered {str(answer)[:80]}, and a steering is a number from -1 to 1")
    return min(1.0, max(-1.0, steering))


def decode_jpeg(data: bytes) -> np.ndarray:
    """Decode a camera's picture.

    Returns
    -------
    numpy.ndarray
        (H, W, 3) uint8 RGB.

    Raises
    ------
    ValueError
        If it is no JPEG, cut off, or larger than any camera's picture.
    """
    if data[:2] != b"\xff\xd8":
        raise ValueError(f"the picture's {len(data):,} bytes are no JPEG")
    if b"\xff\xd9" not in data[-64:]:
        raise ValueError(f"the picture is cut off: its {len(data):,} bytes do not end as a JPEG does")
    check_picture_size(data)
    picture = decode_rgb(data)
    if picture is None:
        raise ValueError(f"the picture cannot be decoded: {len(data):,} bytes of a broken JPEG")
    return picture


class Driver:
    """One car's driver: remembers where it steered, and slows down when it sees nothing.

    Parameters
    ----------
    set_speed_mph
        As in :class:`robostig.driving.speed.SpeedController`.
    """

    def __init__(self, set_speed_mph: float) -> None:
        self.speed = SpeedController(set_speed_mph)
        self.speed_mph = 0.0  # as last reported
        self.command = Command(0.0, 0.0)
        self._blind_frames = 0
        self._blind_since = 0.0

    def drive(self, telemetry: Telemetry, sight: Optional[Sight]) -> Command:
        """Return the command after a look at the road, or without one: the last steering then, and slower."""
        if telemetry.speed_mph is not None:
            self.speed_mph = abs(telemetry.speed_mph)
        if sight is not None:
            self._blind_frames = 0
            throttle = self.speed.control(self.speed_mph, sight.steering)
            self.command = Command(sight.steering, throttle)
        else:
            if not self._blind_frames:
                self._blind_since = time.monotonic()
            self._blind_frames += 1
            blind = max(self._blind_frames / BLIND_FRAMES, (time.monotonic() - self._blind_since) / BLIND_S)
            throttle = self.speed.control(self.speed_mph, self.command.steering, share=max(0.0, 1.0 - blind))
            self.command = Command(self.command.steering, min(0.0, throttle), blind=True)
        return self.command
