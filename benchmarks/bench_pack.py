"""Reading a packed recording against reading its many small files, from a cold page cache.

Makes a recording of a real drive several times over, packs it, and reads the bytes of all pictures in turn from the
shards and from the files, one after the other, alternating; then the same for reading the log, and for the first
decoding of the centre camera. Medians, and ratios within a pair. Before each reading the files are put out of the page
cache: by root through ``/proc/sys/vm/drop_caches``, which forgets folders and inodes too, else file by file.

What a local disk cannot show is the time that S3 takes for each object, which is why the packed form exists. The
number of objects, and so of requests (GET), is printed instead.

    python benchmarks/bench_pack.py [--data recording] [--times 4] [--rounds 5] [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Callable, Dict, List

from robostig.driving_log import LOG_NAME, SHARD_MB, DrivingLog, pack_driving_log, read_driving_log
from robostig.frame_cache import CachedFrames
from robostig.packed_log import read_in_order, read_picture_bytes
from robostig.preprocessing import InputSpec

DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "lake"
DROP_CACHES = Path("/proc/sys/vm/drop_caches")
SPEC = InputSpec(66, 200, crop_top=0.3, color_space="yuv")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("ROBOSTIG_DATA", str(DEFAULT_DATA)), help="a driving log")
    parser.add_argument("--times", type=int, default=4, help="how many times over it is written; default 4")
    parser.add_argument("--rounds", type=int, default=5, help="readings of each kind; default 5")
    parser.add_argument("--quick", action="store_true", help="once over, three rounds")
    parser.add_argument("--folder", help="where to write to: the disk that is measured; default a temporary folder")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    if not (Path(arguments.data) / LOG_NAME).is_file():
        print(f"skipped: no {LOG_NAME} in {arguments.data}; give --data DIR or set ROBOSTIG_DATA")
        return 0
    times, rounds = (1, 3) if arguments.quick else (arguments.times, arguments.rounds)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        figures = measure(repeat_recording(Path(arguments.data), times, Path(scratch) / "log"), Path(scratch), rounds)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def measure(recording: Path, scratch: Path, rounds: int) -> Dict[str, Any]:
    log = read_driving_log(recording)
    started = time.perf_counter()
    shards = pack_driving_log(log, scratch / "packed")
    figures: Dict[str, Any] = {"pack_s": time.perf_counter() - started}
    packed = read_driving_log(scratch / "packed")
    pictures = sum(map(len, log.pictures.values()))
    megabytes = sum(path.stat().st_size for path in (scratch / "packed").iterdir()) / 1e6
    figures.update(objects=pictures + 1, packed_objects=shards, megabytes=megabytes)
    print(
        f"{len(log):,} rows, {pictures:,} pictures, {megabytes:,.0f} MB, packed in {figures['pack_s']:.1f} s\n"
        f"objects to fetch: {pictures + 1:,} as a log, {shards:,} packed ({SHARD_MB:g} MB each at most): "
        f"{(pictures + 1) / shards:,.0f} times fewer GETs (what S3 takes for one cannot be measured here)",
        flush=True,
    )
    os.sync()
    how = f"{DROP_CACHES} (pages, folders and inodes)" if can_drop_caches() else "posix_fadvise (pages alone)"
    print(f"page cache emptied by {how}; medians of {rounds}, alternating")
    kinds: Dict[str, Callable[[DrivingLog], object]] = {
        "read the bytes of all pictures": read_all,
        "read the log": lambda log: read_driving_log(log.source),
        "read the log, decode the centre camera": decode,
    }
    for name, work in kinds.items():
        seconds: List[List[float]] = [[], []]
        for _ in range(rounds):
            for taken, each in zip(seconds, (log, packed)):
                empty_page_cache(each.folder)
                started = time.perf_counter()
                work(each)
                taken.append(time.perf_counter() - started)
        ratio = statistics.median(one / other for one, other in zip(*seconds))
        as_log, as_packed = map(statistics.median, seconds)
        figures[name] = {"log_s": as_log, "packed_s": as_packed, "ratio": ratio}
        print(f"{name}: {as_log:.2f} s as a log, {as_packed:.2f} s packed; ratio {ratio:.1f}", flush=True)
    return figures


def read_all(log: DrivingLog) -> None:
    for pictures in log.pictures.values():
        for picture, data in zip(pictures, read_in_order(pictures)):
            assert data or read_picture_bytes(picture)


def decode(log: DrivingLog) -> None:
    again = read_driving_log(log.source)
    folder = tempfile.mkdtemp(dir=log.folder.parent)
    CachedFrames(again.pictures["center"], SPEC, folder=folder)
    shutil.rmtree(folder)


def repeat_recording(source: Path, times: int, target: Path) -> Path:
    """Write a recording that drives another several times; each picture is a file of its own."""
    log = read_driving_log(source)
    (target / "IMG").mkdir(parents=True)
    lines = []
    for turn in range(times):
        for row in range(len(log)):
            names = []
            for camera in log.pictures:
                moved = datetime(1970, 1, 1) + timedelta(days=turn, seconds=float(log.time_s[row]))
                names.append(f"IMG/{camera}_{moved:%Y_%m_%d_%H_%M_%S}_{moved.microsecond // 1000:03d}.jpg")
                (target / names[-1]).write_bytes(read_picture_bytes(log.pictures[camera][row]))
            lines.append(",".join([*names, f"{log.steering[row]:.8g}", "1", "0", f"{log.speed_mph[row]:.5f}"]))
    (target / LOG_NAME).write_text("\n".join(lines) + "\n")
    return target


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
