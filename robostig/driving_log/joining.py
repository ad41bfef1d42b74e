"""Several recordings as one log: their rows one after the other, each a drive of its own."""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections import defaultdict
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

import numpy as np

from robostig.driving_log.log import CAMERAS, Drive, DrivingLog, SkippedRow
from robostig.picture import LazyPictures

__all__ = ["join_logs"]

_NO_PICTURE = ("",)  # of a row whose recording has no such camera


def join_logs(folder: Path, logs: Sequence[DrivingLog], on_error: str) -> DrivingLog:
    """Join recordings, of whatever formats, into one log.

    Parameters
    ----------
    folder
        Above all of their sources.
    logs
        In the order that they will have.
    on_error
        As in :func:`~robostig.driving_log.read_driving_log`, where something was recorded twice, or is empty.

    Raises
    ------
    ValueError
        If one is a copy of another one, unless copies are skipped.
    """
    skipped = [
        _name_source(each, log.source.relative_to(folder))
        for log in logs
        for each in (log.skipped if len(log) or log.skipped else (SkippedRow(1, "log without rows", "it is empty"),))
    ]
    logs = [log for log in logs if len(log)] or logs[:1]
    logs = _leave_out_copies(folder, logs, on_error, skipped)
    starts = np.cumsum([0, *(len(log) for log in logs)])
    return DrivingLog(
        source=folder,
        pictures={
            camera: _join_pictures([log.pictures.get(camera, _NO_PICTURE * len(log)) for log in logs])
            for camera in CAMERAS
            if any(camera in log.pictures for log in logs)
        },
        steering=np.concatenate([log.steering for log in logs]),
        throttle=np.concatenate([log.throttle for log in logs]),
        brake=np.concatenate([log.brake for log in logs]),
        speed_mph=np.concatenate([log.speed_mph for log in logs]),
        time_s=np.concatenate([log.time_s for log in logs]),
        skipped=tuple(skipped),
        unused_pictures=sum(log.unused_pictures for log in logs),
        drives=tuple(
            Drive(str(log.folder.relative_to(folder) / name), int(start) + first)
            for log, start in zip(logs, starts)
            for name, first in log.drives
        ),
        format=", ".join(dict.fromkeys(log.format for log in logs)),
    )


def _join_pictures(parts: Sequence[Sequence[str]]) -> Sequence[str]:
    """Return pictures one part after the other; of a packed log each is still made when it is asked for."""
    starts = np.cumsum([0, *map(len, parts)]).tolist()
    return LazyPictures(partial(_pick_picture, parts, starts), range(starts[-1]))


def _pick_picture(parts: Sequence[Sequence[str]], starts: Sequence[int], row: int) -> str:
    part = bisect_right(starts, row) - 1
    return parts[part][row - starts[part]]


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
    left = {
        camera: _join_pictures([pictures[start:stop] for start, stop in ranges])
        for camera, pictures in log.pictures.items()
    }
    return replace(
        log,
        pictures={camera: pictures for camera, pictures in left.items() if any(pictures)},
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
