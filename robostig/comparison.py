"""Several models, one drive: train each, score each on what none has seen, and say which one should drive, and why."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, Mapping, Sequence, Tuple, Union

import numpy as np

import robostig
from robostig._files import make_folder, replace_file
from robostig.config import TrainingConfig
from robostig.driving_log import DrivingLog, Split
from robostig.metrics import DEGREES, resample_rmse
from robostig.models import get_spec
from robostig.pipeline import WORKDIR, TrainedModel, read_recording, train_model
from robostig.training import CHECKPOINT

__all__ = ["CAVEAT", "COMPARISON", "REPORT", "Comparison", "check_models", "choose", "compare"]

logger = logging.getLogger(__name__)

COMPARISON, REPORT = "comparison.json", "report.html"
CAVEAT = "The held-out frames also chose each model's best epoch, and another seed would give other scores."
SURE = 0.95  # share of resampled drives in which the better model must be better for the difference to count
BLOCK_S = 2.0  # frames this close are resampled together: the look of the road changes in a second or two


@dataclass(frozen=True)
class Comparison:
    """The outcome of :func:`compare`.

    Parameters
    ----------
    models
        Name to the trained model, in the order asked for.
    choice
        The name of the model that should drive.
    reason
        Why, in a sentence or two for people.
    log, split
        The drive, and what of it was held out.
    config
        What all models were trained with; its ``model`` means nothing.
    """

    models: Mapping[str, TrainedModel]
    choice: str
    reason: str
    log: DrivingLog
    split: Split
    config: TrainingConfig

    def to_dict(self, folder: Path) -> Dict[str, Any]:
        """Return everything as plain values, for JSON; artifacts as paths relative to ``folder``."""
        models = {}
        for name, model in self.models.items():
            models[name] = {**model.summarize(), "artifact": os.path.relpath(model.artifact, folder)}
        return {
            "choice": self.choice,
            "reason": self.reason,
            "caveat": CAVEAT,
            "models": models,
            "data": {
                "folder": self.log.source.resolve().parent.name,
                "fingerprint": self.log.fingerprint(),
                "rows": len(self.log),
                "rows_left_out": len(self.log.skipped),
                "split": self.split.description,
            },
            "config": {name: value for name, value in self.config.to_dict().items() if name != "model"},
            "robostig": robostig.__version__,
        }


def compare(
    folder: Union[str, Path], models: Sequence[str], out: Union[str, Path], config: TrainingConfig
) -> Comparison:
    """Train several models on a drive, score them on its held-out stretches, choose one, and write ``comparison.json``.

    Parameters
    ----------
    folder
        A driving log.
    models
        Registered names, each once.
    out
        Gets one artifact folder a model, and the comparison.
    config
        For all of them; its ``model`` is not looked at.

    Raises
    ------
    ValueError
        For an unknown model, one named twice or none, and data that cannot be used.
    FileNotFoundError
        If there is no log, or a picture is missing.
    """
    check_models(models)  # an unknown name shows before the first hour of training
    recording = read_recording(folder, config)
    if recording.log is None or recording.split is None:
        raise ValueError(f"{folder} holds arrays; a comparison needs a driving log, whose frames have an order in time")
    logger.info(recording.describe())
    out = make_folder(out)
    trained = {}
    for name in models:
        # Checkpoints stay until all is done: an interrupted comparison then has nothing to train twice.
        trained[name] = train_model(replace(config, model=name), recording, out / name, keep_checkpoint=True)
        for outdated in (COMPARISON, REPORT):  # they would describe another artifact than the one beside them now
            (out / outdated).unlink(missing_ok=True)
    clock = recording.log.driving_clock()[recording.split.validation]
    choice, reason = choose(trained, (clock / BLOCK_S).astype(int))
    comparison = Comparison(trained, choice, reason, recording.log, recording.split, config)
    with replace_file(out / COMPARISON, "w") as file:
        file.write(json.dumps(comparison.to_dict(out), indent=2, allow_nan=False) + "\n")
    for name in models:
        (out / name / WORKDIR / CHECKPOINT).unlink(missing_ok=True)
    return comparison


def check_models(names: Sequence[str]) -> None:
    """Raise ValueError unless these are registered models, each named once."""
    if not names or len(set(names)) < len(names):
        raise ValueError(f"name each model once; these were named: {', '.join(names) or 'none'}")
    for name in names:
        get_spec(name)


def choose(models: Mapping[str, TrainedModel], blocks: np.ndarray) -> Tuple[str, str]:
    """Choose the model whose steering is closest to the human's; if several are equally close, the quickest of them.

    Parameters
    ----------
    models
        All scored on the same frames.
    blocks
        (frames,) integers; frames with the same number are resampled together.

    Returns
    -------
    tuple of str
        The choice, and the reason in words.
    """
    names = list(models)
    errors = [models[name].open_loop.predicted - models[name].open_loop.human for name in names]
    resampled = resample_rmse(errors, blocks)
    rmse = {name: models[name].open_loop.scores["rmse"] for name in names}
    latency = {name: models[name].open_loop.latency_ms["p50"] for name in names}
    ranked = sorted(names, key=rmse.__getitem__)
    best = ranked[0]
    scores = models[best].open_loop.scores
    blind = min(scores["rmse_mean_baseline"], scores["rmse_zero_baseline"])
    against_blind = f"always steering straight, or by the mean, is {_in_degrees(blind)} off"
    warning = ""
    if scores["rmse"] >= blind:
        warning = " But none is better than that: record more driving before letting one drive."
    if len(names) == 1:
        reason = (
            f"{best} is the only model: {_in_degrees(rmse[best])} from the human on held-out driving; {against_blind}."
        )
        return best, reason + warning

    column = resampled[:, names.index(best)]
    share = {name: float(np.mean(column < resampled[:, names.index(name)])) for name in ranked[1:]}
    tied = [best] + [name for name in ranked[1:] if share[name] < SURE]
    found = " and ".join(f"{name} is {_in_degrees(rmse[name])}" for name in ranked)
    shares = ", ".join(f"{best} is closer than {name} in {share[name]:.0%}" for name in ranked[1:])
    evidence = (
        f"On held-out driving, {found} from the human (RMSE); {against_blind}. "
        f"Of {len(resampled):,} resampled drives, {shares}"
    )
    if len(tied) == 1:
        return best, f"{best} should drive: it is the closest to the human. {evidence}.{warning}"
    choice = min(tied, key=latency.__getitem__)
    times = " and ".join(f"{name} {latency[name]:.1f} ms" for name in sorted(tied, key=latency.__getitem__))
    return choice, (
        f"{choice} should drive, though this recording does not tell {' and '.join(tied)} apart: {choice} answers "
        f"quickest ({times} a frame). {evidence}, where {SURE:.0%} would be a difference.{warning}"
    )


def _in_degrees(steering: float) -> str:
    return f"{steering * DEGREES:.2f} degrees"
