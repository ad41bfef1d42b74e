"""From a camera frame to what a network looks at.

Training, evaluation, serving and driving all call :func:`preprocess`, so that a network meets on the road the very
pixels that it learned from. Colours are RGB on the way in, always: the usual fault of this trade is to train on
OpenCV's BGR and to drive on RGB.

The work is OpenCV's where OpenCV is installed. SageMaker's inference image has none, so the same arithmetic stands
here in NumPy as well; the two agree to the bit. An exported model has it in its graph.
"""

from __future__ import annotations

import re
import struct
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Iterable, Mapping, NamedTuple, Optional, Tuple

import numpy as np

from robostig.threads import share_out

try:
    import cv2
except ImportError:  # SageMaker's inference image
    cv2 = None  # type: ignore[assignment]

__all__ = [
    "COLOR_SPACES",
    "InputSpec",
    "PixelLayout",
    "Resizing",
    "check_frame",
    "check_picture_size",
    "move_channels_first",
    "parse_size",
    "plan_resizing",
    "preprocess",
]

COLOR_SPACES = ("rgb", "yuv")
LARGEST_PICTURE = 4096 * 4096  # pixels

# BT.601 as OpenCV computes it: in fixed point, with so many bits after the point.
YUV_BITS = 14
LUMA_OF_RGB = (4899, 9617, 1868)
BLUENESS, REDNESS = 8061, 14369

Taps = Tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class InputSpec:
    """What a network wants to see of a camera frame: which part, how large, in which colours.

    Parameters
    ----------
    height, width
        Size of the network's input in pixels.
    crop_top, crop_bottom
        Shares of the frame's height, 0 to 1, cut away above (sky, trees) and below (the car's bonnet), so that
        the same view is taken from a frame of any size.
    color_space
        ``"rgb"``, or ``"yuv"`` (BT.601, U and V centred on 128, as OpenCV's ``COLOR_RGB2YUV``).

    Raises
    ------
    ValueError
        For sizes below one pixel, crops that leave nothing, or an unknown colour space.
    """

    height: int
    width: int
    crop_top: float = 0.0
    crop_bottom: float = 0.0
    color_space: str = "rgb"

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"an input of {self.height}x{self.width} pixels has no picture in it; give at least 1x1")
        if not (self.crop_top >= 0.0 and self.crop_bottom >= 0.0 and self.crop_top + self.crop_bottom < 1.0):
            raise ValueError(
                f"crop_top={self.crop_top} and crop_bottom={self.crop_bottom} leave nothing of the frame; "
                "each is a share of its height, and together they stay below 1"
            )
        if self.color_space not in COLOR_SPACES:
            raise ValueError(f"unknown color_space {self.color_space!r}; use one of {', '.join(COLOR_SPACES)}")

    @property
    def shape(self) -> Tuple[int, int, int]:
        """Shape of a preprocessed frame: (height, width, 3)."""
        return self.height, self.width, 3

    def choose_rows(self, rows: int) -> Tuple[int, int]:
        """Return which rows of a frame are looked at: the first, and the first after them.

        Raises
        ------
        ValueError
            If a frame of so many rows has none left.
        """
        top, bottom = round(rows * self.crop_top), rows - round(rows * self.crop_bottom)
        if bottom <= top:
            raise ValueError(
                f"a frame {rows} rows high has none left after cropping {self.crop_top:.0%} above and "
                f"{self.crop_bottom:.0%} below; give a larger frame"
            )
        return top, bottom

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> InputSpec:
        """Build a spec from what :meth:`to_dict` returned."""
        return cls(**values)


@dataclass(frozen=True)
class PixelLayout:
    """How a network takes pixels as they lie in a picture, where it does not take a plane for each channel.

    Parameters
    ----------
    rows
        How many of a frame's rows it takes, counted from above.
    above, beside
        Its border in pixels: rows above, and as many below; columns on the left, and as many on the right.
    fill
        Each number of the border, on the pixels' scale, where 0 is black and 255 white.
    """

    rows: int
    above: int = 0
    beside: int = 0
    fill: float = 0.0

    def arrange(self, frames: np.ndarray, out: Optional[np.ndarray] = None) -> np.ndarray:
        """Put frames where a network takes them from.

        Parameters
        ----------
        frames
            (n, H, W, 3) uint8.
        out
            What this returned for as many frames of that size, and is no longer needed; new memory if None.

        Returns
        -------
        numpy.ndarray
            (n, 1, rows + 2 above, 3 (W + 2 beside)) float32, 0..255 and the fill.
        """
        count, _, width, channels = frames.shape
        bottom, left = self.above + self.rows, channels * self.beside
        right = left + channels * width
        if out is None:
            out = np.empty((count, 1, bottom + self.above, right + left), np.float32)
            out[:, :, : self.above] = out[:, :, bottom:] = self.fill  # all of it would take as long as the pixels
            out[..., :left] = out[..., right:] = self.fill
        out[:, 0, self.above : bottom, left:right] = frames[:, : self.rows].reshape(count, self.rows, right - left)
        return out


def preprocess(frame: np.ndarray, spec: InputSpec, *, copy: bool = True) -> np.ndarray:
    """Crop, resize and convert one camera frame into a network's input.

    Parameters
    ----------
    frame
        (H, W, 3) uint8 RGB, of any size.
    spec
        The network's wishes.
    copy
        Whether the result must be an array of its own; else it may be a part of ``frame``, where that is as wished.

    Returns
    -------
    numpy.ndarray
        (``spec.height``, ``spec.width``, 3) uint8, 0..255, in ``spec.color_space``.

    Raises
    ------
    ValueError
        If the frame is not an (H, W, 3) uint8 array, or too low for the crop to leave a row.
    """
    check_frame(frame)
    top, bottom = spec.choose_rows(len(frame))
    view = frame[top:bottom]
    picture = view
    if view.shape[:2] != (spec.height, spec.width):
        if cv2 is not None:
            picture = cv2.resize(view, (spec.width, spec.height), interpolation=cv2.INTER_AREA)
        else:
            picture = _resize(view, spec.height, spec.width)
    if spec.color_space == "yuv":
        if cv2 is None:
            return _rgb_to_yuv(picture)
        return cv2.cvtColor(picture, cv2.COLOR_RGB2YUV, dst=None if picture is view else picture)
    return picture.copy() if copy and picture is view else picture


def move_channels_first(
    frames: np.ndarray, out: Optional[np.ndarray] = None, *, scale: float = 1.0, offset: float = 0.0
) -> np.ndarray:
    """Return (n, H, W, 3) uint8 frames as networks take them.

    Parameters
    ----------
    frames
        (n, H, W, 3) uint8.
    out
        Where to write it; new memory if None.
    scale, offset
        Of each number, default 1 and 0.

    Returns
    -------
    numpy.ndarray
        (n, 3, H, W) float32, ``scale * frames + offset``, 0..255 by default.
    """
    count, *size, channels = frames.shape
    planes = np.empty((count, channels, *size), np.float32) if out is None else out

    def take_apart(start: int, stop: int) -> None:
        parts = np.empty(planes.shape[1:], np.uint8)  # OpenCV takes pixels apart twice as quickly as NumPy
        for frame, target in zip(frames[start:stop], planes[start:stop]):
            if cv2 is None:
                parts[...] = frame.transpose(2, 0, 1)
            else:
                cv2.split(frame, parts)  # type: ignore[call-overload]
            if scale != 1.0:
                np.multiply(parts, np.float32(scale), out=target, dtype=np.float32)
                target += np.float32(offset)
            elif offset:
                np.add(parts, np.float32(offset), out=target, dtype=np.float32)
            else:
                target[...] = parts

    share_out(take_apart, count)
    return planes


def check_frame(frame: np.ndarray) -> None:
    """Raise ValueError unless ``frame`` is one (H, W, 3) uint8 picture."""
    if not isinstance(frame, np.ndarray):
        raise ValueError(f"a frame is a numpy array (H, W, 3) of uint8 in RGB, not {type(frame).__name__}")
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        shape = "x".join(map(str, frame.shape))
        raise ValueError(
            f"a frame is (H, W, 3) uint8 in RGB, 0..255; this array is {shape} {frame.dtype}. "
            "A grey or RGBA picture must be converted, and floats scaled back to 0..255, first"
        )


def parse_size(text: str) -> Tuple[int, int]:
    """Return height and width in pixels of what people write as ``160x320``.

    Raises
    ------
    ValueError
        If it is not written so, or no camera's.
    """
    match = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text.strip().lower())
    height, width = map(int, match.groups()) if match else (0, 0)
    if not 0 < height * width <= LARGEST_PICTURE:
        raise ValueError(
            f"{text!r} is no size of a camera's frames: write height and width in pixels, as in 160x320, of at most "
            f"{LARGEST_PICTURE:,} pixels"
        )
    return height, width


def check_picture_size(data: bytes) -> None:
    """Raise ValueError if a JPEG or PNG promises more pixels than any camera's: a few bytes can ask for gigabytes."""
    try:
        height, width = _read_picture_size(data)
    except struct.error:
        raise ValueError("a picture whose header is cut off") from None
    if not 0 < height * width <= LARGEST_PICTURE:
        raise ValueError(f"a picture of {height:,} x {width:,} pixels; a camera's has at most {LARGEST_PICTURE:,}")


def _read_picture_size(data: bytes) -> Tuple[int, int]:
    """Return height and width from the header of a JPEG or PNG."""
    if data[:4] == b"\x89PNG":
        width, height = struct.unpack(">II", data[16:24])
        return height, width
    position = 2
    while position + 9 <= len(data):
        marker, length = struct.unpack_from(">HH", data, position)
        if 0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC):  # start of frame
            height, width = struct.unpack_from(">HH", data, position + 5)
            return height, width
        position += 1 if marker == 0xFFFF else 2 + length  # padding, or a segment
    raise ValueError("a JPEG without a frame in it")


# OpenCV's arithmetic in NumPy. An output row or column is a weighted sum of a few input ones, its taps.


class Resizing(NamedTuple):
    """How ``cv2.resize(..., interpolation=cv2.INTER_AREA)`` computes a picture from one of another size.

    Columns come before rows: each new column is the sum of some of the old ones, each times its weight.

    Parameters
    ----------
    columns, rows
        Which ones, and their weights, each (taps, new size). Weights are float32, or int32 where OpenCV computes in
        integers.
    shifts
        How many bits are dropped of each sum of columns, and then of each row before these are summed; of integers.
    scale
        What the sum is multiplied by before it is rounded to the nearest integer, halves to the even one; None if it
        is ``(sum + 2) >> 2`` instead.
    """

    columns: Taps
    rows: Taps
    shifts: Tuple[int, int]
    scale: Optional[float]


@lru_cache(maxsize=64)
def plan_resizing(size: Tuple[int, int], new_size: Tuple[int, int]) -> Resizing:
    """Return how OpenCV resizes pictures of one size, (height, width), to another."""
    (rows, columns), (height, width) = size, new_size
    if rows < height or columns < width:
        return Resizing(_linear_taps(columns, width), _linear_taps(rows, height), (4, 16), None)
    if rows % height or columns % width:
        return Resizing(_area_taps(columns, width), _area_taps(rows, height), (0, 0), 1.0)
    times = rows // height, columns // width
    scale = None if times == (2, 2) else float(np.float32(1.0) / np.float32(times[0] * times[1]))
    return Resizing(_block_taps(columns, width), _block_taps(rows, height), (0, 0), scale)


def _resize(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize as OpenCV does."""
    (columns, column_weights), (rows, row_weights), shifts, scale = plan_resizing(frame.shape[:2], (height, width))
    # The channels of a row's pixels are one row of numbers: long loops are what NumPy is quick at.
    gathered = (frame.take(index, 1).reshape(len(frame), -1) for index in columns)
    wide = _add_up(gathered, np.repeat(column_weights, 3, 1))
    wide = wide >> shifts[0] if shifts[0] else wide
    whole = _add_up((wide.take(index, 0) for index in rows), row_weights[..., None], shifts[1])
    whole = (whole + 2) >> 2 if scale is None else np.rint(whole.astype(np.float32, copy=False) * np.float32(scale))
    return whole.astype(np.uint8).reshape(height, width, 3)


def _add_up(taps: Iterable[np.ndarray], weights: np.ndarray, shift: int = 0) -> np.ndarray:
    """Return the weighted sum of arrays, in the weights' type."""
    first, *others = (tap * weight >> shift if shift else tap * weight for tap, weight in zip(taps, weights))
    for other in others:
        first += other
    return first


def _area_taps(size: int, new_size: int) -> Taps:
    """Taps of a reduction: each new pixel is the mean of the area it covers. Returns (taps, new_size) twice."""
    scale = size / new_size
    start = np.arange(new_size) * scale
    end = np.minimum(start + scale, size)
    index = np.floor(start)[None] + np.arange(int(np.ceil(scale)) + 1)[:, None]
    cover = np.clip(np.minimum(end, index + 1) - np.maximum(start, index), 0.0, None)
    cover[cover <= 1e-3] = 0.0  # OpenCV leaves slivers out
    return np.minimum(index, size - 1).astype(np.intp), (cover / (end - start)).astype(np.float32)


def _block_taps(size: int, new_size: int) -> Taps:
    """Taps of a reduction to a whole part: each new pixel is the sum of a block. Returns (taps, new_size) twice."""
    index = np.arange(size).reshape(new_size, -1).T
    return index, np.ones(index.shape, np.int32)


def _linear_taps(size: int, new_size: int) -> Taps:
    """Taps of an enlargement: linear between pixel edges, in 2048ths. Returns (2, new_size) twice."""
    enlargement = new_size / size
    position = np.arange(new_size)
    index = np.floor(position * (1.0 / enlargement))
    share = ((position + 1) - (index + 1) * enlargement).astype(np.float32)  # as OpenCV rounds it, before the floor
    share = np.where(share <= 0, np.float32(0.0), share - np.floor(share))
    pair = np.minimum(np.stack([index, index + 1]), size - 1)
    return pair.astype(np.intp), np.rint(np.stack([1 - share, share]) * np.float32(2048)).astype(np.int32)


def _rgb_to_yuv(picture: np.ndarray) -> np.ndarray:
    """Convert as ``cv2.COLOR_RGB2YUV`` does."""
    half, center = 1 << YUV_BITS - 1, 128 << YUV_BITS
    red, green, blue = (picture[..., channel].astype(np.int32) for channel in range(3))
    luma = (LUMA_OF_RGB[0] * red + LUMA_OF_RGB[1] * green + LUMA_OF_RGB[2] * blue + half) >> YUV_BITS
    blueness = ((blue - luma) * BLUENESS + center + half) >> YUV_BITS
    redness = ((red - luma) * REDNESS + center + half) >> YUV_BITS
    return np.clip(np.stack([luma, blueness, redness], -1), 0, 255).astype(np.uint8)
