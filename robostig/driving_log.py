"""Driving logs as people really have them: ``driving_log.csv`` and its pictures, read, checked and written.

Udacity's simulator writes the absolute paths of the machine that recorded; logs then travel, get joined, lose
pictures and gain headers. :func:`read_driving_log` copes with all of that, and where it cannot, it says in which file
and row, and why. It reads several drives in sub-folders as one log, and what :func:`pack_driving_log` has packed.
"""

from __future__ import annotations

import csv
import hashlib
import logging
import math
import os
import re
from bisect import bisect_right
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import (
    IO,
    Callable,
    Dict,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
    TypeVar,
    Union,
    overload,
)

import numpy as np

from robostig._files import fill_folder, make_folder
from robostig.packed_log import (
    INDEX_NAME,
    MEND,
    Table,
    measure_picture,
    read_packed,
    read_picture_bytes,
    write_packed,
)
from robostig.picture import SUFFIXES, decode_picture, encode_jpeg, inspect_picture

__all__ = [
    "CAMERAS",
    "LOG_NAME",
    "SHARD_MB",
    "Drive",
    "DrivingLog",
    "DrivingLogWriter",
    "SkippedRow",
    "pack_driving_log",
    "read_driving_log",
    "read_picture",
]

logger = logging.getLogger(__name__)

CAMERAS = ("center", "left", "right")
LOG_NAME = "driving_log.csv"
PICTURES_NAME = "IMG"
RECORDING_HZ = 15.0  # Udacity's simulator; used where file names carry no time
SHARD_MB = 256.0  # megabytes (1e6 bytes) that a file of a packed log has

_COLUMNS = (*CAMERAS, "steering", "throttle", "brake", "speed")
_ALIASES = {"centre": "center", "steering_angle": "steering", "angle": "steering"}
_TIME = re.compile(r"(\d{4})_(\d\d)_(\d\d)_(\d\d)_(\d\d)_(\d\d)_(\d{3})")
_FILES_AT_ONCE = 16
_ROWS_AT_ONCE = 2048
_DECIMAL_COMMAS = (
    "numbers seem to be written with decimal commas, which a comma-separated file cannot hold; record again with the "
    "machine's number format set to English, or replace the commas"
)

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class SkippedRow:
    """One row that was left out: its line in the file (1 is the first), what kind of fault, and the details.

    Where drives were joined, ``log`` is the file within their common folder, with which the details begin, too.
    """

    row: int
    kind: str
    detail: str
    log: str = ""


class Drive(NamedTuple):
    """A drive within a log: its folder within the log's own, and its first row."""

    name: str
    start: int


@dataclass(frozen=True)
class DrivingLog:
    """A recorded drive, or several one after the other: one element a row, in the order of the file.

    Parameters
    ----------
    source
        The CSV file, or the index of a packed log; the folder above them where drives were joined.
    pictures
        Camera name to its pictures, one a row: paths, or :class:`~robostig.packed_log.PackedPicture`. ``"center"`` is
        always there.
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
    drives
        Where each drive begins; one drive by default.
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
    drives: Tuple[Drive, ...] = (Drive("", 0),)
    _sizes: Dict[str, np.ndarray] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.steering)

    @property
    def folder(self) -> Path:
        """The folder that was read."""
        return self.source if self.source.is_dir() else self.source.parent

    def find_breaks(self, rows: Optional[np.ndarray] = None, *, max_gap_s: float = 1.0) -> np.ndarray:
        """Return (n,) bool: True where a row does not follow the one before, so that a new stretch begins.

        Parameters
        ----------
        rows
            (n,) ascending row numbers; where some were left out between two, the second begins a stretch. All if None.
        max_gap_s
            A longer pause than this, or a clock that goes backwards, is a break, and so is another drive. Default 1
            second.
        """
        steps = np.diff(self.time_s, prepend=np.nan if len(self) else [])
        breaks = (steps < 0) | (steps > max_gap_s)
        breaks[[drive.start for drive in self.drives if drive.start < len(self)]] = True
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
            for identity in self._identify_pictures(camera, 0, len(self)):
                digest.update(identity)
        if len(self.drives) > 1:  # else as it always was: artifacts remember it
            digest.update(repr([drive.start for drive in self.drives]).encode())
        return digest.hexdigest()

    def locate_drives(self) -> List[Tuple[int, int]]:
        """Return for each drive its first row, and the one after its last."""
        starts = [drive.start for drive in self.drives]
        return list(zip(starts, [*starts[1:], len(self)]))

    def identify_drives(self) -> Tuple[str, ...]:
        """Return for each drive 64 hexadecimal digits of its labels and centre pictures, whatever it is joined to."""
        return tuple(self.identify_drive(number) for number in range(len(self.drives)))

    def identify_drive(self, number: int) -> str:
        """Return 64 hexadecimal digits of the labels and centre pictures of the drive of this number."""
        start, stop = self.locate_drives()[number]
        digest = hashlib.sha256(np.ascontiguousarray(self.steering[start:stop], np.float32).tobytes())
        for identity in self._identify_pictures("center", start, stop):
            digest.update(identity)
        return digest.hexdigest()

    def _identify_pictures(self, camera: str, start: int, stop: int) -> Iterator[bytes]:
        pictures = self.pictures[camera]
        if camera not in self._sizes:  # asked for once: the files may be far away
            self._sizes[camera] = np.fromiter(map(measure_picture, pictures), np.int64, len(pictures))
        for row, size in enumerate(self._sizes[camera][start:stop].tolist(), start):
            yield f"{os.path.basename(pictures[row])}:{size};".encode("utf-8", "surrogateescape")

    def describe(self) -> str:
        """Return one or two lines for people: rows, drives, minutes, cameras, and what was left out and why."""
        minutes = self.driving_clock()[-1] / 60.0 if len(self) else 0.0
        rows = f"{len(self):,} rows" + (f" of {len(self.drives):,} drives" if len(self.drives) > 1 else "")
        text = f"{self.source}: {rows}, {minutes:.1f} minutes of driving, {', '.join(self.pictures)} camera"
        if self.unused_pictures:
            text += f"; {self.unused_pictures:,} pictures that no row names"
        if self.skipped:
            kinds: Dict[str, List[str]] = defaultdict(list)
            for skipped in self.skipped:
                kinds[skipped.kind].append(f"{skipped.row} of {skipped.log}" if skipped.log else str(skipped.row))
            reasons = "; ".join(
                f"{len(places)} x {kind} (row {', '.join(places[:5])}{', ...' if len(places) > 5 else ''})"
                for kind, places in kinds.items()
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

    A folder without a log of its own may have logs in its sub-folders, however deep: they become one, in the order of
    their folders' names, with the cameras that all of them have. What :func:`pack_driving_log` wrote is a log, too.

    Parameters
    ----------
    path
        The folder that holds ``driving_log.csv``, a packed log, or folders of these; or the CSV file itself.
    on_error
        ``"raise"`` (default) stops at the first bad row, and at a drive that is there twice; ``"skip"`` leaves bad
        rows, copies, and logs without rows among others out and lists them in :attr:`DrivingLog.skipped`.

    Raises
    ------
    FileNotFoundError
        If there is no log, a picture is not there, or a packed log is not complete.
    ValueError
        For a row that cannot be used (numbers that are none, decimal commas, steering beyond -1..1, a picture that
        is cut off), naming file and row; for a log without a usable row, a copy of another drive, and a packed log
        that is damaged.
    OSError
        If a file or folder cannot be read, naming it.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f'on_error is "raise" or "skip", not {on_error!r}')
    path = Path(path)
    sources = _find_sources(path)
    logs = [_read_packed(source) if source.name == INDEX_NAME else _read_csv(source, on_error) for source in sources]
    empty = [] if on_error == "skip" and len(logs) > 1 else [log for log in logs if not len(log) and not log.skipped]
    if empty:
        raise ValueError(f"{empty[0].source} is empty; record a drive first")
    log = logs[0] if len(logs) == 1 else _join_logs(path, logs, on_error)
    if not len(log):
        first = f"; the first was left out because {log.skipped[0].detail}" if log.skipped else ""
        raise ValueError(f"{log.source} has no usable row among its {len(log.skipped)}{first}")
    return log


def pack_driving_log(log: DrivingLog, folder: Union[str, Path], *, shard_mb: float = SHARD_MB) -> int:
    """Write a driving log in its packed form, for data that a million small files slow down.

    It holds the same rows, cameras, times and drives, and the pictures' files byte for byte; pictures that no row names
    are left behind. See :mod:`robostig.packed_log`.

    Parameters
    ----------
    log
        Any.
    folder
        Where to; it must not be there yet, or be empty. It appears as a whole.
    shard_mb
        Megabytes (1e6 bytes) that a file has at most, if more than one picture goes into it; above 0, finite, default
        256.

    Returns
    -------
    int
        Number of files written.

    Raises
    ------
    ValueError
        If ``shard_mb`` is out of its range.
    FileExistsError
        If there is something in the folder's place.
    OSError
        If a picture cannot be read, or the folder not be written to.
    """
    if not 0.0 < shard_mb * 1e6 < math.inf:
        raise ValueError(
            f"shard_mb is {shard_mb:g}; a file of a packed log has more than 0 megabytes, and not endlessly many: "
            f"say {SHARD_MB:g}"
        )
    facts = {
        "drives": log.drives,
        "skipped": [(each.row, each.kind, each.detail, each.log) for each in log.skipped],
    }
    numbers = np.stack([log.steering, log.throttle, log.brake, log.speed_mph], axis=1)
    with fill_folder(folder) as partial:
        table = Table(Path(os.path.realpath(folder)).name, log.pictures, numbers, log.time_s, facts)
        try:
            return write_packed(partial, table, log.fingerprint(), shard_bytes=int(shard_mb * 1e6)) + 1
        except OSError as error:
            if error.filename:
                raise
            raise OSError(error.errno, f"packing into {folder} failed: {error.strerror or error}") from error


def read_picture(path: Union[str, Path]) -> np.ndarray:
    """Decode a JPEG or PNG file, or one that is in a packed log.

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
    return decode_picture(read_picture_bytes(path), str(path))


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


def _find_sources(path: Path) -> List[Path]:
    """Return the CSV files and indexes of packed logs that a path stands for, in the order of their folders' names."""
    if path.is_file():
        if path.suffix == ".rec" and path.name != INDEX_NAME:
            raise ValueError(f"{path} is at most one shard of a packed log; give its folder, {path.parent}")
        return [path]
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}; give a folder with a {LOG_NAME}, or the CSV file itself")
    sources = [path / name for name in (LOG_NAME, INDEX_NAME) if (path / name).is_file()]
    if sources:
        return sources[:1]
    for folder, folders, names in _walk(path):
        own = next((name for name in (LOG_NAME, INDEX_NAME) if name in names), None)
        if own is not None:
            sources.append(Path(folder, own))
            folders.clear()  # what is below belongs to it
    if sources:
        return sorted(sources, key=lambda source: source.parent.parts)
    found = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
    raise FileNotFoundError(
        f"there is no {LOG_NAME} in {path} or below it, which holds {found}; give a folder that the simulator "
        f"recorded into, a folder of such folders, or one that robostig pack wrote, with its {INDEX_NAME} "
        "(train_X.npy and the like can be trained on, too)"
    )


def _walk(top: Path) -> Iterator[Tuple[str, List[str], List[str]]]:
    """Yield folders as os.walk does, through links too, for pictures are often on a larger disk; each only once."""

    def refuse(error: OSError) -> None:
        if os.path.basename(error.filename) != "lost+found":  # a file system's own, which only root may read
            raise OSError(
                error.errno,
                f"cannot read the folder {error.filename} ({error.strerror or error}), and so not what it has of a "
                "driving log; make it readable, or move it elsewhere",
            ) from error

    seen: Set[str] = set()
    for folder, folders, names in os.walk(top, onerror=refuse, followlinks=True):
        if os.path.realpath(folder) in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add(os.path.realpath(folder))
        yield folder, folders, names


def _read_packed(source: Path) -> DrivingLog:
    table = read_packed(source.parent)
    steering, throttle, brake, speed_mph = np.ascontiguousarray(table.numbers.T)
    try:
        skipped = tuple(SkippedRow(*each) for each in table.facts["skipped"])
        drives = tuple(Drive(str(name), int(start)) for name, start in table.facts["drives"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{source} is damaged (its drives and skipped rows: {error}); {MEND}") from error
    starts = [drive.start for drive in drives]
    if starts[:1] != [0] or (np.diff([*starts, max(len(steering), 1)]) <= 0).any() or "center" not in table.pictures:
        raise ValueError(
            f"{source} is damaged (its drives begin at {starts}, its cameras are {', '.join(table.pictures)}); {MEND}"
        )
    return DrivingLog(
        source=source,
        pictures=table.pictures,
        steering=steering,
        throttle=throttle,
        brake=brake,
        speed_mph=speed_mph,
        time_s=table.time_s,
        skipped=skipped,
        drives=drives,
    )


def _read_csv(source: Path, on_error: str) -> DrivingLog:
    """Read a CSV file and find its pictures; if it has no rows, or all were left out, the log is empty."""
    columns, rows = _read_rows(source)
    index = _PictureIndex(source.parent)
    if index.others:
        logger.warning(
            "%s is read; %s further logs below it are not (%s): give them a folder without one of its own",
            source,
            len(index.others),
            ", ".join(index.others[:3]) + (", ..." if len(index.others) > 3 else ""),
        )
    cameras = [
        camera for camera in CAMERAS if camera in columns and any(_cell(row, columns[camera]) for _, row in rows)
    ]

    pictures: Dict[str, List[str]] = {camera: [] for camera in CAMERAS if camera == "center" or camera in cameras}
    numbers: List[Tuple[float, ...]] = []
    skipped: List[SkippedRow] = []

    def read_row(row: Sequence[str]) -> Union[Tuple[Tuple[float, ...], Dict[str, str]], _BadRowError]:
        try:
            values = _parse_numbers(row, columns)
            return values, {camera: index.find(_cell(row, columns[camera]), camera) for camera in pictures}
        except _BadRowError as bad:
            return bad

    for (line, _), read in zip(rows, _map_on_threads(read_row, [row for _, row in rows])):
        if isinstance(read, _BadRowError):
            if on_error == "raise":
                raise read.error(
                    f"{source}, row {line}: {read.detail}. Mend the row, or leave such rows out with on_error='skip' "
                    "(--on-error skip)"
                )
            skipped.append(SkippedRow(line, read.kind, read.detail))
            continue
        numbers.append(read[0])
        for camera, picture in read[1].items():
            pictures[camera].append(picture)
            index.used.add(picture)

    steering, throttle, brake, speed_mph = np.array(numbers, np.float32).reshape(-1, 4).T
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


def _map_on_threads(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Yield results in order; where a file is far away, as on a bucket that is mounted, many are opened at once."""
    with ThreadPoolExecutor(_FILES_AT_ONCE, thread_name_prefix="inspect") as pool:
        for start in range(0, len(items), _ROWS_AT_ONCE):
            yield from pool.map(work, items[start : start + _ROWS_AT_ONCE])


def _join_logs(folder: Path, logs: Sequence[DrivingLog], on_error: str) -> DrivingLog:
    """Join the drives of a folder's sub-folders into one log."""
    skipped = [
        _name_source(each, log.source.relative_to(folder))
        for log in logs
        for each in (log.skipped if len(log) or log.skipped else (SkippedRow(1, "log without rows", "it is empty"),))
    ]
    logs = [log for log in logs if len(log)] or logs[:1]
    logs = _leave_out_copies(folder, logs, on_error, skipped)
    counts = Counter(camera for log in logs for camera in log.pictures)
    for camera in CAMERAS:
        if 0 < counts[camera] < len(logs):
            lacking = [str(log.folder.relative_to(folder)) for log in logs if camera not in log.pictures]
            logger.warning(
                "the %s camera is left out: %s of the %s logs in %s do not have it (%s)",
                camera,
                len(lacking),
                len(logs),
                folder,
                ", ".join(lacking[:3]) + (", ..." if len(lacking) > 3 else ""),
            )
    starts = np.cumsum([0, *(len(log) for log in logs)])
    return DrivingLog(
        source=folder,
        pictures={
            camera: _JoinedPictures([log.pictures[camera] for log in logs])
            for camera in CAMERAS
            if counts[camera] == len(logs)
        },
        steering=np.concatenate([log.steering for log in logs]),
        throttle=np.concatenate([log.throttle for log in logs]),
        brake=np.concatenate([log.brake for log in logs]),
        speed_mph=np.concatenate([log.speed_mph for log in logs]),
        time_s=np.concatenate([log.time_s for log in logs]),
        skipped=tuple(skipped),
        unused_pictures=sum(log.unused_pictures for log in logs),
        drives=tuple(
            Drive(os.path.join(log.folder.relative_to(folder), name).rstrip(os.sep), int(start) + first)
            for log, start in zip(logs, starts)
            for name, first in log.drives
        ),
    )


class _JoinedPictures(Sequence[str]):
    """The pictures of several logs one after the other; of a packed one each is still made when it is asked for."""

    def __init__(self, parts: Sequence[Sequence[str]]) -> None:
        self._parts = parts
        self._starts = np.cumsum([0, *map(len, parts)]).tolist()

    def __len__(self) -> int:
        return int(self._starts[-1])

    @overload
    def __getitem__(self, row: int) -> str: ...

    @overload
    def __getitem__(self, row: slice) -> Sequence[str]: ...

    def __getitem__(self, row: Union[int, slice]) -> Union[str, Sequence[str]]:
        rows = range(len(self))[row]
        if isinstance(rows, range):
            return [self[each] for each in rows]
        part = bisect_right(self._starts, rows) - 1
        return self._parts[part][rows - self._starts[part]]


def _leave_out_copies(
    folder: Path, logs: Sequence[DrivingLog], on_error: str, skipped: List[SkippedRow]
) -> List[DrivingLog]:
    """Return the logs without drives that are there twice; raises ValueError, naming both, unless these are skipped."""
    seen: Dict[bytes, List[Tuple[DrivingLog, int]]] = defaultdict(list)  # logs and numbers of drives
    kept = []
    for log in logs:
        own = []
        for number, (start, stop) in enumerate(log.locate_drives()):
            alike = seen[hashlib.sha256(log.steering[start:stop].tobytes()).digest()]
            identity = log.identify_drive(number) if alike else ""  # it looks at every file
            twin = next((each for each in alike if each[0].identify_drive(each[1]) == identity), None)
            if twin is None:
                alike.append((log, number))
                own.append(number)
                continue
            if on_error == "raise":
                raise ValueError(
                    f"{_name_drive(log, number)} is the same recording as {_name_drive(*twin)}, and would be learned "
                    "twice; remove one of them, or leave copies out with on_error='skip' (--on-error skip)"
                )
            copy, detail = log.source.relative_to(folder), f"it is in {twin[0].source.relative_to(folder)}, too"
            skipped += [
                _name_source(SkippedRow(row, "copy of another log", detail), copy) for row in range(start + 1, stop + 1)
            ]
        if own:
            kept.append(log if len(own) == len(log.drives) else _take_drives(log, own))
    return kept


def _name_drive(log: DrivingLog, number: int) -> str:
    return f"the drive {log.drives[number].name} of {log.source}" if len(log.drives) > 1 else str(log.source)


def _take_drives(log: DrivingLog, numbers: Sequence[int]) -> DrivingLog:
    located = log.locate_drives()
    ranges = [located[number] for number in numbers]
    rows = np.concatenate([np.arange(start, stop) for start, stop in ranges])
    starts = np.cumsum([0, *(stop - start for start, stop in ranges)]).tolist()
    return replace(
        log,
        pictures={
            camera: _JoinedPictures([pictures[start:stop] for start, stop in ranges])
            for camera, pictures in log.pictures.items()
        },
        steering=log.steering[rows],
        throttle=log.throttle[rows],
        brake=log.brake[rows],
        speed_mph=log.speed_mph[rows],
        time_s=log.time_s[rows],
        drives=tuple(Drive(log.drives[number].name, start) for number, start in zip(numbers, starts)),
    )


def _name_source(skipped: SkippedRow, source: Path) -> SkippedRow:
    if skipped.log:  # of a packed log that was joined before
        return replace(
            skipped, log=str(source.parent / skipped.log), detail=os.path.join(source.parent, skipped.detail)
        )
    return replace(skipped, log=str(source), detail=f"{source}: {skipped.detail}")


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
    others: List[str] = field(default_factory=list)  # logs below the folder, and a packed one in it

    def __post_init__(self) -> None:
        self._by_name: Dict[str, List[str]] = defaultdict(list)
        for folder, _, names in _walk(self.folder):
            for name in names:
                if os.path.splitext(name)[1].lower() in SUFFIXES:
                    self._by_name[name].append(os.path.join(folder, name))
                elif name == INDEX_NAME or (name == LOG_NAME and Path(folder) != self.folder):
                    self.others.append(os.path.relpath(os.path.join(folder, name), self.folder))
        self.others.sort()

    def count_unused(self) -> int:
        return sum(path not in self.used for paths in self._by_name.values() for path in paths)

    def find(self, text: str, camera: str) -> str:
        if not text:
            raise _BadRowError(f"no {camera} picture named", f"it names no {camera} picture")
        parts = re.split(r"[\\/]", text)
        found = self._choose(parts, self._by_name.get(parts[-1], []), text)
        fault = inspect_picture(found)
        if fault:
            raise _BadRowError(f"{camera} picture damaged", f"the {camera} picture {found} {fault}")
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
