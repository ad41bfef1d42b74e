"""Drives as videos: what a driver saw and steered, and where it was; or where several models look, side by side."""

from __future__ import annotations

import base64
import contextlib
import math
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Type, TypeVar, Union

import cv2
import numpy as np

from robostig.animation import Animation
from robostig.closed_loop import Moment
from robostig.metrics import DEGREES, LIMIT_M
from robostig.simulation import FRAME_S

__all__ = ["CODECS", "ExplanationVideo", "Video", "VideoWriter", "embed"]

# By the file's suffix; OpenCV's builds bring no H.264. Browsers play .webm, most players the others.
CODECS: Dict[str, str] = {".mp4": "mp4v", ".webm": "VP80", ".avi": "MJPG", ".mkv": "mp4v"}
ANIMATION = ".webp"  # a tenth of their size, for pages and notebooks: half as wide and high, every other frame

SCALE = 2  # of the camera's picture
PANEL = 120  # rows below the picture
MAP = 110  # pixels
STRIPE = 56  # rows below a picture of where a model looks
WHITE, QUIET, RED = (255, 255, 255), (150, 160, 170), (235, 87, 87)
BACKGROUND = (18, 22, 27)
DRIVER, EXPERT = (86, 180, 233), (230, 159, 0)  # Okabe and Ito's sky blue and orange

AnyVideo = TypeVar("AnyVideo", bound="Video")


class Video:
    """A video that is written picture by picture; the file appears when it is complete.

    Parameters
    ----------
    path
        The file; its suffix says how it is encoded: .mp4, .webm (for browsers), .avi, .mkv, or .webp (an animated
        picture, for pages: half as wide and high, every other frame).
    size
        Width and height of the pictures, even numbers. There are 15 pictures a second.

    Raises
    ------
    ValueError
        For another suffix, or one for which this build of OpenCV has no encoder.
    OSError
        If it cannot be written.
    """

    def __init__(self, path: Union[str, Path], size: Tuple[int, int]) -> None:
        self.path, self.size = Path(os.path.realpath(path)), size
        suffix = self.path.suffix.lower()
        codec = CODECS.get(suffix)
        if codec is None and suffix != ANIMATION:
            raise ValueError(f"{path} is to be a video: name it with one of {', '.join([*CODECS, ANIMATION])}")
        if self.path.is_dir():
            raise IsADirectoryError(f"{path} is a folder; name a file to write the video to")
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"there is no folder {Path(path).parent} to write {self.path.name} to")
        self._partial = self.path.with_name(f".{self.path.stem}.{os.getpid()}.partial{suffix}")
        self._frames = 0
        self._writer: Union[Animation, cv2.VideoWriter]
        if codec is None:
            self._writer = Animation(self._partial, FRAME_S)
            return
        with _without_stderr():  # FFmpeg grumbles about VP8 in .webm, where it belongs
            self._writer = cv2.VideoWriter(str(self._partial), cv2.VideoWriter.fourcc(*codec), 1 / FRAME_S, size)
        if not self._writer.isOpened():
            self._partial.unlink(missing_ok=True)
            others = ", ".join(other for other in CODECS if other != suffix)
            raise ValueError(
                f"{path} cannot be encoded: this build of OpenCV has no {codec}, or the folder cannot be written to; "
                f"try another suffix ({others})"
            )

    def __enter__(self: AnyVideo) -> AnyVideo:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        try:
            self._writer.release()
            if kind is None:
                self._check_complete()
                os.replace(self._partial, self.path)
        finally:
            self._partial.unlink(missing_ok=True)

    def _check_complete(self) -> None:
        """Raise OSError if not all frames are in the file: OpenCV does not say when the disk is full."""
        if isinstance(self._writer, Animation):
            return  # it would have said so itself
        capture, found = cv2.VideoCapture(str(self._partial)), 0
        while capture.grab():
            found += 1
        capture.release()
        if found < self._frames:
            raise OSError(f"{self.path} cannot be written: {found} of {self._frames} frames arrived; is the disk full?")

    def add(self, picture: np.ndarray) -> None:
        """Add a (height, width, 3) uint8 RGB picture."""
        self._writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        self._frames += 1


class VideoWriter(Video):
    """Films a drive on the built-in track.

    Parameters
    ----------
    path
        The file, as for :class:`Video`, which says what is raised.
    driver
        What to call the driver.
    """

    def __init__(self, path: Union[str, Path], driver: str) -> None:
        super().__init__(path, (320 * SCALE, 160 * SCALE + PANEL))
        self._driver = driver
        self._map: Optional[Tuple[str, np.ndarray]] = None
        self._place: Tuple[np.ndarray, float] = (np.zeros(2), 1.0)

    def write(self, moment: Moment) -> None:
        """Add a frame; as :func:`~robostig.closed_loop.evaluate_closed_loop` calls those who ``watch``."""
        picture = np.full((self.size[1], self.size[0], 3), BACKGROUND, np.uint8)
        width, height = self.size[0], 160 * SCALE
        picture[:height] = cv2.resize(moment.frame, (width, height), interpolation=cv2.INTER_CUBIC)
        self._draw_steering(picture[height:], moment)
        self._draw_numbers(picture[height:], moment)
        self._draw_map(picture[height:, width - MAP - 8 :], moment)
        self.add(picture)

    def _draw_steering(self, panel: np.ndarray, moment: Moment) -> None:
        """Draw both steerings as bars from the middle, a third of full lock to each side."""
        middle, reach = 300, 105
        for row, name, color, value in (
            (34, self._driver, DRIVER, moment.steering),
            (78, "expert", EXPERT, moment.expert),
        ):
            _draw_bar(panel, value, (middle, row), reach, color)
            _write(panel, _describe_steering(name[:14], value), (middle - reach, row - 7), color)
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


class ExplanationVideo(Video):
    """Films where several models look at the same frames, side by side, and what they would steer.

    Parameters
    ----------
    path
        The file, as for :class:`Video`, which says what is raised.
    names
        Of the models.
    frame_size
        Height and width of the camera's frames.
    driver
        What to call who drove.
    """

    def __init__(self, path: Union[str, Path], names: Sequence[str], frame_size: Tuple[int, int], driver: str) -> None:
        self._columns, self._driver = min(2, len(names)), driver
        width = 320 * SCALE if self._columns == 1 else 480
        self._tile = width, 2 * round(width * frame_size[0] / frame_size[1] / 2)
        rows = -(-len(names) // self._columns)
        super().__init__(path, (width * self._columns, (self._tile[1] + STRIPE) * rows))

    def write(self, overlays: Mapping[str, Tuple[np.ndarray, float]], steering: float) -> None:
        """Add a frame.

        Parameters
        ----------
        overlays
            For each model the frame as :func:`robostig.evidence.highlight_scenes` draws it, and its steering, -1..1.
        steering
            The driver's.
        """
        picture = np.full((self.size[1], self.size[0], 3), BACKGROUND, np.uint8)
        width, height = self._tile
        for number, (name, (overlay, answer)) in enumerate(overlays.items()):
            row, column = divmod(number, self._columns)
            tile = picture[row * (height + STRIPE) :, column * width : (column + 1) * width]
            tile[:height] = cv2.resize(overlay, (width, height), interpolation=cv2.INTER_CUBIC)
            stripe, middle = tile[height : height + STRIPE], width * 3 // 4
            for line, (who, value, color) in enumerate(((name, answer, DRIVER), (self._driver, steering, EXPERT))):
                _write(stripe, _describe_steering(who[:40], value), (12, 20 + 22 * line), color)
                _draw_bar(stripe, value, (middle, 10 + 22 * line), width // 5, color, thickness=10)
            cv2.line(stripe, (middle, 6), (middle, STRIPE - 6), QUIET, 1)
        self.add(picture)


def embed(path: Union[str, Path]) -> str:
    """Return HTML that shows a video and holds all of it, for a page or a notebook: ``HTML(embed("drive.webp"))``.

    Parameters
    ----------
    path
        The file: .webp, or a video that browsers play.
    """
    path = Path(path)
    kind, content = path.suffix.lower()[1:], base64.b64encode(path.read_bytes()).decode()
    if path.suffix.lower() == ANIMATION:
        return f'<img src="data:image/{kind};base64,{content}" alt="{path.stem}">'
    return f'<video controls src="data:video/{kind};base64,{content}"></video>'


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


def _draw_bar(
    panel: np.ndarray,
    value: float,
    place: Tuple[int, int],
    reach: int,
    color: Tuple[int, int, int],
    *,
    thickness: int = 14,
) -> None:
    """Draw a steering as a bar from the middle; a third of full lock is as far as it reaches."""
    middle, row = place
    end = middle + round(reach * max(-1.0, min(1.0, value * 3.0)))
    cv2.rectangle(panel, (min(middle, end), row), (max(middle, end), row + thickness), color, -1)


def _describe_steering(name: str, value: float) -> str:
    return f"{name}  {abs(value) * DEGREES:.1f} deg {_side(value)}"


def _side(value: float) -> str:
    return "right" if value > 0 else "left"


def _write(panel: np.ndarray, text: str, place: Tuple[int, int], color: Tuple[int, int, int]) -> None:
    ascii_text = text.encode("ascii", "replace").decode()  # OpenCV's letters
    cv2.putText(panel, ascii_text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, color, 1, cv2.LINE_AA)
