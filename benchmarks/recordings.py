"""Recordings to measure with: a few pictures of one, and one that drives another several times."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import List, Optional

import numpy as np

from robostig.driving_log import LOG_NAME, read_driving_log
from robostig.picture import read_picture_bytes

__all__ = ["read_pictures", "repeat_recording"]


def read_pictures(folder: Path, count: int) -> List[bytes]:
    """Return JPEGs of the centre camera, spread over a recording."""
    pictures = read_driving_log(folder).pictures["center"]
    return [read_picture_bytes(pictures[row]) for row in np.linspace(0, len(pictures) - 1, count).astype(int)]


def repeat_recording(source: Path, times: int, target: Path, *, rows: Optional[int] = None, link: bool = False) -> Path:
    """Write a recording that drives another several times, each time a day later.

    Parameters
    ----------
    source
        The folder of the other one.
    times
        How often.
    target
        The new folder.
    rows
        How many of its rows, from the first; all if None.
    link
        Whether pictures are links to the other's, and not files of their own.
    """
    log = read_driving_log(source)
    (target / "IMG").mkdir(parents=True)
    lines = []
    for turn in range(times):
        for row in range(len(log) if rows is None else min(rows, len(log))):
            names = []
            for camera, pictures in log.pictures.items():
                moved = datetime(1970, 1, 1) + timedelta(days=turn, seconds=float(log.time_s[row]))
                names.append(f"IMG/{camera}_{moved:%Y_%m_%d_%H_%M_%S}_{moved.microsecond // 1000:03d}.jpg")
                if link:
                    os.symlink(os.path.abspath(pictures[row]), target / names[-1])
                else:
                    (target / names[-1]).write_bytes(read_picture_bytes(pictures[row]))
            lines.append(",".join([*names, f"{log.steering[row]:.8g}", "1", "0", f"{log.speed_mph[row]:.5f}"]))
    (target / LOG_NAME).write_text("\n".join(lines) + "\n")
    return target
