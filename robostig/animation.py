"""Moving pictures that are small enough for a page or a notebook: animated WebP."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, List

import cv2
import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Animation"]

SHRINK, EVERY = 2, 2  # half as wide and high, every other frame: what a page needs
QUALITY = 40


class Animation:
    """Writes as ``cv2.VideoWriter`` does, and the file when it is released; frames wait in memory, 95 MB a minute.

    Parameters
    ----------
    path
        The file.
    frame_s
        Seconds that a frame is shown.
    """

    def __init__(self, path: Path, frame_s: float) -> None:
        self._path, self._duration_ms = path, round(1000.0 * frame_s * EVERY)
        self._waiting: List[Image] = []
        self._frames = 0

    def write(self, picture: np.ndarray) -> None:
        """Add a (height, width, 3) uint8 BGR picture."""
        from PIL import Image

        if self._frames % EVERY == 0:
            small = cv2.resize(picture, None, fx=1 / SHRINK, fy=1 / SHRINK, interpolation=cv2.INTER_AREA)
            self._waiting.append(Image.fromarray(cv2.cvtColor(small, cv2.COLOR_BGR2RGB)))
        self._frames += 1

    def release(self) -> None:
        """Write the file."""
        if self._waiting:
            first, *others = self._waiting
            first.save(
                self._path,
                save_all=True,
                append_images=others,
                quality=QUALITY,
                duration=self._duration_ms,
                loop=0,
            )
