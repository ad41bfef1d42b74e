"""Files that are there whole or not at all: written beside, then renamed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import IO, Any, Iterator, Tuple, Union

__all__ = ["claim_folder", "describe_error", "fill_folder", "make_folder", "replace_file"]


def describe_error(error: BaseException) -> str:
    """Return an error's words for people: without the number that Python puts before an OSError's own text."""
    if isinstance(error, OSError) and error.strerror and error.filename2 is None:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return str(error)


@contextlib.contextmanager
def replace_file(path: Union[str, Path], mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file for writing that takes the place of ``path`` when the block ends without an error.

    Parameters
    ----------
    path
        The file; one that is there stays as it is until then. A device or a pipe, such as ``/dev/null``, is written to
        as it is: root could replace it.
    mode
        ``"wb"``, or ``"w"`` for text in UTF-8.

    Raises
    ------
    OSError
        If it cannot be written, naming it; nothing is left behind.
    """
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        with open(path, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
        return
    partial = path.with_name(f"{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.partial")
    try:
        with open(partial, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # else a power cut could leave the new name with old emptiness
        os.replace(partial, path)
    except OSError as error:
        if error.filename and error.filename != str(partial):
            raise  # of something else that went wrong inside of the block
        raise OSError(error.errno, f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def fill_folder(path: Union[str, Path]) -> Iterator[Path]:
    """Give a new folder to fill, beside ``path``, that gets that name when the block ends without an error.

    What processes that were killed have left of the same is removed first.

    Raises
    ------
    FileExistsError
        If there is something of that name already that is not an empty folder.
    OSError
        If it cannot be written to; nothing is left behind.
    """
    path = Path(os.path.realpath(path))  # a link stays a link: what it leads to is filled
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(f"{path} is there already; name another folder, or remove it first")
    if path.is_dir() and (path.samefile(os.curdir) or path.is_mount()):
        raise FileExistsError(f"{path} is in use and cannot be replaced; name a new folder")
    parent = make_folder(path.absolute().parent)
    partial, claim = claim_folder(parent, prefix=f"{path.name}.", suffix=".partial")
    try:
        partial.chmod(0o777 & ~_read_umask())  # mkdtemp's folders are for one user alone
        yield partial
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(claim)


def claim_folder(parent: Path, *, prefix: str, suffix: str = "") -> Tuple[Path, int]:
    """Make a new folder for this process alone, and remove those of the same kind that dead processes have left.

    Parameters
    ----------
    parent
        Where to.
    prefix, suffix
        How its name begins and ends; eight letters and digits are between.

    Returns
    -------
    tuple
        The folder, and a descriptor: for as long as that is open, no other process takes the folder for left behind.
    """
    kind = re.compile(f"{re.escape(prefix)}[a-z0-9_]{{8}}{re.escape(suffix)}")
    for path in [path for path in parent.iterdir() if kind.fullmatch(path.name)]:
        # A lock ends with its process, however that ends. Where there are no locks, nothing is removed.
        with contextlib.suppress(OSError):
            left = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(left)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=suffix, dir=parent))
        try:
            claim = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            continue  # another process took it for left behind
        with contextlib.suppress(OSError):
            fcntl.flock(claim, fcntl.LOCK_EX)
        if folder.exists():
            return folder, claim
        os.close(claim)


def _read_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def make_folder(path: Union[str, Path]) -> Path:
    """Make a folder, if it is not there, and make sure that it can be written to.

    Raises
    ------
    OSError
        If it cannot, naming it.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path} is a file; name a folder to write to")
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise OSError(f"cannot write to {path} ({error.strerror or error}); name another folder") from error
    return path
