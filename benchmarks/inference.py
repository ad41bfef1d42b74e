"""From a raw camera frame to steering, preprocessing included, against PyTorch: one frame, and a batch of them.

Ours is ``robostig.pilot.Pilot`` with an artifact that was saved and loaded. PyTorch has the same network with the same
weights under ``inference_mode``, in both memory formats as it is, and through ``torch.compile`` if that works; the
best is the peer, for one frame and for batches by itself. Both sides preprocess with the same function, OpenCV's work,
and have as many threads; of a batch, ours preprocesses several frames at once with them, as its library does, and the
peer one after the other, as its usual loop does. On one thread there is no such difference. Before anything is timed,
all must answer the same frames alike.

Where the network has a dense layer that is large enough for it, ours is measured once more with ``dtype="int8"``, which
only who asks for it gets; the peer stays as it is. What that changes of the answers is measured with a network that has
learned to drive on the built-in track: its error on frames held out, and how it drives roads that it has never seen.

    python benchmarks/inference.py [--data recording] [--quick] [--json FILE]
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Dict, List

import numpy as np
from harness import Comparison, Figure, Report, find_log, make_parser, measure_in_turns, require_torch
from side import Side

from robostig._compat import count_usable_cpus
from robostig.driving_log import read_driving_log, read_picture

BATCH = 64
MODELS = ("nvidia", "comma")
QUANTIZED = "comma"  # the one of them with a large dense layer
LATENCY_GOAL, THROUGHPUT_GOAL = 1.2, 1.0
TOLERANCE = 1e-4  # of steering
SINGLE_FRAMES, BATCHES = 200, {"nvidia": 8, "comma": 4}  # a round: about half a second


def main() -> int:
    arguments = make_parser(__doc__).parse_args()
    require_torch()
    report = Report("inference", "a camera frame to steering, preprocessing included, against PyTorch", arguments)
    with tempfile.TemporaryDirectory() as scratch:
        log = read_driving_log(find_log(arguments.data, Path(scratch)))
        paths = [log.pictures["center"][row] for row in np.linspace(0, len(log) - 1, BATCH).astype(int)]
        frames = np.stack([read_picture(path) for path in paths])
    for threads in sorted({1, count_usable_cpus()}):
        with Side("gluon_side.Pilot", threads) as ours, Side("torch_peer.Pilot", threads) as peer:
            for model in MODELS:
                weights, spec = ours.call("prepare", model, frames)
                failures = peer.call("prepare", model, weights, spec, frames, not arguments.quick)
                name = f"{model}, {threads} thread{'s' * (threads > 1)}"
                for form, failure in failures.items():
                    report.note(f"{name}: PyTorch {form} does not work here: {failure}")
                for dtype, refusal in ours.call("list_refusals").items() if threads == 1 else ():
                    report.note(f"{model}, {dtype}: {refusal}")
                report.note(compare_answers(name, ours, peer, frames))
                measure(report, model, name, ours, peer)
                report.note(describe_bounds(name, ours))
    if arguments.quick:
        report.note("torch.compile, and what int8 changes of the answers, take minutes and are left out of --quick")
    else:
        with tempfile.TemporaryDirectory() as scratch, Side(
            "gluon_side.Driver", count_usable_cpus(), {"ROBOSTIG_CACHE": scratch}
        ) as driver:
            report.note(compare_types(driver, QUANTIZED, scratch))
    return report.finish()


def compare_answers(name: str, ours: Side, peer: Side, frames: np.ndarray) -> str:
    """Say how far apart the answers are.

    Raises
    ------
    RuntimeError
        If they are too far apart to be of the same network.
    """
    mine = ours.call("steer", frames)
    single = np.concatenate([ours.call("steer", frame[None]) for frame in frames[:8]])
    theirs = {form: peer.call("steer", form, frames) for form in peer.call("list_forms")}
    apart = max(np.abs(single - mine[:8]).max(), *(np.abs(each - mine).max() for each in theirs.values()))
    if apart > TOLERANCE:
        raise RuntimeError(f"{name}: the answers differ by {apart:.1e}; they are {mine} here, {theirs} in PyTorch")
    return (
        f"{name}: the answers for {len(frames)} frames, from {mine.min():.4f} to {mine.max():.4f}, are at most "
        f"{apart:.1e} apart"
    )


def measure(report: Report, model: str, name: str, ours: Side, peer: Side) -> None:
    """Measure latency, then throughput, and add what came out."""
    quick, forms = report.arguments.quick, peer.call("list_forms")
    for what, method, count, unit, goal in (
        ("one frame", "measure_latency", SINGLE_FRAMES, "ms", LATENCY_GOAL),
        (f"batches of {BATCH}", "measure_throughput", BATCHES[model], "frames/s", THROUGHPUT_GOAL),
    ):
        count = count // 4 if quick else count
        dtypes = ours.call("list_types")
        sides = {f"RoboStig, {dtype}": partial(ours.call, method, dtype, count) for dtype in dtypes}
        sides.update({f"PyTorch, {form}": partial(peer.call, method, form, count) for form in forms})
        values: Dict[str, List[float]] = measure_in_turns(sides, 3 if quick else 7, f"{name}, {what}")
        figures = [Figure(side, rounds, unit) for side, rounds in values.items()]
        mine, theirs = figures[: len(dtypes)], figures[len(dtypes) :]
        is_latency = unit == "ms"
        best = (min if is_latency else max)(theirs, key=lambda figure: figure.median)
        for figure in mine:
            report.add(Comparison(f"{name}, {what}", figure, best, goal, more_is_better=not is_latency))
        for other in theirs:
            if other is not best:
                report.add(Figure(f"{name}, {what}, {other.name}", other.values, unit))


def compare_types(driver: Side, model: str, scratch: str) -> str:
    """Say what 8 bits change of the scores of a network that has learned to drive."""
    rows = driver.call("train", model, scratch)
    try:
        exact, quantized = (driver.call("score", dtype) for dtype in ("float32", "int8"))
    except RuntimeError as error:  # a processor that cannot
        return f"{model}: what int8 changes of the scores was not measured: {str(error).strip().splitlines()[-1]}"
    changes = ", ".join(
        f"{what} {quantized[name]:{form}} in place of {exact[name]:{form}}"
        for name, what, form in (
            ("rmse", "its RMSE on frames held out", ".6f"),
            ("autonomy", "its autonomy in percent", ".2f"),
            ("interventions", "the interventions", "d"),
            ("lateral_rmse_m", "its RMSE from the middle of the lane, in metres,", ".4f"),
        )
    )
    return (
        f"{model}, trained on {rows:,} rows of the expert's driving and let to drive {quantized['laps']:.0f} laps of "
        f"roads that it has never seen, computes with int8 in place of float32: {changes}"
    )


def describe_bounds(name: str, ours: Side) -> str:
    """Say what the machine allows, by what it does in a large matrix product and in one too large for its caches."""
    (operations, size), able = ours.call("count_work"), ours.call("measure_ceilings", 20)
    computing, reading = 1e3 * operations / able["flops"], 1e3 * size / able["bytes_per_s"]
    return (
        f"{name}: to preprocess a frame takes {able['preprocessing_ms']:.2f} ms of one thread, on both sides. What our "
        f"network computes then, {operations / 1e6:.0f} million operations as oneDNN does them, takes {computing:.2f} "
        f"ms at the rate of a large matrix product ({able['flops'] / 1e9:.0f} GFLOP/s), and to read its "
        f"{size / 1e6:.1f} MB of parameters, which one frame alone cannot do without, {reading:.2f} ms at "
        f"{able['bytes_per_s'] / 1e9:.0f} GB/s"
    )


if __name__ == "__main__":
    sys.exit(main())
