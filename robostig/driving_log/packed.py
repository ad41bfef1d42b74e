"""Driving logs in their packed form, a few large files in place of a million small ones: :mod:`robostig.packed_log`."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import List, Sequence, Union

import numpy as np

from robostig._files import fill_folder
from robostig.driving_log.log import Drive, DrivingLog, SkippedRow
from robostig.packed_log import INDEX_NAME, MEND, Table, read_packed, write_packed

__all__ = ["SHARD_MB", "find_index", "pack_driving_log", "read_index"]

SHARD_MB = 256.0  # megabytes (1e6 bytes) that a file of a packed log has


def find_index(folder: Path, folders: Sequence[str], names: Sequence[str]) -> List[Path]:
    """Return the index of a packed log among a folder's files, if there is one."""
    return [folder / INDEX_NAME] if INDEX_NAME in names else []


def read_index(source: Path, on_error: str) -> DrivingLog:
    """Read a packed log from its index, as it was packed: there are no bad rows in it.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`robostig.packed_log.read_packed`.
    """
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
        format=f"packed {table.facts.get('format') or 'driving log'}",
    )


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
        "format": ", ".join(dict.fromkeys(log.format.replace("packed ", "").split(", "))),
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
