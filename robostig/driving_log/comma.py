"""comma.ai's research data set: ``camera/DATE.h5`` with the pictures, ``log/DATE.h5`` with what the car measured.

==================  ================================================================================================
``camera``: ``X``   N x 3 x 160 x 320 uint8, RGB, at 20 Hz
``log``, at 100 Hz  ``steering_angle`` in tenths of a degree of the steering wheel, right is positive; ``speed`` in m/s;
                    ``cam1_ptr``, the number of the picture that was the newest; perhaps ``times`` in seconds, ``gas``
==================  ================================================================================================

Units and sign are read off comma's own ``view_steering_model.py``: it draws the path of ``-steering_angle / 10``
degrees, with positive to the left, and turns the steering wheel into the road wheel with a ratio of 15.3 (the Acura
ILX's, by edmunds.com). So ``steering`` here is ``steering_angle / 10 / 15.3`` degrees, of which 25 are 1.0.

A row is a picture, by ``cam1_ptr``, which the same program uses; its steering and speed are the mean of the log's
samples while it was the newest, five as a rule: that is how long what a network makes of it would hold. As in
``dask_generator.py``, with which comma trained, pictures with the wheel turned further than 20 degrees are left out;
here all samples count.

Nothing is decoded ahead: a row's picture is a :class:`StoredPicture` that knows its file and number.

References
----------
Santana and Hotz, "Learning a Driving Simulator", 2016, arXiv 1608.01230; github.com/commaai/research.
"""

from __future__ import annotations

import contextlib
import os
import re
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence, Tuple

import numpy as np

from robostig.driving_log.log import Drive, DrivingLog, SkippedRow
from robostig.picture import LazyPictures, StoredPicture, encode_png, measure_png

__all__ = ["STEERING_RATIO", "HdfPicture", "find_cameras", "read_camera"]

STEERING_RATIO = 15.3  # of the steering wheel's angle to the road wheel's; openpilot has 18.61, and notes this one
LARGEST_ANGLE = 200.0  # tenths of a degree of the steering wheel, as in dask_generator.py
CAMERA, LOG, SUFFIXES = "camera", "log", (".h5", ".hdf5")

_FULL_LOCK_DEG = 25.0
_LOG_HZ = 100.0
_MPH = 3600.0 / 1609.344  # of a metre a second
_FASTEST = np.finfo(np.float32).max / _MPH  # that a log holds
_DATE = re.compile(r"(\d{4}-\d\d-\d\d--\d\d-\d\d-\d\d)")
_FAULTS = (OSError, RuntimeError, KeyError, TypeError, OverflowError, MemoryError)  # all of h5py, of damaged files
_CHUNKS_BYTES = 16 << 20  # kept of a compressed file, where pictures that follow one another share a chunk


class HdfPicture(StoredPicture):
    """A picture in an HDF5 file, as a PNG without compression.

    Parameters
    ----------
    holder
        The file.
    number
        Of the picture in its ``X``.
    size
        As a PNG, in bytes.
    """

    __slots__ = ("holder", "number", "size")
    digest = None
    number: int

    def __new__(cls, holder: str, number: int, size: int) -> HdfPicture:
        """Make the text of the place and a name."""
        stem = os.path.splitext(os.path.basename(holder))[0]
        picture = super().__new__(cls, f"{holder}@{number}/{stem}-{number:06d}.png")
        picture.holder, picture.number, picture.size = holder, number, size
        return picture

    def __getnewargs__(self) -> Tuple[Any, ...]:
        return self.holder, self.number, self.size

    def open(self, *, in_order: bool = False) -> contextlib.AbstractContextManager[Any]:
        """Open the file."""
        return _open(Path(self.holder))

    def read_from(self, file: Any) -> bytes:
        """Return it as a PNG. Raises ValueError if the file does not hold it any more."""
        try:
            pixels = file["X"][self.number].transpose(1, 2, 0)  # (160, 320, 3)
        except (*_FAULTS, IndexError, ValueError) as error:
            raise ValueError(f"{self} cannot be read: the file is damaged, or another one ({error})") from error
        return encode_png(pixels)


def _make_picture(path: str, numbers: np.ndarray, size: int, row: int) -> HdfPicture:
    return HdfPicture(path, int(numbers[row]), size)


def find_cameras(folder: Path, folders: Sequence[str], names: Sequence[str]) -> List[Path]:
    """Return the HDF5 files of a folder that is called ``camera``."""
    is_one = os.path.basename(os.path.abspath(folder)) == CAMERA
    return [folder / name for name in sorted(names) if is_one and name.lower().endswith(SUFFIXES)]


def read_camera(source: Path, on_error: str) -> DrivingLog:
    """Read what the log beside a camera file says of its pictures; they stay where they are.

    Parameters
    ----------
    source
        ``camera/DATE.h5``.
    on_error
        As in :func:`~robostig.driving_log.read_driving_log`: what to do with pictures whose steering or speed is not
        finite, and with samples of pictures that are not there.

    Raises
    ------
    ImportError
        If h5py is not installed.
    FileNotFoundError
        If there is no ``log/DATE.h5``.
    ValueError
        If a file is no HDF5 file, is cut off, or lacks what belongs into it, or if the two do not fit together, also
        where there are more pictures than samples.
    """
    log_path = Path(os.path.abspath(source)).parent.parent / LOG / source.name
    if not log_path.is_file():
        raise FileNotFoundError(
            f"there is no {log_path}, the log that belongs to {source}: without it nobody knows how the car was "
            "steered. Copy it there, or move the camera file away"
        )
    with _open(source) as file:
        count, height, width = _measure_pictures(source, file)
    with _open(log_path) as file:
        samples = _read_samples(log_path, file)
    pointers = samples["cam1_ptr"]
    if count > len(pointers):  # else what a damaged file declares would decide how much memory is asked for
        raise ValueError(
            f"{source} has {count:,} pictures, and {log_path} only {len(pointers):,} samples, usually five a picture: "
            "one of the two files is damaged, or of another drive. Copy them again"
        )
    skipped = _check_pointers(source, log_path, pointers, count, on_error)
    is_there = (pointers >= 0) & (pointers < count)
    frames = pointers[is_there].astype(np.int64)
    samples = {name: values[is_there] for name, values in samples.items()}
    shares = np.bincount(frames, minlength=count)  # samples of each picture
    means = {
        name: np.bincount(frames, values, minlength=count) / np.maximum(shares, 1)
        for name, values in samples.items()
        if name != "cam1_ptr"
    }
    furthest = np.zeros(count)
    np.maximum.at(furthest, frames, np.nan_to_num(np.abs(samples["steering_angle"])))
    is_finite = np.isfinite(means["steering_angle"]) & (np.abs(means["speed"]) < _FASTEST)
    if not is_finite.all() and on_error == "raise":
        raise ValueError(
            f"{log_path}, samples of picture {int(np.argmin(is_finite))}: steering_angle or speed is not finite. Leave "
            "such pictures out with on_error='skip' (--on-error skip)"
        )
    is_turned = is_finite & (furthest > LARGEST_ANGLE)
    faults = (
        (shares == 0, "no sample of the log", f"{LOG}'s cam1_ptr does not name it"),
        (~is_finite, "steering is not finite", "its steering_angle or speed is not finite"),
        (is_turned, "wheel turned beyond 20 degrees", "comma.ai leaves such pictures out, too"),
    )
    for is_bad, kind, detail in faults:
        skipped += [
            SkippedRow(int(number) + 1, kind, f"picture {number}: {detail}") for number in np.flatnonzero(is_bad)
        ]
    numbers = np.flatnonzero((shares > 0) & is_finite & ~is_turned)
    steering_deg = means["steering_angle"][numbers] / 10.0 / STEERING_RATIO
    gas = means.get("gas", np.zeros(count))[numbers]
    make = partial(_make_picture, str(source), numbers, measure_png(height, width))
    return DrivingLog(
        source=source,
        pictures={"center": LazyPictures(make, range(len(numbers)))},
        steering=(steering_deg / _FULL_LOCK_DEG).astype(np.float32),
        throttle=np.clip(np.nan_to_num(gas), 0.0, 1.0).astype(np.float32),
        brake=np.zeros(len(numbers), np.float32),
        speed_mph=(means["speed"][numbers] * _MPH).astype(np.float32),
        time_s=_find_start(source) + means["times"][numbers],
        skipped=tuple(sorted(skipped, key=lambda each: each.row)),
        drives=(Drive(source.stem, 0),),
        format="comma.ai HDF5",
    )


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    """Open an HDF5 file; errors name it."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError(f"{path} is an HDF5 file, for which h5py is needed: pip install 'robostig[hdf5]'") from error
    with open(path, "rb"):  # what is wrong with the path itself is said as of any file
        pass
    try:
        with h5py.File(path, "r", rdcc_nbytes=_CHUNKS_BYTES) as file:
            yield file
    except _FAULTS as error:
        raise ValueError(f"{path} is no whole HDF5 file ({error}); copy it again") from error


def _measure_pictures(path: Path, file: Any) -> Tuple[int, int, int]:
    """Return how many pictures there are, and their height and width."""
    pictures = _find_array(path, file, "X")
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[1] != 3 or 0 in pictures.shape[1:]:
        raise ValueError(
            f"{path}: X is {'x'.join(map(str, pictures.shape))} {pictures.dtype}; comma.ai's pictures are "
            "N x 3 x 160 x 320 uint8"
        )
    count, _, height, width = pictures.shape
    return count, height, width


def _read_samples(path: Path, file: Any) -> Dict[str, np.ndarray]:
    """Return cam1_ptr, steering_angle, speed, times from 0 on, and gas if it is there, all (n,) float64."""
    samples = {name: _find_array(path, file, name) for name in ("cam1_ptr", "steering_angle", "speed")}
    samples.update({name: _find_array(path, file, name) for name in ("times", "gas") if name in file})
    wrong = {
        name: values.shape for name, values in samples.items() if values.ndim != 1 or values.dtype.kind not in "iuf"
    }
    if wrong:
        name, shape = next(iter(wrong.items()))
        raise ValueError(
            f"{path}: {name} is {'x'.join(map(str, shape)) or 'one value'} {samples[name].dtype}; there must be one "
            "number a sample"
        )
    lengths = {name: len(values) for name, values in samples.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{length:,} of {name}" for name, length in lengths.items())
        raise ValueError(f"{path}: there are {listed}; there must be as many of each. Copy it again")
    read = {name: np.asarray(values[:], np.float64) for name, values in samples.items()}
    count = lengths["cam1_ptr"]
    times = read.get("times", np.arange(count) / _LOG_HZ)
    times = np.where(np.isfinite(times), times, np.nan)
    read["times"] = times - times[0] if count else times
    return read


def _find_array(path: Path, file: Any, name: str) -> Any:
    import h5py

    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        held = ", ".join(sorted(map(str, file))) or "nothing"
        raise ValueError(
            f"{path} has no {name}, but {held}; comma.ai's camera files have X, and their logs cam1_ptr, "
            "steering_angle and speed"
        )
    return found


def _check_pointers(source: Path, log_path: Path, pointers: np.ndarray, count: int, on_error: str) -> List[SkippedRow]:
    """Return an entry if samples are of pictures that are not there; raises ValueError unless these are skipped."""
    beyond = np.flatnonzero(~((pointers >= 0) & (pointers < count)))
    if not len(beyond):
        return []
    detail = (
        f"{len(beyond):,} of {len(pointers):,} samples in {log_path} are of pictures that {source} does not have, the "
        f"first of number {pointers[beyond[0]]:g} of {count:,}"
    )
    if on_error == "raise":
        raise ValueError(
            f"{detail}: one of the two files is cut off, or of another drive. Copy them again, or take what fits with "
            "on_error='skip' (--on-error skip)"
        )
    return [SkippedRow(count + 1, "samples without a picture", detail)]


def _find_start(source: Path) -> float:
    """Return seconds since 1970 by the clock that named a file; 0 if its name is no time."""
    match = _DATE.search(source.name)
    try:
        start = datetime.strptime(match.group(1), "%Y-%m-%d--%H-%M-%S") if match else datetime(1970, 1, 1)
    except ValueError:  # such as month 13
        start = datetime(1970, 1, 1)
    return (start - datetime(1970, 1, 1)).total_seconds()
