"""A drive as a video: what the driver saw and steered, what the expert would have, and where on the map the car was."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Dict, Iterator, List, Optional, Tuple, Type, Union

import cv2
import numpy as np

from robostig.closed_loop import Moment
from robostig.metrics import DEGREES, LIMIT_M
from robostig.simulation import FRAME_S

__all__ = ["CODECS", "VideoWriter"]

# By the file's suffix; OpenCV's builds bring no H.264. Browsers play .webm, most players the others.
CODECS: Dict[str, str] = {".mp4": "mp4v", ".webm": "VP80", ".avi": "MJPG", ".mkv": "mp4v"}

SCALE = 2  # of the camera's picture
PANEL = 120  # rows below the picture
MAP = 110  # pixels
WHITE, QUIET, RED = (255, 255, 255), (150, 160, 170), (235, 87, 87)
DRIVER, EXPERT = (86, 180, 233), (230, 159, 0)  # Okabe and Ito's sky blue and orange


class VideoWriter:
    """Writes a video, frame by frame; the file appears when it is complete.

    Parameters
    ----------
    path
        The file; its suffix says how it is encoded: .mp4, .webm (for browsers), .avi or .mkv.
    driver
        What to call the driver.

    Raises
    ------
    ValueError
        For another suffix, or one for which this build of OpenCV has no encoder.
    OSError
        If it cannot be written.
    """

    def __init__(self, path: Union[str, Path], driver: str) -> None:
        self.path, self._driver = Path(os.path.realpath(path)), driver
        codec = CODECS.get(self.path.suffix.lower())
        if codec is None:
            raise ValueError(f"{path} is to be a video: name it with one of {', '.join(CODECS)}")
        if self.path.is_dir():
            raise IsADirectoryError(f"{path} is a folder; name a file to write the video to")
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"there is no folder {Path(path).parent} to write {self.path.name} to")
        self._partial = self.path.with_name(f".{self.path.stem}.{os.getpid()}.partial{self.path.suffix.lower()}")
        self._size = (320 * SCALE, 160 * SCALE + PANEL)
        self._frames = 0
        with _without_stderr():  # FFmpeg grumbles about VP8 in .webm, where it belongs
            self._writer = cv2.VideoWriter(str(self._partial), cv2.VideoWriter.fourcc(*codec), 1 / FRAME_S, self._size)
        if not self._writer.isOpened():
            self._partial.unlink(missing_ok=True)
            others = ", ".join(suffix for suffix in CODECS if suffix != self.path.suffix.lower())
            raise ValueError(
                f"{path} cannot be encoded: this build of OpenCV has no {codec}, or the folder cannot be written to; "
                f"try another suffix ({others})"
            )
        self._map: Optional[Tuple[str, np.ndarray]] = None
        self._place: Tuple[np.ndarray, float] = (np.zeros(2), 1.0)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._writer.release()
        try:
            if kind is None:
                self._check_complete()
                os.replace(self._partial, self.path)
        finally:
            self._partial.unlink(missing_ok=True)

    def _check_complete(self) -> None:
        """Raise OSError if not all frames are in the file: OpenCV does not say when the disk is full."""
        capture, found = cv2.VideoCapture(str(self._partial)), 0
        while capture.grab():
            found += 1
        capture.release()
        if found < self._frames:
            raise OSError(f"{self.path} cannot be written: {found} of {self._frames} frames arrived; is the disk full?")

    def write(self, moment: Moment) -> None:
        """Add a frame; as :func:`~robostig.closed_loop.evaluate_closed_loop` calls those who ``watch``."""
        picture = np.full((self._size[1], self._size[0], 3), (18, 22, 27), np.uint8)
        width, height = self._size[0], 160 * SCALE
        picture[:height] = cv2.resize(moment.frame, (width, height), interpolation=cv2.INTER_CUBIC)
        self._draw_steering(picture[height:], moment)
        self._draw_numbers(picture[height:], moment)
        self._draw_map(picture[height:, width - MAP - 8 :], moment)
        self._writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        self._frames += 1

    def _draw_steering(self, panel: np.ndarray, moment: Moment) -> None:
        """Draw both steerings as bars from the middle, a third of full lock to each side."""
        middle, reach = 300, 105
        for row, name, color, value in (
            (34, self._driver, DRIVER, moment.steering),
            (78, "expert", EXPERT, moment.expert),
        ):
            end = middle + round(reach * max(-1.0, min(1.0, value * 3.0)))
            cv2.rectangle(panel, (min(middle, end), row), (max(middle, end), row + 14), color, -1)
            _write(
                panel, f"{name[:14]}  {abs(value) * DEGREES:.1f} deg {_side(value)}", (middle - reach, row - 7), color
            )
        cv2.line(panel, (middle, 28), (middle, 98), QUIET, 1)

    def _draw_numbers(self, panel: np.ndarray, moment: Moment) -> None:
        drive = moment.simulation
        error = drive.lateral_error_m
        lines: List[Tuple[str, Tuple[int, int, int]]] = [
            (str(drive.track), WHITE),
            (f"{drive.car.speed_mph:.0f} mph  {drive.time_s:5.1f} s", QUIET),
            (f"{abs(error):.2f} m {_side(error)} of middle", RED if abs(error) > 0.7 * LIMIT_M else QUIET),
            (f"{moment.interventions} interventions", RED if moment.interventions else QUIET),
        ]
        for number, (text, color) in enumerate(lines):
            _write(panel, text, (10, 24 + 26 * number), color)

    def _draw_map(self, corner: np.ndarray, moment: Moment) -> None:
        track, car = moment.simulation.track, moment.simulation.car
        if self._map is None or self._map[0] != track.name:
            points = track.road.center.points
            low, high = points.min(0), points.max(0)
            scale = (MAP - 16) / float((high - low).max())
            self._place = ((low + high) / 2.0, scale)
            drawn = corner.copy()
            cv2.polylines(drawn, [self._to_pixels(points)], True, QUIET, 2, cv2.LINE_AA)
            self._map = (track.name, drawn)
        corner[:] = self._map[1]
        here = self._to_pixels(np.array([[car.x, car.y]]))[0]
        ahead = here + np.round(9.0 * np.array([math.cos(car.heading), -math.sin(car.heading)])).astype(int)
        cv2.line(corner, (int(here[0]), int(here[1])), (int(ahead[0]), int(ahead[1])), WHITE, 2, cv2.LINE_AA)
        cv2.circle(corner, (int(here[0]), int(here[1])), 4, DRIVER, -1, cv2.LINE_AA)

    def _to_pixels(self, points: np.ndarray) -> np.ndarray:
        middle, scale = self._place
        return np.round((points - middle) * (scale, -scale) + (MAP / 2.0, PANEL / 2.0)).astype(np.int32)


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Keep what a C library prints off the terminal."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _side(value: float) -> str:
    return "right" if value > 0 else "left"


def _write(panel: np.ndarray, text: str, place: Tuple[int, int], color: Tuple[int, int, int]) -> None:
    ascii_text = text.encode("ascii", "replace").decode()  # OpenCV's letters
    cv2.putText(panel, ascii_text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, color, 1, cv2.LINE_AA)
