"""Five epochs from recorded JPEGs, three cameras, all augmentations: cold to finished, against PyTorch.

Ours is the public path and nothing else: ``read_driving_log``, ``split_by_time``, ``open_frames`` with an empty frame
cache, ``fit`` with the default settings. The peer is the same network in PyTorch with a map-style ``Dataset`` that
decodes a JPEG with OpenCV, and a ``DataLoader`` with two persistent workers; its rows are read and split for it, at no
charge. Both preprocess and augment with the same functions and draw as many frames an epoch with the same weights;
both have Adam, the same schedule, a running average of the parameters, and validate it on the same rows after each
epoch. Both have as many threads for the network, PyTorch has its better memory format, found by an epoch of each
beforehand. The pictures are in the system's page cache for both. A run is measured from its first line to its last;
imports are not in it.

    python benchmarks/epoch.py [--data recording] [--quick] [--json FILE]
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence

import numpy as np
from harness import Comparison, Figure, Report, find_log, make_parser, measure_in_turns, require_torch
from recordings import repeat_recording
from side import Side

from robostig._compat import count_usable_cpus
from robostig.config import TrainingConfig

MODELS = ("nvidia", "comma")
EPOCHS, QUICK_EPOCHS = 5, 2
FORMATS = ("channels_last", "contiguous")  # of PyTorch's tensors
QUICK_ROWS = 600  # one stretch of it is held out: too little to see much of learning
GOAL = 1.5


def main() -> int:
    arguments = make_parser(__doc__).parse_args()
    require_torch()
    epochs = QUICK_EPOCHS if arguments.quick else EPOCHS
    report = Report("epoch", f"{epochs} epochs from recorded JPEGs, cold to finished, against PyTorch", arguments)
    threads = count_usable_cpus()
    with tempfile.TemporaryDirectory() as scratch:
        folder = find_log(arguments.data, Path(scratch))
        if arguments.quick:
            folder = repeat_recording(folder, 1, Path(scratch) / "short", rows=QUICK_ROWS, link=True)
        with Side("gluon_side.Epochs", threads) as ours, Side("torch_peer.Epochs", threads) as peer:
            for model in MODELS:
                config = TrainingConfig(model=model, epochs=epochs)
                compare(report, str(folder), config, ours, peer)
    return report.finish()


def compare(report: Report, data: str, config: TrainingConfig, ours: Side, peer: Side) -> None:
    """Measure a model's whole runs in turns, and add what came out."""
    model, repeats = config.model, 1 if report.arguments.quick else 2
    given = ours.call("describe", data, config)
    (pictures, labels), (others, held_out) = given[:2]
    for cameras in (pictures, others):
        for paths in cameras.values():
            for path in paths:
                Path(path).read_bytes()  # into the page cache
    once = replace(config, epochs=1).to_dict()
    form = min(FORMATS, key=lambda each: peer.call("run", *given, once, each)["seconds"])
    calls = {
        "RoboStig": partial(ours.call, "run", data, config),
        f"PyTorch, {form}": partial(peer.call, "run", *given, config.to_dict(), form),
    }
    runs: Dict[str, List[Dict[str, Any]]] = {side: [] for side in calls}

    def run(side: str) -> float:
        runs[side].append(calls[side]())
        return float(runs[side][-1]["seconds"])

    values = measure_in_turns({side: partial(run, side) for side in calls}, repeats, model, warm_up=False)
    mine, theirs = (Figure(side, seconds, "s") for side, seconds in values.items())
    name = f"{model}, {config.epochs} epochs of {len(labels):,} rows"
    report.add(Comparison(name, mine, theirs, GOAL, more_is_better=False))
    decoding = [each["decoding_s"] for each in runs["RoboStig"]]
    report.add(Figure(f"{model}, RoboStig: until all is decoded", decoding, "s"))
    for side, results in runs.items():
        errors = [min(each["validation_rmse"]) for each in results]
        report.add(Figure(f"{model}, {side}: best validation RMSE", errors, "of full lock"))
    report.note(compare_learning(model, runs, held_out))


def compare_learning(model: str, runs: Mapping[str, Sequence[Mapping[str, Any]]], held_out: np.ndarray) -> str:
    """Say how the training loss falls.

    Raises
    ------
    RuntimeError
        If it does not.
    """
    told = []
    for side, results in runs.items():
        for first, *_, last in (each["train_rmse"] for each in results):
            if not last < first:
                raise RuntimeError(f"{model}, {side}: the training RMSE goes from {first:.4f} to {last:.4f}")
        told.append(f"{first:.4f} to {last:.4f} ({side})")
    return (
        f"{model}: from the first epoch to the last, the RMSE of the augmented training batches falls from "
        f"{' and from '.join(told)}; always answering the mean, validation's would be {np.std(held_out):.4f}"
    )


if __name__ == "__main__":
    sys.exit(main())
