"""The first pass over a drive's JPEGs, decoded, preprocessed and written, against a plain loop with OpenCV.

Ours is ``robostig.data.open_frames`` with an empty folder: threads decode, and the file that appears is named by a hash
of every picture's bytes and is on the disk, not just on its way there. The peer is one loop over the same files that
calls ``cv2.imread``, crops, resizes, converts the colours and writes, into a ``.npy`` file or a ``numpy.memmap``,
whichever is quicker here, and has it on the disk at the end, too; it hashes nothing and looks for no damage. The same
loop that does not wait for the disk is measured as well. That all files hold the same frames is checked. The pictures
are read once before, so that they come from memory. How much the cores can give is measured beside it: as many of the
peer's loops at once, in threads, each with its part of the pictures.

    python benchmarks/cold_cache.py [--data recording] [--quick] [--json FILE]
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Callable, Dict, Sequence

import cv2
import numpy as np
from harness import Comparison, Figure, Report, find_log, make_parser, measure_in_turns

from robostig._compat import count_usable_cpus
from robostig.data import open_frames
from robostig.driving_log import DrivingLog, read_driving_log
from robostig.models import get_spec
from robostig.preprocessing import InputSpec

MODELS = ("nvidia", "comma")
GOAL = 1.7
CAMERA = "center"
UNSYNCED = "plain loop, file, not synced"


def main() -> int:
    arguments = make_parser(__doc__).parse_args()
    report = Report("cold_cache", "first pass over the JPEGs, against a plain loop with OpenCV", arguments)
    with tempfile.TemporaryDirectory() as scratch:
        log = read_driving_log(find_log(arguments.data, Path(scratch)))
        for path in log.pictures[CAMERA]:
            Path(path).read_bytes()  # into the page cache
        for model in MODELS:
            spec = get_spec(model).input
            check_frames(report, model, log, spec, Path(scratch))
            compare(report, model, log, spec, Path(scratch), 1 if arguments.quick else 9)
    return report.finish()


def check_frames(report: Report, model: str, log: DrivingLog, spec: InputSpec, scratch: Path) -> None:
    """Make sure that all sides write the same frames, and say so."""
    pictures = log.pictures[CAMERA]
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        frames = open_frames(log, spec, cameras=[CAMERA], folder=Path(folder) / "cache")[CAMERA]
        for write in (write_file, write_map):
            target = Path(folder) / f"{write.__name__}.npy"
            write(pictures, spec, target)
            written = np.load(target, mmap_mode="r")
            for start in range(0, len(pictures), 256):
                rows = range(start, min(start + 256, len(pictures)))
                if frames.mapped != len(written) or not np.array_equal(
                    frames.read(rows), written[rows.start : rows.stop]
                ):
                    raise SystemExit(f"{model}: the two sides write different frames")
    report.note(f"{model}: the {len(pictures):,} frames of all sides are equal byte for byte")


def compare(report: Report, model: str, log: DrivingLog, spec: InputSpec, scratch: Path, repeats: int) -> None:
    """Measure all sides in turns."""
    pictures = log.pictures[CAMERA]
    cores = count_usable_cpus()
    at_once = f"{cores} plain loops at once, files"

    def time_of(work: Callable[[Path], object]) -> Callable[[], float]:
        def measure() -> float:
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                started = time.perf_counter()
                work(Path(folder))
                return len(pictures) / (time.perf_counter() - started)

        return measure

    def work_at_once(folder: Path) -> None:
        threads = [
            threading.Thread(target=write_file, args=(pictures[core::cores], spec, folder / f"{core}.npy"))
            for core in range(cores)
        ]
        for each in threads:
            each.start()
        for each in threads:
            each.join()

    sides: Dict[str, Callable[[], float]] = {
        "robostig": time_of(lambda folder: open_frames(log, spec, cameras=[CAMERA], folder=folder)),
        "plain loop, file": time_of(lambda folder: write_file(pictures, spec, folder / "frames.npy")),
        UNSYNCED: time_of(lambda folder: write_file(pictures, spec, folder / "frames.npy", is_synced=False)),
        "plain loop, memmap": time_of(lambda folder: write_map(pictures, spec, folder / "frames.npy")),
        at_once: time_of(work_at_once),
    }
    values = measure_in_turns(sides, repeats, model)
    figures = {name: Figure(name, each, "frames/s") for name, each in values.items()}
    ours, unsynced, ceiling = figures.pop("robostig"), figures.pop(UNSYNCED), figures.pop(at_once)
    peer = max(figures.values(), key=lambda figure: figure.median)
    report.add(Comparison(f"{model}, first pass", ours, peer, goal=GOAL))
    report.add(Comparison(f"{model}, first pass, if the peer need not wait for the disk", ours, unsynced))
    report.add(Comparison(f"{model}, what the cores can give", ceiling, peer))


def write_file(pictures: Sequence[str], spec: InputSpec, target: Path, *, is_synced: bool = True) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(pictures), *spec.shape)}
    with open(target, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for path in pictures:
            file.write(convert(cv2.imread(path), spec).data)
        if is_synced:
            file.flush()
            os.fsync(file.fileno())


def write_map(pictures: Sequence[str], spec: InputSpec, target: Path) -> None:
    frames = np.lib.format.open_memmap(target, "w+", np.uint8, (len(pictures), *spec.shape))
    for number, path in enumerate(pictures):
        frames[number] = convert(cv2.imread(path), spec)
    frames.flush()  # to the disk


def convert(picture: np.ndarray, spec: InputSpec) -> np.ndarray:
    rows = len(picture)
    view = picture[round(rows * spec.crop_top) : rows - round(rows * spec.crop_bottom)]
    if view.shape != spec.shape:
        view = cv2.resize(view, (spec.width, spec.height), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(view, cv2.COLOR_BGR2YUV if spec.color_space == "yuv" else cv2.COLOR_BGR2RGB)


if __name__ == "__main__":
    sys.exit(main())
