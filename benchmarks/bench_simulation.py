"""Speed of the built-in track: pictures of one camera on one core, and recorded rows of three.

A picture is counted with the physics and the expert's steering that lead to the next one, in one thread. A row is
counted as ``robostig record`` writes it: three pictures, drawn, compressed and written into a temporary folder, and its
line in the log. Looks are measured in turns; each figure is the median of its repetitions, and the slowest and the
quickest are given beside it. Where other programs run at the same time, the processor time of one picture, or row,
tells more: it is that of all threads together. Goals: 400 pictures and 150 rows a second; a camera takes 15.

    python benchmarks/bench_simulation.py [--repeats 7] [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple

import cv2
import numpy as np

from robostig.driving_log import LOG_NAME
from robostig.simulation import FRAME_S, LOOKS, Simulation, Track, load_track, record, steer_towards

GOALS = {"frames": 400.0, "rows": 150.0}
REAL_TIME_HZ = 1.0 / FRAME_S


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="how often each look is measured")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter measurements: some ten seconds")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    repeats, seconds = (3, 4.0) if arguments.quick else (arguments.repeats, 20.0)
    cv2.setNumThreads(1)
    machine = describe_machine()
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    tracks = [load_track(look) for look in LOOKS]
    for track in tracks:
        measure_frames(track, 0.5)  # paints the world, which is done once
    measure: Dict[str, Callable[[Track], Rate]] = {
        "frames": lambda track: measure_frames(track, seconds),
        "rows": lambda track: measure_rows(track, seconds / 2.0),
    }
    rates: Dict[str, Dict[str, List[Rate]]] = {what: {track.name: [] for track in tracks} for what in measure}
    for _ in range(repeats):
        for track in tracks:
            for what, take in measure.items():
                rates[what][track.name].append(take(track))
    results = {}
    for what, title in (
        ("frames", "simulated frames, one camera, one thread"),
        ("rows", "recorded rows, three cameras"),
    ):
        results[what] = summarize(rates[what], GOALS[what])
        show(title, results[what])
    if arguments.json:
        figures = {"machine": machine, "repeats": repeats, "driven_s": seconds, **results}
        Path(arguments.json).write_text(json.dumps(figures, indent=2) + "\n")
    return 0


class Rate(NamedTuple):
    """What was measured once."""

    per_second: float  # on the clock on the wall
    processor_ms: float  # for one


class Stopwatch:
    """Measures time on the wall and on the processor."""

    def __init__(self) -> None:
        self.wall, self.processor = time.perf_counter(), time.process_time()

    def stop(self, number: int) -> Rate:
        """Return the rate of so many since the start."""
        wall, processor = time.perf_counter() - self.wall, time.process_time() - self.processor
        return Rate(number / wall, 1000.0 * processor / number)


def measure_frames(track: Track, seconds: float) -> Rate:
    """Drive for so many simulated seconds, looking at each step."""
    simulation, steps = Simulation(track), round(seconds / FRAME_S)
    watch = Stopwatch()
    for _ in range(steps):
        simulation.look()
        simulation.step(steer_towards(simulation.car, track.lane, simulation.place))
    return watch.stop(steps)


def measure_rows(track: Track, seconds: float) -> Rate:
    """Record so many simulated seconds."""
    laps = seconds * Simulation(track).car.speed_mps / track.lane.length_m
    with tempfile.TemporaryDirectory() as scratch:
        watch = Stopwatch()
        log = record(Path(scratch) / "recording", [track], laps=laps) / LOG_NAME
        return watch.stop(log.read_bytes().count(b"\n"))


def summarize(rates: Dict[str, List[Rate]], goal: float) -> Dict[str, Any]:
    """Return the median over all looks and repetitions, the spread, and each look's own."""
    every = [rate.per_second for each in rates.values() for rate in each]
    middle = statistics.median(every)
    return {
        "per_second": middle,
        "slowest": min(every),
        "quickest": max(every),
        "processor_ms": statistics.median(rate.processor_ms for each in rates.values() for rate in each),
        "times_real_time": middle / REAL_TIME_HZ,
        "goal": goal,
        "reached": middle >= goal,
        "looks": {name: statistics.median(rate.per_second for rate in each) for name, each in rates.items()},
    }


def show(title: str, result: Dict[str, Any]) -> None:
    looks = ", ".join(f"{name} {rate:.0f}" for name, rate in result["looks"].items())
    print(
        f"{title}: {result['per_second']:.0f} a second ({result['slowest']:.0f} to {result['quickest']:.0f}; {looks}); "
        f"{result['processor_ms']:.2f} ms of processor time each; {result['times_real_time']:.1f} times real time; "
        f"goal {result['goal']:.0f}: "
        f"{'reached' if result['reached'] else 'missed'}",
        flush=True,
    )


def describe_machine() -> Dict[str, str]:
    """Return what the figures depend on."""
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return {
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "OpenCV": cv2.__version__,
        "processor": read_processor(),
        "cores": str(os.cpu_count()),
        "load": load,
    }


def read_processor() -> str:
    """Return the processor's name where Linux tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main())
