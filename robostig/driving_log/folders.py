"""The folders below one, as readers want them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Iterator, List, Set, Tuple

__all__ = ["JUNK", "walk"]

JUNK = "._"  # how the names of macOS's AppleDouble files begin: ._driving_log.csv is no log


def walk(top: Path) -> Iterator[Tuple[str, List[str], List[str]]]:
    """Yield folders as os.walk does, through links too, for pictures are often on a larger disk; each only once.

    What macOS puts beside files on foreign disks, and into archives, is not among the names (:data:`JUNK`).

    Raises
    ------
    OSError
        If a folder cannot be read, naming it.
    """

    def refuse(error: OSError) -> None:
        if os.path.basename(error.filename) != "lost+found":  # a file system's own, which only root may read
            raise OSError(
                error.errno,
                f"cannot read the folder {error.filename} ({error.strerror or error}), and so not what it has of a "
                "driving log; make it readable, or move it elsewhere",
            ) from error

    seen: Set[str] = set()
    for folder, folders, names in os.walk(top, onerror=refuse, followlinks=True):
        if os.path.realpath(folder) in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add(os.path.realpath(folder))
        yield folder, folders, [name for name in names if not name.startswith(JUNK)]
