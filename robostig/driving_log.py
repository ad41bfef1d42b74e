"""Driving logs as people really have them: ``driving_log.csv`` and its pictures, read, checked and split.

Udacity's simulator writes the absolute paths of the machine that recorded; logs then travel, get joined, lose
pictures and gain headers. :func:`read_driving_log` copes with all of that, and where it cannot, it says in which file
and row, and why.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Dict, List, Mapping, Optional, Sequence, Set, Tuple, Union

import cv2
import numpy as np

from robostig._files import make_folder

__all__ = [
    "CAMERAS",
    "LOG_NAME",
    "DrivingLog",
    "DrivingLogWriter",
    "SkippedRow",
    "Split",
    "read_driving_log",
    "read_picture",
    "split_by_time",
]

CAMERAS = ("center", "left", "right")
LOG_NAME = "driving_log.csv"
PICTURES_NAME = "IMG"
RECORDING_HZ = 15.0  # Udacity's simulator; used where file names carry no time
JPEG_QUALITY = 75  # in percent, as the simulator's

_COLUMNS = (*CAMERAS, "steering", "throttle", "brake", "speed")
_ALIASES = {"centre": "center", "steering_angle": "steering", "angle": "steering"}
_TIME = re.compile(r"(\d{4})_(\d\d)_(\d\d)_(\d\d)_(\d\d)_(\d\d)_(\d{3})")
_SUFFIXES = (".jpg", ".jpeg", ".png")
_SIGNATURES = ((b"\xff\xd8", b"\xff\xd9"), (b"\x89PNG", b"IEND"))  # how a whole JPEG, or PNG, begins and ends
_TAIL = 4096  # bytes from the end in which the ending is: some cameras add to their pictures
_DECIMAL_COMMAS = (
    "numbers seem to be written with decimal commas, which a comma-separated file cannot hold; record again with the "
    "machine's number format set to English, or replace the commas"
)


@dataclass(frozen=True)
class SkippedRow:
    """One row that was left out: its line in the file (1 is the first), what kind of fault, and the details."""

    row: int
    kind: str
    detail: str


@dataclass(frozen=True)
class DrivingLog:
    """A recorded drive, one element a row, in the order of the file.

    Parameters
    ----------
    source
        The CSV file.
    pictures
        Camera name to the paths of its pictures, one a row. ``"center"`` is always there.
    steering
        (N,) float32, -1..1, 1.0 = full lock (25 degrees) to the right.
    throttle, brake
        (N,) float32, 0..1; zeros where the log has none.
    speed_mph
        (N,) float32, miles an hour; zeros where the log has none.
    time_s
        (N,) float64, seconds since 1970 by the recording machine's clock, from the file names; NaN where a name
        carries no time.
    skipped
        Rows that were left out.
    unused_pictures
        Number of pictures in the folder that no row names.
    """

    source: Path
    pictures: Mapping[str, Sequence[str]]
    steering: np.ndarray
    throttle: np.ndarray
    brake: np.ndarray
    speed_mph: np.ndarray
    time_s: np.ndarray
    skipped: Tuple[SkippedRow, ...] = ()
    unused_pictures: int = 0

    def __len__(self) -> int:
        return len(self.steering)

    def find_breaks(self, rows: Optional[np.ndarray] = None, *, max_gap_s: float = 1.0) -> np.ndarray:
        """Return (n,) bool: True where a row does not follow the one before in time, so that a new stretch begins.

        Parameters
        ----------
        rows
            (n,) ascending row numbers; where some were left out between two, the second begins a stretch. All if None.
        max_gap_s
            A longer pause than this, or a clock that goes backwards, is a break. Default 1 second.
        """
        steps = np.diff(self.time_s, prepend=np.nan if len(self) else [])
        breaks = (steps < 0) | (steps > max_gap_s)
        breaks[:1] = True
        return breaks if rows is None else breaks[rows] | (np.diff(rows, prepend=-2) != 1)

    def driving_clock(self, max_gap_s: float = 1.0) -> np.ndarray:
        """Return (N,) float64 seconds of driving since the first row: the time stamps with pauses taken out."""
        steps = np.diff(self.time_s, prepend=np.nan if len(self) else [])
        steps[np.isnan(steps) | self.find_breaks(max_gap_s=max_gap_s)] = 1.0 / RECORDING_HZ
        steps[:1] = 0.0
        return np.cumsum(steps)

    def fingerprint(self) -> str:
        """Return 64 hexadecimal digits that two logs share if they have the same labels and pictures (names, sizes)."""
        digest = hashlib.sha256(np.ascontiguousarray(self.steering, np.float32).tobytes())
        for camera in sorted(self.pictures):
            for path in self.pictures[camera]:
                digest.update(f"{os.path.basename(path)}:{os.path.getsize(path)};".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def describe(self) -> str:
        """Return one or two lines for people: rows, minutes, cameras, and what was left out and why."""
        minutes = self.driving_clock()[-1] / 60.0 if len(self) else 0.0
        text = f"{self.source}: {len(self):,} rows, {minutes:.1f} minutes of driving, {', '.join(self.pictures)} camera"
        if self.unused_pictures:
            text += f"; {self.unused_pictures:,} pictures that no row names"
        if self.skipped:
            kinds: Dict[str, List[int]] = defaultdict(list)
            for skipped in self.skipped:
                kinds[skipped.kind].append(skipped.row)
            reasons = "; ".join(
                f"{len(rows)} x {kind} (row {', '.join(map(str, rows[:5]))}{', ...' if len(rows) > 5 else ''})"
                for kind, rows in kinds.items()
            )
            text += f"\nleft out {len(self.skipped):,} rows: {reasons}"
        return text


class _BadRowError(Exception):
    def __init__(self, kind: str, detail: str, error: type = ValueError) -> None:
        super().__init__(detail)
        self.kind, self.detail, self.error = kind, detail, error


def read_driving_log(path: Union[str, Path], *, on_error: str = "raise") -> DrivingLog:
    r"""Read a driving log and find its pictures, wherever it was recorded.

    The file may have a header or not, paths of another machine (with ``/`` or ``\``), bare file names, several
    prefixes, spaces after commas, and pictures in ``IMG/`` or any other folder below it: a picture is found by the end
    of its path. Cameras that have no column, or an empty one, are simply not there; the centre camera must be.

    Parameters
    ----------
    path
        The CSV file, or the folder that holds ``driving_log.csv``.
    on_error
        ``"raise"`` (default) stops at the first bad row; ``"skip"`` leaves bad rows out and lists them in
        :attr:`DrivingLog.skipped`.

    Raises
    ------
    FileNotFoundError
        If there is no log, or a picture is not there.
    ValueError
        For a row that cannot be used (numbers that are none, decimal commas, steering beyond -1..1, a picture that
        is cut off), naming file and row; for a log without a usable row.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f'on_error is "raise" or "skip", not {on_error!r}')
    source = _find_log(Path(path))
    columns, rows = _read_rows(source)
    index = _PictureIndex(source.parent)
    cameras = [
        camera for camera in CAMERAS if camera in columns and any(_cell(row, columns[camera]) for _, row in rows)
    ]

    pictures: Dict[str, List[str]] = {camera: [] for camera in CAMERAS if camera == "center" or camera in cameras}
    numbers: List[Tuple[float, ...]] = []
    skipped: List[SkippedRow] = []
    for line, row in rows:
        try:
            values = _parse_numbers(row, columns)
            found = [index.find(_cell(row, columns[camera]), camera) for camera in pictures]
        except _BadRowError as bad:
            if on_error == "raise":
                raise bad.error(
                    f"{source}, row {line}: {bad.detail}. Mend the row, or leave such rows out with on_error='skip' "
                    "(--on-error skip)"
                ) from None
            skipped.append(SkippedRow(line, bad.kind, bad.detail))
            continue
        numbers.append(values)
        for camera, picture in zip(pictures, found):
            pictures[camera].append(picture)
    if not numbers:
        first = f"; the first was left out because {skipped[0].detail}" if skipped else ""
        raise ValueError(f"{source} has no usable row among its {len(rows)}{first}")

    steering, throttle, brake, speed_mph = np.array(numbers, np.float32).T
    time_s = np.array([_parse_time(name) for name in pictures["center"]])
    return DrivingLog(
        source=source,
        pictures=pictures,
        steering=steering,
        throttle=throttle,
        brake=brake,
        speed_mph=speed_mph,
        time_s=time_s,
        skipped=tuple(skipped),
        unused_pictures=index.count_unused(),
    )


def read_picture(path: Union[str, Path]) -> np.ndarray:
    """Decode a JPEG or PNG file.

    Returns
    -------
    numpy.ndarray
        (H, W, 3) uint8, RGB.

    Raises
    ------
    ValueError
        If the file is cut off, or no picture.
    FileNotFoundError
        If there is no such file.
    """
    return decode_picture(Path(path).read_bytes(), str(path))


def decode_picture(data: bytes, name: str) -> np.ndarray:
    """Decode the bytes of a JPEG or PNG file; as :func:`read_picture`, with ``name`` for the message."""
    fault = _find_fault(len(data), data[:4], data[-_TAIL:])
    picture = None if fault else cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise ValueError(f"{name}: {fault or 'is no picture that can be decoded'}; remove its row or restore the file")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB, dst=picture)


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
    here = [camera for camera in CAMERAS if any(_cell(row, columns[camera]) for _, row in rows if camera in columns)]
    is_plain = columns == {name: position for position, name in enumerate(_COLUMNS)} and rows[0][0] == 1
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


def encode_jpeg(frame: np.ndarray, quality: int = JPEG_QUALITY) -> bytes:
    """Return a (H, W, 3) uint8 RGB picture as the bytes of a JPEG file, as Udacity's simulator compresses them."""
    data: np.ndarray = cv2.imencode(
        ".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )[1]
    return data.tobytes()


def _find_log(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}; give a folder with a {LOG_NAME}, or the CSV file itself")
    if (path / LOG_NAME).is_file():
        return path / LOG_NAME
    below = sorted(path.glob(f"*/{LOG_NAME}"))
    if len(below) == 1:  # an archive unpacked into a folder of its own
        return below[0]
    found = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
    if below:
        found = ", ".join(str(log.relative_to(path)) for log in below[:8])
        raise ValueError(f"{path} holds several logs ({found}); name one of them")
    raise FileNotFoundError(
        f"there is no {LOG_NAME} in {path}, which holds {found}; give the folder that the simulator recorded into"
    )


def _read_rows(source: Path) -> Tuple[Dict[str, int], List[Tuple[int, List[str]]]]:
    """Return column name -> position, and the rows with their line numbers."""
    try:
        with open(source, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            reader = csv.reader(file, skipinitialspace=True)
            rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise ValueError(f"{source} is not a readable CSV file ({error}); is it a text file?") from error
    if not rows:
        raise ValueError(f"{source} is empty; record a drive first")
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
        raise _BadRowError("decimal commas", f"{len(row)} columns where {width} belong: {_DECIMAL_COMMAS}")
    values = []
    for name in _COLUMNS[len(CAMERAS) :]:
        text = _cell(row, columns[name]) if name in columns else ""
        if not text and name != "steering":
            values.append(0.0)
            continue
        try:
            value = float(text)
        except ValueError:
            if re.fullmatch(r"[-+]?\d+,\d+([eE][-+]?\d+)?", text):
                raise _BadRowError("decimal commas", f"{name} is {text!r}: {_DECIMAL_COMMAS}") from None
            raise _BadRowError(f"{name} is no number", f"{name} is {text!r}, which is no number") from None
        if not abs(value) <= np.finfo(np.float32).max:
            raise _BadRowError(f"{name} is not finite", f"{name} is {text}, which is not finite")
        values.append(value)
    if abs(values[0]) > 1.0:
        raise _BadRowError(
            "steering out of range",
            f"steering is {values[0]:g}, outside -1..1 (1.0 is full lock, 25 degrees); divide degrees by 25",
        )
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


@dataclass
class _PictureIndex:
    """Finds pictures below a folder by the end of the path that a log gives."""

    folder: Path
    used: Set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._by_name: Dict[str, List[str]] = defaultdict(list)
        seen: Set[str] = set()
        for folder, folders, names in os.walk(self.folder, followlinks=True):  # pictures are often on a larger disk
            if os.path.realpath(folder) in seen:  # a link that leads back up
                folders.clear()
                continue
            seen.add(os.path.realpath(folder))
            for name in names:
                if os.path.splitext(name)[1].lower() in _SUFFIXES:
                    self._by_name[name].append(os.path.join(folder, name))

    def count_unused(self) -> int:
        return sum(path not in self.used for paths in self._by_name.values() for path in paths)

    def find(self, text: str, camera: str) -> str:
        if not text:
            raise _BadRowError(f"no {camera} picture named", f"it names no {camera} picture")
        parts = re.split(r"[\\/]", text)
        found = self._choose(parts, self._by_name.get(parts[-1], []), text)
        fault = _inspect(found)
        if fault:
            raise _BadRowError(f"{camera} picture damaged", f"the {camera} picture {found} {fault}")
        self.used.add(found)
        return found

    def _choose(self, parts: List[str], candidates: List[str], text: str) -> str:
        if not candidates:
            if os.path.isabs(text) and os.path.isfile(text):
                return text
            raise _BadRowError(
                "picture not found", f"there is no picture {parts[-1]!r} in {self.folder} or below", FileNotFoundError
            )
        if len(candidates) == 1:
            return candidates[0]
        ranked = sorted(candidates, key=lambda path: _common_end(parts, path.split(os.sep)), reverse=True)
        if _common_end(parts, ranked[0].split(os.sep)) == _common_end(parts, ranked[1].split(os.sep)):
            raise _BadRowError(
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


def _inspect(path: str) -> Optional[str]:
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


@dataclass(frozen=True)
class Split:
    """Rows to train on and rows held out, as whole stretches of time.

    Parameters
    ----------
    train, validation
        Row numbers, ascending, (N,) int64.
    left_out
        Number of rows that belong to neither: the gaps at the borders.
    description
        The split in one sentence.
    """

    train: np.ndarray
    validation: np.ndarray
    left_out: int
    description: str


def split_by_time(log: DrivingLog, *, fraction: float = 0.2, stretch_s: float = 10.0, gap_s: float = 1.0) -> Split:
    """Hold out whole stretches of time, spread evenly over the drive.

    Neighbouring frames are some 70 ms apart and look alike; a random split puts near copies of the training frames
    into the validation set, and its error says nothing. Here the drive is cut into stretches of equal length, every
    ``1 / fraction``-th is held out, and rows close to its borders are dropped from training.

    Parameters
    ----------
    log
        The drive.
    fraction
        Share of the stretches that is held out, above 0 and up to 0.5, rounded to one in a whole number: 0.2 is every
        fifth, 0.3 every third.
    stretch_s
        Wished length of a stretch in seconds; shorter where the drive is too short for ``1 / fraction`` of them.
    gap_s
        Seconds on both sides of a held-out stretch that are left out of training.

    Raises
    ------
    ValueError
        If a parameter is out of its range, or the log is too short to leave rows on both sides.
    """
    if not 0.0 < fraction <= 0.5:
        raise ValueError(f"the held-out fraction is {fraction}; it must be above 0 and at most 0.5")
    if stretch_s <= 0.0 or gap_s < 0.0:
        raise ValueError(f"stretch_s={stretch_s} must be above 0, and gap_s={gap_s} at least 0")
    clock = log.driving_clock()
    duration = float(clock[-1]) + 1.0 / RECORDING_HZ
    period = round(1.0 / fraction)
    stretches = max(period, round(duration / stretch_s / period) * period)
    length_s = duration / stretches
    held_out = np.arange(stretches) % period == period // 2
    stretch = np.minimum((clock / length_s).astype(np.int64), stretches - 1)
    in_validation = held_out[stretch]
    # A row is in the gap if the drive was, or will be, held out within gap_s of it.
    before, after = (np.clip((clock + gap) / length_s, 0, stretches - 1).astype(np.int64) for gap in (-gap_s, gap_s))
    held_out_until = np.concatenate([[0], np.cumsum(held_out)])  # the gap may reach across a whole stretch
    near = held_out_until[after + 1] > held_out_until[before]
    near |= _find_near_in_time(log, in_validation, gap_s)
    train, validation = np.flatnonzero(~in_validation & ~near), np.flatnonzero(in_validation)
    if not len(train) or not len(validation):
        raise ValueError(
            f"{log.source} is too short to split: {len(log)} rows, {duration:.1f} s of driving, with {gap_s:g} s left "
            f"out at each border leave {len(train)} rows to train on and {len(validation)} to hold out; record more, "
            "shorten the gap, or, if the rows are not in the order of time, sort them"
        )
    left_out = len(log) - len(train) - len(validation)
    return Split(
        train,
        validation,
        left_out,
        f"{held_out.sum()} of {stretches} stretches of {length_s:.1f} s held out, every {period}th, evenly over the "
        f"drive: {len(train):,} rows to train on, {len(validation):,} held out, {left_out:,} in gaps of {gap_s:g} s "
        "left out",
    )


def _find_near_in_time(log: DrivingLog, held_out: np.ndarray, gap_s: float) -> np.ndarray:
    """Return (N,) bool: rows that were recorded within ``gap_s`` of a held-out one, wherever in the file they stand.

    In a log as it was recorded these are the rows of the gaps; in one that was shuffled, or joined from overlapping
    parts, they are the copies of held-out frames.
    """
    times = np.sort(log.time_s[held_out & np.isfinite(log.time_s)])
    if not len(times):
        return np.zeros(len(log), bool)
    after = np.clip(np.searchsorted(times, log.time_s), 0, len(times) - 1)
    before = np.maximum(after - 1, 0)
    distance = np.minimum(np.abs(times[after] - log.time_s), np.abs(times[before] - log.time_s))
    return distance < gap_s  # False for NaN
