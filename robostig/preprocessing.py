"""From a camera frame to what a network looks at.

Training, evaluation, serving and driving all call :func:`preprocess`, so that a network meets on the road the very
pixels that it learned from. Colours are RGB on the way in, always: the usual fault of this trade is to train on
OpenCV's BGR and to drive on RGB.

The work is OpenCV's where OpenCV is installed. SageMaker's inference image has none, so the same arithmetic stands
here in NumPy as well; for the simulator's frames the two agree to the bit.
"""

from __future__ import annotations

import struct
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Iterable, Mapping, Tuple

import numpy as np

try:
    import cv2
except ImportError:  # SageMaker's inference image
    cv2 = None  # type: ignore[assignment]

__all__ = ["COLOR_SPACES", "InputSpec", "check_picture_size", "preprocess"]

COLOR_SPACES = ("rgb", "yuv")
LARGEST_PICTURE = 4096 * 4096  # pixels

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

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> InputSpec:
        """Build a spec from what :meth:`to_dict` returned."""
        return cls(**values)


def preprocess(frame: np.ndarray, spec: InputSpec) -> np.ndarray:
    """Crop, resize and convert one camera frame into a network's input.

    Parameters
    ----------
    frame
        (H, W, 3) uint8 RGB, of any size.
    spec
        The network's wishes.

    Returns
    -------
    numpy.ndarray
        (``spec.height``, ``spec.width``, 3) uint8, 0..255, in ``spec.color_space``; always a new array.

    Raises
    ------
    ValueError
        If the frame is not an (H, W, 3) uint8 array, or too low for the crop to leave a row.
    """
    check_frame(frame)
    rows = frame.shape[0]
    top, bottom = round(rows * spec.crop_top), rows - round(rows * spec.crop_bottom)
    if bottom <= top:
        raise ValueError(
            f"a frame {rows} rows high has none left after cropping {spec.crop_top:.0%} above and "
            f"{spec.crop_bottom:.0%} below; give a larger frame"
        )
    view = frame[top:bottom]
    if view.shape[:2] == (spec.height, spec.width):
        picture = view.copy()
    elif cv2 is not None:
        picture = cv2.resize(view, (spec.width, spec.height), interpolation=cv2.INTER_AREA)
    else:
        picture = _resize(view, spec.height, spec.width)
    if spec.color_space == "yuv":
        return cv2.cvtColor(picture, cv2.COLOR_RGB2YUV) if cv2 is not None else _rgb_to_yuv(picture)
    return picture


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


def _resize(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize as ``cv2.resize(..., interpolation=cv2.INTER_AREA)`` does, columns before rows, in float32."""
    make_taps = _area_taps if frame.shape[0] >= height and frame.shape[1] >= width else _linear_taps
    columns, column_weights = make_taps(frame.shape[1], width)
    rows, row_weights = make_taps(frame.shape[0], height)
    # The channels of a row's pixels are one row of numbers: long loops are what NumPy is quick at.
    gathered = (frame.take(index, 1).reshape(len(frame), -1) for index in columns)
    wide = _add_up(gathered, np.repeat(column_weights, 3, 1))
    whole = _add_up((wide.take(index, 0) for index in rows), row_weights[..., None])
    return np.rint(whole, out=whole).astype(np.uint8).reshape(height, width, 3)


def _add_up(taps: Iterable[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """Return the weighted sum of arrays, in the weights' float32."""
    first, *others = (tap * weight for tap, weight in zip(taps, weights))
    for other in others:
        first += other
    return first


@lru_cache(maxsize=64)
def _area_taps(size: int, new_size: int) -> Taps:
    """Taps of a reduction: each new pixel is the mean of the area it covers. Returns (taps, new_size) twice."""
    scale = size / new_size
    start = np.arange(new_size) * scale
    end = np.minimum(start + scale, size)
    index = np.floor(start)[None] + np.arange(int(np.ceil(scale)) + 1)[:, None]
    cover = np.clip(np.minimum(end, index + 1) - np.maximum(start, index), 0.0, None)
    cover[cover <= 1e-3] = 0.0  # OpenCV leaves slivers out
    return np.minimum(index, size - 1).astype(np.intp), (cover / (end - start)).astype(np.float32)


@lru_cache(maxsize=64)
def _linear_taps(size: int, new_size: int) -> Taps:
    """Taps of an enlargement by OpenCV's INTER_AREA: linear between pixel edges. Returns (2, new_size) twice."""
    enlargement = new_size / size
    position = np.arange(new_size)
    index = np.floor(position * (1.0 / enlargement))
    share = ((position + 1) - (index + 1) * enlargement).astype(np.float32)  # as OpenCV rounds it, before the floor
    share = np.where(share <= 0, 0.0, share - np.floor(share))
    last = index >= size - 1
    share[last] = 0.0
    pair = np.minimum(np.stack([index, index + 1]), size - 1)
    return pair.astype(np.intp), np.stack([1.0 - share, share]).astype(np.float32)


def _rgb_to_yuv(picture: np.ndarray) -> np.ndarray:
    """Convert as ``cv2.COLOR_RGB2YUV`` does: BT.601 in 14-bit fixed point."""
    half, center = 1 << 13, 128 << 14
    red, green, blue = (picture[..., channel].astype(np.int32) for channel in range(3))
    luma = (4899 * red + 9617 * green + 1868 * blue + half) >> 14
    yuv = np.stack(
        [luma, ((blue - luma) * 8061 + center + half) >> 14, ((red - luma) * 14369 + center + half) >> 14], -1
    )
    return np.clip(yuv, 0, 255).astype(np.uint8)
