"""What every recording becomes: a driving log, one element a row, whatever format it was recorded in."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from robostig.picture import measure_picture

__all__ = ["CAMERAS", "RECORDING_HZ", "Drive", "DrivingLog", "SkippedRow", "name_places"]

CAMERAS = ("center", "left", "right")
RECORDING_HZ = 15.0  # Udacity's simulator; used where a recording carries no time


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
        The file that was read, a CSV file, a packed log's index, a tub's manifest and the like; the folder above them
        where recordings were joined.
    pictures
        Camera name to its pictures, one a row: paths, or :class:`~robostig.picture.StoredPicture`; an empty text where
        a row has none of this camera. ``"center"`` is always there, in every row.
    steering
        (N,) float32, -1..1, 1.0 = full lock (25 degrees) to the right.
    throttle, brake
        (N,) float32, 0..1; zeros where the log has none.
    speed_mph
        (N,) float32, miles an hour; zeros where the log has none.
    time_s
        (N,) float64, seconds since 1970 by the recording machine's clock; NaN where the recording carries no time.
    skipped
        Rows that were left out.
    unused_pictures
        Number of pictures in the folder that no row names.
    drives
        Where each drive begins; one drive by default.
    format
        What was read, in words, as in ``"donkeycar tub"``; of recordings that were joined, each once.
    places
        The folders or files that were asked for, in that order.
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
    format: str = ""
    places: Tuple[Path, ...] = ()
    _sizes: Dict[str, np.ndarray] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.steering)

    @property
    def folder(self) -> Path:
        """The folder that was read."""
        return self.source if self.source.is_dir() else self.source.parent

    @property
    def names(self) -> Tuple[str, ...]:
        """What to call each of the places that were asked for, without a path of this machine."""
        return name_places(self.places or (self.folder,))

    @property
    def name(self) -> str:
        """What to call all of it: the names with commas between."""
        return ", ".join(self.names)

    @property
    def where(self) -> str:
        """Where it is on this machine: the file that was read; if several places were asked for, these."""
        return ", ".join(map(str, self.places)) if len(self.places) > 1 else str(self.source)

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

    def locate_pictures(self, camera: str) -> np.ndarray:
        """Return (N,) bool: True where a row has a picture of this camera."""
        if camera not in self.pictures:
            return np.zeros(len(self), bool)
        return np.fromiter(map(bool, self.pictures[camera]), bool, len(self))

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
            sizes = (measure_picture(picture) if picture else 0 for picture in pictures)
            self._sizes[camera] = np.fromiter(sizes, np.int64, len(pictures))
        for row, size in enumerate(self._sizes[camera][start:stop].tolist(), start):
            yield f"{os.path.basename(pictures[row])}:{size};".encode("utf-8", "surrogateescape")

    def describe(self) -> str:
        """Return one or two lines for people: rows, drives, minutes, cameras, and what was left out and why."""
        minutes = self.driving_clock()[-1] / 60.0 if len(self) else 0.0
        rows = f"{len(self):,} rows" + (f" of {len(self.drives):,} drives" if len(self.drives) > 1 else "")
        counts = {camera: int(self.locate_pictures(camera).sum()) for camera in self.pictures}
        cameras = [
            camera if count == len(self) else f"{camera} (in {count:,} rows)" for camera, count in counts.items()
        ]
        text = f"{self.where}: {rows}, {minutes:.1f} minutes of driving, {', '.join(cameras)} camera"
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


def name_places(places: Sequence[Union[str, Path]]) -> Tuple[str, ...]:
    """Return what to call recordings where no path of this machine is wanted.

    Parameters
    ----------
    places
        Folders, or files in them; at least one.

    Returns
    -------
    tuple of str
        The folders' names, a file's name after its folder's; where two are alike, with the folders above them that tell
        them apart.
    """
    paths = [Path(place).resolve() for place in places]
    names = [Path(*path.parts[-2 if path.is_file() else -1 :]) for path in paths]
    if len(set(names)) < len(names):
        above = os.path.commonpath([path.parent for path in paths])
        names = [path.relative_to(above) for path in paths]
    return tuple(map(str, names))
