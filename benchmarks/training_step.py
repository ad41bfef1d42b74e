"""Images a second in training: forward, backward and update, against PyTorch.

Both sides train the same network from the same weights on the same batches of 64 recorded frames, which lie in memory
as bytes, as a loader hands them over: that they become floats and are normalised is part of the step, wherever a side
does it. Both have as many threads and Adam of the same settings. Ours is prepared as ``robostig.training.fit`` prepares
it and takes its steps, one loss behind; the running average, which PyTorch's usual loop has not, is left out (it is in
``epoch.py``). PyTorch runs in both memory formats, with Adam's fused form, and the better one is the peer. That both
learn the same is checked first: without dropout, their losses from the same weights on must agree.

PyTorch gives the memory of each step's tensors back to the system and gets it anew, page by page. Its tuning guide
advises another allocator; told to keep its memory, the C library's does as well. What PyTorch would make of that is
shown as a figure of its own, beside the peer that a user gets who sets nothing.

    python benchmarks/training_step.py [--data recording] [--quick] [--json FILE]
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Callable, Dict, List, Optional, Tuple

import numpy as np
from harness import Comparison, Figure, Report, find_log, make_parser, measure_in_turns, require_torch
from side import Side

from robostig._compat import count_usable_cpus
from robostig.driving_log import read_driving_log, read_picture
from robostig.preprocessing import preprocess

BATCH, BATCHES = 64, 4
GOALS = {"nvidia": 1.0, "comma": 1.2}
STEPS = {"nvidia": 12, "comma": 8}  # a round: about a second
FORMATS = ("contiguous", "channels_last")  # of PyTorch's tensors
# Variables of glibc: memory below a gigabyte is kept for the next allocation, and none is given back.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
PASSES = 5  # over the batches, to see that both learn the same
TOLERANCE = 0.02  # of a step's loss; rounding differs, and Adam makes much of small gradients


def main() -> int:
    arguments = make_parser(__doc__).parse_args()
    require_torch()
    repeats = 3 if arguments.quick else 7
    report = Report("training_step", "forward, backward and update of 64 frames, against PyTorch", arguments)
    with tempfile.TemporaryDirectory() as scratch:
        frames, steering = read_frames(find_log(arguments.data, Path(scratch)))
    most = count_usable_cpus()
    for threads in [most] if arguments.quick else sorted({1, most}, reverse=True):
        with Side("gluon_side.TrainingStep", threads) as ours, Side("torch_peer.TrainingStep", threads) as peer, Side(
            "torch_peer.TrainingStep", threads, KEEP_MEMORY
        ) as tuned:
            for model, goal in GOALS.items():
                spec = ours.call("find_spec", model)
                inputs = np.stack([preprocess(frame, spec) for frame in frames])
                cuts = range(BATCH, len(inputs), BATCH)
                batches = list(zip(np.split(inputs, cuts), np.split(steering, cuts)))
                weights = ours.call("prepare", model, batches)
                for each in (peer, tuned):
                    each.call("prepare", model, weights, batches)
                if threads == most:
                    report.note(compare_losses(model, ours, peer))
                compare_speed(report, model, threads, (ours, peer, tuned), repeats, goal if threads == most else None)
    return report.finish()


def read_frames(folder: Path) -> Tuple[List[np.ndarray], np.ndarray]:
    """Return the centre camera's frames of a few batches, spread over a log, and their steering."""
    log = read_driving_log(folder)
    rows = np.linspace(0, len(log) - 1, BATCH * BATCHES).astype(int)
    rows = np.random.default_rng(0).permutation(rows)
    return [read_picture(log.pictures["center"][row]) for row in rows], log.steering[rows].astype(np.float32)


def compare_losses(model: str, ours: Side, peer: Side) -> str:
    """Say how far apart the losses are on the same batches, from the same weights, without dropout.

    Raises
    ------
    RuntimeError
        If they are too far apart to be of the same network, or do not go down.
    """
    losses = np.array([ours.call("learn", PASSES), *(peer.call("learn", each, PASSES) for each in FORMATS)])
    apart = float(np.max(np.abs(losses[1:] / losses[0] - 1.0)))
    first, last = losses[:, :BATCHES].mean(1), losses[:, -BATCHES:].mean(1)
    if apart > TOLERANCE or (last > 0.5 * first).any():
        raise RuntimeError(f"{model}: the two do not learn the same: losses of {losses.round(5).tolist()}")
    return (
        f"{model}, from the same weights on the same batches without dropout: within {losses.shape[1]} steps the loss "
        f"falls from {first[0]:.5f} to {last[0]:.5f} here and from {first[1]:.5f} to {last[1]:.5f} in PyTorch (means "
        f"over {BATCHES} batches); no step's losses differ by more than {apart:.2%}"
    )


def compare_speed(
    report: Report, model: str, threads: int, sides: Tuple[Side, Side, Side], repeats: int, goal: Optional[float]
) -> None:
    """Measure all sides in turns, and add what came out."""
    ours, peer, tuned = sides
    steps = STEPS[model] // (4 if report.arguments.quick else 1)
    rounds: Dict[str, Callable[[], float]] = {"RoboStig": partial(ours.call, "measure", steps)}
    for each in FORMATS:
        rounds[f"PyTorch, {each}"] = partial(peer.call, "measure", each, steps)
    rounds["PyTorch, channels_last, told to keep its memory"] = partial(tuned.call, "measure", "channels_last", steps)
    name = f"{model}, {threads} thread{'s' * (threads > 1)}"
    mine, *theirs, keeping = (
        Figure(side, values, "images/s") for side, values in measure_in_turns(rounds, repeats, name).items()
    )
    best = max(theirs, key=lambda figure: figure.median)
    report.add(Comparison(name, mine, best, goal))
    for other in (*theirs, keeping):
        if other is not best:
            report.add(Figure(f"{name}, {other.name}", other.values, other.unit))


if __name__ == "__main__":
    sys.exit(main())
