"""One picture's bytes: where they are, a JPEG or PNG decoded or made, and what is wrong with a file that is neither.

A picture is named by the path of its file. Where many are in one file, as in a packed log, it is named by a
:class:`StoredPicture`: a text like a path, which knows how to get at the bytes.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable, ContextManager, Iterable, Iterator, Optional, Sequence, Union, overload

import cv2
import numpy as np

__all__ = [
    "JPEG_QUALITY",
    "SUFFIXES",
    "LazyPictures",
    "StoredPicture",
    "decode_picture",
    "decode_rgb",
    "digest_picture",
    "encode_jpeg",
    "encode_png",
    "inspect_picture",
    "measure_picture",
    "measure_png",
    "read_in_order",
    "read_picture_bytes",
]

JPEG_QUALITY = 75  # in percent, as the simulator's
SUFFIXES = (".jpg", ".jpeg", ".png")

_SIGNATURES = ((b"\xff\xd8", b"\xff\xd9"), (b"\x89PNG", b"IEND"))  # how a whole JPEG, or PNG, begins and ends
_TAIL = 4096  # bytes from the end in which the ending is: some cameras add to their pictures
_READ_BYTES = 64 << 10  # at once, of what has no size of its own
_DECODES_RGB = hasattr(cv2, "IMREAD_COLOR_RGB")  # since OpenCV 4.11: one pass over the pixels less
_PNG_BLOCK = 65535  # bytes that a block of zlib's holds without compression (RFC 1951, 3.2.4)


class StoredPicture(str):
    """A picture that is no file of its own: as a text it reads like a path, whose last part is the picture's own name.

    Parameters
    ----------
    holder
        The file that it is in.
    size
        Of the picture as a JPEG or PNG file, in bytes.
    digest
        :func:`digest_picture` of its bytes; None if they have to be read for it.
    """

    __slots__ = ()
    holder: str
    size: int
    digest: Optional[bytes]

    def open(self, *, in_order: bool = False) -> ContextManager[Any]:
        """Open the file that holds it, and others, which will be read in their order if ``in_order``."""
        raise NotImplementedError

    def read_from(self, file: Any) -> bytes:
        """Return its bytes, as a JPEG or PNG file has them, from what :meth:`open` has opened."""
        raise NotImplementedError


class LazyPictures(Sequence[str]):
    """Pictures that are made when they are asked for: a million of them would fill a third of a gigabyte.

    Parameters
    ----------
    make
        Returns the picture of a number.
    numbers
        Those there are, in order.
    """

    def __init__(self, make: Callable[[int], str], numbers: range) -> None:
        self._make, self._numbers = make, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, row: int) -> str: ...

    @overload
    def __getitem__(self, row: slice) -> Sequence[str]: ...

    def __getitem__(self, row: Union[int, slice]) -> Union[str, Sequence[str]]:
        if isinstance(row, slice):
            return LazyPictures(self._make, self._numbers[row])
        return self._make(self._numbers[row])


def read_picture_bytes(picture: Union[str, Path]) -> bytes:
    """Return the bytes of a picture, be it a file of its own or in another one.

    Raises
    ------
    OSError
        If there is no such file, or it cannot be read, naming it.
    ValueError
        If the file does not hold it any more.
    """
    if isinstance(picture, StoredPicture):
        with picture.open() as file:
            return picture.read_from(file)
    descriptor = os.open(picture, os.O_RDONLY)  # half of the system calls that open() and read() make
    try:
        size = os.fstat(descriptor).st_size
        data = part = os.read(descriptor, size + 1)
        while part and len(data) != size:  # it grows, or is no file that has a size
            part = os.read(descriptor, _READ_BYTES)
            data += part
    except OSError as error:  # which knows of no name
        raise OSError(error.errno, error.strerror, str(picture)) from None
    finally:
        os.close(descriptor)
    return data


def read_in_order(pictures: Iterable[str]) -> Iterator[Optional[bytes]]:
    """Yield the bytes of each picture that is stored in another file, which is opened once and read in large blocks.

    For a picture that is a file of its own it yields None: several threads are quicker at opening these.
    """
    with ExitStack() as stack:
        file: Any = None
        holder = ""
        for picture in pictures:
            if not isinstance(picture, StoredPicture):
                yield None
                continue
            if picture.holder != holder:
                stack.close()
                file, holder = stack.enter_context(picture.open(in_order=True)), picture.holder
            yield picture.read_from(file)


def measure_picture(picture: str) -> int:
    """Return the size of a picture in bytes."""
    return picture.size if isinstance(picture, StoredPicture) else os.path.getsize(picture)


def digest_picture(data: bytes) -> bytes:
    """Return 16 bytes that follow from a picture's own."""
    return hashlib.blake2b(data, digest_size=16).digest()


def decode_picture(data: bytes, name: str) -> np.ndarray:
    """Decode the bytes of a JPEG or PNG file.

    Parameters
    ----------
    data
        The file's, whole.
    name
        What to call the picture in messages.

    Returns
    -------
    numpy.ndarray
        (H, W, 3) uint8, RGB.

    Raises
    ------
    ValueError
        If the bytes are cut off, or no picture.
    """
    fault = _find_fault(len(data), data[:4], data[-_TAIL:])
    picture = None if fault else decode_rgb(data)
    if picture is None:
        raise ValueError(f"{name}: {fault or 'is no picture that can be decoded'}; remove its row or restore the file")
    return picture


def decode_rgb(data: bytes) -> Optional[np.ndarray]:
    """Return what OpenCV makes of a picture file's bytes, (H, W, 3) uint8 RGB; None if it can make nothing of them."""
    try:
        if _DECODES_RGB:
            return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # its header asks for more pixels than OpenCV makes
        return None
    return None if picture is None else cv2.cvtColor(picture, cv2.COLOR_BGR2RGB, dst=picture)


def encode_jpeg(frame: np.ndarray, quality: int = JPEG_QUALITY) -> bytes:
    """Return a (H, W, 3) uint8 RGB picture as the bytes of a JPEG file, as Udacity's simulator compresses them."""
    data: np.ndarray = cv2.imencode(
        ".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )[1]
    return data.tobytes()


def encode_png(frame: np.ndarray) -> bytes:
    """Return a (H, W, 3) uint8 RGB picture as the bytes of a PNG file, without loss and without compression.

    Its length follows from the frame's size alone (:func:`measure_png`), and making or reading it takes a fraction of
    the time that compression would.
    """
    height, width = frame.shape[:2]
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # before each row, the number of its filter: none
    for channel in range(3):  # HDF5's frames have a channel after the other, and are quicker copied so
        rows[:, 1 + channel :: 3] = frame[..., channel]
    data = rows.tobytes()
    blocks = [b"\x78\x01"]  # zlib's header (RFC 1950)
    for start in range(0, len(data), _PNG_BLOCK):
        part = data[start : start + _PNG_BLOCK]
        is_last = start + _PNG_BLOCK >= len(data)
        blocks += [struct.pack("<BHH", is_last, len(part), 0xFFFF - len(part)), part]
    blocks.append(struct.pack(">I", zlib.adler32(data)))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits a channel, RGB
    chunks = ((b"IHDR", header), (b"IDAT", b"".join(blocks)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def measure_png(height: int, width: int) -> int:
    """Return how many bytes :func:`encode_png` makes of a frame."""
    data = height * (1 + 3 * width)
    return 8 + 3 * 12 + 13 + 2 + 5 * -(-data // _PNG_BLOCK) + data + 4  # signature, three chunks, header, zlib


def inspect_picture(path: Union[str, Path]) -> Optional[str]:
    """Say what is wrong with a picture file, as far as its first and last bytes tell; None if it seems whole."""
    with open(path, "rb") as file:
        head = file.read(4)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL))
        return _find_fault(size, head, file.read())


def _find_fault(size: int, head: bytes, tail: bytes) -> Optional[str]:
    if size == 0:
        return "is empty"
    for beginning, ending in _SIGNATURES:
        if head.startswith(beginning):
            whole = tail.rfind(ending) >= 0  # from behind, where it mostly is
            return None if whole else f"is cut off: its {size:,} bytes do not end as a whole picture does"
    return "is neither a JPEG nor a PNG"
