"""A packed recording against the many small files that it was made of, from a cold page cache.

Both hold the same pictures, byte for byte, of a drive that is written several times over. Three kinds of reading are
measured, of one form and the other in turns: the bytes of all pictures one after the other, the log alone, and the log
with the first decoding of the centre camera's frames. Before each, the files are put out of the page cache: by root
through ``/proc/sys/vm/drop_caches``, which forgets folders and inodes too, else file by file. What a local disk cannot
show is the time that S3 takes for each object, which is why the packed form exists; objects are counted in its place.

    python benchmarks/packed_log.py [--data recording] [--folder DIR] [--quick] [--json FILE]
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Callable, Dict

from harness import Comparison, Figure, Report, find_log, make_parser, measure_in_turns
from recordings import repeat_recording

from robostig.driving_log import SHARD_MB, DrivingLog, pack_driving_log, read_driving_log
from robostig.frame_cache import CachedFrames
from robostig.picture import read_in_order, read_picture_bytes
from robostig.preprocessing import InputSpec

TIMES, QUICK_TIMES = 4, 1
DROP_CACHES = Path("/proc/sys/vm/drop_caches")
SPEC = InputSpec(66, 200, crop_top=0.3, color_space="yuv")


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--folder", metavar="DIR", help="where to write: the disk that is measured; default temporary")
    arguments = parser.parse_args()
    times, repeats = (QUICK_TIMES, 3) if arguments.quick else (TIMES, 5)
    report = Report("packed_log", "a packed recording, against its many small files", arguments)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        folder = Path(scratch)
        log = read_driving_log(repeat_recording(find_log(arguments.data, folder), times, folder / "log"))
        measure(report, log, folder / "packed", repeats)
    return report.finish()


def measure(report: Report, log: DrivingLog, target: Path, repeats: int) -> None:
    """Pack a log, read both forms in turns, and add what came out."""
    started = time.perf_counter()
    shards = pack_driving_log(log, target)
    report.add(Figure("packing", [time.perf_counter() - started], "s"))
    packed = read_driving_log(target)
    if digest(log) != digest(packed):
        raise RuntimeError("the packed recording does not hold the same pictures")
    objects = 1 + sum(map(len, log.pictures.values()))
    megabytes = sum(path.stat().st_size for path in target.iterdir()) / 1e6
    report.note(
        f"{len(log):,} rows, the same bytes in both forms. Objects to fetch, hence requests: {objects:,} as a log, "
        f"{shards:,} packed ({megabytes:,.0f} MB, {SHARD_MB:g} MB each at most)"
    )
    os.sync()
    how = f"{DROP_CACHES} (pages, folders and inodes)" if can_drop_caches() else "posix_fadvise (pages alone)"
    report.note(f"the page cache is emptied by {how}")
    works: Dict[str, Callable[[DrivingLog], object]] = {
        "the bytes of all pictures": read_all,
        "the log": lambda each: read_driving_log(each.source),
        "the log, and decode the centre camera": decode,
    }
    for name, work in works.items():
        sides = {form: partial(time_cold, work, each) for form, each in (("packed", packed), ("files", log))}
        seconds = measure_in_turns(sides, repeats, name)
        ours, peer = (Figure(form, values, "s") for form, values in seconds.items())
        report.add(Comparison(f"read {name}", ours, peer, more_is_better=False))


def time_cold(work: Callable[[DrivingLog], object], log: DrivingLog) -> float:
    empty_page_cache(log.folder)
    started = time.perf_counter()
    work(log)
    return time.perf_counter() - started


def digest(log: DrivingLog) -> str:
    """Return a fingerprint of all pictures, camera by camera and row by row."""
    found = hashlib.sha256()
    for camera in sorted(log.pictures):
        for picture in log.pictures[camera]:
            found.update(read_picture_bytes(picture))
    return found.hexdigest()


def read_all(log: DrivingLog) -> None:
    for pictures in log.pictures.values():
        for picture, data in zip(pictures, read_in_order(pictures)):
            assert data or read_picture_bytes(picture)


def decode(log: DrivingLog) -> None:
    again = read_driving_log(log.source)
    folder = tempfile.mkdtemp(dir=log.folder.parent)
    CachedFrames(again.pictures["center"], SPEC, folder=folder)
    shutil.rmtree(folder)


def can_drop_caches() -> bool:
    try:
        DROP_CACHES.write_text("3\n")
    except OSError:
        return False
    return True


def empty_page_cache(folder: Path) -> None:
    """Put a folder's files out of memory, so that they are read from the disk."""
    if can_drop_caches():
        return
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    sys.exit(main())
