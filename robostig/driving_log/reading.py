"""Reading recordings of any format: what is in a folder says which."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Sequence, Tuple, Union

import numpy as np

from robostig.driving_log import comma, donkeycar, packed, udacity
from robostig.driving_log.folders import walk
from robostig.driving_log.joining import join_logs
from robostig.driving_log.log import DrivingLog
from robostig.packed_log import INDEX_NAME
from robostig.picture import decode_picture, read_picture_bytes

__all__ = ["FORMATS", "Format", "Place", "Places", "read_driving_log", "read_picture"]

logger = logging.getLogger(__name__)

Place = Union[str, Path]
Places = Union[Place, Sequence[Place]]


class Format(NamedTuple):
    """A format of recordings.

    Parameters
    ----------
    layout
        What such a folder holds, for people.
    find
        Returns the recordings in a folder, a file each, from the folder, and the names of its folders and files.
    read
        Reads one of these; what to do with bad rows is as in :func:`read_driving_log`.
    """

    layout: str
    find: Callable[[Path, Sequence[str], Sequence[str]], List[Path]]
    read: Callable[[Path, str], DrivingLog]


# In this order: the first that finds something in a folder reads it.
FORMATS = (
    Format(f"{udacity.LOG_NAME} and its pictures (Udacity's simulator)", udacity.find_log, udacity.read_log),
    Format(f"{INDEX_NAME} and its shards (robostig pack wrote them)", packed.find_index, packed.read_index),
    Format("manifest.json, catalog_0.catalog and images (a donkeycar tub)", donkeycar.find_tub, donkeycar.read_tub),
    Format("camera/DATE.h5 and log/DATE.h5 (comma.ai's research data)", comma.find_cameras, comma.read_camera),
)


class _Source(NamedTuple):
    path: Path
    read: Callable[[Path, str], DrivingLog]


def read_driving_log(path: Places, *, on_error: str = "raise") -> DrivingLog:
    r"""Read a recording and find its pictures, wherever it was recorded.

    What a folder holds says what it is (:data:`FORMATS`): the log of Udacity's simulator, what
    :func:`pack_driving_log` wrote, a tub of donkeycar's, comma.ai's research data.

    A ``driving_log.csv`` may have a header or not, paths of another machine (with ``/`` or ``\``), bare file names,
    several prefixes, spaces after commas, and pictures in ``IMG/`` or any other folder below it: a picture is found by
    the end of its path. Cameras that have no column, or an empty one, are simply not there; the centre camera must be.

    A folder without a recording of its own may have some in its sub-folders, however deep and of different formats:
    they become one, in the order of their folders' names. Cameras that only some of them have are there in their rows.

    Parameters
    ----------
    path
        The folder that holds a recording, or folders of these; or the file that names the rest, such as
        ``driving_log.csv``. Several of these are joined.
    on_error
        ``"raise"`` (default) stops at the first bad row, and at a drive that is there twice; ``"skip"`` leaves bad
        rows, copies, and logs without rows among others out and lists them in :attr:`DrivingLog.skipped`.

    Raises
    ------
    FileNotFoundError
        If there is no recording, a picture is not there, or a packed log or a tub is not complete.
    ValueError
        For a row that cannot be used (numbers that are none, decimal commas, steering beyond -1..1, a picture that
        is cut off), naming file and row; for a log without a usable row, a copy of another drive, and a packed log
        that is damaged.
    OSError
        If a file or folder cannot be read, naming it.
    ImportError
        If what reads the format is not installed, naming it.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f'on_error is "raise" or "skip", not {on_error!r}')
    places, top, sources = _gather(path)
    logs = [source.read(source.path, on_error) for source in sources]
    empty = [] if on_error == "skip" and len(logs) > 1 else [log for log in logs if not len(log) and not log.skipped]
    if empty:
        raise ValueError(f"{empty[0].source} is empty; record a drive first")
    log = replace(logs[0] if len(logs) == 1 else join_logs(top, logs, on_error), places=places)
    if not len(log):
        first = f"; the first was left out because {log.skipped[0].detail}" if log.skipped else ""
        raise ValueError(f"{log.where} has no usable row among its {len(log.skipped)}{first}")
    return log


def read_picture(path: Union[str, Path]) -> np.ndarray:
    """Decode a JPEG or PNG file, or one that is in another file, such as a packed log.

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


def _gather(path: Places) -> Tuple[Tuple[Path, ...], Path, List[_Source]]:
    """Return the paths one by one, the folder above all recordings there, and what these are read from, in order."""
    if not path or (not isinstance(path, (str, Path)) and "" in path):  # Path("") would be the working folder
        raise ValueError("there is no recording to read: name a folder, or several")
    if isinstance(path, (str, Path)):
        return (Path(path),), Path(path), _find_sources(Path(path))
    if len(path) == 1:
        return _gather(path[0])
    places = tuple(Path(os.path.abspath(each)) for each in path)
    sources = [source for place in places for source in _find_sources(place)]
    return places, Path(os.path.commonpath([source.path.parent for source in sources])), sources


def _find_sources(path: Path) -> List[_Source]:
    """Return the recordings that a path stands for, in the order of their folders' names."""
    if path.is_file():
        return [_recognize_file(path)]
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}; give a folder with {_list_formats()}")
    found: Dict[Path, List[_Source]] = {}  # by folder
    others: Dict[Path, List[Path]] = defaultdict(list)  # recordings below another one, or beside it
    for name, folders, names in walk(path):
        folder = Path(name)
        owner = next((above for above in (folder, *folder.parents) if above in found), None)
        for each in FORMATS:
            sources = each.find(folder, folders, names)
            if sources and owner is None:
                found[folder], owner = [_Source(source, each.read) for source in sources], folder
            elif sources and owner is not None:
                others[owner] += sources
    for folder, below in others.items():
        places = sorted(str(each.relative_to(folder)) for each in below)
        logger.warning(
            "%s is read; %s further logs below it are not (%s): give them a folder without one of its own",
            found[folder][0].path,
            len(places),
            ", ".join(places[:3]) + (", ..." if len(places) > 3 else ""),
        )
    if found:
        return [source for folder in sorted(found, key=lambda each: each.parts) for source in found[folder]]
    held = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
    raise FileNotFoundError(
        f"there is no {udacity.LOG_NAME} in {path} or below it, which holds {held}; a recording is a folder with "
        f"{_list_formats()}, or a folder of such folders (train_X.npy and the like can be trained on, too)"
    )


def _recognize_file(path: Path) -> _Source:
    """Return a file as what it is; as a CSV file, whatever its name is, if it is nothing else."""
    for each in FORMATS:
        for source in each.find(path.parent, [donkeycar.IMAGES], [path.name]):
            return _Source(source, each.read)
    if path.suffix == ".rec":
        raise ValueError(f"{path} is at most one shard of a packed log; give its folder, {path.parent}")
    if path.suffix.lower() in comma.SUFFIXES:
        raise ValueError(
            f"{path} is not in a folder {comma.CAMERA}, beside one that is called {comma.LOG}; comma.ai's are"
        )
    return _Source(path, udacity.read_log)


def _list_formats() -> str:
    return ", or ".join(each.layout for each in FORMATS)
