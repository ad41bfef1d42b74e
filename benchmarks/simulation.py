"""Simulated frames a second on the built-in track, against real time: a camera takes 15.

A frame of one camera is counted with the physics and the expert's steering that lead to the next one, in one thread. A
row of three cameras is counted as ``robostig record`` writes it: three pictures, drawn, compressed and written into a
temporary folder, and its line in the log. The looks of road are measured in turns, and all count alike. Where other
programs run at the same time, the processor time of one frame, or row, tells more: it is that of all threads together.

    python benchmarks/simulation.py [--quick] [--json FILE]
"""

from __future__ import annotations

import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Callable, List, Tuple

import cv2
from harness import Comparison, Figure, Report, make_parser, measure_in_turns

from robostig.driving_log import LOG_NAME
from robostig.simulation import FRAME_S, LOOKS, Simulation, Track, load_track, record, steer_towards

REAL_TIME_HZ = 1.0 / FRAME_S
Drive = Callable[[Track, float], int]


def main() -> int:
    arguments = make_parser(__doc__).parse_args()
    cv2.setNumThreads(1)
    repeats, driven_s = (3, 4.0) if arguments.quick else (7, 20.0)
    report = Report("simulation", "simulated frames a second, against real time", arguments)
    work: Tuple[Tuple[str, str, Drive, float, float], ...] = (
        ("one camera", "frames/s", drive, driven_s, 25.0),
        ("three cameras, recorded", "rows/s", drive_and_record, driven_s / 2.0, 10.0),
    )
    for name, unit, function, seconds, goal in work:
        processor_ms: List[float] = []
        sides = {look: partial(measure, function, load_track(look), seconds, processor_ms) for look in LOOKS}
        looks = measure_in_turns(sides, repeats, name)
        rates = [rate for values in looks.values() for rate in values]
        real_time = Figure("real time", [REAL_TIME_HZ] * len(rates), unit)
        report.add(Comparison(name, Figure("RoboStig", rates, unit), real_time, goal))
        for look, values in looks.items():
            report.add(Figure(f"{name}, {look}", values, unit))
        report.add(
            Figure(f"{name}, processor time of one", processor_ms[len(looks) :], "ms")
        )  # without the first round
    return report.finish()


def measure(function: Drive, track: Track, seconds: float, processor_ms: List[float]) -> float:
    """Drive for so many simulated seconds; return how many frames or rows a second came out, and note their cost."""
    wall, processor = time.perf_counter(), time.process_time()
    count = function(track, seconds)
    processor_ms.append(1000.0 * (time.process_time() - processor) / count)
    return count / (time.perf_counter() - wall)


def drive(track: Track, seconds: float) -> int:
    """Look at each step."""
    simulation, steps = Simulation(track), round(seconds / FRAME_S)
    for _ in range(steps):
        simulation.look()
        simulation.step(steer_towards(simulation.car, track.lane, simulation.place))
    return steps


def drive_and_record(track: Track, seconds: float) -> int:
    """Record, and count the rows of the log."""
    laps = seconds * Simulation(track).car.speed_mps / track.lane.length_m
    with tempfile.TemporaryDirectory() as scratch:
        return (record(Path(scratch) / "recording", [track], laps=laps) / LOG_NAME).read_bytes().count(b"\n")


if __name__ == "__main__":
    sys.exit(main())
