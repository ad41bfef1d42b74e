"""The comparison as a page to look at: one HTML file with everything in it, which opens anywhere and can be sent on.

What the page says comes from :class:`~robostig.comparison.Comparison`; how it looks is in ``report.html.j2``, and the
figures are drawn by :mod:`robostig.figures`.
"""

from __future__ import annotations

import base64
import math
import operator
import os
import platform
import re
import shlex
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Set, Tuple, Union

import cv2
import jinja2
import matplotlib
import numpy as np

import robostig
from robostig import camera, figures
from robostig._files import make_folder, replace_file
from robostig.artifact import load_artifact
from robostig.backend import mx
from robostig.closed_loop import Drive
from robostig.comparison import CAVEAT, DRIVES, REPORT, Comparison
from robostig.config import TrainingConfig
from robostig.driving_log import read_picture
from robostig.evidence import (
    EDGE_PIXELS,
    SALIENT,
    Scene,
    choose_moments,
    drive_expert,
    highlight_scenes,
    measure,
    read_scenes,
)
from robostig.explanation import SaliencyMasker
from robostig.metrics import DEGREES, INTERVENTION_S, LIMIT_M, STRAIGHT, score_steering
from robostig.picture import encode_jpeg
from robostig.roads import RECIPE, TEST_ROADS, training_tracks
from robostig.simulation.car import WHEELBASE_M

__all__ = ["write_report"]

TEMPLATE = "report.html.j2"
MISSING = "–"

FRAMES = 6  # with the largest errors, for each model
APART_S = 2.0  # seconds between two of them: by then the road looks different
FRAME_WIDTH = 480  # pixels at most
FRAME_QUALITY = 82  # of the JPEGs, in percent
SKIPPED_ROWS = 50  # listed at most
SCENES = 3  # to show where the models look: left, straight ahead, right
SCENES_MEASURED = 48  # to say how right that is
ROADS = 6  # drawn at most, in both directions
UNFOLDED_DRIVES = 2  # at most; the table of more is behind a click
PATH_M = 25.0  # as far as the path that a steering leads to is drawn

REFERENCE_COLOR, REFERENCE_EDGE = "#ffffff", "#20262d"  # on pictures, of whom a model is compared with

_Rank = Callable[[Any], float]


@dataclass(frozen=True)
class _Row:
    """A model, or a baseline, in the tables and bars."""

    name: str
    values: Mapping[str, Any]
    color: str = ""
    is_choice: bool = False

    @property
    def is_model(self) -> bool:
        return bool(self.color)


@dataclass(frozen=True)
class _Column:
    """What a column of a table shows, how, and which value is the best: the one with the lowest ``rank``."""

    key: str
    title: str
    unit: str
    note: str
    show: Callable[[Any], str]
    rank: Optional[_Rank] = None


def write_report(comparison: Comparison, out: Union[str, Path]) -> Path:
    """Write ``report.html``: one file without links to anything outside of it. A report that is there is replaced.

    Parameters
    ----------
    comparison
        What :func:`robostig.comparison.compare` returned. The pictures of its log must still be there.
    out
        The folder, made if it is not there.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    FileNotFoundError, ValueError
        If a picture of the log is gone or damaged; an earlier report is then left as it is.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("robostig", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(TEMPLATE).render(_collect(comparison))
    path = make_folder(out) / REPORT
    with replace_file(path) as file:
        file.write(page.encode("utf-8", "replace"))
    return path


def _collect(comparison: Comparison) -> Dict[str, Any]:
    """Return everything that the template shows."""
    log, split = comparison.log, comparison.split
    clock, breaks = log.driving_clock()[split.validation], log.find_breaks(split.validation)
    human = log.steering[split.validation]
    predicted = {name: model.open_loop.predicted for name, model in comparison.models.items()}
    mean = float(log.steering[split.train].mean())
    rows = _make_rows(comparison, human, mean)
    driving = _describe_driving(comparison)
    headline, reason = _split_reason(comparison)
    scores = comparison.models[comparison.choice].open_loop.scores
    labels = comparison.models[comparison.choice].training.labels
    histories = {name: model.training.history for name, model in comparison.models.items()}
    return {
        "headline": headline,
        "caveat": CAVEAT,
        "reason": reason,
        "choice": comparison.choice,
        "models": [row for row in rows if row.is_model],
        "driving": driving,
        "bars": _make_bars(rows, "rmse", _in_degrees),
        "tables": [
            _tabulate(
                "Closeness to the driver",
                _score_columns(scores.get("whiteness_human"), is_ranking=driving is None or not driving["is_ranking"]),
                {"": rows},
            ),
            _tabulate("Cost", _cost_columns(), {"": [row for row in rows if row.is_model]}),
        ],
        "straight": STRAIGHT * DEGREES,
        "apart": APART_S,
        "loss_curves": figures.encode_figure(
            figures.draw_loss_curves(histories, baseline=scores["rmse_mean_baseline"])
        ),
        "steering": figures.encode_figure(figures.draw_steering(predicted, human, clock, breaks)),
        "errors": figures.encode_figure(figures.draw_errors(predicted, human, mean=mean)),
        "labels": figures.encode_figure(figures.draw_labels(log.steering[split.train], labels)),
        "straight_before": float(np.mean(np.abs(log.steering[split.train]) <= STRAIGHT)),
        "straight_after": float(np.mean(np.abs(labels) <= STRAIGHT)),
        "looks": _describe_looks(comparison, [row for row in rows if row.is_model]),
        "worst": {row.name: _find_worst_frames(comparison, row.name, clock, rows) for row in rows if row.is_model},
        **_describe_data(comparison),
        "config": _describe_config(comparison.config),
        "is_built_in": comparison.is_built_in,
        "command": _rebuild_command(comparison),
        "versions": {
            "RoboStig": robostig.__version__,
            "MXNet": mx.__version__,
            "NumPy": np.__version__,
            "OpenCV": cv2.__version__,
            "matplotlib": matplotlib.__version__,
            "Python": platform.python_version(),
            "system": f"{platform.system()}, {platform.machine()}",
            "computed on": ", ".join(comparison.models[comparison.choice].training.devices),
        },
        "created": datetime.now(timezone.utc).strftime("%d %B %Y, %H:%M UTC"),
        "percent": lambda share: f"{share:.0%}",
    }


def _split_reason(comparison: Comparison) -> Tuple[str, str]:
    """Return the choice as a headline, and the rest of the reason."""
    headline, colon, reason = comparison.reason.partition(": ")
    if not colon or comparison.choice not in headline or len(headline) > 120:
        return f"{comparison.choice} should drive", comparison.reason
    is_name = any(reason.startswith(name) for name in comparison.models)
    return headline, reason if is_name else reason[:1].upper() + reason[1:]


def _make_rows(comparison: Comparison, human: np.ndarray, mean: float) -> List[_Row]:
    """Return the models and the two baselines, each with its values by name."""
    colors = figures.choose_colors(comparison.models)
    rows = []
    for name, model in comparison.models.items():
        summary = model.summarize()
        values = {
            **summary["open_loop"],
            **summary["latency_ms"],
            **summary["training"],
            "parameters": summary["parameters"],
        }
        rows.append(_Row(name, values, colors[name], name == comparison.choice))
    for name, answer in (("always the mean", mean), ("always zero", 0.0)):
        rows.append(_Row(name, score_steering(np.full(len(human), answer), human, training_mean=mean)))
    return [replace(row, values={**row.values, "rmse_share": row.values["rmse"]}) for row in rows]


def _make_bars(rows: Sequence[_Row], key: str, show: Callable[[float], str], full: Optional[float] = None) -> List[Any]:
    """Return a bar for each row: its length in percent of ``full``, or else of the longest, and the value in words."""
    full = max(row.values[key] for row in rows) if full is None else full
    return [
        {"row": row, "length": 100.0 * row.values[key] / full if full else 0.0, "text": show(row.values[key])}
        for row in rows
    ]


def _describe_driving(comparison: Comparison) -> Optional[Dict[str, Any]]:
    """Return what the page says and shows of the models' driving; None if they were not let to drive."""
    loops = {name: model.closed_loop for name, model in comparison.models.items() if model.closed_loop is not None}
    if len(loops) < len(comparison.models):
        return None
    drives = {name: loop.drives for name, loop in loops.items()}
    tracks = [drive.track for drive in drives[comparison.choice]]
    roads = list(dict.fromkeys(track.name for track in tracks))
    drawn = _find_hardest_roads(roads, drives)
    to_draw = {name: [drive for drive in each if drive.track.name in drawn] for name, each in drives.items()}
    colors = figures.choose_colors(comparison.models)
    drivers = {**loops, **({} if comparison.blind is None else {"always zero": comparison.blind})}

    def make_rows(scores: Mapping[str, Mapping[str, Any]]) -> List[_Row]:
        return [
            _Row(name, _pair_scores(each), colors[name] if name in loops else "", name == comparison.choice)
            for name, each in scores.items()
        ]

    rows = make_rows({name: loop.scores for name, loop in drivers.items()})
    groups = {
        str(track): make_rows({name: loop.drives[number].summarize() for name, loop in drivers.items()})
        for number, track in enumerate(tracks)
    }
    strips = {name: _make_strip(name, each, colors[name]) for name, each in drives.items()}
    scores = loops[comparison.choice].scores
    is_ranking = max(loop.scores["autonomy"] for loop in loops.values()) >= DRIVES
    columns = _driving_columns(is_ranking=is_ranking)
    return {
        "is_ranking": is_ranking,
        "bars": _make_bars(rows, "autonomy", "{:.1f} %".format, full=100.0),
        "has_blind": comparison.blind is not None,
        "roads": len(roads),
        "are_unseen": comparison.is_built_in and not set(roads) & {track.name for track in training_tracks()},
        "is_both_ways": len({track.direction for track in tracks}) == 2,
        "kilometers": scores["distance_m"] / 1000.0,
        "minutes": scores["simulated_s"] / 60.0,
        "limit": LIMIT_M,
        "magnification": figures.MAGNIFICATION,
        "table": _tabulate("All drives", columns, {"": rows}),
        "drive_table": _tabulate("Drive by drive", columns, groups),
        "is_folded": len(tracks) > UNFOLDED_DRIVES,
        "roads_drawn": len(drawn),
        "maps": figures.encode_figure(figures.draw_maps(to_draw, limit_m=LIMIT_M)),
        "lateral_errors": figures.encode_figure(figures.draw_lateral_errors(to_draw, limit_m=LIMIT_M)),
        "strips": {name: strip for name, strip in strips.items() if strip["frames"]},
    }


def _pair_scores(scores: Mapping[str, Any]) -> Dict[str, Any]:
    """Return the scores of some driving, with those in pairs that mean something only beside each other."""
    whiteness, interventions = scores["whiteness"], scores["interventions"]
    return {
        **scores,
        "distance": (scores["distance_m"], interventions),
        "whiteness": None if whiteness is None else (whiteness, scores["whiteness_expert"]),
    }


def _rank_drive(drive: Drive) -> Tuple[int, float]:
    """Return what is higher the worse a drive went."""
    return int(drive.intervened.sum()), float(np.abs(drive.lateral_error_m).max())


def _find_hardest_roads(roads: Sequence[str], drives: Mapping[str, Sequence[Drive]]) -> List[str]:
    """Return the roads on which the driving of any model went worst, at most ``ROADS``."""
    worst = {
        road: max(_rank_drive(drive) for each in drives.values() for drive in each if drive.track.name == road)
        for road in roads
    }
    return sorted(roads, key=worst.__getitem__, reverse=True)[:ROADS]


def _make_strip(name: str, drives: Sequence[Drive], color: str) -> Dict[str, Any]:
    """Return pictures of a model's worst drive, as the template draws them."""
    drive = max(drives, key=_rank_drive)
    interventions, farthest = _rank_drive(drive)
    frames = []
    for step, picture in drive.snapshots:
        answers = [
            ("expert", float(drive.expert[step]), REFERENCE_COLOR),
            (name, float(drive.steering[step]), color),
        ]
        # A picture is taken where the step before ended; at first, and after an intervention, in the lane's middle.
        is_put = step == 0 or bool(drive.intervened[step - 1])
        frames.append(
            {
                **_draw_frame(picture, camera.WIDTH, camera.HEIGHT, answers, thickest=5.0),
                "along": f"{drive.along_m[step - 1] if step else 0.0:.0f} m",
                "aside": _show_aside(0.0 if is_put else float(drive.lateral_error_m[step - 1])),
            }
        )
    return {
        "track": str(drive.track),
        "interventions": interventions,
        "farthest": f"{farthest:.2f} m",
        "frames": frames,
    }


def _score_columns(whiteness_human: Optional[float], *, is_ranking: bool = True) -> List[_Column]:
    """Return the columns of what :func:`robostig.metrics.score_steering` finds."""
    straight = f"{STRAIGHT * DEGREES:g} degree"

    def show_share(steering: float) -> str:
        return f"{steering:.1%}"

    def show_ratio(value: float) -> str:
        return f"{value:.2f}"

    def show_rate(whiteness: float) -> str:
        return f"{whiteness:.1f}"

    def measure_difference(whiteness: float) -> float:
        return abs(whiteness - whiteness_human) if whiteness_human is not None else 0.0

    def column(
        key: str, title: str, unit: str, note: str, show: Callable[[float], str] = _in_degrees, rank: _Rank = float
    ) -> _Column:
        return _Column(key, title, unit, note, show, rank)

    return [
        column(
            "rmse",
            "RMSE",
            "degrees",
            "Root mean square error, the usual distance from the driver, in which large errors weigh most. "
            + ("Models are ranked by it; less is better." if is_ranking else "Less is better."),
        ),
        column("rmse_share", "RMSE", "of full lock", "The same as a share of 25 degrees, full lock.", show_share),
        column(
            "rmse_to_mean_baseline",
            "Ratio",
            "to the mean",
            "The error beside that of always answering the training mean; 1 is as good as not looking at the road.",
            show_ratio,
        ),
        column("mae", "MAE", "all", "Mean absolute error on all held-out frames, in degrees."),
        column("mae_left", "MAE", "left", f"The same where the driver steers left by more than {straight}."),
        column("mae_straight", "MAE", "straight", f"The same where the driver is within {straight} of straight ahead."),
        column("mae_right", "MAE", "right", f"The same where the driver steers right by more than {straight}."),
        column(
            "correlation",
            "Correlation",
            "with the driver",
            "Whether it turns when the driver turns: 1 always, 0 by chance. A constant has none.",
            show_ratio,
            operator.neg,
        ),
        column(
            "whiteness",
            "Whiteness",
            f"driver {_show(whiteness_human, show_rate)}",
            "How restless the steering is: the root mean square of its rate of change, in degrees a second. The closer "
            "to the driver's own, the better.",
            show_rate,
            measure_difference,
        ),
    ]


def _driving_columns(*, is_ranking: bool) -> List[_Column]:
    """Return the columns of what :class:`robostig.closed_loop.ClosedLoop` scores."""

    def show_count(value: float) -> str:
        return f"{value:,.0f}"

    def show_meters(value: float) -> str:
        return f"{value:.2f} m"

    def show_distance(value: Tuple[float, int]) -> str:
        meters, interventions = value
        return f"{meters / interventions:,.0f} m" if interventions else f"none in {meters / 1000.0:.1f} km"

    def rank_distance(value: Tuple[float, int]) -> float:
        meters, interventions = value
        return -meters / interventions if interventions else -math.inf

    ranked = " Models are ranked by it, and where it is equal by the lateral error." if is_ranking else ""
    return [
        _Column(
            "autonomy",
            "Autonomy",
            "of the time",
            f"The share of the time in which nobody helps, where each intervention counts as {INTERVENTION_S:g} "
            f"seconds (Bojarski et al. 2016); if they add up to more than all the time, it is 0.{ranked}",
            "{:.1f} %".format,
            operator.neg,
        ),
        _Column(
            "interventions",
            "Interventions",
            "",
            f"How often the car came more than {LIMIT_M:g} m from the middle of its lane and was put back.",
            show_count,
            float,
        ),
        _Column(
            "distance", "Distance", "per intervention", "How far it drives by itself.", show_distance, rank_distance
        ),
        _Column(
            "lateral_rmse_m",
            "Lateral error",
            "RMSE",
            "Root mean square of the distance from the middle of the lane. Each intervention sets it back to 0, which "
            "flatters who needs many.",
            show_meters,
            float,
        ),
        _Column("lateral_max_m", "Lateral error", "maximum", "The largest of these distances.", show_meters, float),
        _Column(
            "whiteness",
            "Whiteness",
            "and the expert’s",
            "How restless the steering is: the root mean square of its rate of change, in degrees a second; and that "
            "of the expert on the same drives. The closer to it, the better.",
            lambda value: f"{value[0]:.1f} / {value[1]:.1f}",
            lambda value: abs(value[0] - value[1]),
        ),
        _Column(
            "laps",
            "Laps",
            "driven",
            "How often it drove all around; a road and its other direction are two.",
            "{:.1f}".format,
        ),
    ]


def _cost_columns() -> List[_Column]:
    """Return the columns of what a model takes."""

    def show_count(value: float) -> str:
        return f"{value:,.0f}"

    def show_milliseconds(value: float) -> str:
        return f"{value:.1f} ms"

    return [
        _Column(
            "p50",
            "Answer",
            "p50",
            "From a camera frame to a steering, one frame at a time, on the machine that made this report: half of the "
            "answers are quicker.",
            show_milliseconds,
            float,
        ),
        _Column("p99", "Answer", "p99", "99 of 100 answers are quicker.", show_milliseconds, float),
        _Column(
            "parameters",
            "Parameters",
            "",
            "Numbers that training adjusts; more take more memory and time.",
            show_count,
            float,
        ),
        _Column(
            "seconds",
            "Training",
            "time",
            "Wall-clock time of all epochs, validation included.",
            _show_duration,
            float,
        ),
        _Column(
            "epochs",
            "Epochs",
            "trained",
            "Passes over the training rows, to the end or until nothing got better.",
            show_count,
        ),
        _Column(
            "best_epoch",
            "Epochs",
            "best",
            "The epoch whose parameters were kept, by the error on the held-out frames.",
            show_count,
        ),
        _Column(
            "images_per_second",
            "Speed",
            "images/s",
            "Frames trained on in a second, in the median epoch.",
            show_count,
            operator.neg,
        ),
    ]


def _tabulate(title: str, columns: Sequence[_Column], groups: Mapping[str, Sequence[_Row]]) -> Dict[str, Any]:
    """Return a table's rows as texts, with the best values of each group's models marked."""
    body = {}
    for name, rows in groups.items():
        best = {column.key: _find_best(column, rows) for column in columns}
        body[name] = [
            {
                "row": row,
                "cells": [
                    {"text": _show(row.values.get(column.key), column.show), "best": row.name in best[column.key]}
                    for column in columns
                ],
            }
            for row in rows
        ]
    return {"title": title, "columns": columns, "groups": body}


def _find_best(column: _Column, rows: Sequence[_Row]) -> Set[str]:
    """Return the models with the best value; none if all look equal, or there is nothing to compare."""
    found = {row.name: row.values.get(column.key) for row in rows if row.is_model}
    known = {name: value for name, value in found.items() if _is_known(value)}
    texts = {name: column.show(value) for name, value in known.items()}
    if column.rank is None or len(set(texts.values())) < 2:
        return set()
    ranks = {name: column.rank(value) for name, value in known.items()}
    first = min(ranks, key=ranks.__getitem__)
    best = {name for name in known if ranks[name] == ranks[first] or texts[name] == texts[first]}
    return best if len(best) < len(known) else set()


def _describe_looks(comparison: Comparison, rows: Sequence[_Row]) -> Dict[str, Any]:
    """Return where the models look, as the template draws it, and how right that is."""
    maskers, faults = {}, {}
    for name, model in comparison.models.items():
        try:
            maskers[name] = SaliencyMasker.load(load_artifact(model.artifact))
        except FileNotFoundError:
            faults[name] = "it cannot be explained: its artifact is no longer where it was"
        except ValueError as error:
            faults[name] = str(error).replace(str(model.artifact), "it")
    if not maskers:
        return {"strips": {}, "faults": faults}
    log, held_out = comparison.log, comparison.split.validation
    loop = comparison.models[comparison.choice].closed_loop
    # The edges of these roads are known; but a model that learned elsewhere need not look at them.
    tracks = [drive.track for drive in loop.drives] if loop is not None and comparison.is_built_in else []
    if tracks:
        scenes = list(drive_expert(tracks, laps=comparison.laps, count=SCENES_MEASURED))
    else:
        scenes = list(read_scenes(log, held_out, count=SCENES_MEASURED))
    measured = [
        replace(row, values=measure(maskers[row.name], scenes, label=row.name).to_dict())
        for row in rows
        if row.name in maskers
    ]
    chosen = list(read_scenes(log, held_out[choose_moments(log.steering[held_out], SCENES)]))
    return {
        "strips": {name: _draw_looks(name, masker, chosen, rows) for name, masker in maskers.items()},
        "table": _tabulate("How right it is", _look_columns(knows_edges=bool(tracks)), {"": measured}),
        "measured": f"{len(scenes)} frames, evenly spaced, of "
        + ("the expert’s drive on the roads above" if tracks else "the held-out stretches"),
        "faults": faults,
    }


def _draw_looks(
    name: str, masker: SaliencyMasker, scenes: Sequence[Scene], rows: Sequence[_Row]
) -> List[Dict[str, Any]]:
    """Return frames with what a model looks at, as the template draws them."""
    color = next(row.color for row in rows if row.name == name)
    frames = []
    for scene, (overlay, steering) in zip(scenes, highlight_scenes(masker, scenes)):
        picture, width, height = _encode_picture(overlay)
        answers = [("driver", scene.steering, REFERENCE_COLOR), (name, steering, color)]
        drawn = _draw_frame(picture, width, height, answers)
        frames.append({**drawn, "place": scene.place})
    return frames


def _look_columns(*, knows_edges: bool) -> List[_Column]:
    """Return the columns of what :func:`robostig.evidence.measure` finds."""
    salient = f"the {SALIENT:.0%} of the pixels that count most"
    edges = [
        _Column(
            "salient_at_edges",
            "At the edges",
            "salient pixels",
            f"How many of {salient} are within {EDGE_PIXELS:g} pixels of the road’s edges and lines.",
            "{:.1%}".format,
        ),
        _Column(
            "chance_at_edges",
            "At the edges",
            "by chance",
            "How much of all that the model sees is as near to them.",
            "{:.1%}".format,
        ),
    ]
    return (edges if knows_edges else []) + [
        _Column(
            "salient_change",
            "Painted out",
            "salient pixels",
            f"By how much the steering changes, on average, where {salient} take the colour of those around them.",
            _in_degrees,
        ),
        _Column(
            "other_change",
            "Painted out",
            "others",
            "The same for as many other pixels: the same shape, moved sideways by random distances.",
            _in_degrees,
        ),
        _Column(
            "salient_wins",
            "Painted out",
            "more than others",
            "In how many of the frames the salient pixels change the steering more.",
            "{:.0%}".format,
        ),
    ]


def _find_worst_frames(
    comparison: Comparison, name: str, clock: np.ndarray, rows: Sequence[_Row]
) -> List[Dict[str, Any]]:
    """Return the frames where a model is furthest from the driver, the worst first, as the template draws them."""
    loop = comparison.models[name].open_loop
    chosen: List[int] = []
    for number in np.argsort(-np.abs(loop.predicted - loop.human), kind="stable"):
        if all(abs(clock[number] - clock[other]) >= APART_S for other in chosen):
            chosen.append(int(number))
        if len(chosen) == FRAMES:
            break
    frames = []
    for number in chosen:
        row = int(comparison.split.validation[number])
        path = comparison.log.pictures["center"][row]
        picture, width, height = _encode_picture(read_picture(path))
        answers = [("driver", float(loop.human[number]), REFERENCE_COLOR)]
        answers += [
            (each.name, float(comparison.models[each.name].open_loop.predicted[number]), each.color)
            for each in rows
            if each.is_model
        ]
        frames.append(
            {
                **_draw_frame(picture, width, height, answers),
                "error": _in_degrees(abs(float(loop.predicted[number]) - float(loop.human[number]))),
                "row": row,
                "file": os.path.basename(path),
                "time": f"{int(clock[number]) // 60}:{int(clock[number]) % 60:02d}",
            }
        )
    return frames


def _encode_picture(frame: np.ndarray) -> Tuple[bytes, int, int]:
    """Return a frame as a JPEG, not wider than ``FRAME_WIDTH``, and its width and height."""
    height, width = frame.shape[:2]
    if width > FRAME_WIDTH:
        height, width = max(1, round(height * FRAME_WIDTH / width)), FRAME_WIDTH
        frame = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
    return encode_jpeg(frame, FRAME_QUALITY), width, height


def _draw_frame(
    jpeg: bytes, width: int, height: int, answers: Sequence[Tuple[str, float, str]], *, thickest: float = 7.0
) -> Dict[str, Any]:
    """Return a picture with the paths of those who answered, ``(name, steering, colour)``, as the template draws it."""
    return {
        "picture": f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}",
        "width": width,
        "height": height,
        "drivers": [
            {
                "name": name,
                "color": color,
                "edge": REFERENCE_EDGE if color == REFERENCE_COLOR else "#ffffff",
                "angle": figures.describe_steering(steering),
                "path": _trace_path(steering, width, height),
                "width": max(2.0, thickest - 2.0 * order),  # the later ones lie on the earlier ones, and hide none
            }
            for order, (name, steering, color) in enumerate(answers)
        ],
    }


def _trace_path(steering: float, width: int, height: int) -> str:
    """Return the points of the path that a car takes with its wheels held so, on a flat road, in pixels of the picture.

    All paths begin at the middle of the lower edge. The road is seen as by the camera of Udacity's simulator; pictures
    of another shape are taken to have its field of view from top to bottom.
    """
    nearest, _ = camera.view_ground(np.array(camera.HEIGHT - 0.5), np.array(0.0))
    along = np.linspace(0.0, 1.0, 28) ** 2 * PATH_M
    heading = along * math.tan(math.radians(steering * DEGREES)) / WHEELBASE_M
    along, heading = along[np.abs(heading) < math.pi / 2], heading[np.abs(heading) < math.pi / 2]
    chord = along * np.sinc(heading / 2.0 / math.pi)  # of the arc; sinc(x) is sin(pi x) / (pi x)
    columns, rows, _ = camera.project(nearest + chord * np.cos(heading / 2.0), chord * np.sin(heading / 2.0))
    scale = height / camera.HEIGHT
    points = np.stack([width / 2.0 + scale * (columns - camera.WIDTH / 2.0), scale * rows], axis=1)
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _describe_data(comparison: Comparison) -> Dict[str, Any]:
    """Return what the page says about the recording; folders of this machine are left out of it."""
    log, split = comparison.log, comparison.split
    known = {}
    for place, name in zip(log.places or (log.folder,), log.names):  # of a file, its folder: pictures lie there, too
        known.update({str(place.parent): str(Path(name).parent)} if place.is_file() else {str(place): name})
    longest_first = "|".join(map(re.escape, sorted(known, key=len, reverse=True)))
    here = re.compile(rf"(?<![\w./-])(?:{longest_first})(?![\w.-])")

    def shorten(text: str) -> str:
        return here.sub(lambda found: known[found.group()], text)

    return {
        "folder": log.name,
        "recordings": log.names,
        "recording": [shorten(line) for line in log.describe().splitlines()],
        "split": split.description,
        "rows_recorded": len(log),
        "rows_trained": len(split.train),
        "rows_held_out": len(split.validation),
        "rows_in_gaps": split.left_out,
        "skipped": [replace(each, detail=shorten(each.detail)) for each in log.skipped[:SKIPPED_ROWS]],
        "skipped_count": len(log.skipped),
        "fingerprint": log.fingerprint(),
    }


def _describe_config(config: TrainingConfig) -> List[Dict[str, Any]]:
    """Return the settings, and whether each is the default."""
    defaults = TrainingConfig().to_dict()
    return [
        {"name": name, "value": value, "changed": value != defaults[name]}
        for name, value in config.to_dict().items()
        if name != "model"
    ]


def _rebuild_command(comparison: Comparison) -> str:
    """Return the command that makes this comparison again."""
    words = ["robostig", "compare"]
    words += [] if comparison.is_built_in else [word for name in comparison.log.names for word in ("--data", name)]
    words += ["--models", ",".join(comparison.models), "--out", "comparison"]
    roads = [] if comparison.blind is None else [drive.track.name for drive in comparison.blind.drives]
    if set(roads) != set(TEST_ROADS):
        words += ["--track", ",".join(dict.fromkeys(roads)) or "none"]
    if comparison.laps != 1.0:
        words += ["--laps", f"{comparison.laps:g}"]
    usual = TrainingConfig(**(RECIPE if comparison.is_built_in else {})).to_dict()
    for name, value in comparison.config.to_dict().items():
        if name != "model" and value != usual[name]:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return " ".join(map(shlex.quote, words))


def _show(value: Any, show: Callable[[Any], str]) -> str:
    return show(value) if _is_known(value) else MISSING


def _is_known(value: Any) -> bool:
    return value is not None and bool(np.all(np.isfinite(value)))


def _in_degrees(steering: float) -> str:
    return f"{steering * DEGREES:.2f}°"


def _show_aside(meters: float) -> str:
    distance = round(abs(meters), 2)
    return f"{distance:.2f} m" + ("" if not distance else " right" if meters > 0 else " left")


def _show_duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
