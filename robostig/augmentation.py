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
import sys
from dataclasses import dataclass, fields, replace
from typing import List, Optional, Sequence, Tuple

import cv2
import numpy as np

from robostig import camera
from robostig.preprocessing import InputSpec

__all__ = ["CAMERA_CORRECTION", "CHANGES", "Augmentation", "Draw", "Memory", "apply"]

CAMERA_CORRECTION = 0.05  # 1.25 degrees of steering for a side camera's offset; see TrainingConfig
CHANGES = ("flip", "shift", "shadow", "brightness", "tint", "scenery", "bonnet")
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
        if len(wanted) == len(self.flip):
            return wanted, self
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
        for name in CHANGES:
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"the probability of {name} is {value}; it must be between 0 and 1")

    @classmethod
    def only(cls, *changes: str) -> Augmentation:
        """Return one that makes these changes to every frame, and no others: ``Augmentation.only("flip")``."""
        unknown = sorted(set(changes) - set(CHANGES))
        if unknown:
            raise ValueError(f"there is no change {unknown[0]!r}; there are: {', '.join(CHANGES)}")
        return cls(**{name: float(name in changes) for name in CHANGES})

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


class Memory:
    """Memory for batches, taken again when nobody holds it any more.

    Pages that are fresh from the operating system cost more than most of what is then done to them: with these, a batch
    took twice as long. An instance is for one thread.
    """

    _LIMIT = 8  # arrays kept: more than a loader has under way

    def __init__(self) -> None:
        self._arrays: List[np.ndarray] = []
        self._size = 0

    def take(self, *shape: int) -> np.ndarray:
        """Return a uint8 array of this shape with anything in it; it is the caller's for as long as that holds it."""
        size = math.prod(shape)
        for array in self._arrays:
            # Of three references, one is the list's, one is this loop's and one is getrefcount's own.
            if len(array) >= size and sys.getrefcount(array) <= 3:
                return array[:size].reshape(shape)
        self._size = max(size, self._size)
        array = np.empty(self._size, np.uint8)
        self._arrays = [*self._arrays, array][-self._LIMIT :]
        return array[:size].reshape(shape)


def apply(
    frames: Sequence[np.ndarray],
    steering: np.ndarray,
    draw: Draw,
    spec: InputSpec,
    memory: Optional[Memory] = None,
) -> Tuple[np.ndarray, np.ndarray]:
    """Apply a draw to a batch.

    Parameters
    ----------
    frames
        n of (H, W, 3) uint8, an array or a list of them; not changed.
    steering
        (n,) float32, -1..1; not changed.
    draw
        From :meth:`Augmentation.draw`.
    spec
        How the frames were preprocessed: where the horizon is follows from the crop, and light acts on all three
        channels, in YUV around the neutral 128 of U and V.
    memory
        Where the batch's comes from; new memory if None.

    Returns
    -------
    tuple of numpy.ndarray
        The changed frames, (n, H, W, 3) uint8, and the steering that belongs to them: (n,) float32, clipped to -1..1.
    """
    horizon = _find_row(camera.HORIZON, spec)
    memory = memory or Memory()
    batch = memory.take(len(frames), *frames[0].shape)
    _assemble(batch, frames, max(0, int(horizon)), draw)
    _shift(batch, draw.shift, horizon, spec, memory)
    _light(batch, draw, spec.color_space)
    bonnets = batch[:, max(0, math.ceil(_find_row(camera.BONNET, spec))) :]
    takers = np.flatnonzero(draw.bonnet != np.arange(len(batch)))
    bonnets[takers] = bonnets[draw.bonnet[takers]]
    return batch, draw.steer(steering)


def _find_row(share: float, spec: InputSpec) -> float:
    """Return the row of a preprocessed frame that was so far down in the camera's; outside if it was cropped away."""
    return (share - spec.crop_top) / _share_seen(spec) * spec.height


def _share_seen(spec: InputSpec) -> float:
    """Return the share of the camera's height that the crop leaves."""
    return 1.0 - spec.crop_top - spec.crop_bottom


def _assemble(batch: np.ndarray, frames: Sequence[np.ndarray], sky: int, draw: Draw) -> None:
    """Copy frames into a batch: so many rows of scenery from where the draw says, and mirrored where it says so."""
    for number, (giver, is_mirrored) in enumerate(zip(draw.scenery, draw.flip)):
        for rows, frame in ((slice(0, sky), frames[giver]), (slice(sky, None), frames[number])):
            target = batch[number, rows]
            if is_mirrored and target.size:
                cv2.flip(frame[rows], 1, dst=target)
            else:
                target[:] = frame[rows]


def _shift(frames: np.ndarray, shifts: np.ndarray, horizon: float, spec: InputSpec, memory: Memory) -> None:
    """Show the flat ground from further left; what is beyond the horizon stays, the edge's colours fill the gap.

    To the bit what ``cv2.warpAffine`` makes of such a shear, which weighs four pixels for each. But here a row moves
    sideways and no more, so that two weights, in 32nds, do for all of it; rows of the batch that share theirs are
    blended at once.
    """
    height, width = frames.shape[1:3]
    zoom = (width / camera.WIDTH) / (height / (camera.HEIGHT * _share_seen(spec)))
    first = max(0, math.ceil(horizon))
    numbers, rows = np.flatnonzero(shifts), np.arange(max(0, height - first))
    if not len(numbers) or not len(rows):
        return
    slopes = (shifts[numbers] * camera.SIDE_SLOPE * zoom)[:, None]  # pixels a row
    # Where a row comes from, rounded as in there: to 1024ths of a pixel, and then to 32nds.
    places = (np.rint(-(slopes * rows + slopes * (first - horizon)) * 1024.0).astype(np.int64) + 16) >> 5
    pixels, parts = places >> 5, (places & 31).astype(np.uint8)
    margin = int(np.abs(pixels).max()) + 1
    wide = memory.take(len(numbers), len(rows), margin + width + margin, 3)
    for ground, number, lowest, highest in zip(wide, numbers, pixels.min(axis=1), pixels.max(axis=1)):
        left, right = max(0, -lowest), max(0, highest + 1)
        view = ground[:, margin - left : margin + width + right]
        cv2.copyMakeBorder(frames[number, first:], 0, 0, left, right, cv2.BORDER_REPLICATE, dst=view)
    # All runs of width + 1 pixels that there are in memory, of which we want one for each row.
    runs = np.lib.stride_tricks.as_strided(wide, (wide.size - 3 * width - 2, 3 * width + 3), (1, 1))
    starts = 3 * (np.arange(parts.size) * wide.shape[2] + margin + pixels.ravel())
    order = np.argsort(parts, axis=None, kind="stable")
    for group in np.split(order, np.cumsum(np.bincount(parts.ravel()))):
        if len(group):
            share = parts.flat[group[0]] / 32
            pairs = runs[starts[group]]
            # The last summand makes halves round up, as they do in fixed point.
            blended = cv2.addWeighted(pairs[:, :-3], 1.0 - share, pairs[:, 3:], share, 1 / 64)
            frames[numbers[group // len(rows)], first + group % len(rows)] = blended.reshape(-1, width, 3)


def _light(frames: np.ndarray, draw: Draw, color_space: str) -> None:
    """Change the light of whole frames, and of what is in a shadow."""
    height, width = frames.shape[1:3]
    lit, shaded = np.flatnonzero((draw.light != 1.0) | draw.tint.any(axis=1)), np.flatnonzero(draw.shadow_light != 1.0)
    tops, bottoms = draw.shadow_edge[shaded].T
    edges = np.ceil(np.linspace(tops, bottoms, height, axis=1) * width).astype(np.int16)
    columns = np.arange(width, dtype=np.int16)
    light = draw.light[shaded] * draw.shadow_light[shaded]
    tables = _make_light_tables(light, draw.tint[shaded], color_space)
    shadows = []
    for number, edge, factor, table in zip(shaded, edges, light, tables):
        reach = edge.max()
        if reach:
            is_left = columns[:reach] < edge[:, None]
            shadows.append((number, is_left.view(np.uint8), _change_light(frames[number, :, :reach], factor, table)))
    for number, table in zip(lit, _make_light_tables(draw.light[lit], draw.tint[lit], color_space)):
        _change_light(frames[number], draw.light[number], table, frames[number])
    for number, is_left, shadow in shadows:
        cv2.copyTo(shadow, is_left, frames[number, :, : shadow.shape[1]])


def _change_light(
    part: np.ndarray, factor: float, table: Optional[np.ndarray], target: Optional[np.ndarray] = None
) -> np.ndarray:
    """Return a part of a frame by its table, or else times a factor, in ``target`` if there is one."""
    if table is not None:
        return cv2.LUT(part, table, dst=target)
    flat, into = (None if each is None else each.reshape(len(each), -1) for each in (part, target))
    return cv2.convertScaleAbs(flat, dst=into, alpha=factor).reshape(part.shape)


def _make_light_tables(factors: np.ndarray, tints: np.ndarray, color_space: str) -> Sequence[Optional[np.ndarray]]:
    """Return, for each, what each value of each channel becomes under so much light of that colour.

    (1, 256, 3) uint8; or None where all channels are multiplied by the factor, which takes a third of a table's time.
    """
    if color_space == "rgb" and not tints.any():
        return [None] * len(factors)
    factors, (red, blue) = factors[:, None, None], TINT * tints.T[..., None]
    values = np.arange(256.0)[:, None]
    if color_space == "yuv":
        # What a tint does to a grey of 128 in YUV is done to all: U is 0.492 (B - Y), V is 0.877 (R - Y).
        chroma = 0.492 * (0.886 * blue - 0.299 * red), 0.877 * (0.701 * red - 0.114 * blue)
        shift = 128.0 * np.stack([np.zeros_like(red), *chroma], axis=-1)
        changed = (values - (0.0, 128.0, 128.0)) * factors + (0.0, 128.0, 128.0) + shift * factors
    else:
        changed = values * factors * (1.0 + np.stack([red, np.zeros_like(red), blue], axis=-1))
    return list(np.clip(np.rint(changed), 0, 255).astype(np.uint8)[:, None])
