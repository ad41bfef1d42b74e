"""Preprocessed frames, decoded once and then mapped from disk.

Decoding a JPEG costs more than a small network's share of a training step, so every picture is decoded and
preprocessed once, on all cores, into one file of uint8 frames. The file is memory-mapped: its pages are the operating
system's cache, and the process stays as small for an hour of driving as for a minute.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import time
import uuid
import weakref
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import Iterable, List, Optional, Sequence, Tuple, Union

import numpy as np
from tqdm import tqdm

from robostig._files import replace_file
from robostig.picture import decode_picture, digest_picture, read_in_order, read_picture_bytes
from robostig.preprocessing import InputSpec, preprocess
from robostig.threads import get_pool, map_in_chunks, map_tasks

__all__ = ["DEFAULT_BUDGET_GB", "CachedFrames", "default_cache_folder"]

logger = logging.getLogger(__name__)

DEFAULT_BUDGET_GB = 20.0
FREE_DISK_GB = 1.0  # never filled: a full disk hurts more than a slow epoch

# Of all that lies in the folder, only these are the cache's own.
_OWN_NAME = re.compile(r"[0-9a-f]{40}\.npy(\.\d+-[0-9a-f]{8}\.partial)?")
_FORMAT = 1  # part of every key: raise it when preprocessing changes its output
_SYNC_BYTES = 16 << 20  # sent to the disk at once: little enough to be there soon, and worth a commit of its journal
_WRITE_BYTES = 512 << 10  # written at once: threads that write wait for each other, and a cache holds that much
_CAN_GATHER = hasattr(os, "pwritev")
_STALE_S = 24 * 3600.0  # an unfinished file this old was left by a process that died
_in_use: Counter[Path] = Counter()  # files that this process has open, which are never removed to make room


def default_cache_folder() -> Path:
    """Return where frames are kept: ``ROBOSTIG_CACHE``, or ``robostig`` in the user's cache folder (XDG)."""
    if os.environ.get("ROBOSTIG_CACHE"):
        return Path(os.environ["ROBOSTIG_CACHE"])
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "robostig"
    except RuntimeError:  # a user without a home, as in many a container
        return Path(tempfile.gettempdir()) / f"robostig-{os.getuid()}"


class CachedFrames:
    """The preprocessed frames of a list of pictures, by number.

    A file is found by the content of its pictures. Where none has these pictures' names, each picture is opened once,
    to be hashed and decoded; else each is opened to be hashed first. Pictures of a packed log bring their hashes along.

    Two processes may open the same pictures at once: each builds its own file and renames it into place, so that a
    file with a final name is always whole, and whoever comes later finds it.

    Parameters
    ----------
    pictures
        Paths of JPEG or PNG files, or pictures of a packed log.
    spec
        How to preprocess them.
    folder
        Where the files live; :func:`default_cache_folder` if None.
    budget_gb
        Gigabytes (1e9 bytes) that the folder may hold. Files unused for longest are removed to make room; frames
        beyond the budget are decoded as they are needed.
    label
        What to call the work in the progress bar.

    Raises
    ------
    ValueError
        If a picture cannot be decoded, naming it.
    FileNotFoundError
        If a picture, or the shard that holds it, is not there.
    """

    def __init__(
        self,
        pictures: Sequence[str],
        spec: InputSpec,
        *,
        folder: Union[str, Path, None] = None,
        budget_gb: float = DEFAULT_BUDGET_GB,
        label: str = "frames",
    ) -> None:
        if budget_gb < 0:
            raise ValueError(f"budget_gb is {budget_gb}; give the gigabytes that frames may take on disk, 0 for none")
        self.pictures = pictures
        self.spec = spec
        self._mapped = np.empty((0, *spec.shape), np.uint8)
        folder = Path(folder) if folder is not None else default_cache_folder()
        frame_bytes = int(np.prod(spec.shape))
        room = int(budget_gb * 1e9) - sum(
            _size(path) for path, users in _in_use.items() if users and path.parent == folder
        )
        count = min(len(self.pictures), max(0, room // frame_bytes))
        if count < len(self.pictures):
            logger.warning(
                "%s: %s of %s frames do not fit into the cache's %g GB and will be decoded as they are needed, which "
                "is slower; raise the budget if %s has the room",
                label, f"{len(self.pictures) - count:,}", f"{len(self.pictures):,}", budget_gb, folder,
            )  # fmt: skip
        if count:
            self._mapped = self._open(folder, count, int(budget_gb * 1e9), label)

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def mapped(self) -> int:
        """Number of frames that come from disk; the rest are decoded when read."""
        return len(self._mapped)

    def read(self, numbers: Union[Sequence[int], np.ndarray]) -> np.ndarray:
        """Return the frames of these numbers.

        Parameters
        ----------
        numbers
            (n,) integers from 0 to ``len(self) - 1``, in any order.

        Returns
        -------
        numpy.ndarray
            (n, height, width, 3) uint8, a copy that may be changed.

        Raises
        ------
        IndexError
            If there is no frame of such a number.
        """
        frames = self.pick(numbers)
        return np.stack(frames) if frames else np.empty((0, *self.spec.shape), np.uint8)

    def pick(self, numbers: Union[Sequence[int], np.ndarray]) -> List[np.ndarray]:
        """Return the same frames as :meth:`read`, one by one, not to be changed: those on disk without a copy."""
        wanted = np.asarray(numbers, np.int64)
        first, last = wanted.min(initial=0), wanted.max(initial=-1)
        if first < 0 or last >= len(self):
            raise IndexError(f"frames {first} to {last} are wanted; there are 0 to {len(self) - 1}")
        mapped = self.mapped
        decoded = get_pool().map(self._decode, wanted[wanted >= mapped].tolist())
        return [self._mapped[number] if number < mapped else next(decoded) for number in wanted.tolist()]

    def _decode(self, number: int) -> np.ndarray:
        return self._decode_and_hash((number, None))[0]

    def _decode_and_hash(self, item: Tuple[int, Optional[bytes]]) -> Tuple[np.ndarray, bytes]:
        """Return a picture's frame and its hash; the item is its number, and its bytes if they have been read."""
        picture, data = self.pictures[item[0]], item[1]
        data = read_picture_bytes(picture) if data is None else data
        return preprocess(decode_picture(data, picture), self.spec, copy=False), _hash(picture, data)

    def _open(self, folder: Path, count: int, budget: int, label: str) -> np.ndarray:
        try:
            path = self._find(folder, count)
            if path is None:
                folder.mkdir(parents=True, exist_ok=True)
                _make_room(folder, count * int(np.prod(self.spec.shape)), budget)
                path = self._build(folder, count, label)
            mapped = self._map(path, count)  # OSError if another process has removed it to make room
            if mapped is None:
                logger.warning("%s is damaged and is built again", path)
                path.unlink(missing_ok=True)
                mapped = np.load(self._build(folder, count, label), mmap_mode="r")
        except OSError as error:
            if error.filename in {getattr(picture, "holder", picture) for picture in self.pictures}:
                raise
            logger.warning("frames cannot be kept in %s (%s); they are decoded as they are needed", folder, error)
            return self._mapped
        _in_use[path] += 1
        weakref.finalize(self, _in_use.subtract, [path])
        with contextlib.suppress(OSError):  # removed since, or another user's
            os.utime(path)  # the time of last use, for _make_room
        return mapped.view(np.ndarray)  # a memmap's every slice would be one, which takes ten times as long

    def _find(self, folder: Path, count: int) -> Optional[Path]:
        """Return the file that holds these frames, if there is one; pictures are read only if there may be."""
        if not any(folder.glob(f"{self._name(count)}*.npy")):
            return None
        hashes: Iterable[bytes] = map(_hash, islice(self.pictures, count))
        if not all(getattr(picture, "digest", None) for picture in islice(self.pictures, count)):
            items = zip(self.pictures, read_in_order(islice(self.pictures, count)))
            hashes = chain.from_iterable(map_in_chunks(lambda item: _hash(*item), items))
        path = folder / self._name(count, hashes)
        return path if path.exists() else None

    def _name(self, count: int, hashes: Optional[Iterable[bytes]] = None) -> str:
        """Return a file's name, or without hashes how it begins.

        It is made of what the file's content follows from: preprocessing, number of pictures and their names, which
        cost nothing to look at; then, in this order, the hashes of their bytes.
        """
        names = [os.path.basename(picture) for picture in islice(self.pictures, count)]
        text = json.dumps([_FORMAT, self.spec.to_dict(), names], sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        if hashes is None:
            return name
        return f"{name}{hashlib.sha256(b''.join(hashes)).hexdigest()[:24]}.npy"

    def _map(self, path: Path, count: int) -> Optional[np.ndarray]:
        """Return the file's frames; None if it does not hold what it was built with."""
        try:
            mapped = np.load(path, mmap_mode="r")
        except (ValueError, EOFError):
            return None
        return mapped if mapped.shape == (count, *self.spec.shape) and mapped.dtype == np.uint8 else None

    def _build(self, folder: Path, count: int, label: str) -> Path:
        started = time.perf_counter()
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, *self.spec.shape)}
        frame_bytes = int(np.prod(self.spec.shape))
        hashes: List[bytes] = []
        together = max(1, _WRITE_BYTES // frame_bytes)
        unnamed = folder / f"{uuid.uuid4().hex:0<40}.npy"  # its name follows from what is yet to be read
        with replace_file(unnamed) as file, tqdm(
            total=count, desc=f"decoding {label}", unit="frame", disable=None
        ) as bar:
            np.lib.format.write_array_header_1_0(file, header)
            first = file.tell()

            def decode_and_write(items: List[Tuple[int, Optional[bytes]]]) -> List[bytes]:
                digests: List[bytes] = []
                for start in range(0, len(items), together):
                    frames, found = zip(*map(self._decode_and_hash, items[start : start + together]))
                    _write_at(file.fileno(), frames, first + items[start][0] * frame_bytes)
                    digests += found
                return digests

            items = enumerate(read_in_order(islice(self.pictures, count)))
            # Closed before the file is, whatever happens: no thread may write to what has its number then.
            with contextlib.closing(_Syncer(file.fileno())) as syncer, contextlib.closing(
                map_tasks(decode_and_write, items)
            ) as chunks:
                for digests in chunks:
                    hashes += digests
                    bar.update(len(digests))
                    syncer.add(len(digests) * frame_bytes)
                syncer.check()
        path = folder / self._name(count, hashes)
        os.replace(unnamed, path)
        logger.info("decoded %s %s in %.1f s", f"{count:,}", label, time.perf_counter() - started)
        return path


class _Syncer:
    """Brings a file's bytes to the disk from a thread of its own while more are written, so that the end need not wait.

    Parameters
    ----------
    descriptor
        Of the file, open for as long as this is.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sync")
        self._sync: Optional[Future[None]] = None
        self._unsynced = 0

    def add(self, written: int) -> None:
        """Take note of so many more bytes; raises OSError if earlier ones could not be brought to the disk."""
        self._unsynced += written
        if self._unsynced >= _SYNC_BYTES and (self._sync is None or self._sync.done()):
            self.check()
            self._sync, self._unsynced = self._thread.submit(os.fsync, self._descriptor), 0

    def check(self) -> None:
        """Wait for what is under way; raises its OSError, which the system tells once, and not to a later fsync."""
        if self._sync is not None:
            self._sync.result()

    def close(self) -> None:
        """Wait for what is under way."""
        self._thread.shutdown()


def _write_at(descriptor: int, frames: Sequence[np.ndarray], offset: int) -> None:
    """Write frames to a place in a file, one after the other: all at once, as threads wait for each other here."""
    rest = [frame.data.cast("B") for frame in frames]
    while rest:
        # macOS has had it since its version 11.
        written = os.pwritev(descriptor, rest, offset) if _CAN_GATHER else os.pwrite(descriptor, rest[0], offset)
        offset += written
        while rest and written >= len(rest[0]):
            written -= len(rest.pop(0))
        if written:
            rest[0] = rest[0][written:]


def _hash(picture: str, data: Optional[bytes] = None) -> bytes:
    """Return a hash of a picture's bytes, which are read if they are not given and no packed log knows it."""
    known: Optional[bytes] = getattr(picture, "digest", None)
    return known or digest_picture(read_picture_bytes(picture) if data is None else data)


def _make_room(folder: Path, needed: int, budget: int) -> None:
    """Remove what dead processes left, and the files unused for longest, until ``needed`` bytes fit the budget.

    Raises OSError if the disk itself has no room.
    """
    own = [path for path in folder.iterdir() if _OWN_NAME.fullmatch(path.name)]
    for partial in (path for path in own if path.suffix == ".partial"):
        if time.time() - _last_use(partial) > _STALE_S:
            partial.unlink(missing_ok=True)
    files = sorted((path for path in own if path.suffix == ".npy"), key=_last_use)
    total = sum(_size(path) for path in files)
    for path in files:
        if total + needed <= budget:
            break
        if not _in_use[path]:
            total -= _size(path)
            path.unlink(missing_ok=True)  # a process that has it mapped keeps its pages
            logger.info("removed %s from the frame cache to make room", path.name)
    free = shutil.disk_usage(folder).free
    if free < needed + FREE_DISK_GB * 1e9:
        raise OSError(f"{needed / 1e9:.1f} GB needed and {FREE_DISK_GB:g} GB kept free, {free / 1e9:.1f} GB there")


def _last_use(path: Path) -> float:
    return path.stat().st_mtime if path.exists() else 0.0


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
