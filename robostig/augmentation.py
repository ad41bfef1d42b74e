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
from typing import Dict, List, Optional, Sequence, Tuple

import cv2
import numpy as np

from robostig import camera
from robostig.preprocessing import InputSpec

__all__ = ["CAMERA_CORRECTION", "CHANGES", "Augmentation", "Draw", "Memory", "apply", "change", "give_scenery", "join"]

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
    took twice as long. An instance is for one thread at a time.
    """

    _LIMIT = 8  # arrays kept: more than a loader has under way

    def __init__(self) -> None:
        self._arrays: List[np.ndarray] = []
        self._size = 0

    def take(self, *shape: int) -> np.ndarray:
        """Return a uint8 array of this shape with anything in it; it is the caller's for as long as that holds it."""
        size = math.prod(shape)
        if size > self._size:  # those there are will not do any more, and to choose among many keeps none in a cache
            self._arrays, self._size = [], size
        for array in self._arrays:
            # Of three references, one is the list's, one is this loop's and one is getrefcount's own.
            if sys.getrefcount(array) <= 3:
                return array[:size].reshape(shape)
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
    """Apply a draw to a batch: :func:`give_scenery`, :func:`join`, then :func:`change`.

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
    memory = memory or Memory()
    batch = memory.take(len(frames), *frames[0].shape)
    join(give_scenery(frames, draw, spec), batch)
    return batch, change(batch, steering, draw, spec, memory)


def give_scenery(frames: Sequence[np.ndarray], draw: Draw, spec: InputSpec) -> List[np.ndarray]:
    """Return what a batch is to be made of, from its top to its bottom, all of it as it lies in ``frames``.

    Each frame gets the view above the horizon of the one that the draw says. Parameters as for :func:`apply`.
    """
    sky = max(0, int(_find_row(camera.HORIZON, spec)))
    parts: List[np.ndarray] = []
    for number, (frame, giver) in enumerate(zip(frames, draw.scenery.tolist())):
        if giver == number or sky == 0:
            parts.append(frame)
        else:
            parts += (frames[giver][:sky], frame[sky:])
    return parts


def join(parts: Sequence[np.ndarray], out: np.ndarray) -> np.ndarray:
    """Copy parts of frames, one below the other, into a batch, and return it.

    One call to OpenCV does all of it without Python's lock: for a thread beside one that needs that.

    Parameters
    ----------
    parts
        Of (rows, W, 3) uint8.
    out
        For the batch, (n, H, W, 3) uint8, C-contiguous, of as many rows.

    Raises
    ------
    ValueError
        If the parts are of another width or type, or have not as many rows.
    """
    rows = out.reshape(-1, *out.shape[2:])
    joined = cv2.vconcat(parts, rows)
    if not np.may_share_memory(joined, rows):  # OpenCV takes memory of its own then
        raise ValueError(
            f"the frames make {joined.dtype} of shape {joined.shape}; the batch has {rows.dtype} of shape {rows.shape}"
        )
    return out


def change(
    batch: np.ndarray, steering: np.ndarray, draw: Draw, spec: InputSpec, memory: Optional[Memory] = None
) -> np.ndarray:
    """Change a batch, which has its scenery, in place, by all else that the draw says.

    Parameters
    ----------
    batch
        (n, H, W, 3) uint8, C-contiguous.
    steering, draw, spec, memory
        As for :func:`apply`.

    Returns
    -------
    numpy.ndarray
        The steering that belongs to it, (n,) float32, clipped to -1..1.
    """
    memory = memory or Memory()
    height, width = batch.shape[1:3]
    grounds = _Grounds(draw.shift, height, width, _find_row(camera.HORIZON, spec), spec, memory)
    light = _Light(draw, height, width, spec.color_space)
    for number, (frame, flip) in enumerate(zip(batch, draw.flip.tolist())):
        if flip:
            cv2.flip(frame, 1, dst=frame)
        # While the processor's cache holds it:
        if number in grounds.taken:
            grounds.take(number, frame)
        else:
            light.change(frame, number)
    grounds.shift_into(batch)
    for number in grounds.taken:
        light.change(batch[number], number)
    bonnets = batch[:, max(0, math.ceil(_find_row(camera.BONNET, spec))) :]
    takers = draw.bonnet != np.arange(len(batch))
    bonnets[takers] = bonnets[draw.bonnet[takers]]
    return draw.steer(steering)


def _find_row(share: float, spec: InputSpec) -> float:
    """Return the row of a preprocessed frame that was so far down in the camera's; outside if it was cropped away."""
    return (share - spec.crop_top) / _share_seen(spec) * spec.height


def _share_seen(spec: InputSpec) -> float:
    """Return the share of the camera's height that the crop leaves."""
    return 1.0 - spec.crop_top - spec.crop_bottom


class _Grounds:
    """The ground of those frames that are shown from further left, and how it moves.

    It is flat; what is beyond the horizon stays, and the edge's colours fill the gap. To the bit what
    ``cv2.warpAffine`` makes of such a shear, which weighs four pixels for each. But here a row moves sideways and no
    more, so that two weights, in 32nds, do for all of it; rows of the batch that share theirs are blended at once.

    Parameters
    ----------
    shifts
        As drawn, one a frame.
    height, width
        Of a frame, in pixels.
    horizon
        The row where the ground ends, a fraction.
    spec, memory
        As for :func:`apply`.

    Attributes
    ----------
    taken
        By the number of each frame that is moved: memory for its ground, and the pixels it lacks left and right.
    """

    def __init__(
        self, shifts: np.ndarray, height: int, width: int, horizon: float, spec: InputSpec, memory: Memory
    ) -> None:
        self._first = max(0, math.ceil(horizon))
        zoom = (width / camera.WIDTH) / (height / (camera.HEIGHT * _share_seen(spec)))
        rows = np.arange(max(0, height - self._first))
        self._numbers = np.flatnonzero(shifts if len(rows) else ())
        slopes = (shifts[self._numbers] * camera.SIDE_SLOPE * zoom)[:, None]  # pixels a row
        # Where a row comes from, rounded as in there: to 1024ths of a pixel, and then to 32nds.
        origins = (np.rint(-(slopes * rows + slopes * (self._first - horizon)) * 1024.0).astype(np.int64) + 16) >> 5
        self._pixels, self._parts = origins >> 5, (origins & 31).astype(np.uint8)
        self._margin = int(np.abs(self._pixels).max(initial=0)) + 1
        self._wide = memory.take(*origins.shape, width + 2 * self._margin, 3)
        lefts = -self._pixels.min(axis=1, initial=0)
        rights = self._pixels.max(axis=1, initial=-1) + 1
        gaps = zip(self._wide, lefts.tolist(), rights.tolist())
        self.taken: Dict[int, Tuple[np.ndarray, int, int]] = dict(zip(self._numbers.tolist(), gaps))

    def take(self, number: int, frame: np.ndarray) -> None:
        """Take a frame's ground, and fill in what pixels it lacks."""
        ground, left, right = self.taken[number]
        wide = ground[:, self._margin - left : self._margin + frame.shape[1] + right]
        cv2.copyMakeBorder(frame[self._first :], 0, 0, left, right, cv2.BORDER_REPLICATE, dst=wide)

    def shift_into(self, batch: np.ndarray) -> None:
        """Write all of it, moved, into the batch."""
        if not self._wide.size:
            return
        height, width = batch.shape[1:3]
        order = np.argsort(self._parts, axis=None, kind="stable")
        # All runs of width + 1 pixels in memory, of which we want one for each row, and the rows of the batch.
        # Each is one element, which NumPy moves at once.
        length = 3 * (width + 1)
        run, line = np.dtype((np.void, length)), np.dtype((np.void, 3 * width))
        runs: np.ndarray = np.ndarray(self._wide.size - length + 1, run, self._wide, strides=1)
        lines = batch.reshape(-1).view(line)
        starts = 3 * (np.arange(order.size) * self._wide.shape[2] + self._margin + self._pixels.ravel())[order]
        targets = (self._numbers[:, None] * height + np.arange(self._first, height)).ravel()[order]
        edges = np.searchsorted(self._parts.ravel()[order], np.arange(33)).tolist()
        for part, (low, high) in enumerate(zip(edges, edges[1:])):
            if low < high:
                pairs, share = runs[starts[low:high]].view(np.uint8).reshape(-1, length), part / 32
                # The last summand makes halves round up, as they do in fixed point.
                blended = cv2.addWeighted(pairs[:, :-3], 1.0 - share, pairs[:, 3:], share, 1 / 64)
                lines[targets[low:high]] = blended.reshape(-1).view(line)


class _Light:
    """The light of each frame: of the whole, and of what is in a shadow.

    Parameters
    ----------
    draw
        As for :func:`apply`.
    height, width
        Of a frame, in pixels.
    color_space
        Of the frames.
    """

    def __init__(self, draw: Draw, height: int, width: int, color_space: str) -> None:
        lit = np.flatnonzero((draw.light != 1.0) | draw.tint.any(axis=1))
        shaded = np.flatnonzero(draw.shadow_light != 1.0)
        shadow_light = draw.light[shaded] * draw.shadow_light[shaded]
        tables = _make_light_tables(draw.light[lit], draw.tint[lit], color_space)
        shadow_tables = _make_light_tables(shadow_light, draw.tint[shaded], color_space)
        tops, bottoms = draw.shadow_edge[shaded].T
        edges = np.linspace(tops, bottoms, height, axis=1) * width
        self._lit = dict(zip(lit.tolist(), zip(draw.light[lit], tables)))
        self._shaded = dict(zip(shaded.tolist(), zip(shadow_light, shadow_tables)))
        self._edges = dict(zip(shaded.tolist(), np.ceil(edges).astype(np.int64)))
        # Row n has n ones before its zeros; they overlap in memory.
        step = np.repeat(np.array([1, 0], np.uint8), width)[width:]
        self._masks = np.lib.stride_tricks.as_strided(step, (width + 1, width), (-1, 1))

    def change(self, frame: np.ndarray, number: int) -> None:
        """Change the frame that has this number in the batch."""
        shadow = None
        if number in self._shaded:
            edge = self._edges[number]
            reach = int(edge.max())
            factor, table = self._shaded[number]
            shadow = _change_light(frame[:, :reach], factor, table) if reach else None
        if number in self._lit:
            factor, table = self._lit[number]
            _change_light(frame, factor, table, frame)
        if shadow is not None:
            cv2.copyTo(shadow, self._masks[edge, :reach], frame[:, :reach])


def _change_light(
    part: np.ndarray, factor: float, table: Optional[np.ndarray], target: Optional[np.ndarray] = None
) -> np.ndarray:
    """Return a part of a frame by its table, or else times a factor, in ``target`` if there is one."""
    if table is not None:
        return cv2.LUT(part, table, dst=target)
    return cv2.convertScaleAbs(part, dst=target, alpha=factor)


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
