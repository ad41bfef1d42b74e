"""Random changes to batches of preprocessed frames that keep picture and steering true to each other.

What happens to a batch is drawn first and applied after (:meth:`Augmentation.draw`, :func:`apply`), so that frame and
angle get the same draw and a draw can be looked at, repeated and tested. All arithmetic is on uint8 with saturation:
a brightened white stays white.

References
----------
The sideways shift is the viewpoint transformation of Bojarski et al. 2016, arXiv:1604.07316, section 5: the ground is
taken for flat. Shadow, brightness and the mirror image are those published for Udacity's simulator: V. Yadav, "An
augmentation based deep neural network approach to learn human driving behavior", 2016, and N. Shibuya,
"car-behavioral-cloning", 2017. Those two move the whole picture by up to 50 pixels and add 0.002 a pixel for a car that
stands further left; but such a car sees the near road further right and the horizon where it was.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Tuple

import cv2
import numpy as np

from robostig import camera
from robostig.preprocessing import InputSpec

__all__ = ["CAMERA_CORRECTION", "Augmentation", "Draw", "apply"]

CAMERA_CORRECTION = 0.05  # 1.25 degrees of steering for a side camera's offset; see TrainingConfig
SHADOW_LIGHT = (0.5, 0.75)  # how much light is left in a shadow
BRIGHTNESS = (0.6, 1.4)  # twice as far as published, which is enough for one afternoon on one track
TINT = 0.35  # at most so much more or less of red, and of blue: from noon to evening


@dataclass(frozen=True)
class Draw:
    """What happens to each frame of a batch; every field is (n,) or (n, 2).

    Parameters
    ----------
    flip
        bool: mirror left and right, and change the steering's sign.
    shift
        float, how far the viewpoint moves to the left: 1 is where the left camera is, -1 the right.
    light
        float, factor of the whole frame's brightness.
    tint
        (n, 2) float, -1..1: less or more red, less or more blue.
    shadow_edge
        (n, 2) float, where the shadow's edge meets the top and the bottom row, as a share of the width.
    shadow_light
        float, factor of the brightness to the left of that edge; 1 is no shadow.
    scenery
        int, the number of the frame in the batch whose view above the horizon it gets; its own for none.
    bonnet
        int, the number of the frame whose lowest rows it gets; its own for none.
    correction
        float, one for all: steering added for a shift of 1.
    """

    flip: np.ndarray
    shift: np.ndarray
    light: np.ndarray
    tint: np.ndarray
    shadow_edge: np.ndarray
    shadow_light: np.ndarray
    scenery: np.ndarray
    bonnet: np.ndarray
    correction: float = CAMERA_CORRECTION

    def steer(self, steering: np.ndarray) -> np.ndarray:
        """Return the (n,) float32 steering, clipped to -1..1, that belongs to the changed frames."""
        mirrored = np.where(self.flip, -steering, steering)
        return np.clip(mirrored + self.shift * self.correction, -1.0, 1.0).astype(np.float32)

    def cut(self, start: int, stop: int) -> Tuple[np.ndarray, Draw]:
        """Cut a part out of a batch.

        Parameters
        ----------
        start, stop
            Which frames are wanted.

        Returns
        -------
        tuple
            The numbers of the frames that this takes, those wanted first and then those that give them scenery or
            bonnet, and the draw for these.
        """
        wanted = np.arange(start, stop)
        givers = np.setdiff1d([self.scenery[wanted], self.bonnet[wanted]], wanted)
        numbers = np.concatenate([wanted, givers])
        places = np.zeros(len(self.flip), np.int64)
        places[numbers] = np.arange(len(numbers))
        changes = {each.name: getattr(self, each.name)[numbers] for each in fields(self) if each.name != "correction"}
        for name in ("scenery", "bonnet"):
            changes[name] = np.where(np.isin(numbers, wanted), places[changes[name]], np.arange(len(numbers)))
        return numbers, replace(self, **changes)


@dataclass(frozen=True)
class Augmentation:
    """How often each change happens, 0 (never) to 1 (every frame), and what a shift means for the wheel.

    Parameters
    ----------
    flip
        Mirror image, default 0.5: the road then bends to both sides equally often.
    shift
        The viewpoint moves sideways, up to where the side cameras are, default 0.5.
    shadow
        One side of a random line gets 0.5 to 0.75 of its light, default 0.3.
    brightness
        The whole frame gets 0.6 to 1.4 of its light, default 0.25.
    tint
        The light's colour changes, default 0: what was recorded in one light is mostly driven in it. For roads of
        many colours, give more.
    scenery
        What is above the horizon comes from another frame of the batch, default 0.75: sky and hills tell where on the
        track a frame was taken, and a network that learns that by heart is lost on any other road.
    bonnet
        The rows with the car's own bonnet come from another frame, default 0.5: they show which camera took a frame,
        and a network that has learned to look there does not look where on the road it is.
    correction
        Steering added where the viewpoint moves as far to the left as the left camera is, default 0.05 (1.25 degrees).

    Raises
    ------
    ValueError
        If a probability is outside 0..1.
    """

    flip: float = 0.5
    shift: float = 0.5
    shadow: float = 0.3
    brightness: float = 0.25
    tint: float = 0.0
    scenery: float = 0.75
    bonnet: float = 0.5
    correction: float = CAMERA_CORRECTION

    def __post_init__(self) -> None:
        for name in ("flip", "shift", "shadow", "brightness", "tint", "scenery", "bonnet"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"the probability of {name} is {value}; it must be between 0 and 1")

    def draw(self, count: int, generator: np.random.Generator) -> Draw:
        """Draw what happens to each of ``count`` frames; takes the same amount of randomness whatever the settings."""
        happens = generator.random((7, count))
        shift = generator.uniform(-1.0, 1.0, count)
        light = generator.uniform(*BRIGHTNESS, size=count)
        tint = generator.uniform(-1.0, 1.0, (count, 2))
        shadow_edge = generator.random((count, 2))
        shadow_light = generator.uniform(*SHADOW_LIGHT, size=count)
        donors, others = generator.permutation(count), generator.permutation(count)
        return Draw(
            flip=happens[0] < self.flip,
            shift=np.where(happens[1] < self.shift, shift, 0.0),
            light=np.where(happens[2] < self.brightness, light, 1.0),
            tint=np.where(happens[5][:, None] < self.tint, tint, 0.0),
            shadow_edge=shadow_edge,
            shadow_light=np.where(happens[3] < self.shadow, shadow_light, 1.0),
            scenery=np.where(happens[4] < self.scenery, donors, np.arange(count)),
            bonnet=np.where(happens[6] < self.bonnet, others, np.arange(count)),
            correction=self.correction,
        )


def apply(frames: np.ndarray, steering: np.ndarray, draw: Draw, spec: InputSpec) -> Tuple[np.ndarray, np.ndarray]:
    """Apply a draw to a batch.

    Parameters
    ----------
    frames
        (n, H, W, 3) uint8; changed in place.
    steering
        (n,) float32, -1..1; not changed.
    draw
        From :meth:`Augmentation.draw`.
    spec
        How the frames were preprocessed: where the horizon is follows from the crop, and light acts on all three
        channels, in YUV around the neutral 128 of U and V.

    Returns
    -------
    tuple of numpy.ndarray
        The same ``frames``, and the steering that belongs to them: (n,) float32, clipped to -1..1.
    """
    horizon = _find_row(camera.HORIZON, spec)
    sky = max(0, int(horizon))
    frames[:, :sky] = frames[draw.scenery, :sky]
    for number, frame in enumerate(frames):
        if draw.flip[number]:
            frame[:] = frame[:, ::-1].copy()
        if draw.shift[number]:
            _shift(frame, draw.shift[number], horizon, spec)
        light, shadow, tint = draw.light[number], draw.shadow_light[number], draw.tint[number]
        shaded = None
        if shadow != 1.0:
            shaded = cv2.LUT(frame, _light_table(light * shadow, tint, spec.color_space))
        if light != 1.0 or tint.any():
            cv2.LUT(frame, _light_table(light, tint, spec.color_space), dst=frame)
        if shaded is not None:
            np.copyto(frame, shaded, where=_left_of(draw.shadow_edge[number], frame.shape)[..., None])
    bonnet = math.ceil(_find_row(camera.BONNET, spec))
    if bonnet < spec.height:
        frames[:, bonnet:] = frames[draw.bonnet, bonnet:]
    return frames, draw.steer(steering)


def _find_row(share: float, spec: InputSpec) -> float:
    """Return the row of a preprocessed frame that was so far down in the camera's; outside if it was cropped away."""
    return (share - spec.crop_top) / _share_seen(spec) * spec.height


def _share_seen(spec: InputSpec) -> float:
    """Return the share of the camera's height that the crop leaves."""
    return 1.0 - spec.crop_top - spec.crop_bottom


def _shift(frame: np.ndarray, shift: float, horizon: float, spec: InputSpec) -> None:
    """Show the flat ground from further left; what is beyond the horizon stays, the edge's colours fill the gap."""
    height, width = frame.shape[:2]
    zoom = (width / camera.WIDTH) / (height / (camera.HEIGHT * _share_seen(spec)))
    slope = shift * camera.SIDE_SLOPE * zoom  # pixels a row
    first = max(0, math.ceil(horizon))
    ground = frame[first:]
    if len(ground):
        shear = np.array([[1.0, slope, slope * (first - horizon)], [0.0, 1.0, 0.0]])
        ground[:] = cv2.warpAffine(ground, shear, (width, len(ground)), borderMode=cv2.BORDER_REPLICATE)


def _light_table(factor: float, tint: np.ndarray, color_space: str) -> np.ndarray:
    """Return (1, 256, 3) uint8: what each value of each channel becomes under so much light of that colour."""
    values, (red, blue) = np.arange(256.0)[:, None], TINT * tint
    if color_space == "yuv":
        # What a tint does to a grey of 128 in YUV is done to all: U is 0.492 (B - Y), V is 0.877 (R - Y).
        shift = 128.0 * np.array([0.0, 0.492 * (0.886 * blue - 0.299 * red), 0.877 * (0.701 * red - 0.114 * blue)])
        changed = (values - (0.0, 128.0, 128.0)) * factor + (0.0, 128.0, 128.0) + shift * factor
    else:
        changed = values * factor * (1.0 + np.array([red, 0.0, blue]))
    return np.clip(np.rint(changed), 0, 255).astype(np.uint8)[None]


def _left_of(edge: np.ndarray, shape: Tuple[int, ...]) -> np.ndarray:
    """Return (H, W) bool: True left of a line from the top row to the bottom row."""
    height, width = shape[:2]
    border = np.linspace(edge[0], edge[1], height) * width
    return np.arange(width) < border[:, None]
