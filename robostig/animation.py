"""Moving pictures that are small enough for a page or a notebook: animated WebP."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Iterator

import cv2
import numpy as np

__all__ = ["Animation"]

SHRINK, EVERY = 2, 2  # half as wide and high, every other frame: what a page needs
QUALITY = 40


class Animation:
    """Writes as ``cv2.VideoWriter`` does, and the file when it is released; frames wait on the disk until then.

    Parameters
    ----------
    path
        The file.
    frame_s
        Seconds that a frame is shown.
    """

    def __init__(self, path: Path, frame_s: float) -> None:
        self._path, self._duration_ms = path, round(1000.0 * frame_s * EVERY)
        self._waiting = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115, until release()
        self._shape = (0, 0, 3)
        self._frames = 0

    def write(self, picture: np.ndarray) -> None:
        """Add a (height, width, 3) uint8 BGR picture."""
        if self._frames % EVERY == 0:
            small = cv2.resize(picture, None, fx=1 / SHRINK, fy=1 / SHRINK, interpolation=cv2.INTER_AREA)
            self._shape = small.shape
            self._waiting.write(cv2.cvtColor(small, cv2.COLOR_BGR2RGB).tobytes())
        self._frames += 1

    def release(self) -> None:
        """Write the file."""
        from PIL import Image

        with self._waiting:
            size = int(np.prod(self._shape))
            self._waiting.seek(0)

            def read() -> Iterator[Image.Image]:
                while True:
                    frame = self._waiting.read(size)
                    if not frame:
                        return
                    yield Image.frombytes("RGB", self._shape[1::-1], frame)

            frames = read()
            first = next(frames, None)
            if first is not None:
                first.save(
                    self._path,
                    save_all=True,
                    append_images=frames,
                    duration=self._duration_ms,
                    loop=0,
                    quality=QUALITY,
                )
