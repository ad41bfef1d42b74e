"""One picture's bytes: a JPEG or PNG decoded, a JPEG made, and what is wrong with a file that is neither."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional, Union

import cv2
import numpy as np

__all__ = ["JPEG_QUALITY", "SUFFIXES", "decode_picture", "encode_jpeg", "inspect_picture"]

JPEG_QUALITY = 75  # in percent, as the simulator's
SUFFIXES = (".jpg", ".jpeg", ".png")

_SIGNATURES = ((b"\xff\xd8", b"\xff\xd9"), (b"\x89PNG", b"IEND"))  # how a whole JPEG, or PNG, begins and ends
_TAIL = 4096  # bytes from the end in which the ending is: some cameras add to their pictures


def decode_picture(data: bytes, name: str) -> np.ndarray:
    """Decode the bytes of a JPEG or PNG file.

    Parameters
    ----------
    data
        The file's, whole.
    name
        What to call the picture in messages.

    Returns
    -------
    numpy.ndarray
        (H, W, 3) uint8, RGB.

    Raises
    ------
    ValueError
        If the bytes are cut off, or no picture.
    """
    fault = _find_fault(len(data), data[:4], data[-_TAIL:])
    picture = None if fault else cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise ValueError(f"{name}: {fault or 'is no picture that can be decoded'}; remove its row or restore the file")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB, dst=picture)


def encode_jpeg(frame: np.ndarray, quality: int = JPEG_QUALITY) -> bytes:
    """Return a (H, W, 3) uint8 RGB picture as the bytes of a JPEG file, as Udacity's simulator compresses them."""
    data: np.ndarray = cv2.imencode(
        ".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )[1]
    return data.tobytes()


def inspect_picture(path: Union[str, Path]) -> Optional[str]:
    """Say what is wrong with a picture file, as far as its first and last bytes tell; None if it seems whole."""
    with open(path, "rb") as file:
        head = file.read(4)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL))
        return _find_fault(size, head, file.read())


def _find_fault(size: int, head: bytes, tail: bytes) -> Optional[str]:
    if size == 0:
        return "is empty"
    for beginning, ending in _SIGNATURES:
        if head.startswith(beginning):
            whole = ending in tail
            return None if whole else f"is cut off: its {size:,} bytes do not end as a whole picture does"
    return "is neither a JPEG nor a PNG"
