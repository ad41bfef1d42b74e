"""Several models, one drive: train each, score each on what none has seen, and say which one should drive, and why."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import AbstractSet, Any, Dict, Mapping, Optional, Protocol, Sequence, Tuple, Union

import numpy as np

import robostig
from robostig._files import make_folder, replace_file
from robostig.artifact import add_facts
from robostig.backend import choose_contexts
from robostig.closed_loop import ClosedLoop, Constant, evaluate_closed_loop
from robostig.config import TrainingConfig
from robostig.driving_log import DrivingLog, Places
from robostig.evaluation import OpenLoop
from robostig.metrics import DEGREES, resample_ratio, resample_rmse
from robostig.models import get_spec
from robostig.pilot import Pilot
from robostig.pipeline import WORKDIR, TrainedModel, build_model, read_recording, train_model
from robostig.roads import TEST_ROADS, describe_training_roads, record_training_roads, training_tracks
from robostig.simulation import Track, check_laps, parse_tracks
from robostig.split import Split
from robostig.training import CHECKPOINT

__all__ = [
    "BLOCK_S",
    "CAVEAT",
    "COMPARISON",
    "REPORT",
    "Comparison",
    "check_models",
    "choose",
    "choose_by_closeness",
    "compare",
    "find_quickest",
]

logger = logging.getLogger(__name__)

COMPARISON, REPORT, RECORDING = "comparison.json", "report.html", "recording"
CAVEAT = "The held-out frames also chose each model's best epoch, and another seed would give other scores."
SURE = 0.95  # share of resampled drives in which the better model must be better for the difference to count
FEW_ROADS = 4  # fewer are no sample of roads
PIECE_M = 50.0
DRIVES = 50.0  # percent of autonomy below which driving is no more than getting lost, and ranks nobody
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
    blind
        Always zero, on the roads that the models drove: how a driver does who never looks. None if they drove none.
    laps
        How many of each road were driven.
    is_built_in
        Whether the drive is the expert's on the built-in track.
    """

    models: Mapping[str, TrainedModel]
    choice: str
    reason: str
    log: DrivingLog
    split: Split
    config: TrainingConfig
    blind: Optional[ClosedLoop] = None
    laps: float = 1.0
    is_built_in: bool = False

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
            "blind": None if self.blind is None else {"closed_loop": self.blind.summarize()},
            "data": {
                "built_in": self.is_built_in,
                "folder": self.log.name,
                **({"joined": [*self.log.names]} if len(self.log.names) > 1 else {}),
                "fingerprint": self.log.fingerprint(),
                "rows": len(self.log),
                "rows_left_out": len(self.log.skipped),
                "split": self.split.description,
            },
            "config": {name: value for name, value in self.config.to_dict().items() if name != "model"},
            "robostig": robostig.__version__,
        }


def compare(
    folder: Optional[Places],
    models: Sequence[str],
    out: Union[str, Path],
    config: TrainingConfig,
    *,
    tracks: Optional[Sequence[Track]] = None,
    laps: float = 1.0,
) -> Comparison:
    """Train several models on a drive, let them drive roads that none has seen, choose one, write ``comparison.json``.

    Parameters
    ----------
    folder
        A recording of any format, or several. If None, the expert is recorded on the built-in track, in ``recording``
        inside ``out``.
    models
        Registered names, each once.
    out
        Gets one artifact folder a model, and the comparison.
    config
        For all of them; its ``model`` is not looked at.
    tracks
        To be driven by all; the test roads in both directions if None, and if empty none is driven.
    laps
        Of each track, default 1.

    Raises
    ------
    ValueError
        For an unknown model, one named twice or none, what :func:`~robostig.pipeline.build_model` refuses, and data
        that cannot be used.
    FileNotFoundError
        If there is no log, or a picture is missing.
    """
    check_models(models, pretrained=config.pretrained)
    check_laps(laps)
    for name in models:
        build_model(replace(config, model=name))  # what cannot be had here is told before an hour of the others
    tracks = parse_tracks(",".join(TEST_ROADS), "both") if tracks is None else tracks
    out, is_built_in = Path(out), folder is None
    folder = record_training_roads(out / RECORDING, seed=config.seed) if folder is None else folder
    recording = read_recording(folder, config)
    if is_built_in:
        recording = replace(recording, about=describe_training_roads(config.seed))
    if recording.log is None or recording.split is None:
        raise ValueError(f"{folder} holds arrays; a comparison needs a driving log, whose frames have an order in time")
    logger.info(recording.describe())
    make_folder(out)
    trained = {}
    for name in models:
        # Checkpoints stay until all is done: an interrupted comparison then has nothing to train twice.
        trained[name] = train_model(replace(config, model=name), recording, out / name, keep_checkpoint=True)
        for outdated in (COMPARISON, REPORT):  # they would describe another artifact than the one beside them now
            (out / outdated).unlink(missing_ok=True)
    blind, roads = None, _describe_roads(tracks, is_built_in=is_built_in)
    if tracks:
        blind = evaluate_closed_loop(Constant(0.0), tracks, laps=laps, label="straight ahead")
        for name, model in trained.items():
            pilot = Pilot.load(model.artifact, context=choose_contexts(config.device)[0])
            closed_loop = evaluate_closed_loop(pilot, tracks, laps=laps, label=name)
            scores = closed_loop.scores
            logger.info(
                "%s drove %.1f km: autonomy=%.2f interventions=%d lateral_rmse_m=%.3f",
                name,
                scores["distance_m"] / 1000.0,
                scores["autonomy"],
                scores["interventions"],
                scores["lateral_rmse_m"],
            )
            trained[name] = replace(model, closed_loop=closed_loop)
            driven = {**closed_loop.summarize(), "roads": roads}
            add_facts(model.artifact, {"scores": {**model.summarize(), "closed_loop": driven}})
    clock = recording.log.driving_clock()[recording.split.validation]
    choice, reason = choose(trained, (clock / BLOCK_S).astype(int), roads=roads, is_built_in=is_built_in)
    comparison = Comparison(trained, choice, reason, recording.log, recording.split, config, blind, laps, is_built_in)
    with replace_file(out / COMPARISON, "w") as file:
        file.write(json.dumps(comparison.to_dict(out), indent=2, allow_nan=False) + "\n")
    for name in models:
        (out / name / WORKDIR / CHECKPOINT).unlink(missing_ok=True)
    return comparison


def check_models(names: Sequence[str], *, pretrained: bool = False) -> None:
    """Raise ValueError unless these are registered models, each named once; with trained weights, if wanted."""
    if not names or len(set(names)) < len(names):
        raise ValueError(f"name each model once; these were named: {', '.join(names) or 'none'}")
    for name in names:
        get_spec(name, pretrained=pretrained)


class Scored(Protocol):
    """Whoever can be chosen: a trained model, or an endpoint that serves one."""

    @property
    def open_loop(self) -> OpenLoop:
        """How it does on the held-out frames."""

    @property
    def closed_loop(self) -> Optional[ClosedLoop]:
        """How it drives; None if it was not let to."""


def choose(
    models: Mapping[str, Scored], blocks: np.ndarray, *, roads: str = "", is_built_in: bool = False
) -> Tuple[str, str]:
    """Choose the model that should drive.

    The one that drives with the highest autonomy; of several, the one that keeps closest to the middle of its lane; if
    the roads do not tell them apart, the quickest. Where no model was let to drive, or none can drive these roads, it
    is the one whose steering is closest to the driver's, and of several that are equally close the quickest.

    Parameters
    ----------
    models
        All scored on the same frames and the same roads.
    blocks
        (frames,) integers; frames with the same number are resampled together.
    roads
        What they drove, in words; counted if empty.
    is_built_in
        Whether they learned on the built-in track, which then looks like what they know.

    Returns
    -------
    tuple of str
        The choice, and the reason in words.
    """
    loops = {name: model.closed_loop for name, model in models.items() if model.closed_loop is not None}
    open_loops = {name: model.open_loop for name, model in models.items()}
    if len(loops) < len(models):
        return choose_by_closeness(open_loops, blocks)
    best = max(loop.scores["autonomy"] for loop in loops.values())
    if best < DRIVES:
        choice, reason = choose_by_closeness(open_loops, blocks)
        kilometers = next(iter(loops.values())).scores["distance_m"] / 1000.0
        return choice, (
            f"{reason} On the built-in track{'' if is_built_in else ', which may look unlike this recording'}, none "
            f"drives well enough to be ranked by it: at best, autonomy is {best:.0f} % over {kilometers:.1f} km."
        )
    return _choose_by_driving(models, loops, roads or _count_roads(loops))


def _choose_by_driving(models: Mapping[str, Scored], loops: Mapping[str, ClosedLoop], roads: str) -> Tuple[str, str]:
    """Return the choice by autonomy, then lateral error, then latency, and the reason."""
    names = list(loops)
    scores = {name: loops[name].scores for name in names}
    autonomy = {name: scores[name]["autonomy"] for name in names}
    error = {name: scores[name]["lateral_rmse_m"] for name in names}
    latency = {name: models[name].open_loop.latency_ms["p50"] for name in names}
    helped = {name: scores[name]["interventions"] for name in names}  # on the same roads, as good as autonomy
    ranked = sorted(names, key=lambda name: (helped[name], error[name]))
    best, others = ranked[0], ranked[1:]
    found = ", ".join(
        f"{name} {_count(helped[name])} (autonomy {autonomy[name]:.1f} %, "
        f"{error[name]:.2f} m RMSE from the middle of the lane)"
        for name in ranked
    )
    evidence = f"On {scores[best]['distance_m'] / 1000.0:.1f} km of {roads}: {found}."
    if not others:
        return best, f"{best} is the only model. {evidence}"

    rates, errors, drawn = _resample_driving(loops)
    column = names.index(best)
    equal = [name for name in ranked if helped[name] == helped[best]]
    if len(equal) == 1:
        share = float(np.mean((rates[:, [column]] < np.delete(rates, column, axis=1)).all(axis=1)))
        said = _state_share(best, "needs the least help", share, drawn)
        return best, f"{best} should drive: it needs the least help. {evidence} {said}"
    against = [names.index(name) for name in equal if name != best]
    nearer = errors[:, [column]] < errors[:, against]
    tied = [best] + [names[number] for number, share in zip(against, nearer.mean(axis=0)) if share < SURE]
    said = _state_share(best, "keeps closest to the middle", float(nearer.all(axis=1).mean()), drawn)
    if len(tied) == 1:
        alike = "all" if len(equal) == len(names) > 2 else "both" if len(equal) == len(names) else " and ".join(equal)
        nearest = f"{alike} need the same help, and it keeps closest to the middle of its lane"
        return best, f"{best} should drive: {nearest}. {evidence} {said}"
    choice, times = find_quickest(tied, latency)
    return choice, (
        f"{choice} should drive, though these roads do not tell {' and '.join(tied)} apart: {choice} answers quickest "
        f"({times} a frame). {evidence} {said}"
    )


def _resample_driving(loops: Mapping[str, ClosedLoop]) -> Tuple[np.ndarray, np.ndarray, str]:
    """Return (draws, models) interventions a step and mean square errors on resampled roads, and what was drawn.

    Both directions of a road are drawn together, since what is hard on it is hard both ways. Fewer than ``FEW_ROADS``
    are no sample of roads: then pieces of them are drawn, of ``PIECE_M`` each.
    """
    drives = [loop.drives for loop in loops.values()]
    roads = sorted({drive.track.name for drive in drives[0]})
    groups: Dict[Tuple[Any, ...], np.ndarray] = {}
    for row, driven in enumerate(drives):
        for number, drive in enumerate(driven):
            pieces = (drive.along_m // PIECE_M).astype(int) if len(roads) < FEW_ROADS else np.zeros(len(drive.x), int)
            for piece in np.unique(pieces):
                here = pieces == piece
                key = (drive.track.name,) if len(roads) >= FEW_ROADS else (number, int(piece))
                totals = groups.setdefault(key, np.zeros((3, len(drives))))  # interventions, squares, steps
                squares = float(np.sum(drive.lateral_error_m[here].astype(np.float64) ** 2))
                totals[:, row] += (float(drive.intervened[here].sum()), squares, float(here.sum()))
    interventions, squares_m2, steps = np.stack(list(groups.values()), axis=-1)
    steps = np.maximum(steps, 1e-9)  # where one car was put back, another may have jumped over a piece
    drawn = "these roads" if len(roads) >= FEW_ROADS else f"pieces of {PIECE_M:.0f} m"
    return resample_ratio(interventions, steps), resample_ratio(squares_m2, steps), drawn


def _state_share(best: str, better: str, share: float, drawn: str) -> str:
    """Say how sure a ranking is."""
    sure = "" if share >= SURE else f", where {SURE:.0%} would be sure: drive more roads (--track) to know"
    return f"Drawing {drawn} again at random, {best} {better} in {share:.0%} of the draws{sure}."


def _describe_roads(tracks: Sequence[Track], *, is_built_in: bool) -> str:
    """Return how many roads were driven, and what is known of them."""
    count = _count_names({track.name for track in tracks})
    if not is_built_in:
        return f"{count} of the built-in track"
    known = sorted({track.name for track in tracks} & {track.name for track in training_tracks()})
    return f"{count}, {', '.join(known)} among those learned from" if known else f"{count} that none has seen"


def _count_roads(loops: Mapping[str, ClosedLoop]) -> str:
    return _count_names({drive.track.name for loop in loops.values() for drive in loop.drives})


def _count_names(roads: AbstractSet[str]) -> str:
    return f"{len(roads)} road{'s'[: len(roads) > 1]}"


def _count(interventions: int) -> str:
    return "needed nobody" if not interventions else f"{interventions} intervention{'s'[: interventions > 1]}"


def choose_by_closeness(
    models: Mapping[str, OpenLoop], blocks: np.ndarray, *, where: str = "held-out driving"
) -> Tuple[str, str]:
    """Choose the model whose steering is closest to the driver's; of several that are equally close, the quickest.

    Parameters
    ----------
    models
        All scored on the same frames.
    blocks
        (frames,) integers; frames with the same number are resampled together.
    where
        Which frames these are, in words.

    Returns
    -------
    tuple of str
        The choice, and the reason in words.
    """
    names = list(models)
    resampled = resample_rmse([models[name].predicted - models[name].human for name in names], blocks)
    rmse = {name: models[name].scores["rmse"] for name in names}
    latency = {name: models[name].latency_ms["p50"] for name in names}
    ranked = sorted(names, key=rmse.__getitem__)
    best = ranked[0]
    scores = models[best].scores
    blind = min(scores["rmse_mean_baseline"], scores["rmse_zero_baseline"])
    against_blind = f"always steering straight, or by the mean, is {_in_degrees(blind)} off"
    warning = ""
    if scores["rmse"] >= blind:
        warning = " But none is better than that: record more driving before letting one drive."
    if len(names) == 1:
        reason = f"{best} is the only model: {_in_degrees(rmse[best])} from the driver on {where}; {against_blind}."
        return best, reason + warning

    column = resampled[:, names.index(best)]
    share = {name: float(np.mean(column < resampled[:, names.index(name)])) for name in ranked[1:]}
    tied = [best] + [name for name in ranked[1:] if share[name] < SURE]
    found = " and ".join(f"{name} is {_in_degrees(rmse[name])}" for name in ranked)
    shares = ", ".join(f"{best} is closer than {name} in {share[name]:.0%}" for name in ranked[1:])
    evidence = (
        f"On {where}, {found} from the driver (RMSE); {against_blind}. Of {len(resampled):,} resampled drives, {shares}"
    )
    if len(tied) == 1:
        return best, f"{best} should drive: it is the closest to the driver. {evidence}.{warning}"
    choice, times = find_quickest(tied, latency)
    return choice, (
        f"{choice} should drive, though this recording does not tell {' and '.join(tied)} apart: {choice} answers "
        f"quickest ({times} a frame). {evidence}, where {SURE:.0%} would be a difference.{warning}"
    )


def find_quickest(names: Sequence[str], latency_ms: Mapping[str, float]) -> Tuple[str, str]:
    """Return the quickest to answer, and everybody's time in words."""
    ranked = sorted(names, key=latency_ms.__getitem__)
    return ranked[0], " and ".join(f"{name} {latency_ms[name]:.1f} ms" for name in ranked)


def _in_degrees(steering: float) -> str:
    return f"{steering * DEGREES:.2f} degrees"
