"""donkeycar's tubs: catalogs of JSON lines and a folder of pictures, and the older form, a JSON file a record.

A tub of today (donkeycar 4, ``tub_v2.py``) has a ``manifest.json``, which names its catalogs and the records that were
deleted, ``catalog_0.catalog`` and so on, and ``images/``. An old one has ``record_0.json``, ``record_1.json`` and so on
beside their pictures.

``user/angle`` is the steering as it is used here: -1 is full lock to the left, 1 to the right (``PWMSteering`` in
donkeycar's ``parts/actuator.py``). A throttle below 0, which is reverse, or braking, becomes ``brake``.
"""

from __future__ import annotations

import json
import logging
import os
import re
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple, Union

import numpy as np

from robostig.driving_log.folders import JUNK
from robostig.driving_log.log import Drive, DrivingLog, SkippedRow
from robostig.driving_log.rows import (
    BadRowError,
    LeftOutError,
    check_number,
    check_picture,
    check_steering,
    sift_rows,
)
from robostig.picture import SUFFIXES

__all__ = ["MANIFEST", "find_tub", "read_tub"]

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
IMAGES = "images"
LOOP_HZ = 20.0  # donkeycar's DRIVE_LOOP_HZ, as its configuration comes
_END_OF_TIME_MS = 1e14  # of the year 5138; a stamp beyond is none
QUICKEST_S = 1.0 / 200.0  # between two records; no car's camera is quicker, but who converts a tub is

_OLD_META = "meta.json"
_CATALOG, _OLD_RECORD = re.compile(r"catalog_\d+\.catalog"), re.compile(r"record_(\d+)\.json")
_RESTORE = "copy the tub again, as a whole"
# Text that is no JSON, or JSON of something else: a key missing, a list for a number, Infinity, a thousand brackets.
_JSON_FAULTS = (ValueError, KeyError, TypeError, OverflowError, RecursionError)


class _Record(NamedTuple):
    """A record of a tub: its number in the tub, ``time_s`` NaN without a stamp, ``session`` empty without a name."""

    number: int
    steering: float
    throttle: float
    time_s: float
    session: str
    picture: str


class _Part(NamedTuple):
    """Records of a catalog, or all of an old tub: a number in there, and a position in the tub with text or file."""

    path: Path
    log: str
    rows: Sequence[Tuple[int, Tuple[int, Union[str, Path]]]]


class _Tub(NamedTuple):
    """What there is to know of a tub before its records are read."""

    source: Path
    images: Path
    parts: Sequence[_Part]
    deleted: Set[int]
    start_s: float  # for old records, whose stamps are milliseconds since then


def find_tub(folder: Path, folders: Sequence[str], names: Sequence[str]) -> List[Path]:
    """Return the manifest of a tub whose files, or some of them, are in a folder; it may be missing."""
    if any(_CATALOG.fullmatch(name) for name in names) or (MANIFEST in names and IMAGES in folders):
        return [folder / MANIFEST]
    return [folder / _OLD_META] if any(_OLD_RECORD.fullmatch(name) for name in names) else []


def read_tub(source: Path, on_error: str) -> DrivingLog:
    """Read a tub; if it has no records, or all were left out, the log is empty.

    Records that were deleted in donkeycar, and those of another mode than ``user``, in which a pilot drove, are left
    out and counted. A new session is a new drive. Where time stamps are closer together than any camera's frames, a
    program wrote them that converted the tub, and 20 records a second are assumed.

    Parameters
    ----------
    source
        The manifest of a tub, or ``meta.json`` of an old one.
    on_error
        As in :func:`~robostig.driving_log.read_driving_log`.

    Raises
    ------
    FileNotFoundError
        If the manifest, a catalog or a picture is missing.
    ValueError
        For a manifest that cannot be read, and a record that cannot be used, as a line that is cut off.
    """
    tub = _open_old_tub(source) if source.name == _OLD_META else _open_tub(source)
    named: Set[str] = set()  # pictures that any record names, used or not
    records: List[_Record] = []
    skipped: List[SkippedRow] = []
    for part in tub.parts:
        kept, bad = sift_rows(part.path, part.rows, lambda item: _read_record(tub, item, named), on_error, log=part.log)
        records += kept
        skipped += bad
    throttle = np.array([record.throttle for record in records], np.float32)
    return DrivingLog(
        source=source,
        pictures={"center": [record.picture for record in records]},
        steering=np.array([record.steering for record in records], np.float32),
        throttle=np.maximum(throttle, 0.0),
        brake=np.maximum(-throttle, 0.0),
        speed_mph=np.zeros(len(records), np.float32),
        time_s=_find_times(source, records),
        skipped=tuple(skipped),
        unused_pictures=_count_others(tub.images, named),
        drives=_find_sessions(records),
        format="donkeycar tub",
    )


def _open_tub(source: Path) -> _Tub:
    folder = source.parent
    if not source.is_file():
        raise FileNotFoundError(
            f"there is no {MANIFEST} in {folder}, which has catalogs of a donkeycar tub; it says which of their "
            f"records were deleted. {_RESTORE.capitalize()}"
        )
    try:
        values = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines() if line.strip()]
        (facts,) = [value for value in values if isinstance(value, dict) and "paths" in value]
        names = [str(name) for name in facts["paths"]]
        deleted, count = {int(index) for index in facts["deleted_indexes"]}, int(facts["current_index"])
    except _JSON_FAULTS as error:
        raise ValueError(
            f"{source} is no whole manifest of a donkeycar tub, five lines of JSON, the last of which names the "
            f"catalogs and the records that were deleted ({error}); {_RESTORE}"
        ) from error
    parts = []
    position = 0
    for name in names:
        path = folder / name
        if os.path.basename(name) != name or not path.is_file():
            raise FileNotFoundError(f"there is no catalog {name!r} in {folder}, which {MANIFEST} names; {_RESTORE}")
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
        texts = [(number, text) for number, text in enumerate(lines, 1) if text.strip("\r\0 ")]
        parts.append(_Part(path, name, [(number, (position + row, text)) for row, (number, text) in enumerate(texts)]))
        position += len(texts)
    if position < count:
        logger.warning(
            "%s: its catalogs have %s of the %s records that it counts; %s", source, position, count, _RESTORE
        )
    return _Tub(source, folder / IMAGES, parts, deleted, 0.0)


def _open_old_tub(source: Path) -> _Tub:
    folder = source.parent
    found = filter(None, map(_OLD_RECORD.fullmatch, os.listdir(folder)))
    numbers = sorted(int(match.group(1)) for match in found)
    try:
        start_s = float(json.loads(source.read_text(encoding="utf-8"))["start"])
    except (OSError, *_JSON_FAULTS):  # the very old ones have none
        start_s = 0.0
    rows = [(number, (number, folder / f"record_{number}.json")) for number in numbers]
    return _Tub(source, folder, [_Part(folder, "", rows)], set(), start_s)


def _read_record(tub: _Tub, item: Tuple[int, Union[str, Path]], named: Set[str]) -> _Record:
    """Return a record from its position and its text, or the file that holds it."""
    position, text = item
    try:
        record = json.loads(text.read_bytes() if isinstance(text, Path) else text)
        if not isinstance(record, dict):
            raise ValueError("it is no object in braces")
    except (ValueError, RecursionError) as error:
        raise BadRowError("no whole record", f"it is no whole record in JSON ({error}): {str(text)[:99]!r}") from None
    name = str(record.get("cam/image_array") or "")
    named.add(os.path.basename(name))
    number = record.get("_index")
    number = number if isinstance(number, int) and abs(number) < _END_OF_TIME_MS else position
    if number in tub.deleted:
        raise LeftOutError("deleted record", f"record {number} was deleted in donkeycar")
    mode = record.get("user/mode", "user")
    if mode != "user":
        raise LeftOutError(
            "driven by a pilot", f"user/mode is {mode!r}; only a human's steering, 'user', is learned from"
        )
    steering = check_steering(_read_number(record, "user/angle", "steering"))
    throttle = _read_number(record, "user/throttle", "throttle", 0.0)
    return _Record(
        number, steering, throttle, _read_time(tub, record), str(record.get("_session_id", "")), _find_image(tub, name)
    )


def _read_number(record: Mapping[str, Any], key: str, name: str, default: Optional[float] = None) -> float:
    value = record.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadRowError(f"{name} is no number", f"{key} is {value!r}, which is no number")
    return check_number(name, value)


def _read_time(tub: _Tub, record: Mapping[str, Any]) -> float:
    for key, start_s in (("_timestamp_ms", 0.0), ("milliseconds", tub.start_s)):
        stamp = record.get(key)
        if isinstance(stamp, (int, float)) and abs(stamp) < _END_OF_TIME_MS > abs(1000.0 * start_s):
            return start_s + stamp / 1000.0
    return float("nan")


def _find_image(tub: _Tub, name: str) -> str:
    if not name:
        raise BadRowError("no center picture named", "it names no picture (cam/image_array)")
    path = os.path.join(tub.images, os.path.basename(name))
    if not os.path.isfile(path):
        raise BadRowError("picture not found", f"there is no picture {name!r} in {tub.images}", FileNotFoundError)
    return check_picture(path)


def _find_times(source: Path, records: Sequence[_Record]) -> np.ndarray:
    """Return (n,) float64 seconds since 1970: the stamps, if they can be those of a drive."""
    times = np.array([record.time_s for record in records], np.float64)
    if len(times) < 2 or not np.isfinite(times).all() or np.median(np.abs(np.diff(times))) >= QUICKEST_S:
        return times
    logger.warning(
        "%s: its records are %.1f ms apart by their time stamps, which no camera is; another program will have written "
        "them when it converted the tub, so %g records a second are assumed, as donkeycar comes",
        source,
        1000.0 * np.median(np.abs(np.diff(times))),
        LOOP_HZ,
    )
    numbers = np.array([record.number for record in records], np.float64)
    return times[0] + (numbers - numbers[0]) / LOOP_HZ


def _find_sessions(records: Sequence[_Record]) -> Tuple[Drive, ...]:
    """Return a drive for each session; one without a name if there is only one."""
    sessions = [record.session for record in records]
    starts = [row for row in range(len(sessions)) if row == 0 or sessions[row] != sessions[row - 1]]
    if len(starts) < 2:
        return (Drive("", 0),)
    visits: Dict[str, int] = {}
    drives = []
    for start in starts:
        name = sessions[start] or "unnamed session"
        visits[name] = visits.get(name, 0) + 1
        drives.append(Drive(name if visits[name] == 1 else f"{name} ({visits[name]})", start))
    return tuple(drives)


def _count_others(images: Path, named: Set[str]) -> int:
    """Return how many pictures no record names."""
    if not images.is_dir():
        return 0
    names = {name for name in os.listdir(images) if name.lower().endswith(SUFFIXES) and not name.startswith(JUNK)}
    return len(names - named)
