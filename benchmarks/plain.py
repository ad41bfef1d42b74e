"""What is there for speed changes nothing: ``fit`` against the same training written plainly.

Plainly is: the engine with threads that MXNet has by default, convolutions of just their channels after a pass that
normalises all frames, layer by layer instead of a compiled graph, each picture decoded whenever it is needed, each
batch made when its turn comes, moved by MXNet, and waited for. The frame cache is empty at the start. Both draw the
same frames, augmentations, first weights and dropout from the same seed, so that their curves must agree: that they do,
to a thousandth, is checked. How much time the plain way takes comes with it.

    python benchmarks/plain.py [--data recording] [--quick] [--json FILE]
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, Dict, List, Mapping

import numpy as np
from harness import Comparison, Figure, Report, find_log, make_parser, measure_in_turns
from recordings import repeat_recording
from side import Side

from robostig._compat import count_usable_cpus
from robostig.config import TrainingConfig

MODELS = ("nvidia", "comma")
EPOCHS, QUICK_EPOCHS, QUICK_ROWS = 3, 2, 600
TOLERANCE = 1e-3  # of each epoch's RMSE
PLAIN_ENGINE = {"MXNET_ENGINE_TYPE": "ThreadedEnginePerDevice"}


def main() -> int:
    arguments = make_parser(__doc__).parse_args()
    epochs, repeats = (QUICK_EPOCHS, 1) if arguments.quick else (EPOCHS, 3)
    report = Report("plain", f"{epochs} epochs of `fit`, against the same training written plainly", arguments)
    threads = count_usable_cpus()
    with tempfile.TemporaryDirectory() as scratch:
        folder = find_log(arguments.data, Path(scratch))
        if arguments.quick:
            folder = repeat_recording(folder, 1, Path(scratch) / "short", rows=QUICK_ROWS, link=True)
        for model in MODELS:
            config = TrainingConfig(model=model, epochs=epochs, device="cpu")
            with Side("gluon_side.Epochs", threads) as fast, Side("plain_side.Epochs", threads, PLAIN_ENGINE) as plain:
                compare(report, str(folder), config, {"RoboStig": fast, "written plainly": plain}, repeats)
    return report.finish()


def compare(report: Report, data: str, config: TrainingConfig, sides: Mapping[str, Side], repeats: int) -> None:
    """Measure a model's whole runs in turns, and add what came out."""
    runs: Dict[str, List[Dict[str, Any]]] = {name: [] for name in sides}

    def run(name: str) -> float:
        runs[name].append(sides[name].call("run", data, config))
        return float(runs[name][-1]["seconds"])

    values = measure_in_turns({name: partial(run, name) for name in sides}, repeats, config.model, warm_up=False)
    mine, theirs = (Figure(name, seconds, "s") for name, seconds in values.items())
    report.add(Comparison(f"{config.model}, {config.epochs} epochs", mine, theirs, more_is_better=False))
    report.note(compare_curves(config.model, *runs.values()))


def compare_curves(model: str, fast: List[Dict[str, Any]], plain: List[Dict[str, Any]]) -> str:
    """Say how far apart the curves are.

    Raises
    ------
    RuntimeError
        If an epoch's error differs by more than a thousandth.
    """
    told, apart = [], 0.0
    for name in ("train_rmse", "validation_rmse"):
        first = np.array(plain[0][name])
        for each in (*fast, *plain):
            apart = max(apart, float(np.max(np.abs(each[name] / first - 1.0))))
        told.append(f"{name.split('_')[0]} {' '.join(f'{value:.5f}' for value in fast[0][name])}")
    if not apart <= TOLERANCE:
        raise RuntimeError(f"{model}: the curves differ by up to {apart:.1e}: {fast} here, {plain} plainly")
    return f"{model}: RMSE epoch by epoch: {', '.join(told)}; no epoch's differ by more than {apart:.0e} of it"


if __name__ == "__main__":
    sys.exit(main())
