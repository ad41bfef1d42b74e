"""The packed form of a driving log: a few large files of MXNet's RecordIO in place of a million small ones.

====================================  =================================================================================
``index.rec``                         every row's numbers, time and drive, and where its pictures are
``recording-center-00000.rec``, ...   shards: the centre camera's pictures, in the order of the rows
``recording-left-00000.rec``, ...     those of each other camera
====================================  =================================================================================

A record of a shard is what ``mxnet.recordio.unpack`` takes: the label (steering, throttle, brake, speed in miles an
hour; so ``label_width=4``) and the bytes of the JPEG or PNG as they were recorded. The files of a folder, joined in any
order, are one stream of records, which :func:`unpack_stream` takes: so SageMaker's Pipe mode sends them.

MXNet itself is not needed here. In RecordIO (dmlc-core's ``recordio.h``) a record is a magic number, three bits of flag
and 29 of length, the data, and zeros up to a multiple of four bytes; where the data holds the magic number itself, at
such a multiple, it is left out and the record is cut there.
"""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
import zlib
from array import array
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import (
    IO,
    Any,
    Dict,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

import numpy as np
from tqdm import tqdm

from robostig.picture import LazyPictures, StoredPicture, digest_picture, read_in_order, read_picture_bytes

__all__ = [
    "INDEX_NAME",
    "MEND",
    "PackedPicture",
    "Table",
    "read_packed",
    "unpack_stream",
    "write_packed",
]

INDEX_NAME = "index.rec"

_MAGIC = struct.pack("<I", 0xCED7230A)
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)  # a record, or what part it is of one that was cut
_LENGTH_BITS = 29
_FRAME_BYTES = 11  # of a record beside its data, at most, unless it is cut
_HEADER = struct.Struct("<IfQQ")  # mxnet.recordio.IRHeader: how many labels, a label, row, recording and camera
_LABELS = 4
_HEAD_BYTES = _HEADER.size + 4 * _LABELS
_TAG, _VERSION = b"robostig driving log ", b"1\n"  # how an index begins; a picture's record begins with _LABELS
_DIGEST_BYTES = 16
_BLOCK = 1 << 20  # bytes read at once where pictures are read in order
MEND = "copy it again, or pack the recording again with robostig pack"
_REPLICATE = "if it is a channel of SageMaker, every host needs all of its objects (FullyReplicated)"


class PackedPicture(StoredPicture):
    """A picture in a shard: as a text it reads like a path, the last part of which is the picture's own name.

    Parameters
    ----------
    holder
        The shard.
    offset
        Where in the shard its record begins, in bytes.
    size
        Of the picture, in bytes.
    digest
        :func:`~robostig.picture.digest_picture` of its bytes.
    name
        Of the file that it once was.
    """

    __slots__ = ("digest", "holder", "offset", "size")
    offset: int
    digest: bytes

    def __new__(cls, holder: str, offset: int, size: int, digest: bytes, name: str) -> PackedPicture:
        """Make the text of the place and the name."""
        picture = super().__new__(cls, f"{holder}@{offset}/{name}")
        picture.holder, picture.offset, picture.size, picture.digest = holder, offset, size, digest
        return picture

    def __getnewargs__(self) -> Tuple[Any, ...]:
        return self.holder, self.offset, self.size, self.digest, os.path.basename(self)

    def open(self, *, in_order: bool = False) -> IO[bytes]:
        """Open the shard."""
        return open(self.holder, "rb", buffering=_BLOCK if in_order else -1)

    def read_from(self, file: IO[bytes]) -> bytes:
        """Return its bytes. Raises ValueError if they are not those that were packed."""
        if file.tell() != self.offset:
            file.seek(self.offset)
        try:
            record = _read_record(file)
        except (ValueError, EOFError):
            record = None
        data = b"" if record is None else record[_HEAD_BYTES:]
        if digest_picture(data) != self.digest:
            raise ValueError(f"{self}: the shard is damaged here; {MEND}")
        return data


def _make_picture(shards: Sequence[str], places: np.ndarray, digests: np.ndarray, names: np.ndarray, row: int) -> str:
    shard, offset, size = places[row].tolist()
    if not size:
        return ""  # the row has none of this camera
    name = names[row].decode("utf-8", "surrogateescape")
    return PackedPicture(shards[shard], offset, size, digests[row].tobytes(), name)


class Table(NamedTuple):
    """What is packed of a driving log, one element a row.

    Parameters
    ----------
    name
        What to call the log.
    pictures
        Camera name to its pictures: paths, or :class:`~robostig.picture.StoredPicture`; an empty text where a row has
        none, of which no record is written.
    numbers
        (N, 4) float32: steering, throttle, brake, speed in miles an hour.
    time_s
        (N,) float64, seconds since 1970, or NaN.
    facts
        Plain values about the log, for JSON.
    """

    name: str
    pictures: Mapping[str, Sequence[str]]
    numbers: np.ndarray
    time_s: np.ndarray
    facts: Mapping[str, Any]


def write_packed(folder: Path, table: Table, token: str, *, shard_bytes: int) -> int:
    """Pack a driving log.

    Parameters
    ----------
    folder
        An empty one.
    table
        The log.
    token
        Hexadecimal digits that name the recording in every record: the log's fingerprint.
    shard_bytes
        How long a shard may grow; it holds one picture at least.

    Returns
    -------
    int
        Number of shards.

    Raises
    ------
    OSError
        If a picture cannot be read, or the folder not be written to.
    ValueError
        If a picture is too large for a record (half a gigabyte).
    """
    arrays = {"numbers": table.numbers.astype("<f4"), "time_s": table.time_s.astype("<f8")}
    shards: List[str] = []
    with tqdm(total=len(table.numbers) * len(table.pictures), desc="packing", unit="picture", disable=None) as bar:
        for number, (camera, pictures) in enumerate(table.pictures.items()):
            places = np.empty((len(pictures), 3), "<i8")  # shard, offset, size
            digests = np.empty((len(pictures), _DIGEST_BYTES), np.uint8)
            before = len(shards)
            with ExitStack() as stack:
                file: Optional[IO[bytes]] = None
                for row, read in enumerate(read_in_order(pictures)):
                    if not pictures[row]:
                        places[row], digests[row] = (0, 0, 0), 0
                        bar.update()
                        continue
                    data = read_picture_bytes(pictures[row]) if read is None else read
                    if file is None or file.tell() + _HEAD_BYTES + len(data) + _FRAME_BYTES > shard_bytes:
                        stack.close()
                        shards.append(f"recording-{camera}-{len(shards) - before:05d}.rec")
                        file = stack.enter_context(open(folder / shards[-1], "wb"))
                    places[row] = len(shards) - 1, file.tell(), len(data)
                    digests[row] = np.frombuffer(digest_picture(data), np.uint8)
                    head = _HEADER.pack(_LABELS, 0.0, row, _name_camera(token, number))
                    _write_record(file, head + arrays["numbers"][row].tobytes() + data)
                    bar.update()
            names = [os.path.basename(picture).encode("utf-8", "surrogateescape") for picture in pictures]
            arrays.update(
                {f"{camera}_place": places, f"{camera}_digest": digests, f"{camera}_name": np.array(names, "S")}
            )
    header = {"name": table.name, "token": token, "cameras": list(table.pictures), "facts": table.facts}
    _write_index(folder, header, shards, arrays)
    return len(shards)


def read_packed(folder: Path) -> Table:
    """Read a packed driving log; of the shards, only their sizes are looked at.

    Parameters
    ----------
    folder
        Of ``index.rec`` and the shards.

    Raises
    ------
    FileNotFoundError
        If the index or a shard is missing.
    ValueError
        If one of them is cut off or damaged, or the index is something else.
    """
    path = folder / INDEX_NAME
    with open(path, "rb") as file:
        try:
            record = _read_record(file)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path} is damaged ({error}); {MEND}") from error
    header, arrays = _parse_index(record or b"", str(path))
    sizes = {shard["name"]: shard["bytes"] for shard in header["shards"]}
    missing = [name for name in sizes if not (folder / name).is_file()]
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise FileNotFoundError(
            f"{folder} lacks {len(missing)} of its {len(sizes)} shards ({shown}); {MEND}; {_REPLICATE}"
        )
    for name, size in sizes.items():
        found = (folder / name).stat().st_size
        if found != size:
            raise ValueError(f"{folder / name} has {found:,} bytes, and was packed with {size:,}; {MEND}")
    shards = [str(folder / name) for name in sizes]
    pictures = {}
    for camera in header["cameras"]:
        places, digests, names = (arrays[f"{camera}_{name}"] for name in ("place", "digest", "name"))
        pictures[camera] = LazyPictures(partial(_make_picture, shards, places, digests, names), range(len(places)))
    return Table(header["name"], pictures, arrays["numbers"], arrays["time_s"], header["facts"])


def unpack_stream(stream: IO[bytes], folder: Path, *, name: str) -> int:
    """Write what a stream brings, the files of one packed log or of several in any order, to folders of packed logs.

    Parameters
    ----------
    stream
        Open for reading; it is read to its end, once.
    folder
        An empty one; it gets a sub-folder for each log.
    name
        What to call the stream in messages.

    Returns
    -------
    int
        Number of packed logs.

    Raises
    ------
    ValueError
        If the stream is empty, brings something else, ends within a record, or leaves out an object.
    OSError
        If it cannot be read, or the folder not be written to.
    """
    logs: Dict[str, _ArrivingLog] = {}
    taken = 0
    with ExitStack() as stack, tqdm(desc=f"reading {name}", unit="B", unit_scale=True, disable=None) as bar:
        while True:
            try:
                record = _read_record(stream)
            except ValueError as error:
                raise ValueError(
                    f"{name} brings something else than packed driving logs ({error}, after {taken:,} bytes). A pipe "
                    "loses the names of files, so a driving log or arrays cannot come through one: pack the recording "
                    "with robostig pack, without anything beside it, or use the input mode File or FastFile"
                ) from error
            except EOFError as error:
                raise ValueError(
                    f"{name} ended in the middle of a record, after {taken:,} bytes; start it again"
                ) from error
            if record is None:
                break
            taken += len(record)
            bar.update(len(record))
            if record.startswith(_TAG):
                header, arrays = _parse_index(record, f"the index that came through {name}")
                log = _find_log(logs, header["token"], folder, stack)
                if log.index is not None:
                    raise ValueError(f"{name} brings the packed log {header['name']} twice; keep one of the two copies")
                log.index = header, arrays
            elif len(record) > _HEAD_BYTES and _HEADER.unpack_from(record)[:2] == (_LABELS, 0.0):
                _, _, row, camera = _HEADER.unpack_from(record)
                _find_log(logs, f"{camera >> 8:014x}", folder, stack).write(camera & 0xFF, row, record)
            else:
                raise ValueError(f"{name} brings RecordIO that robostig pack did not write; {MEND}")
    if not logs:
        raise ValueError(
            f"{name} is empty: it was closed before anything came; is there an object at the channel's place?"
        )
    for log in logs.values():
        log.finish(name)
    return len(logs)


class _ArrivingLog:
    """A packed log that a stream brings, record by record."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        folder.mkdir()
        self._folder, self._stack = folder, stack
        self._files: Dict[int, IO[bytes]] = {}
        self._places: Dict[int, array[int]] = {}  # row, offset, size, of one picture after the other
        self.index: Optional[Tuple[Dict[str, Any], Dict[str, np.ndarray]]] = None

    def write(self, camera: int, row: int, record: bytes) -> None:
        """Write a picture's record to its camera's shard."""
        if camera not in self._files:
            shard = open(self._folder / f"recording-{camera}.rec", "wb")  # noqa: SIM115
            self._files[camera] = self._stack.enter_context(shard)
            self._places[camera] = array("q")
        file = self._files[camera]
        self._places[camera].extend((row, file.tell(), len(record) - _HEAD_BYTES))
        _write_record(file, record)

    def finish(self, stream: str) -> None:
        """Write the index; its shards must be closed. Raises ValueError unless every picture has come once."""
        if self.index is None:
            raise ValueError(f"{stream} brings pictures without their {INDEX_NAME}; {MEND}; {_REPLICATE}")
        header, arrays = self.index
        shards: List[str] = []
        for number, camera in enumerate(header["cameras"]):
            came = np.array(self._places.get(number, ()), np.int64).reshape(-1, 3)
            places = arrays[f"{camera}_place"]
            rows = np.flatnonzero(places[:, 2])
            came = came[np.argsort(came[:, 0], kind="stable")]
            if not np.array_equal(came[:, 0], rows) or (came[:, 2] != places[rows, 2]).any():
                raise ValueError(
                    f"{stream} brings {len(came):,} pictures of the {camera} camera of {header['name']}, which has "
                    f"{len(rows):,}; {MEND}; {_REPLICATE}"
                )
            places[rows, 0], places[rows, 1] = len(shards), came[:, 1]
            shards.append(f"recording-{number}.rec")
        _write_index(self._folder, header, shards, arrays)
        self._folder.rename(self._folder.with_name(f"{os.path.basename(header['name'])}-{self._folder.name}"))


def _find_log(logs: Dict[str, _ArrivingLog], token: str, folder: Path, stack: ExitStack) -> _ArrivingLog:
    token = token[:14]
    if token not in logs:
        logs[token] = _ArrivingLog(folder / token, stack)
    return logs[token]


def _name_camera(token: str, camera: int) -> int:
    """Return the last number of a picture's header: 56 bits of the recording's token, and the camera's number."""
    return int(token[:14], 16) << 8 | camera


def _write_index(
    folder: Path, header: Mapping[str, Any], shards: Sequence[str], arrays: Mapping[str, np.ndarray]
) -> None:
    sized = [{"name": name, "bytes": (folder / name).stat().st_size} for name in shards]
    text = json.dumps({**header, "shards": sized}).encode()
    packed = io.BytesIO()
    np.savez_compressed(packed, header=np.frombuffer(text, np.uint8), **arrays)
    with open(folder / INDEX_NAME, "wb") as file:
        _write_record(file, _TAG + _VERSION + packed.getvalue())


def _parse_index(record: bytes, name: str) -> Tuple[Dict[str, Any], Dict[str, np.ndarray]]:
    """Return the header and the arrays of an index; raises ValueError, calling it ``name``."""
    if not record.startswith(_TAG):
        raise ValueError(f"{name} is no index of robostig pack; {MEND}")
    if not record.startswith(_TAG + _VERSION):
        raise ValueError(f"{name} is from a later version of RoboStig; install that one")
    try:
        with np.load(io.BytesIO(record[len(_TAG + _VERSION) :]), allow_pickle=False) as packed:
            arrays = {key: packed[key] for key in packed.files}
        header = json.loads(arrays.pop("header").tobytes())
        _check_index(header, arrays)
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{name} is damaged ({error}); {MEND}") from error
    except (KeyError, TypeError, AttributeError) as error:  # something else in a value's place, or nothing
        raise ValueError(f"{name} is damaged (a value is missing or of another kind: {error}); {MEND}") from error
    return header, arrays


def _check_index(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError, KeyError or TypeError unless an index has all that is read of one, and it fits together."""
    int(header["token"][:14], 16)
    names = [shard["name"] for shard in header["shards"]]
    foreign = [name for name in [*names, *header["cameras"]] if os.path.basename(name) != name or name in ("", "..")]
    if foreign:
        raise ValueError(f"{foreign[0]!r} is not the plain name of a file")
    if not all(shard["bytes"] >= 0 for shard in header["shards"]) or not isinstance(header["facts"], dict):
        raise ValueError("its header is not one of robostig pack")
    rows = len(arrays["numbers"])
    wanted: Dict[str, Tuple[str, Tuple[int, ...]]] = {"numbers": ("f", (rows, _LABELS)), "time_s": ("f", (rows,))}
    for camera in header["cameras"]:
        wanted[f"{camera}_place"] = "i", (rows, 3)
        wanted[f"{camera}_digest"] = "u", (rows, _DIGEST_BYTES)
        wanted[f"{camera}_name"] = "S", (rows,)
    for key, (kind, shape) in wanted.items():
        if arrays[key].dtype.kind != kind or arrays[key].shape != shape:
            raise ValueError(f"{key} is {arrays[key].dtype} {arrays[key].shape} where {shape} belongs")
    for camera in header["cameras"]:
        places = arrays[f"{camera}_place"]
        if (places < 0).any() or (places[:, 0] >= len(names)).any():
            raise ValueError(f"pictures of the {camera} camera are in a shard that it does not name")


def _write_record(file: IO[bytes], data: bytes) -> None:
    if len(data) >> _LENGTH_BITS:
        raise ValueError(f"{len(data):,} bytes are too many for a record, which holds {1 << _LENGTH_BITS:,}")
    parts, begin, found = [], 0, data.find(_MAGIC)
    while found >= 0:
        if found % 4 == 0:
            parts.append(data[begin:found])
            begin = found + 4
        found = data.find(_MAGIC, begin if found < begin else found + 1)
    parts.append(data[begin:])
    for number, part in enumerate(parts):
        flag = _WHOLE if len(parts) == 1 else _FIRST if number == 0 else _LAST if number == len(parts) - 1 else _MIDDLE
        file.write(_MAGIC + struct.pack("<I", flag << _LENGTH_BITS | len(part)) + part)
    file.write(bytes(-len(data) % 4))


def _read_record(file: IO[bytes]) -> Optional[bytes]:
    """Return the data of the next record, None at the end; ValueError if it is none, EOFError if it is cut off."""
    parts: List[bytes] = []
    while True:
        head = file.read(8)
        if not head and not parts:
            return None
        if head[:4] != _MAGIC[: len(head)]:
            raise ValueError(f"{head!r} where a record should begin")
        if len(head) < 8:
            raise EOFError("it is cut off")
        flag, length = divmod(struct.unpack("<I", head[4:])[0], 1 << _LENGTH_BITS)
        if (flag in (_WHOLE, _FIRST)) != (not parts) or flag > _LAST:
            raise ValueError(f"{head!r} where a record should {'go on' if parts else 'begin'}")
        data = file.read(length + -length % 4)
        if len(data) < length + -length % 4:
            raise EOFError("it is cut off")
        parts.append(data[:length])
        if flag in (_WHOLE, _LAST):
            return _MAGIC.join(parts)
