"""Udacity's simulator: ``driving_log.csv`` and its pictures, read as people really have them, and written.

The simulator writes the absolute paths of the machine that recorded; logs then travel, get joined, lose pictures and
gain headers. :func:`read_log` copes with all of that, and where it cannot, it says in which file and row, and why.
"""

from __future__ import annotations

import csv
import os
import re
from collections import defaultdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Dict, Iterable, List, Mapping, Sequence, Tuple, Union

import numpy as np

from robostig._files import make_folder
from robostig.driving_log.folders import walk
from robostig.driving_log.log import CAMERAS, DrivingLog
from robostig.driving_log.rows import BadRowError, check_number, check_picture, check_steering, sift_rows
from robostig.picture import SUFFIXES, encode_jpeg

__all__ = ["LOG_NAME", "DrivingLogWriter", "find_log", "read_log"]

LOG_NAME = "driving_log.csv"
PICTURES_NAME = "IMG"

_COLUMNS = (*CAMERAS, "steering", "throttle", "brake", "speed")
_ALIASES = {"centre": "center", "steering_angle": "steering", "angle": "steering"}
_TIME = re.compile(r"(\d{4})_(\d\d)_(\d\d)_(\d\d)_(\d\d)_(\d\d)_(\d{3})")
_DECIMAL_COMMAS = (
    "numbers seem to be written with decimal commas, which a comma-separated file cannot hold; record again with the "
    "machine's number format set to English, or replace the commas"
)


def find_log(folder: Path, folders: Sequence[str], names: Sequence[str]) -> List[Path]:
    """Return the log among a folder's files, if there is one."""
    return [folder / LOG_NAME] if LOG_NAME in names else []


def read_log(source: Path, on_error: str) -> DrivingLog:
    """Read a CSV file and find its pictures; if it has no rows, or all were left out, the log is empty.

    Parameters
    ----------
    source
        The CSV file.
    on_error
        As in :func:`~robostig.driving_log.read_driving_log`.

    Raises
    ------
    FileNotFoundError, ValueError, OSError
        As :func:`~robostig.driving_log.read_driving_log`.
    """
    columns, rows = _read_rows(source)
    index = _PictureIndex(source.parent)
    cameras = [
        camera
        for camera in CAMERAS
        if camera == "center" or (camera in columns and any(_cell(row, columns[camera]) for _, row in rows))
    ]

    def read_row(row: Sequence[str]) -> Tuple[Tuple[float, ...], List[str]]:
        values = _parse_numbers(row, columns)
        return values, [index.find(_cell(row, columns[camera]), camera) for camera in cameras]

    kept, skipped = sift_rows(source, rows, read_row, on_error)
    pictures = {camera: [paths[number] for _, paths in kept] for number, camera in enumerate(cameras)}
    steering, throttle, brake, speed_mph = np.array([values for values, _ in kept], np.float32).reshape(-1, 4).T
    return DrivingLog(
        source=source,
        pictures=pictures,
        steering=steering,
        throttle=throttle,
        brake=brake,
        speed_mph=speed_mph,
        time_s=np.array([_parse_time(name) for name in pictures["center"]]),
        skipped=tuple(skipped),
        unused_pictures=index.count_unused(path for paths in pictures.values() for path in paths),
        format="Udacity driving log",
    )


class DrivingLogWriter:
    """Writes a driving log as Udacity's simulator does: ``driving_log.csv`` without a header, and pictures in ``IMG/``.

    To a log that is there already, rows are added, as the simulator does. A row is written after its pictures, so that
    a recording that is cut off is a shorter recording.

    Parameters
    ----------
    folder
        Where to write; made if it is not there.
    named
        The folder's name in the log, which holds absolute paths; ``folder`` itself if None.
    cameras
        Those that every row will have a picture of; all three by default.

    Raises
    ------
    ValueError
        If there is a log already whose rows are of other cameras, or that has a header.
    OSError
        If the folder cannot be written to.
    """

    def __init__(
        self,
        folder: Union[str, Path],
        *,
        named: Union[str, Path, None] = None,
        cameras: Sequence[str] = CAMERAS,
    ) -> None:
        self.folder = make_folder(folder)
        self._cameras = tuple(cameras)
        _check_can_grow(self.folder / LOG_NAME, self._cameras)
        self._pictures = make_folder(self.folder / PICTURES_NAME)
        self._named = Path(os.path.abspath(folder if named is None else named)) / PICTURES_NAME
        path = self.folder / LOG_NAME
        has_loose_end = path.is_file() and not _ends_with_newline(path)  # then a row would be joined to the last one
        self._file: IO[str] = open(path, "a", encoding="utf-8", newline="")  # noqa: SIM115
        if has_loose_end:
            self._file.write("\n")
        self.rows = 0

    def __enter__(self) -> DrivingLogWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Finish the file."""
        self._file.close()

    def write(
        self,
        pictures: Mapping[str, Union[np.ndarray, bytes]],
        *,
        steering: float,
        throttle: float,
        brake: float,
        speed_mph: float,
        time_s: float,
    ) -> None:
        """Write a row.

        Parameters
        ----------
        pictures
            Camera name to (H, W, 3) uint8 RGB, or to the bytes of a JPEG, for each of this log's cameras.
        steering
            -1..1, 1.0 = full lock (25 degrees) to the right.
        throttle, brake
            0..1.
        speed_mph
            Miles an hour.
        time_s
            Seconds since 1970, to the millisecond: no two rows of a log share one.

        Raises
        ------
        ValueError
            If a number is not finite, or the cameras are others: no reader would take such a row.
        OSError
            If the disk does not take it.
        """
        numbers = (steering, throttle, brake, speed_mph)
        if not np.isfinite(numbers).all():
            raise ValueError(f"steering, throttle, brake and speed are {numbers}; all must be finite numbers")
        if set(pictures) != set(self._cameras):
            raise ValueError(f"pictures of {', '.join(pictures)}; this log has {', '.join(self._cameras)} in every row")
        clock = datetime(1970, 1, 1) + timedelta(milliseconds=round(time_s * 1000.0))
        stamp = f"{clock:%Y_%m_%d_%H_%M_%S}_{clock.microsecond // 1000:03d}"
        cells = []
        for camera in CAMERAS:
            if camera not in pictures:
                cells.append("")
                continue
            name = f"{camera}_{stamp}.jpg"
            picture = pictures[camera]
            (self._pictures / name).write_bytes(picture if isinstance(picture, bytes) else encode_jpeg(picture))
            cells.append(str(self._named / name))
        cells += [f"{value:.7g}" for value in numbers]
        csv.writer(self._file, lineterminator="\n").writerow(cells)
        self._file.flush()
        self.rows += 1


def _check_can_grow(path: Path, cameras: Sequence[str]) -> None:
    """Raise ValueError unless rows with these cameras can be added to the log, if there is one."""
    if not path.is_file() or not path.stat().st_size:
        return
    columns, rows = _read_rows(path)
    if not columns:
        return
    here = [camera for camera in CAMERAS if any(_cell(row, columns[camera]) for _, row in rows if camera in columns)]
    is_plain = columns == {name: position for position, name in enumerate(_COLUMNS)} and rows[:1] and rows[0][0] == 1
    if not is_plain or set(here) != set(cameras):
        found = f"pictures of {', '.join(here)}" if is_plain else "a header"
        raise ValueError(
            f"{path} is there already, with {found}; rows with pictures of {', '.join(cameras)} do not go with it. "
            "Name another folder"
        )


def _ends_with_newline(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(0, os.SEEK_END)
        if not file.tell():
            return True
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def _read_rows(source: Path) -> Tuple[Dict[str, int], List[Tuple[int, List[str]]]]:
    """Return column name -> position, and the rows with their line numbers; nothing of a file without any."""
    try:
        with open(source, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            reader = csv.reader(file, skipinitialspace=True)
            rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise ValueError(f"{source} is not a readable CSV file ({error}); is it a text file?") from error
    if not rows:
        return {}, []
    names = [_ALIASES.get(name, name) for name in (cell.strip().lower() for cell in rows[0][1])]
    if not {"center", "steering"} & set(names):
        return {name: position for position, name in enumerate(_COLUMNS)}, rows
    missing = [name for name in ("center", "steering") if name not in names]
    if missing:
        raise ValueError(
            f"{source}: the header ({', '.join(names)}) has no column {' or '.join(missing)}; "
            f"the simulator's columns are {', '.join(_COLUMNS)}"
        )
    return {name: names.index(name) for name in names}, rows[1:]  # unknown ones too: they make rows wider


def _cell(row: Sequence[str], position: int) -> str:
    return row[position].strip() if position < len(row) else ""


def _parse_numbers(row: Sequence[str], columns: Mapping[str, int]) -> Tuple[float, ...]:
    """Return steering, throttle, brake and speed of a row."""
    width = max(len(_COLUMNS), max(columns.values()) + 1)
    if any(cell.strip() for cell in row[width:]):
        raise BadRowError("decimal commas", f"{len(row)} columns where {width} belong: {_DECIMAL_COMMAS}")
    values = []
    for name in _COLUMNS[len(CAMERAS) :]:
        text = _cell(row, columns[name]) if name in columns else ""
        if not text and name != "steering":
            values.append(0.0)
            continue
        try:
            values.append(check_number(name, text))
        except ValueError:
            if re.fullmatch(r"[-+]?\d+,\d+([eE][-+]?\d+)?", text):
                raise BadRowError("decimal commas", f"{name} is {text!r}: {_DECIMAL_COMMAS}") from None
            raise BadRowError(f"{name} is no number", f"{name} is {text!r}, which is no number") from None
    check_steering(values[0])
    return tuple(values)


def _parse_time(name: str) -> float:
    match = _TIME.search(os.path.basename(name))
    if not match:
        return float("nan")
    *date, milliseconds = map(int, match.groups())
    try:
        return (datetime(*date) - datetime(1970, 1, 1)).total_seconds() + milliseconds / 1000.0  # type: ignore[arg-type]
    except ValueError:  # such as month 13: digits that are no time
        return float("nan")


class _PictureIndex:
    """Finds pictures below a folder by the end of the path that a log gives."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._by_name: Dict[str, List[str]] = defaultdict(list)
        for below, _, names in walk(folder):
            for name in names:
                if os.path.splitext(name)[1].lower() in SUFFIXES:
                    self._by_name[name].append(os.path.join(below, name))

    def count_unused(self, used: Iterable[str]) -> int:
        unused = {path for paths in self._by_name.values() for path in paths}
        return len(unused.difference(used))

    def find(self, text: str, camera: str) -> str:
        if not text:
            raise BadRowError(f"no {camera} picture named", f"it names no {camera} picture")
        parts = re.split(r"[\\/]", text)
        return check_picture(self._choose(parts, self._by_name.get(parts[-1], []), text), camera)

    def _choose(self, parts: List[str], candidates: List[str], text: str) -> str:
        if not candidates:
            if os.path.isabs(text) and os.path.isfile(text):
                return text
            raise BadRowError(
                "picture not found", f"there is no picture {parts[-1]!r} in {self.folder} or below", FileNotFoundError
            )
        if len(candidates) == 1:
            return candidates[0]
        ranked = sorted(candidates, key=lambda path: _common_end(parts, path.split(os.sep)), reverse=True)
        if _common_end(parts, ranked[0].split(os.sep)) == _common_end(parts, ranked[1].split(os.sep)):
            raise BadRowError(
                "picture ambiguous",
                f"{text!r} could be {ranked[0]} or {ranked[1]}; keep recordings in separate folders",
            )
        return ranked[0]


def _common_end(parts: Sequence[str], others: Sequence[str]) -> int:
    same = 0
    for part, other in zip(reversed(parts), reversed(others)):
        if part != other:
            break
        same += 1
    return same
